"""Sources: one file a kind of input. A source gives its items in order, without holding them all."""

from __future__ import annotations

import atexit
import functools
import os
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from caption.errors import InputError
from caption.item import Item
from caption.prompts import Prompts
from caption.shard import common_folder, parse_shard
from caption.sources.dataset import DatasetSource, is_dataset
from caption.sources.folder import FolderSource, as_id, shown
from caption.sources.items import ItemSource
from caption.sources.jsonfolder import JsonFolderSource
from caption.sources.manifest import READERS, ManifestSource
from caption.sources.metadata import Details
from caption.sources.parquet import ParquetSource
from caption.sources.picture import Pictures
from caption.sources.stored import StoredFolder
from caption.sources.tar import TarSource, expand
from caption.sources.text import open_text
from caption.urls import is_stored

KINDS = ("auto", "folder", "json", "list", "jsonl", "csv", "tsv", "parquet", "webdataset", "dataset")
STDIN = "-"

_BY_ENDING = {
    ".txt": "list", ".lst": "list", ".list": "list", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv",
    ".tsv": "tsv", ".parquet": "parquet", ".pq": "parquet", ".tar": "webdataset", ".tgz": "webdataset",
}  # fmt: skip
_TARS = (".tar", ".tar.gz", ".tgz")  # the latter to be refused
_COMPRESSED = (".gz", ".zst", ".xz", ".bz2")  # behind one of these endings


class Source(Protocol):
    """What a run reads from.

    Attributes:
        described: what it is, for the banner ("folder photos").
        takes: what it looks for, for the sentence of an input that holds none.
        ignored: files passed over so far because they are no pictures.
        left_out: images passed over so far because the user wants that.
        elsewhere: images passed over so far because they are in other shards.
        ignored_first, left_out_first: the names of the first ``NAMED`` of them.
        warnings: sentences about what couldn't be read, picture.Unread or not; grows while items are read.
    """

    described: str
    takes: str
    ignored: int
    ignored_first: Sequence[str]
    left_out: int
    elsewhere: int
    left_out_first: Sequence[str]
    warnings: list[str]

    def items(self, limit: int | None = None) -> Iterator[Item]:
        """The items of the first ``limit`` images, in order; a fresh walk at each call."""
        ...

    def size(self, limit: int | None = None) -> int | None:
        """How many these are, where that is known without a walk."""
        ...


def open_source(path: Path | str, seed: int, output: Path, options: Mapping[str, Any] | None = None) -> Source:
    """The source for what ``path`` is.

    Args:
        path: a file or a folder, the URL of one in a store, a pattern of shards with braces, or "-" for standard input.
        seed: seed of the first image; the one at position i gets ``seed + i``.
        output: the output folder, never read even when it lies inside ``path``; nor are those of other shards.
        options: further settings by name, as of ``caption.settings``; those that are missing have their defaults.

    Raises:
        InputError: there is nothing at ``path``, or nothing that can be read.
    """
    options = dict(options or {})
    kind = options.get("input_format", "auto")
    prompts = Prompts(options.get("prompt") or "", options.get("prompts"), options.get("prompt_weights"))
    endings = [ending for ending in (options.get("skip_existing") or "").split(",") if ending]
    shard = parse_shard(options["shard"]) if options.get("shard") else None
    never = common_folder(output) if shard else output
    return ItemSource(_pictures(os.fspath(path), kind, never, options), seed, prompts, endings, shard)


def _pictures(path: str, kind: str, output: Path, options: Mapping[str, Any]) -> Pictures:
    root, image, id = (options.get(name) for name in ("image_root", "image_column", "id_column"))
    if root is not None and not (os.path.isdir(root) or is_stored(root)):
        raise InputError(f"there is no folder {shown(root)}", "check --image-root")
    if path == STDIN:
        _refuse_unused("standard input", details=options.get("details"))
        if kind not in ("auto", *READERS):
            raise InputError(f"standard input is no {kind}", f"--input-format {', '.join(READERS)} can be piped")
        spooled, guessed = _standard_input()
        name = "standard input"
        return ManifestSource(spooled, guessed if kind == "auto" else kind, root or os.getcwd(), image, id, name)
    if is_stored(path):
        return _in_store(path, kind, options)
    if "{" in path and not os.path.lexists(path):
        _refuse_unused(f"shards {shown(path)}", details=options.get("details"))
        return _table_or_shards(expand(path), kind, path, root, image, id)
    mode = _mode(path)
    details = Details(options["details"]) if options.get("details") else None
    if stat.S_ISDIR(mode):
        return _of_folder(path, kind, output, root, image, id, details)
    if details:
        raise InputError("--details goes with a folder", "leave it out, or give the folder")
    if kind in ("folder", "json", "dataset"):
        raise InputError(f"{shown(path)} is not a folder", f"--input-format {kind} takes one")
    if kind == "auto":
        kind = _by_ending(path)
    if not kind and path.lower().endswith(".json"):
        raise InputError(f"{shown(path)} is one JSON text", "write an object a line: jq -c '.[]' FILE > FILE.jsonl")
    if not stat.S_ISREG(mode) or not kind:
        known = " ".join(ending.lstrip(".") for ending in _BY_ENDING)
        raise InputError(
            f"{shown(path)} is not a folder and no list of pictures",
            f"give a folder, a file ending in {known}, or --input-format",
        )
    if kind in ("parquet", "webdataset"):
        return _table_or_shards([path], kind, path, root, image, id)
    if kind == "list":
        _refuse_unused(f"list {shown(path)}", image_column=image, id_column=id)
    return ManifestSource(path, kind, root, image, id)


