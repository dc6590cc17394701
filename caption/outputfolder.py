"""OutputFolder: OUT made, its record opened, and its troubles in sentences."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import checkpoint
from caption.errors import Busy, Damaged, DiskError, OtherJob, OutputError, SystemLimit
from caption.outputs.rows import CAPTION_FILES, CAPTIONS, RowFiles
from caption.runfile import read_run_file
from caption.settings import OPTIONS
from caption.urls import scheme

PLACES = ("input", "image_root", "details")  # settings that are paths of the input
_LIMITS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN}
_FULL = {errno.ENOSPC, errno.EDQUOT}


def make_folder(out: Path) -> None:
    """Makes the folder. Raises OutputError if it can't be written into."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        if error.errno not in _FULL:
            problem = f"can't write into the folder {out}: {error.strerror}"
            raise OutputError(problem, "choose another --output") from error


def with_old_places(out: Path, fingerprint: dict[str, Any]) -> dict[str, Any]:
    """The fingerprint, its paths as the runs before had them: ids do not depend on where a data set lies."""
    with record_errors(out), contextlib.suppress(FileNotFoundError):
        old = checkpoint.read(out).fingerprint or {}
        return fingerprint | {name: old[name] for name in PLACES if name in old}
    return fingerprint


def open_record(out: Path, fingerprint: dict[str, Any], files: RowFiles = CAPTION_FILES) -> checkpoint.Record:
    """The record of these row files of the folder, locked for this run.

    Raises:
        Busy, OtherJob, Damaged: another run holds it, it belongs to another job, its content is not what was written.
        DiskError: it can't be read or written.
    """
    with record_errors(out):
        if files is CAPTION_FILES:
            _compare_with_run_file(out, fingerprint)
        return checkpoint.open(out, fingerprint, (files.done, files.failed), files.folder)


def compare_with_record(
    out: Path, fingerprint: dict[str, Any], files: RowFiles = CAPTION_FILES
) -> checkpoint.View | None:
    """The record of the folder, only to look at; None if there is none. Raises as ``open_record``, less Busy."""
    with record_errors(out):
        try:
            view = checkpoint.read(out, files.folder)
        except FileNotFoundError:
            return None
        if any(view.counts.values()):
            _compare(view.fingerprint or {}, fingerprint)
        return view


@contextlib.contextmanager
def record_errors(out: Path, to_come: Callable[[], int] = lambda: 0) -> Iterator[None]:
    """Inside, trouble with the record becomes one of CaptionError. ``to_come``: bytes that the rest would take."""
    try:
        yield
    except (OSError, checkpoint.Error) as error:
        raise _explained(out, error.cause if isinstance(error, checkpoint.Broken) else error, to_come) from error


def _explained(out: Path, error: BaseException, to_come: Callable[[], int]) -> Exception:
    again = "type the same command again"
    number = getattr(error, "errno", None)
    if isinstance(error, checkpoint.Busy):
        return Busy(f"{out} is being written by {error.holder or 'another run'}", "wait, or choose another --output")
    if isinstance(error, checkpoint.Lost):
        return Busy(f"this run has lost {out}: {error}", f"when nobody else writes there, {again}")
    if isinstance(error, checkpoint.Mismatch):
        field = error.field.replace("_", " ")
        return OtherJob(
            f"{out} belongs to another job, its {field} was {error.old!r} and is now {error.new!r}",
            f"{_way_back(out, error)}, or choose another --output for a new job",
        )
    if isinstance(error, checkpoint.Damaged):
        return Damaged(str(error), f"python -m caption.verify {out} tells more, and --repair mends it")
    if isinstance(error, checkpoint.Full) or number in _FULL:
        missing = max(to_come(), getattr(error, "needed", 1))
        return DiskError(
            f"the disk of {out} is full, about {missing:,} bytes are missing for the rest",
            f"free them and {again}; what was written is safe",
        )
    if number in _LIMITS:
        return SystemLimit(f"the system gives no more: {error.strerror}", "use fewer --workers, or raise its limits")
    problem = getattr(error, "strerror", None) or error
    place = getattr(error, "filename", None) or out
    return DiskError(f"can't go on writing {place}: {problem}", f"mend this and {again}")


def _way_back(out: Path, error: checkpoint.Mismatch) -> str:
    if error.field == "model":
        _, is_commit, commit = str(error.old).rpartition(" commit ")
        revision = f" --revision {commit}" if is_commit else ""
        with contextlib.suppress(Damaged, FileNotFoundError, LookupError, TypeError):
            before = read_run_file(out)["runs"][-1]["settings"]["model"]
            return f"to go on with it give the files of then, --model {before}{revision}"
    if error.field in PLACES:
        return "add --moved if it is the same data set at another place"
    if error.field in OPTIONS and error.field != "lora":
        return f"to go on with it set {OPTIONS[error.field].flag} to the old value"
    return f"to go on with it give the same {error.field} as before"


def _compare_with_run_file(out: Path, fingerprint: dict[str, Any]) -> None:
    """If only the record is gone, ``run.json`` still knows what job the rows are of."""
    rows = out / CAPTIONS
    if (out / "checkpoint" / "checkpoint.json").exists() or not rows.exists() or not rows.stat().st_size:
        return
    with contextlib.suppress(Damaged, FileNotFoundError):
        _compare(read_run_file(out)["fingerprint"], fingerprint)


def _compare(old: dict[str, Any], new: dict[str, Any]) -> None:
    for field in new:
        if field in old and old[field] != new[field]:
            raise checkpoint.Mismatch(field, old[field], new[field])


def shown_path(path: str | os.PathLike) -> str:
    """An absolute path as valid text; a URL as it is."""
    if scheme(text := os.fspath(path)):
        return text
    return os.fspath(Path(path).resolve()).encode(errors="replace").decode()
