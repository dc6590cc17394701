"""Figures as a person says them."""

from __future__ import annotations


def number(value: float) -> str:
    """0.25, 1.4, 12, 3,400, 1.25 M."""
    if value >= 1e6:
        return f"{value / 1e6:.3g} M"
    if value >= 10 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.2g}" if value < 1 else f"{value:.1f}"


def percent(share: float) -> str:
    """Of a share of 1: 71 %, 0.3 %, <0.1 %."""
    if 0 < share < 0.001:
        return "<0.1 %"
    if 0.995 <= share < 1:
        return f"{min(100 * share, 99.9):.1f} %"
    return f"{100 * share:.1f} %" if 0 < share < 0.0995 else f"{100 * share:.0f} %"


def duration(seconds: float) -> str:
    """40 s, 1 min 30, 12 min, 1 h 30, 2 d 4 h."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes, second = divmod(round(seconds), 60)
    if minutes < 10:
        return f"{minutes} min" + (f" {second:02}" if second else "")
    hours, minute = divmod(round(seconds / 60), 60)
    if not hours:
        return f"{minute} min"
    if hours < 48:
        return f"{hours} h" + (f" {minute:02}" if minute else "")
    return f"{hours // 24} d" + (f" {hours % 24} h" if hours % 24 else "")


def gigabytes(size: float) -> str:
    """12.3 GB, 850 MB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
