"""The names of the record's files."""

from pathlib import Path

FILES = ("captions.jsonl", "failed.jsonl")
FOLDER = "checkpoint"


class Paths:
    """Where the parts of a record of the output folder `out` lie; `folder` is its own among those of other records."""

    def __init__(self, out: Path, folder: str = FOLDER):
        self.out, self.folder = out, out / folder
        self.state, self.index, self.lock = (self.folder / name for name in ("checkpoint.json", "rows.idx", "lock"))

    def rows(self, name: str) -> Path:
        return self.out / name

    def new(self, path: Path) -> Path:
        """Where the content that is to replace the row file or index `path` is prepared."""
        return self.folder / f"{path.name}.new"
