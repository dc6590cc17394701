"""Precision: in which numbers a job computes. fp16, which reaches 65,504, until that was not enough once; then bf16."""

from __future__ import annotations

from caption.runfile import RunFile

AFTER_FP16 = "bf16"


class Precision:
    """Args:
        run_file: remembers it from run to run; None: nobody does.

    Attributes:
        dtype: of the workers that are started from now on.
    """

    def __init__(self, asked: str, run_file: RunFile | None = None):
        self._run_file = run_file
        self.dtype = AFTER_FP16 if run_file and run_file.before("precision") == AFTER_FP16 else asked
        self.switched = self.dtype != asked
        if self.switched:
            self._note()

    @property
    def flags(self) -> tuple[str, ...]:
        """Of all captions made from now on."""
        return (self.dtype,) if self.switched else ()

    def switch(self) -> None:
        """From fp16, for good: written down before anything is made of it, so that every later run begins with it."""
        self.dtype, self.switched = AFTER_FP16, True
        self._note()

    def _note(self) -> None:
        if self._run_file:
            self._run_file.note(precision=self.dtype)