def _refuse_unused(described: str, **given: object) -> None:
    """What would change nothing is a mistake: maybe the input was taken for something else."""
    for name, value in given.items():
        if value is not None:
            flag = name.replace("_", "-")
            step = "leave it out, or say what INPUT is: --input-format"
            raise InputError(f"--{flag} is not for the {described}", step)


def _by_ending(path: str) -> str:
    stem, ending = os.path.splitext(path.lower())
    return _BY_ENDING.get(os.path.splitext(stem)[1] if ending in _COMPRESSED else ending, "")


def _in_store(url: str, kind: str, options: Mapping[str, Any]) -> Pictures:
    if kind not in ("auto", "folder") or _by_ending(url):
        raise InputError(f"{url} is no folder of pictures", "copy the table here: the pictures that it names can stay")
    _refuse_unused(f"folder {url}", details=options.get("details"))
    return StoredFolder(url)


def _mode(path: str) -> int:
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise InputError(f"there is no folder and no file {shown(path)}", "check the path") from error
    except OSError as error:
        raise InputError(f"can't read {shown(path)}: {error.strerror}", "check the path and its permissions") from error


def _of_folder(path: str, kind: str, output: Path, root, image, id, details: Details | None) -> Pictures:
    pictures = FolderSource(Path(path), output, with_metadata=True, details=details)
    if kind == "auto":
        kind = _kind_of_folder(path, output)
    if kind in ("dataset", "parquet", "webdataset"):
        _refuse_unused(f"{kind} {shown(path)}", details=details)
    if kind == "dataset":
        return DatasetSource(path, root, image, id)
    if kind == "json":
        return JsonFolderSource(Path(path), output, root, image, id, details)
    if kind in ("parquet", "webdataset"):
        endings = (".parquet", ".pq") if kind == "parquet" else _TARS
        files = list(FolderSource(Path(path), output, endings=endings).pictures())
        if not files:
            raise InputError(f"there are no {endings[0]} files in the folder {shown(path)}", "check the path")
        return _shards([file.where for file in files], [file.id for file in files], kind, path, root, image, id)
    if kind != "folder":
        raise InputError(f"{shown(path)} is a folder", f"--input-format {kind} takes a file")
    _refuse_unused(pictures.described, image_root=root, image_column=image, id_column=id)
    return pictures


def _kind_of_folder(path: str, output: Path) -> str:
    """A folder with a picture anywhere is one of pictures; else by what its files are."""
    if is_dataset(path):
        return "dataset"
    if next(FolderSource(Path(path), output).pictures(), None):
        return "folder"
    for endings, kind in ((_TARS, "webdataset"), ((".parquet", ".pq"), "parquet"), ((".json",), "json")):
        if next(FolderSource(Path(path), output, endings=endings).pictures(), None):
            return kind
    return "folder"


def _table_or_shards(paths: Sequence[str], kind: str, given: str, root, image, id) -> Pictures:
    if kind == "auto":
        kind = _by_ending(paths[0])
    if kind not in ("parquet", "webdataset"):
        raise InputError(f"{shown(given)} is no pattern of tar or Parquet shards", "check the path")
    names = [as_id(os.path.basename(path)) for path in paths]
    if len(set(names)) < len(names):
        names = [as_id(path) for path in paths]
    return _shards(paths, names, kind, given, root, image, id)


def _shards(paths: Sequence[str], names: Sequence[str], kind: str, given: str, root, image, id) -> Pictures:
    if kind == "webdataset":
        _refuse_unused(f"WebDataset {shown(given)}", image_root=root)
        return TarSource(paths, names, f"WebDataset {shown(given)}", image, id)
    return ParquetSource(paths, names, root, image, id, f"Parquet {shown(given)}")


@functools.cache
def _standard_input() -> tuple[str, str]:
    """Path of a file with all of standard input, and what it seems to be. It is read to its end first: it can be read
    only once, and a run must not wait for a slow writer while workers report."""
    if sys.stdin is None or sys.stdin.isatty():
        raise InputError("standard input is a terminal, or closed", "pipe paths or JSONL into it: find … | python …")
    spool = tempfile.NamedTemporaryFile(prefix="caption-", delete=False)  # noqa: SIM115 (it outlives this function)
    while block := sys.stdin.buffer.read1(1 << 20):
        spool.write(block)
    spool.flush()
    with open_text(spool.name) as file:
        first = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
    kind = "jsonl" if first.startswith(b"{") else "list"
    path = f"/proc/self/fd/{spool.fileno()}"
    if not os.path.exists(path):  # not on Linux
        atexit.register(os.unlink, spool.name)
        return spool.name, kind
    os.unlink(spool.name)  # it goes with this process, however that ends
    _spools.append(spool)
    return path, kind


_spools: list = []
