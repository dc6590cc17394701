"""ShardSet: the folders of all shards of one job, found, and looked at before anything is made of them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import checkpoint
from caption.errors import Busy, Damaged, FolderError, OtherJob, OutputError, UsageError
from caption.runfile import read_run_file
from caption.shard import Shard, parse_shard

_FINISHED = (0, 3)  # exit codes of a run that has done all of its input
_NAMED = 5  # of those that are missing


class ShardFolder(NamedTuple):
    """The folder of one shard as it is committed now.

    Attributes:
        runs: entries of its run.json.
    """

    path: Path
    shard: Shard
    view: checkpoint.View
    runs: list[dict[str, Any]]

    @property
    def unfinished(self) -> str:
        """Why its shard is not done; "" if it is."""
        if self.view.alive:
            return f"is being written by {self.view.holder or 'a run'}"
        if not (self.runs and self.runs[-1].get("exit_code") in _FINISHED):
            return "is not finished"
        return ""

    @property
    def limit(self) -> float:
        """Images of the whole input that its runs went through to their end, by --limit; infinite: all there were."""
        ended = [run for run in self.runs if run.get("exit_code") in _FINISHED]
        return max((run.get("settings", {}).get("limit") or math.inf for run in ended), default=0)


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Inside, trouble with a shard's folder becomes one sentence."""
    try:
        yield
    except OSError as error:
        problem = f"can't read {error.filename or folder}: {error.strerror or error}"
        raise OutputError(problem, "check that it is there and its permissions") from error
    except checkpoint.Error as error:
        raise Damaged(str(error), f"python -m caption.verify {folder} tells more, and --repair mends it") from error


def find_shards(given: Sequence[Path], partial: bool) -> list[ShardFolder]:
    """The folders of one job's shards, in the order of their numbers.

    Args:
        given: these folders, or folders that hold them.
        partial: some may be missing or unfinished.

    Raises:
        UsageError: a folder is none of a shard; a shard is missing, unfinished or there twice.
        FolderError: they belong to different jobs, one can't be trusted, or is being written.
    """
    found = [_open(path) for folder in given for path in _expanded(folder)]
    by_number: dict[int, ShardFolder] = {}
    for one in found:
        first = found[0]
        if one.shard.of != first.shard.of:
            problem = f"{first.path} is one of {first.shard.of} shards, {one.path} one of {one.shard.of}"
            raise UsageError(problem, "give the folders of one set")
        other = by_number.setdefault(one.shard.number, one)
        if not other.path.samefile(one.path):
            raise UsageError(f"{other.path} and {one.path} are both shard {one.shard}", "give one of them")
        _compare(first, one)
    shards = [by_number[number] for number in sorted(by_number)]
    if not partial:
        _check_whole(shards)
        _check_limits(shards)
    return shards


def _expanded(folder: Path) -> list[Path]:
    """The shards' folders inside a folder, or else that itself."""
    with reading(folder):
        inside = sorted(path for path in folder.glob("shard-*-of-*") if (path / "checkpoint").is_dir())
        if not (inside or (folder / "checkpoint").is_dir()):
            raise OutputError(f"{folder} is no output folder of a job with --shard", "give the --output of its runs")
    return inside or [folder]


def _open(path: Path) -> ShardFolder:
    with reading(path):
        try:
            view = checkpoint.read(path)
        except FileNotFoundError as error:
            raise OutputError(f"{path} has no record", "run its shard again") from error
        shard = (view.fingerprint or {}).get("shard")
        if not shard:
            raise UsageError(f"{path} is no shard, but a whole job", "give folders of runs with --shard")
        try:
            runs = read_run_file(path)["runs"]
        except FileNotFoundError:
            runs = []
    return ShardFolder(path, parse_shard(shard), view, runs)


def _compare(first: ShardFolder, other: ShardFolder) -> None:
    old, new = (one.view.fingerprint | {"shard": None} for one in (first, other))
    for field in sorted(old.keys() | new.keys()):
        if old.get(field) != new.get(field):
            raise OtherJob(
                f"{first.path} and {other.path} belong to different jobs, their {field.replace('_', ' ')} is "
                f"{old.get(field)!r} and {new.get(field)!r}",
                "give the folders of one job",
            )


def _check_whole(shards: list[ShardFolder]) -> None:
    remedy = "run {}, or merge what there is with --partial"
    of = shards[0].shard.of
    missing = sorted(set(range(of)) - {one.shard.number for one in shards})
    if missing:
        names = ", ".join(str(Shard(number, of)) for number in missing[:_NAMED])
        more = f" and {len(missing) - _NAMED:,} more" if len(missing) > _NAMED else ""
        are = "shards {} are missing" if len(missing) > 1 else "shard {} is missing"
        raise UsageError(are.format(names + more), remedy.format("them" if len(missing) > 1 else "it"))
    unfinished = [one for one in shards if one.unfinished]
    if unfinished:
        one = unfinished[0]
        more = f", and {len(unfinished) - 1:,} more are not done" if len(unfinished) > 1 else ""
        error: type[FolderError | UsageError] = Busy if one.view.alive else UsageError
        raise error(f"{one.path}, shard {one.shard}, {one.unfinished}{more}", remedy.format("the same command again"))


def _check_limits(shards: list[ShardFolder]) -> None:
    """One that was tried with a few images, and then forgotten, is no whole one."""
    least, most = (choose(shards, key=lambda one: one.limit) for choose in (min, max))
    if least.limit < most.limit:
        others = "others all" if most.limit == math.inf else f"others the first {most.limit:,}"
        raise UsageError(
            f"{least.path}, shard {least.shard}, has done its part of the first {least.limit:,} images, {others}",
            "run it with the same --limit as the others, or merge what there is with --partial",
        )
