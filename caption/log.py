"""Log: what happens in a run, with times and names of workers, in a file that every run of the folder adds to.

A line is ``TIME LEVEL WORKER MESSAGE``, or with ``--log-format json`` an object with ``time`` (UTC, to the
millisecond), ``level`` (info, warning, error), ``worker`` (null: the run itself), ``message`` and, in lines of
progress, figures.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import logging.handlers
import os
from collections.abc import Iterator
from pathlib import Path

import orjson

from caption.console import LOG, harmless
from caption.errors import OutputError

NAME = "run.log"


def note(text: str, worker: str | None = None, level: int = logging.INFO, **figures: object) -> None:
    """A line of the log, if one is open. worker: name of the seat that it is about."""
    LOG.log(level, "%s", text, extra={"worker": worker, "figures": figures})


@contextlib.contextmanager
def log_into(path: Path, form: str) -> Iterator[None]:
    """Inside, notes are appended to this file, also after somebody has moved it away (logrotate).

    form: "text" or "json".

    Raises OutputError if it can't be opened; a disk that is full later costs lines of the log and nothing else.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _end_torn_line(path)
        handler = _Handler(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        problem = f"can't write the log file {path}: {error.strerror or error}"
        raise OutputError(problem, "choose another --log-file") from error
    handler.setFormatter(_Json() if form == "json" else _Text())
    LOG.addHandler(handler)
    try:
        yield
    except Exception as error:
        note(f"ended by an error: {error}", level=logging.ERROR)
        raise
    finally:
        LOG.removeHandler(handler)
        with contextlib.suppress(OSError):
            handler.close()


class _Handler(logging.handlers.WatchedFileHandler):
    def emit(self, record: logging.LogRecord) -> None:
        """Looking after a file that was moved away can fail, too: its folder is gone, its disk is full."""
        with contextlib.suppress(OSError):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """A run goes on without its log."""


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = harmless(record.getMessage()).replace("\n", "\\n")
        return f"{_time(record)} {record.levelname:<7} {_worker(record) or 'run':<6} {text}"


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {"time": _time(record), "level": record.levelname.lower(), "worker": _worker(record)}
        text = record.getMessage().encode("utf-8", "backslashreplace").decode()
        return orjson.dumps(line | {"message": text} | getattr(record, "figures", {})).decode()


def _worker(record: logging.LogRecord) -> str | None:
    return getattr(record, "worker", None)


def _time(record: logging.LogRecord) -> str:
    moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _end_torn_line(path: Path) -> None:
    """What a power cut left half written must not be glued to the next line."""
    if not path.is_file():  # none yet, or a pipe, as /dev/stderr can be
        return
    with path.open("rb+") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
