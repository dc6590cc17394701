"""Idle: how much of a run each worker's device computed, and what it waited for in the rest."""

from __future__ import annotations

from collections.abc import Mapping

_WORTH_SAYING = 10.0  # seconds that a run took; the shares of a shorter one say nothing of the next
_MUCH = 0.1
_REASONS = {
    "host": "for the host",
    "pictures": "for pictures",
    "work": "for work",
    "start": "at the start",
    "end": "at the end",
}


def shares(seconds: Mapping[str, float], total: float) -> dict[str, float]:
    """Parts of a run of ``total`` seconds, which add up to 1.

    Args:
        seconds: of the seat's workers, by what they did; see messages.Stats.

    Returns:
        "computing", with all that it held; "slots", while others stood empty for want of pictures, as the share of
        those; and for what nothing was computed: the "host", which came late with the device's next work, "pictures"
        in preparation, "work" that was not handed out, the "start" (processes, libraries, the model) and the "end".
    """
    total = max(total, sum(seconds.get(name, 0.0) for name in ("generating", "preprocessing", "waiting", "ending")))
    if not total:
        return {}
    starved, late = seconds.get("starved", 0.0), seconds.get("late", 0.0)
    found = {
        "computing": max(0.0, seconds.get("generating", 0.0) - starved - late),
        "slots": starved,
        "host": late,
        "pictures": seconds.get("preprocessing", 0.0),
        "work": seconds.get("waiting", 0.0),
        "end": seconds.get("ending", 0.0),
    }
    found["start"] = total - sum(found.values())
    return {name: round(value / total, 4) for name, value in found.items()}


def sentences(idle: Mapping[str, Mapping[str, float]], total: float, loaders: int) -> list[str]:
    """For the user: a line a worker, and what to do about pictures that come too late. None for a short run.

    Args:
        idle: of each worker, its shares.
        total: seconds of the run.
        loaders: that each worker has.
    """
    lines = []
    for name, part in idle.items() if total >= _WORTH_SAYING else ():
        reasons = [f"{part[reason]:.0%} {words}" for reason, words in _REASONS.items() if part[reason] >= 0.005]
        full = f", {part['slots']:.0%} of it lost in slots that waited for pictures" if part["slots"] >= 0.005 else ""
        line = f"{name} computed {part['computing'] + part['slots']:.0%} of the time{full}"
        lines.append(line + (f"; it waited {', '.join(reasons)}." if reasons else "."))
    late = [name for name, part in idle.items() if part["pictures"] + part["slots"] > _MUCH]
    if lines and late:
        most = max(idle[name]["pictures"] + idle[name]["slots"] for name in late)
        who = late[0] if len(late) == 1 else f"{len(late)} workers"
        lines.append(
            f"{who} waited for pictures up to {most:.0%} of the time: raise --loaders (now {loaders}) if this machine "
            "has cores to spare."
        )
    return lines
