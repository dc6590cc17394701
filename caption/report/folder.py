"""Folder: an output folder as it is committed now, only read; also while a run writes it, and a copy."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import orjson

import checkpoint
from caption.choose.best import without_prompt
from caption.errors import Damaged, OutputError
from caption.jobstate import in_words, state_of
from caption.outputs.rows import CAPTIONS, FAILED
from caption.runfile import read_run_file
from caption.sametext import Repeated, Texts, repeated_texts


class Located(NamedTuple):
    """A row and where it stands in its file, in bytes."""

    offset: int
    row: dict[str, Any]


class Folder:
    """Args:
        out: output folder of a job.
        prompt: only the rows of this one of several prompts; "" takes all.

    Attributes:
        counts: committed rows of each row file.
        time: UTC of the last commit, ISO 8601.
        alive: whether a run has it open.
        fingerprint, runs: of its run.json, as far as it has them.
        notes: sentences about what is missing.

    Raises:
        OutputError: it is no output folder, can't be read, or has no caption under the prompt.
        Damaged: its record is.
    """

    def __init__(self, out: Path, prompt: str = ""):
        self.out, self.prompt, self.notes = out, prompt, []
        try:
            self._view = checkpoint.read(out)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise OutputError(f"{out} is no output folder of a job", "give the --output of a run") from error
        except OSError as error:
            raise OutputError(f"can't read {out}: {error.strerror}", "check its permissions") from error
        except checkpoint.Error as error:
            raise self._damaged(str(error)) from error
        self.counts = {CAPTIONS: 0, FAILED: 0} | self._view.counts
        self.time, self.alive = self._view.time, self._view.alive
        self.fingerprint, self.runs = self._view.fingerprint or {}, []
        try:
            content = read_run_file(out)
            self.fingerprint, self.runs = content["fingerprint"], content["runs"]
        except (OSError, Damaged):
            self.notes.append("run.json is missing or damaged, so settings and speed are not known")
        if prompt:
            self.counts = {name: sum(1 for _ in self._rows(name)) for name in self.counts}
            if not self.counts[CAPTIONS]:
                raise OutputError(f"{out} has no captions under a prompt {prompt!r}", "name one of its --prompts")

    def captions(self) -> Iterator[Located]:
        """The committed rows of ``captions.jsonl``, in its order. Raises Damaged, OutputError."""
        return self._rows(CAPTIONS)

    def failures(self) -> Iterator[Located]:
        """The committed rows of ``failed.jsonl``, in its order. Raises Damaged, OutputError."""
        return self._rows(FAILED)

    def repeated(self, texts: Texts, number: int) -> list[Repeated]:
        """The texts that stand on most images, of all its captions. Raises OutputError."""
        try:
            return repeated_texts(self.out / CAPTIONS, self.counts[CAPTIONS], texts, number)
        except (OSError, ValueError, KeyError) as error:
            raise self._changed() from error

    def _rows(self, name: str) -> Iterator[Located]:
        extent = self._view.committed.get(name)
        if not (extent and extent.rows):
            return
        path, offset = self.out / name, 0
        try:
            with path.open("rb", buffering=1 << 20) as file:
                while offset < extent.bytes:
                    line = file.readline()
                    row = orjson.loads(line)
                    if not (isinstance(row, dict) and isinstance(row.get("id"), str)):
                        raise ValueError
                    if not self.prompt or without_prompt(row["id"], self.prompt):
                        yield Located(offset, row)
                    offset += len(line)
        except OSError as error:
            raise OutputError(f"can't read {path}: {error.strerror}", "check that it is there") from error
        except ValueError as error:
            if self._withdrawn():
                raise self._changed() from error
            raise self._damaged(f"{path} has no whole row at byte {offset:,}") from error

    def _withdrawn(self) -> bool:
        """Whether the files are no longer those that were looked at first."""
        try:
            return checkpoint.read(self.out).committed != self._view.committed
        except (OSError, checkpoint.Error):
            return False

    def _changed(self) -> OutputError:
        return OutputError(f"rows of {self.out} were taken out while it was read", "try once more")

    def _damaged(self, problem: str) -> Damaged:
        return Damaged(problem, f"python -m caption.verify {self.out} tells more, and --repair mends it")

    @property
    def settings(self) -> dict[str, Any]:
        """Of the latest run."""
        return dict(self.runs[-1].get("settings") or {}) if self.runs else {}

    @property
    def state(self) -> str:
        """What became of the latest run, in the words of caption.status."""
        if not (self.runs or self.alive):
            return "no run is known"
        run = self.runs[-1] if self.runs else {}
        return in_words(state_of(self.out, self.alive, run), run.get("exit_code"))

    @property
    def picture_root(self) -> Path | None:
        """Where relative names of images begin, as the job's input says."""
        found = self.fingerprint.get("image_root") or self.fingerprint.get("input")
        if not isinstance(found, str):
            return None
        path = Path(found)
        return path if path.is_dir() or not path.suffix else path.parent


def seconds_of(time: object) -> float | None:
    """Seconds since 1970 of a time in run.json; None for what is none."""
    try:
        return datetime.fromisoformat(str(time)).timestamp()
    except ValueError:
        return None
