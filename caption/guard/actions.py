"""Actions: what is done with a caption that has a flag."""

from __future__ import annotations

# All there are; of several the first is the reason of a retry. The engine sets "non-finite" and "pad-flood", too;
# "bf16" says only in which numbers a caption was made.
FLAGS = ("empty", "pad-flood", "loop", "refusal", "echo", "bad-json", "wrong-language", "cut-off", "non-finite", "bf16")
ACTIONS = ("keep", "retry", "fail")
DEFAULT_ACTIONS = dict.fromkeys(FLAGS, "keep") | dict.fromkeys(("empty", "pad-flood", "loop"), "retry")


def parse_actions(text: str) -> dict[str, str]:
    """Flag -> action, from "refusal=fail,loop=keep"; of flags that are not named, the default.

    Raises:
        ValueError: a part is no FLAG=ACTION; what is known stands in the message.
    """
    actions = dict(DEFAULT_ACTIONS)
    for part in filter(None, (part.strip() for part in text.split(","))):
        flag, _, action = part.partition("=")
        if flag not in FLAGS:
            raise ValueError(f"names no flag, of {', '.join(FLAGS)}")
        if action not in ACTIONS:
            raise ValueError(f"names no action for {flag}, of {', '.join(ACTIONS)}")
        actions[flag] = action
    return actions
