"""Note: what could not be written, or was left out."""

from __future__ import annotations

_NAMED = 5  # files named in a note


class Note:
    """Things counted, with the first names.

    Args:
        what: follows the count.
    """

    def __init__(self, what: str):
        self._what = what
        self._names: list[str] = []
        self.count = 0

    def add(self, name: str) -> None:
        self.count += 1
        if len(self._names) < _NAMED:
            self._names.append(name)

    def __str__(self) -> str:
        rest = ", …" if self.count > len(self._names) else ""
        return f"{self.count:,} {self._what}: {', '.join(self._names)}{rest}"
