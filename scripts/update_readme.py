"""Writes the options of ``caption/settings.py`` into README.md; ``--check`` only says whether they stand there."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from caption.settings import GROUPS, OPTIONS  # noqa: E402 (the path comes first)

BEGIN, END = "<!-- options: made by scripts/update_readme.py -->", "<!-- end of options -->"


def options_table() -> str:
    """Markdown: a table of all options, by group."""
    lines = ["| option | default | what it does |", "| --- | --- | --- |"]
    for group, title in GROUPS.items():
        lines.append(f"| **{title}** | | |")
        for option in OPTIONS.values():
            if option.group == group:
                lines.append(f"| {_call(option)} | {_default(option)} | {_cell(option.help)} |")
    return "\n".join(lines)


def _call(option) -> str:
    if option.name == "input":
        return "`INPUT`"
    if option.type is bool:
        return f"`{option.flag}`"
    return f"`{option.flag} {option.metavar or ''}`".replace(" `", "`") + _choices(option)


def _choices(option) -> str:
    return " " + " ".join(f"`{choice}`" for choice in option.choices) if option.choices else ""


def _default(option) -> str:
    if option.type is bool:
        return "on" if option.default else "off"
    return f"`{_cell(str(option.default))}`" if option.default not in (None, "") else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> int:
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    made = f"{before}{BEGIN}\n{options_table()}\n{END}{after}"
    if "--check" in sys.argv:
        if made != text:
            print("README.md does not show the options as they are: run python scripts/update_readme.py")
        return int(made != text)
    readme.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
