"""Quotes: what a text cites from its picture is not said by the model."""

from __future__ import annotations

import re

_QUOTED = re.compile(
    r'"[^"\n]*"|“[^”\n]*”|„[^“”"\n]*[“”"]|«[^»\n]*»|‹[^›\n]*›|「[^」\n]*」|『[^』\n]*』|《[^》\n]*》|(?<!\w)[‘\'][^’\'\n]*[’\'](?!\w)'
)


def unquoted(text: str) -> str:
    """The text with an ellipsis for each quotation; JSON, which is all quotations, as it is."""
    if text.lstrip()[:1] in ("{", "[", "`"):
        return text
    return _QUOTED.sub("…", text.strip().removeprefix('"') if text.count('"') % 2 else text)
