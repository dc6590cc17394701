"""``python -m caption.export OUT --to FORMAT``: committed captions in another format, each once."""

from __future__ import annotations

import argparse
import os
import select
import sqlite3
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import checkpoint
from caption.checks import no_utf_8
from caption.choose.selection import Selection
from caption.commandline import Parser
from caption.console import complain, say
from caption.errors import CaptionError, DiskError, OutputError, UsageError
from caption.guard import FLAGS
from caption.outputs.export import Export, ExportOptions, Origin
from caption.outputs.formats import BESIDE, FORMATS
from caption.process import leave_stopping_to_parent
from caption.runfile import read_run_file

_PATIENCE = 60.0  # seconds that one that follows a run waits for that of a run before, which was killed
_LOOK_EVERY = 1.0  # seconds, while it follows a run


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    try:
        return _export(_parser().parse_args(argv))
    except CaptionError as error:
        complain(error.sentence())
        return error.exit_code
    except (OSError, sqlite3.Error) as error:
        words = getattr(error, "strerror", None) or error
        name = getattr(error, "filename", None)
        problem = f"the export can't go on: {words}" + (f" ({name})" if name else "")
        complain(DiskError(problem, "mend this and type the same command again").sentence())
        return DiskError.exit_code
    except checkpoint.Error as error:
        complain(OutputError(f"can't read the record: {error}", "python -m caption.verify OUT tells more").sentence())
        return OutputError.exit_code
    except KeyboardInterrupt:
        complain("Stopped: the same command goes on from here.")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m caption.export",
        description="Write the captions of OUT in another format. Typed again, it writes what is new.",
        epilog="OUT itself is only read. Files that are not the export's own are never replaced unless told.",
    )
    parser.add_argument(
        "outs", metavar="OUT", type=Path, nargs="+", help="output folder of a run, which may still be at work; with "
        "--best-by also those of other runs on the same images: exports and their place are those of the first",
    )  # fmt: skip
    parser.add_argument("--to", metavar="FORMAT", required=True, choices=FORMATS, help=f"one of {', '.join(FORMATS)}")
    parser.add_argument("--target", metavar="PATH", type=Path, help="folder to write to (default OUT/exports/FORMAT)")
    parser.add_argument("--beside", action="store_true", help=f"beside the pictures: {', '.join(BESIDE)}")
    parser.add_argument(
        "--image-root", metavar="DIR", type=Path, help="where the pictures lie (default the run's INPUT)"
    )
    parser.add_argument("--column", default="text", metavar="NAME", help="of the captions in an imagefolder (text)")
    parser.add_argument("--shard-size", metavar="N", type=int, help="rows a file: parquet (50000), webdataset (1000)")
    parser.add_argument("--without", metavar="FLAG,…", default="", help="leave out captions with one of these flags")
    parser.add_argument(
        "--where", metavar="CONDITION", default="", help="only captions of which it is true: 'score > 0.3 and not "
        "flags'; what it may ask stands in caption/choose/README.md",
    )  # fmt: skip
    parser.add_argument(
        "--best-by", metavar="FIELD", default="", help="of each image only the caption with the highest value, among "
        "all its prompts and all OUT: score, parts.NAME, words, …; of equal ones the first",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="also replace files that are not the export's own")
    parser.add_argument("--follow", action="store_true", help="go on until standard input ends (a run does this)")
    return parser


def _export(given: argparse.Namespace) -> int:
    if given.follow:
        leave_stopping_to_parent(with_parent=False)
    export, selection = _open(given)
    try:
        export.run()
        while given.follow and not _standard_input_ended():
            export.run()
        if given.follow:
            export.run()
        export.finish()
    finally:
        export.close()
    for note in export.format.notes:
        if note.count:
            say(f"Note: {note}.")
    _tell(selection, given.best_by)
    where = "beside the pictures" if given.beside else given.target or given.outs[0] / "exports" / given.to
    written = export.written - sum(note.count for note in export.format.notes)
    left_out = "".join(f", {count:,} left out {why}" for why, count in selection.left_out.items() if count)
    say(f"Export {given.to}: {written:,} captions written{left_out}, {where}.")
    return 0


def _tell(selection: Selection, best_by: str) -> None:
    for note in selection.unknown.values():
        say(f"Note: {note}.")
    if selection.without_value:
        say(f"Note: {selection.without_value:,} images have no caption with {best_by}, and are left out.")
    if len(selection.chosen) > 1:
        counts = ", ".join(f"{count:,} from {name}" for name, count in selection.chosen.most_common())
        say(f"Best by {best_by}: {counts}.")


def _open(given: argparse.Namespace) -> tuple[Export, Selection]:
    out = given.outs[0]
    for one in given.outs:
        if not (given.follow or (one / "checkpoint" / "checkpoint.json").is_file()):
            raise OutputError(f"{one} is no output folder of a job", "give the --output of a run")
    if len(given.outs) > 1 and not given.best_by:
        raise UsageError("several OUT are for --best-by", "say by what the best is chosen, as --best-by score")
    if len({one.resolve() for one in given.outs}) < len(given.outs):
        raise UsageError("one OUT is given twice", "leave it out")
    if given.beside and given.to not in BESIDE:
        raise UsageError(f"--beside is not for {given.to}", f"it is for {', '.join(BESIDE)}")
    if given.beside and given.target:
        raise UsageError("--beside and --target exclude each other", "leave one of them out")
    if problem := no_utf_8(given.column):
        raise UsageError(f"--column: {given.column!r} {problem}", "choose another name")
    if given.shard_size is not None and given.shard_size < 1:
        raise UsageError(f"--shard-size: {given.shard_size} is less than 1", "give a number of rows")
    without = frozenset(filter(None, given.without.split(",")))
    if unknown := without - set(FLAGS):
        raise UsageError(f"--without: there is no flag {min(unknown)!r}", f"the flags are {', '.join(FLAGS)}")
    target = given.target or out / "exports" / given.to
    if target.resolve() == out.resolve():
        raise UsageError("--target is OUT itself", "choose another folder: OUT holds what a run reads")
    selection = Selection(given.outs, without, given.where, given.best_by)
    options = ExportOptions(
        [Origin(one, given.image_root or _input(one)) for one in given.outs], target, given.beside, given.column,
        given.shard_size, given.overwrite, selection.added, selection.one_an_image,
    )  # fmt: skip
    # Exports to different places know nothing of each other.
    place = "beside" if given.beside else str(target.absolute())
    place += f" {given.image_root.absolute()}" if given.image_root else ""
    default = place in ("beside", str((out / "exports" / given.to).absolute()))
    name = given.to + ("-beside" if given.beside else "")
    name += "" if default else f"-{zlib.crc32(os.fsencode(place)):08x}"
    return Export(options, name, FORMATS[given.to], selection, _PATIENCE if given.follow else 0), selection


def _input(out: Path) -> Path:
    """The folder from which a row's image counts: the run's image root, INPUT, or the folder of a manifest."""
    try:
        job = read_run_file(out)["fingerprint"]
        path = Path(job.get("image_root") or job["input"])
    except (FileNotFoundError, KeyError, TypeError) as error:
        raise UsageError(f"{out / 'run.json'} does not say where the pictures lie", "give --image-root") from error
    return path.parent if path.is_file() or (path.suffix and not path.is_dir()) else path


def _standard_input_ended() -> bool:
    """Waits a moment; True when the run that started this has closed its end."""
    ready, _, _ = select.select([sys.stdin], [], [], _LOOK_EVERY)
    return bool(ready) and not os.read(sys.stdin.fileno(), 4096)


if __name__ == "__main__":
    sys.exit(main())
