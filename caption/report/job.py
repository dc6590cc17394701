"""Job: what a folder's job was, how fast it went, and what all its captions have in common."""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Any

from caption.outputs.rows import CAPTIONS, FAILED
from caption.report.folder import Folder, seconds_of
from caption.report.speed import mean_shares, where_time_went
from caption.report.tally import Tally
from caption.report.timeline import Timeline
from caption.settings import OPTIONS
from caption.sources import STDIN

_ALWAYS = ("model", "prompt", "dtype", "max_new_tokens", "seed")  # shown even as by default
_NEVER = ("input", "output")


class Job:
    """Args:
        folder: its output folder.

    Attributes:
        tally, errors: of its captions, and failures by class; to be filled by whoever reads the rows.
        timeline: of all its runs.
    """

    def __init__(self, folder: Folder):
        self.folder = folder
        self.tally = Tally()
        self.errors: Counter[str] = Counter()
        self.timeline = Timeline(folder.out / "stats.jsonl", folder.runs)

    @property
    def captioned(self) -> int:
        return self.folder.counts[CAPTIONS]

    @property
    def failed(self) -> int:
        return self.folder.counts[FAILED]

    @property
    def input(self) -> str:
        """A short name of what was captioned."""
        path = self.folder.fingerprint.get("input")
        if not isinstance(path, str):
            return "an unknown input"
        return "standard input" if path == STDIN else Path(path).name or path

    @property
    def model(self) -> str:
        return str(self.folder.settings.get("model") or self.folder.fingerprint.get("model") or "an unknown model")

    @property
    def dtype(self) -> str:
        run = self.folder.runs[-1] if self.folder.runs else {}
        return str(run.get("precision") or self.folder.fingerprint.get("dtype") or "an unknown precision")

    @property
    def prompt(self) -> str:
        settings = self.folder.fingerprint
        if name := self.folder.prompt:
            texts = settings.get("prompts")
            return str(texts.get(name, name)) if isinstance(texts, dict) else name
        if prompts := settings.get("prompts"):
            named = ", ".join(prompts) if isinstance(prompts, dict) else str(prompts)
            return f"several: {named}"
        return str(settings.get("prompt") or "none")

    @cached_property
    def seconds(self) -> float:
        """That all runs took together."""
        known = [(run.get("totals") or {}).get("total_seconds") for run in self.folder.runs]
        rest = [run.length for place, run in self.timeline.runs.items() if place >= len(known) or not known[place]]
        return sum(seconds for seconds in known if seconds) + sum(rest)

    @cached_property
    def rate(self) -> float | None:
        """Images a second from when its first worker began to the last caption; None where no run says."""
        images = seconds = 0.0
        for place, run in enumerate(self.folder.runs):
            totals = run.get("totals") or {}
            if totals.get("captioned") and totals.get("seconds"):
                images, seconds = images + totals["captioned"] + totals.get("failed", 0), seconds + totals["seconds"]
            elif not totals and place in self.timeline.runs:
                found = self.timeline.runs[place]
                images, seconds = images + found.images, seconds + found.working
        return images / seconds if seconds else None

    @cached_property
    def workers(self) -> dict[str, dict[str, float]]:
        return where_time_went(self.folder.runs, self.timeline)

    @cached_property
    def shares(self) -> dict[str, float]:
        """Of the mean worker."""
        return mean_shares(self.workers)

    @property
    def cpu(self) -> float | None:
        """Mean percent of all cores."""
        readings = sum(one.readings for one in self.timeline.bins)
        return sum(one.cpu for one in self.timeline.bins) / readings if readings else None

    @property
    def memory(self) -> float | None:
        """The most that a GPU's memory was filled, as a share of 1."""
        shares = [one.memory / one.total for one in self.timeline.workers.values() if one.total]
        return max(shares, default=None)

    @property
    def settings(self) -> list[tuple[str, str]]:
        """Those that are not as by default, and a few that always matter."""
        given = self.folder.settings
        return [
            (name, value)
            for name, value in self.all_settings.items()
            if name in _ALWAYS or given[name] != OPTIONS[name].default
        ]

    @property
    def all_settings(self) -> dict[str, str]:
        """Of the latest run, in words."""
        return {
            name: "none" if value in (None, "") else str(value)
            for name, value in self.folder.settings.items()
            if name in OPTIONS and name not in _NEVER
        }

    @property
    def versions(self) -> dict[str, str]:
        """Of the latest run."""
        found = self.folder.runs[-1].get("versions") if self.folder.runs else None
        return {name: str(version) for name, version in (found or {}).items()}

    @property
    def runs(self) -> list[dict[str, Any]]:
        """A row a run, for the table."""
        rows = []
        for place, run in enumerate(self.folder.runs):
            totals, found = run.get("totals") or {}, self.timeline.runs.get(place)
            begin, end = seconds_of(run.get("begin")), seconds_of(run.get("end"))
            length = totals.get("total_seconds") or (end and begin and end - begin) or (found and found.length)
            images = totals.get("captioned", 0) + totals.get("failed", 0) if totals else found and found.images
            rows.append(
                {
                    "begin": run.get("begin"), "host": run.get("host"), "workers": len(run.get("seats") or ()),
                    "seconds": length, "images": images, "code": run.get("exit_code"),
                }
            )  # fmt: skip
        return rows
