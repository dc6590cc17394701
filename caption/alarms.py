"""Alarms: what will go wrong if nobody does anything, said while there is time. Pure: figures in, sentences out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from caption.figures import in_bytes
from caption.monitor import GpuLoad, Load
from caption.snapshot import Snapshot

_AGAIN = 1800.0  # seconds until the same is said once more
_RAM_LEAST, _RAM_SHARE = 1e9, 0.05  # less than the larger of both is short
_DISK_LEAST = 500e6  # bytes free; below this anything else that writes there can fill it
_DISK_MARGIN = 1.1
_HOT_MARGIN = 3  # degrees below the one at which a GPU slows down
_FOREIGN_LEAST, _FOREIGN_SHARE = 1e9, 0.02  # of a GPU's memory; drivers and desktops hold some themselves
_LATE = 0.2  # of the last minute
_LATE_AFTER = 45.0  # seconds of a run, whose first pictures are always waited for
_CPU_FULL = 90.0  # percent of all cores


@dataclass(frozen=True)
class _Kind:
    """Attributes:
    lasts: seconds that it must hold before it is said.
    find: the sentence, or None if all is well.
    """

    lasts: float
    find: Callable[[Snapshot, Load], str | None]


class Alarms:
    """Each kind of warning is said when it has held for a while, and then not again for half an hour.

    Args:
        out: the folder whose disk fills, for the sentence.
        loaders: that each worker has.
    """

    def __init__(self, out: str, loaders: int):
        self._out, self._loaders = out, loaders
        self._kinds = (
            _Kind(0.0, self._ram),
            _Kind(0.0, self._disk),
            _Kind(5.0, self._heat),
            _Kind(10.0, self._sharing),
            _Kind(10.0, self._late),
        )
        self._since: dict[int, float] = {}
        self._said: dict[int, float] = {}

    def look(self, snapshot: Snapshot, load: Load, now: float) -> list[str]:
        """What is to be said of these figures at the time ``now`` (seconds on any clock)."""
        sentences = []
        for number, kind in enumerate(self._kinds):
            sentence = kind.find(snapshot, load)
            if sentence is None:
                self._since.pop(number, None)
                continue
            since = self._since.setdefault(number, now)
            if now - since >= kind.lasts and now - self._said.get(number, -_AGAIN) >= _AGAIN:
                self._said[number] = now
                sentences.append(f"Warning: {sentence}.")
        return sentences

    def _ram(self, _: Snapshot, load: Load) -> str | None:
        if not (machine := load.machine):
            return None
        left = machine.ram_total - machine.ram_used
        if left >= min(max(_RAM_LEAST, _RAM_SHARE * machine.ram_total), machine.ram_total / 4):
            return None
        return (
            f"RAM is short, {in_bytes(left)} of {in_bytes(machine.ram_total)} are left: stop (Ctrl-C) and go on with "
            f"fewer --loaders (now {self._loaders} a worker), or end other programs"
        )

    def _disk(self, snapshot: Snapshot, load: Load) -> str | None:
        if not (machine := load.machine):
            return None
        needed = int(snapshot.bytes_to_come * _DISK_MARGIN)
        if machine.disk_free >= max(needed, _DISK_LEAST if snapshot.left else 0):
            return None
        come = f", and the captions to come take about {in_bytes(snapshot.bytes_to_come)}" if needed else ""
        return f"the disk of {self._out} has {in_bytes(machine.disk_free)} left{come}: free some before it is full"

    def _heat(self, snapshot: Snapshot, load: Load) -> str | None:
        hot = [
            f"{name} ({gpu.celsius} °C)" if gpu.celsius is not None else name
            for name, gpu in _gpus(snapshot, load)
            if gpu.slowed or _near(gpu.celsius, gpu.slow_celsius)
        ]
        if not hot:
            return None
        slow = "slows itself down" if any(gpu.slowed for gpu in load.gpus.values()) else "is about to slow itself down"
        return f"{_listed(hot)} is so hot that it {slow}: look after its cooling"

    def _sharing(self, snapshot: Snapshot, load: Load) -> str | None:
        shared = [
            f"{name} ({in_bytes(gpu.others)})"
            for name, gpu in _gpus(snapshot, load)
            if (gpu.others or 0) > max(_FOREIGN_LEAST, _FOREIGN_SHARE * (gpu.total or 0))
        ]
        if not shared:
            return None
        return (
            f"other programs hold memory of {_listed(shared)}: they take from its speed, and what they still take can "
            "run it out of memory; see nvidia-smi, --gpus free takes the emptiest"
        )

    def _late(self, snapshot: Snapshot, load: Load) -> str | None:
        late = {worker.name: worker.late for worker in snapshot.workers if worker.late >= _LATE}
        if not late or snapshot.seconds < _LATE_AFTER or not snapshot.left:
            return None
        most = max(late, key=late.get)
        others = f" and {len(late) - 1} more wait" if len(late) > 1 else " waits"
        who = "the GPU" if len(snapshot.workers) == 1 and snapshot.workers[0].gpus else most
        if load.machine and load.machine.cpu >= _CPU_FULL:
            remedy = f"all cores are busy, so more --loaders (now {self._loaders}) do not help, more cores would"
        else:
            remedy = f"raise --loaders (now {self._loaders})"
        return f"{who}{others} for pictures {late[most]:.0%} of the time: {remedy}".replace("%", " %")


def _gpus(snapshot: Snapshot, load: Load) -> list[tuple[str, GpuLoad]]:
    """Each GPU under the name of its first worker."""
    names = {uuid: worker.name for worker in reversed(snapshot.workers) for uuid in worker.gpus}
    return [(names.get(uuid, uuid), gpu) for uuid, gpu in load.gpus.items()]


def _near(celsius: int | None, slow: int | None) -> bool:
    return celsius is not None and bool(slow) and celsius >= slow - _HOT_MARGIN


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
