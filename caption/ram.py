"""Ram: memory that is used and there, within the limit that a container or batch system sets."""

from __future__ import annotations

from pathlib import Path

import psutil

_MOUNT = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
# of each version of control groups: limit, use, and the name of the cache that is given back before anybody is killed
_V2 = ("memory.max", "memory.current", "inactive_file")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def ram(mount: Path = _MOUNT, own: Path = _OWN) -> tuple[int, int]:
    """Bytes used and bytes there, of the machine or of the tightest limit on this process.

    psutil shows the machine's, but a process is killed at the limit of its control group.
    """
    memory = psutil.virtual_memory()
    tightest = memory.total - memory.available, memory.total
    for folder, files in _folders(mount, own):
        try:
            limit, used = (int((folder / name).read_text()) for name in files[:2])
            cache = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            used -= int(cache.get(files[2], 0))
        except (OSError, ValueError):  # none there, or "max"
            continue
        if limit < memory.total and limit - used < tightest[1] - tightest[0]:
            tightest = max(0, used), limit
    return tightest


def _folders(mount: Path, own: Path) -> list[tuple[Path, tuple[str, str, str]]]:
    """This process's control group and those around it: a limit on any of them is one on this process."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return []
    found = []
    for number, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if number == "0":
            top, files = mount, _V2
        elif "memory" in controllers.split(","):
            top, files = mount / "memory", _V1
        else:
            continue
        inner = Path(path.lstrip("/"))
        found += [(top / part, files) for part in (inner, *inner.parents)]
    return found
