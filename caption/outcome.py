"""Outcome: what a run has done, for its last lines and for ``run.json``."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from caption.schedule import Rounds


@dataclass
class Outcome:
    """What a run has done.

    Attributes:
        captioned, failed: rows written by this run.
        skipped: items of the input that were done before.
        errors: failed items by class; flags: how often each flag was set.
        adapter_loads: how often a worker took another LoRA adapter, and adapter_seconds, how long that took.
        flagged: captions that the guard doubts.
        seconds: from when its first worker began to the last caption.
        first_caption: seconds from the start of the run to its first row, or None.
        until_first_caption: seconds from the command to that, part by part in their order.
        total_seconds: from the start of the run to the end of its workers.
        idle: of each worker, how its device spent that time; see caption.idle.
        rounds: of a lockstep run.
        complete: nothing of the input is left to do.
    """

    captioned: int = 0
    failed: int = 0
    skipped: int = 0
    errors: Counter = field(default_factory=Counter)
    flags: Counter = field(default_factory=Counter)
    adapter_loads: int = 0
    adapter_seconds: float = 0.0
    flagged: int = 0
    seconds: float = 0.0
    first_caption: float | None = None
    until_first_caption: dict[str, float] = field(default_factory=dict)
    total_seconds: float = 0.0
    idle: dict[str, dict[str, float]] = field(default_factory=dict)
    rounds: Rounds | None = None
    complete: bool = False

    def totals(self) -> dict[str, Any]:
        """Plain values for ``run.json``."""
        totals = {
            "captioned": self.captioned,
            "failed": self.failed,
            "skipped": self.skipped,
            "errors": dict(self.errors),
            "flags": dict(self.flags),
            "adapter_loads": self.adapter_loads,
            "adapter_seconds": round(self.adapter_seconds, 3),
            "flagged": self.flagged,
            "seconds": round(self.seconds, 3),
            "first_caption": self.first_caption and round(self.first_caption, 3),
            "until_first_caption": self.until_first_caption,
            "total_seconds": round(self.total_seconds, 3),
            "idle": self.idle,
        }
        if self.rounds:
            totals["rounds"] = {
                "number": self.rounds.over,
                "drift_mean": round(self.rounds.mean, 3),
                "drift_most": round(self.rounds.most, 3),
                "drift_most_in_round": self.rounds.worst,
            }
        return totals
