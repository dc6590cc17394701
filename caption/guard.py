"""Guard: is this text a caption? Each doubt is a flag in the row."""

from __future__ import annotations

# All there are. The engine sets pad-flood and non-finite, precision.py bf16.
FLAGS = ("empty", "cut-off", "pad-flood", "non-finite", "bf16")


def check(text: str, finish_reason: str) -> tuple[str, ...]:
    """The flags of a caption: "empty", and "cut-off" when it ended at the token limit and not at a sentence's end."""
    if not text.strip():
        return ("empty",)
    if finish_reason == "length" and not text.rstrip().endswith((".", "!", "?", "。", "！", "？", "।", "؟")):
        return ("cut-off",)
    return ()
