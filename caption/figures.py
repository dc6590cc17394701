"""Figures: numbers as people read them."""

from __future__ import annotations

_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")


def clock(seconds: float) -> str:
    """3:07 or 2:03:07 or 4 d 02:03."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24:02}:{minute:02}"
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def images_a_second(rate: float) -> str:
    return f"{rate:.2f}/s" if rate < 10 else f"{rate:,.0f}/s"


def in_bytes(number: float) -> str:
    """532 bytes, 1.4 GB, 61 GB: in powers of 1000, as disks are sold and free space is shown."""
    power = 0
    while abs(number) >= 999.5 and power < len(_UNITS) - 1:
        number, power = number / 1000, power + 1
    digits = 1 if power and abs(number) < 9.95 else 0
    return f"{number:.{digits}f} {_UNITS[power]}"


def percent(part: float, whole: float | None) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "? %"
