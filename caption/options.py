"""Options: the settings from their layers. Command line beats environment beats file beats default."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import Any

from caption import __version__
from caption.commandline import Parser, nearest
from caption.errors import UsageError
from caption.settings import GROUPS, OPTIONS, Settings

_EPILOG = """exit codes: 0 finished, 2 wrong use, 3 finished with failures (--strict) or without one caption,
4 the output folder can't be continued, 5 no worker can go on, 130 Ctrl-C, 143 SIGTERM.
Each option can also stand in a YAML file (--config) or in the environment (CAPTION_BATCH_SIZE=16)."""


def make_parser() -> argparse.ArgumentParser:
    """The command line, made from ``OPTIONS``."""
    parser = Parser(
        prog="python -m caption.run",
        usage="python -m caption.run INPUT --output OUT [options]",
        description="Put a caption on every picture of a data set; type the same command again to go on.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("input", metavar="INPUT", nargs="?", help=OPTIONS["input"].help)
    for group, title in GROUPS.items():
        section = parser.add_argument_group(title)
        for option in OPTIONS.values():
            if option.group == group and option.name != "input":
                add_option(section, option)
    settings = parser.add_argument_group("Settings")
    settings.add_argument("--config", metavar="FILE", help="YAML file with options (max_new_tokens: 128)")
    settings.add_argument("--print-config", action="store_true", help="print each setting and where it is from")
    settings.add_argument("--list-prompts", action="store_true", help="print the prompts that have a name")
    settings.add_argument("--version", action="version", version=f"caption {__version__}")
    return parser


def add_option(section: argparse._ArgumentGroup, option) -> None:
    help = option.help.replace("%", "%%")
    if option.type is bool:
        section.add_argument(option.flag, action=argparse.BooleanOptionalAction, help=help)
        return
    if option.default not in (None, ""):
        help += f" (default {option.default})"
    metavar = option.metavar or "{" + ",".join(option.choices) + "}"
    several = option.listed or option.type is dict
    section.add_argument(option.flag, metavar=metavar, help=help, action="append" if several else "store")


def read_settings(argv: Sequence[str], environment: Mapping[str, str] = os.environ) -> tuple[Settings, dict[str, str]]:
    """The effective settings, and for each the layer that it is from.

    Raises:
        UsageError: an unknown option or key, or a value that its check refuses.
    """
    given = vars(make_parser().parse_args(argv))
    given.pop("print_config", None)
    given.pop("list_prompts", None)
    settings, origins = layered(given, environment)
    check_together(settings)
    _check_prompts(settings, origins)
    needed = (("input", "INPUT, a folder or list of pictures"), ("output", "--output, a folder for the captions"))
    for name, shown in needed:
        if not getattr(settings, name):
            raise UsageError(f"{shown}, is missing", "python -m caption.run INPUT --output OUT")
    return settings, origins


def layered(given: dict[str, Any], environment: Mapping[str, str]) -> tuple[Settings, dict[str, str]]:
    """The settings of a command line over those of the environment and of the file that either of them names.

    Args:
        given: what stands on the command line, by name; ``config`` is the file.

    Raises:
        UsageError: an unknown key or variable, or a value that its check refuses.
    """
    file = given.pop("config", None) or environment.get("CAPTION_CONFIG")
    values: dict[str, Any] = {}
    origins = dict.fromkeys(OPTIONS, "default")

    def layer(name: str, value: Any, where: str, origin: str) -> None:
        values[name] = OPTIONS[name].parse(value, where)
        origins[name] = origin

    for key, value in (_read_file(file) if file else {}).items():
        layer(key, value, f"{file}: {key}", f"file {file}")
    for option in OPTIONS.values():
        if option.variable in environment:
            layer(option.name, environment[option.variable], option.variable, f"environment {option.variable}")
    _refuse_unknown_variables(environment)
    for name, value in given.items():
        value = ",".join(value) if isinstance(value, list) and OPTIONS[name].listed else value
        layer(name, value, "INPUT" if name == "input" else OPTIONS[name].flag, "command line")
    return Settings(**values), origins


def check_together(settings: Settings) -> None:
    """Raises UsageError for settings that are fine alone and not together."""
    if settings.num_beams > 1 and settings.temperature > 0:
        raise UsageError("--num-beams and --temperature exclude each other", "leave one of them out")


def _check_prompts(settings: Settings, origins: Mapping[str, str]) -> None:
    if settings.prompts and origins["prompt"] != "default":
        raise UsageError("--prompt and --prompts exclude each other", "leave one of them out")
    weights, named = settings.prompt_weights, settings.prompts or {}
    if weights and (unknown := weights.keys() ^ named.keys()):
        name = sorted(unknown)[0]
        raise UsageError(f"--prompts and --prompt-weights name different prompts: {name}", "give each prompt a weight")


def _read_file(path: str) -> dict[str, Any]:
    import yaml

    try:
        with open(path, encoding="utf-8") as file:
            content = yaml.safe_load(file)
    except OSError as error:
        raise UsageError(f"can't read the settings in {path}: {error.strerror}", "check --config") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, or a 13th month
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = path if line is None else f"{path}, line {line + 1}"
        raise UsageError(f"{where} is no YAML", "write one 'option: value' a line") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds no options", "write one 'option: value' a line")
    named = {}
    for key, value in content.items():
        name = str(key).replace("-", "_")
        if name not in OPTIONS:
            raise UsageError(f"{path}: there is no option {key!r}", nearest(name, OPTIONS))
        named[name] = value
    return named


def _refuse_unknown_variables(environment: Mapping[str, str]) -> None:
    known = {option.variable for option in OPTIONS.values()} | {"CAPTION_CONFIG"}
    for variable in environment:
        if variable.startswith("CAPTION_") and variable not in known:
            raise UsageError(f"the environment variable {variable} is no option", nearest(variable, known))


def shown_settings(settings: Settings, origins: Mapping[str, str]) -> str:
    """The effective settings as YAML, each with where it is from."""
    import yaml

    lines = []
    for name in OPTIONS:
        value = yaml.safe_dump({name: getattr(settings, name)}, allow_unicode=True, width=10**6).strip()
        lines.append(f"{value:<40} # {origins[name]}")
    return "\n".join(lines)
