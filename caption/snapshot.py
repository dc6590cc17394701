"""Snapshot: how a run stands at one moment, for all who show it or write it down."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from caption.schedule import Rounds

if TYPE_CHECKING:
    from caption.monitor import Load


@dataclass(frozen=True)
class WorkerSnapshot:
    """Attributes:
    state: of its seat, as in crew.Member.
    stage: what it does, as in messages.Stats; its state while it is not "ready".
    done, failed: images of this run.
    seconds: what all workers of the seat have spent so far, by stage; see messages.Stats.
    pid: of its process, or None.
    gpus: UUIDs of those that its model is on; none on a CPU.
    load: figures from its own machine, if that is another one; in these its name is "".
    rate: images/s over the last minute.
    late: share of the last minute in which it had slots but no pictures for them.
    """

    name: str
    state: str
    stage: str
    done: int = 0
    failed: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    pid: int | None = None
    gpus: tuple[str, ...] = ()
    load: Load | None = None
    rate: float = 0.0
    late: float = 0.0


@dataclass(frozen=True)
class Snapshot:
    """Attributes:
    total: items of the input, or None while they are counted.
    before: items done before this run.
    done, failed: items of this run.
    flagged: captions of this run that the guard doubts.
    seconds: since the first worker of this run began; 0 before that.
    bytes_to_come: of disk that the rest will take; 0 if not known yet.
    errors, flags: failed items by class; how often each flag was set.
    rate: images/s over the last minute.
    pace: the same, less the time before the first image ended; 0 until that says something.
    rounds: of a lockstep run.
    ended: nothing more is done in this run, so there is no time left to tell.
    """

    total: int | None
    before: int
    done: int
    failed: int
    workers: Sequence[WorkerSnapshot] = ()
    flagged: int = 0
    seconds: float = 0.0
    bytes_to_come: int = 0
    errors: Counter = field(default_factory=Counter)
    flags: Counter = field(default_factory=Counter)
    rate: float = 0.0
    pace: float = 0.0
    rounds: Rounds | None = None
    ended: bool = False

    @property
    def images(self) -> int:
        """Ended in this run, in one way or the other."""
        return self.done + self.failed

    @property
    def whole_rate(self) -> float:
        """Images/s over the whole run."""
        return self.images / self.seconds if self.seconds > 0 else 0.0

    @property
    def left(self) -> int | None:
        """Images that are still to be done; None while they are counted."""
        return None if self.total is None else max(0, self.total - self.before - self.images)

    @property
    def seconds_left(self) -> float | None:
        """At the pace of the last minute; None if that can't be told."""
        return self.left / self.pace if self.left and self.pace > 0 and not self.ended else None
