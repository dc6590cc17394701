"""The text manifests: a path a line, JSONL, CSV and TSV. Each gives its rows one by one, from a file of any size."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import itertools
import os
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import orjson

from caption.errors import InputError
from caption.sources.folder import shown

_LONGEST = 16 << 20  # bytes of a line, or characters of a CSV field

_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_GZIP = b"\x1f\x8b"
_REFUSED = {
    b"\x28\xb5\x2f\xfd": ("is compressed with zstd", "unzstd it, or compress it with gzip"),
    b"\xfd7zX": ("is compressed with xz", "unxz it, or compress it with gzip"),
    b"BZh": ("is compressed with bzip2", "bunzip2 it, or compress it with gzip"),
    b"PK\x03\x04": ("is a zip archive", "unzip it"),
}

_END = "\0end of the table"  # read behind the last line, to see whether that is still inside a quote

Row = tuple[int, dict | str | None, str]  # line number, the row (None: broken), and what is wrong with it


@contextlib.contextmanager
def open_text(path: str) -> Iterator[BinaryIO]:
    """The file, or what is in it if it is compressed with gzip.

    Raises:
        InputError: it can't be read, now or to its end, or is compressed otherwise.
    """
    try:
        with open(path, "rb") as file:
            first = file.read(4)
            for magic, (problem, step) in _REFUSED.items():
                if first.startswith(magic):
                    raise InputError(f"{shown(path)} {problem}", step)
            file.seek(0)
            yield gzip.GzipFile(fileobj=file) if first.startswith(_GZIP) else file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{shown(path)} is broken: {error}", "write or download it again") from error
    except OSError as error:
        raise InputError(f"can't read {shown(path)}: {error.strerror}", "check the path and its permissions") from error


@contextlib.contextmanager
def _open_lines(path: str) -> Iterator[BinaryIO]:
    with open_text(path) as file:
        if file.read(2) in _UTF_16:
            raise InputError(f"{shown(path)} is UTF-16", "save it as UTF-8")
        file.seek(0)
        yield file


def path_lines(path: str) -> Iterator[Row]:
    """A path a line; of ``find -print0``, where a NUL stands in the first block, a path a NUL."""
    with _open_lines(path) as file:
        for number, line in _lines(file, _end_of_paths(file)):
            if line is None:
                yield number, None, f"its line is longer than {_LONGEST:,} bytes"
            elif line:
                yield number, os.fsdecode(line), ""


def _end_of_paths(file: BinaryIO) -> bytes:
    nul = b"\0" in file.read(1 << 16)
    file.seek(0)
    return b"\0" if nul else b"\n"


def count_lines(path: str, kind: str) -> int:
    """How many rows a "list" or "jsonl" gives; looks at ends of lines only."""
    with open_text(path) as file:
        lines = _lines(file, _end_of_paths(file) if kind == "list" else b"\n")
        if kind == "list":
            return sum(1 for _, line in lines if line != b"")
        return sum(1 for _, line in lines if line is None or line.strip())


def json_lines(path: str) -> Iterator[Row]:
    with _open_lines(path) as file:
        for number, line in _lines(file, b"\n"):
            if line is None:
                yield number, None, f"its line is longer than {_LONGEST:,} bytes"
            elif line.strip():
                yield _parsed(number, line)


def _parsed(number: int, line: bytes) -> Row:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return number, None, f"its line is no JSON: {error}"
    return (number, row, "") if isinstance(row, dict) else (number, None, "its line is no JSON object")


def _lines(file: BinaryIO, end: bytes) -> Iterator[tuple[int, bytes | None]]:
    """Numbered lines from 1 on without their ends and a BOM; None for one that is too long."""
    if end == b"\0":
        yield from enumerate(_split_at_nul(file), 1)
        return
    for number in itertools.count(1):
        line = file.readline(_LONGEST)
        if not line:
            return
        if len(line) == _LONGEST and not line.endswith(b"\n"):
            while (rest := file.readline(_LONGEST)) and not rest.endswith(b"\n"):
                pass
            yield number, None
            continue
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        yield number, line.removesuffix(b"\n").removesuffix(b"\r")


def _split_at_nul(file: BinaryIO) -> Iterator[bytes]:
    rest = b""
    while block := file.read(1 << 16):
        *whole, rest = (rest + block).split(b"\0")
        yield from whole
    if rest:
        yield rest


def table_rows(path: str, delimiter: str | None) -> Iterator[Row]:
    """Rows of a CSV or TSV by the names in its first line; ``delimiter`` None is a comma, a semicolon or a tab.

    Raises:
        InputError: it has no first line, or a name stands twice in it.
    """
    csv.field_size_limit(_LONGEST)
    with open_text(path) as bytes_:
        encoding = "utf-16" if bytes_.read(2) in _UTF_16 else "utf-8-sig"
        bytes_.seek(0)
        file = io.TextIOWrapper(bytes_, encoding, "surrogateescape", newline="")
        if delimiter is None:
            first = file.readline()
            delimiter = max(",;\t", key=first.count)
            file.seek(0)
        reader = csv.reader(itertools.chain(file, [_END]), delimiter=delimiter)
        with contextlib.suppress(StopIteration, csv.Error):
            names = [name.strip() for name in next(reader)]
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise InputError(f"{shown(path)} has two columns named {twice!r}", "rename one of them")
            if names and not names[-1].endswith(_END):
                yield from _table_rows(reader, names)
                return
        raise InputError(f"{shown(path)} has no line with the names of its columns", "write them into its first line")


def _table_rows(reader, names: list[str]) -> Iterator[Row]:
    while True:
        begin = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield reader.line_num, None, f"its row can't be read: {error}"
            continue
        if values == [_END]:
            return
        if values and values[-1].endswith(_END):
            yield begin, None, "a quote in its row is never closed: all that follows in the file stands in it"
            return
        if not values:
            continue
        if len(values) != len(names):
            yield reader.line_num, None, f"its row has {len(values)} values for {len(names)} columns"
            continue
        yield reader.line_num, dict(zip(names, values)), ""
