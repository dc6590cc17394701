"""TarSource: WebDataset shards. Members are read where they stand; nothing is ever unpacked."""

from __future__ import annotations

import itertools
import os
import re
import tarfile
from collections.abc import Iterator, Sequence

import orjson

from caption.errors import BadRow, InputError, NotAFile
from caption.image import ENDINGS
from caption.sources.columns import id_of
from caption.sources.folder import as_id, shown
from caption.sources.picture import NAMED, Picture, Unread
from caption.where import Part

_LARGEST_FIELD = 1 << 20  # bytes of a member that is read as a field
_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zX")  # gzip, zstd, bzip2, xz
_BRACES = re.compile(r"\{([^{}]*)\}")


class TarSource:
    """Samples of tar files: members in a row with one key, which is the name up to the first dot of its last part.

    Each picture of a sample is an image of its own; its ``json`` gives fields, its other texts a field each.

    Args:
        paths: the shards, in order.
        names: what the ids of each begin with.
        image_column: what follows the key in the names of the pictures ("jpg"); None: any usual ending.
        id_column: the field that is the id, or None: the shard and the member's name.

    Raises:
        InputError: a shard is not there or is no tar.
    """

    unique = False

    def __init__(
        self,
        paths: Sequence[str],
        names: Sequence[str],
        described: str,
        image_column: str | None = None,
        id_column: str | None = None,
    ):
        self.described = described
        self.takes = f"it takes members ending in {image_column or ' '.join(one.lstrip('.') for one in ENDINGS)}"
        self._ending, self._id = image_column and image_column.lower(), id_column
        self.ignored, self.ignored_first = 0, []
        self.warnings: list[str] = []
        self._paths, self._names = paths, names
        for path in paths:
            if not os.path.isfile(path):
                raise InputError(f"there is no shard {shown(path)}", "check the path and the numbers in braces")
        _open(paths[0]).close()

    def size(self) -> None:
        return None

    def pictures(self) -> Iterator[Picture]:
        self.ignored, self.ignored_first = 0, []
        self.warnings.clear()
        for path, name in zip(self._paths, self._names):
            with _open(path) as archive:
                for key, members in itertools.groupby(self._members(archive, path), lambda one: _key(one.name)):
                    yield from self._sample(archive, path, name, key, list(members))

    def _members(self, archive: tarfile.TarFile, path: str) -> Iterator[tarfile.TarInfo]:
        while True:
            try:
                member = archive.next()
            except (tarfile.TarError, OSError, ValueError) as error:
                self.warnings.append(Unread(f"{shown(path)} is broken, what follows in it is not read: {error}"))
                return
            if member is None:
                if _follows(archive):
                    what = f"{shown(path)} goes on behind its end mark or a broken header: that is not read"
                    self.warnings.append(Unread(what))
                return
            archive.members.clear()  # tarfile keeps all that it has seen
            if not member.isdir():
                yield member

    def _sample(self, archive, path: str, shard: str, key: str, members: list[tarfile.TarInfo]) -> Iterator[Picture]:
        endings = [member.name[len(key) + 1 :].lower() for member in members]
        shows = [
            ending == self._ending if self._ending else member.name.lower().endswith(ENDINGS)
            for member, ending in zip(members, endings)
        ]
        if not any(shows):
            self._ignore(shard, members)
            return
        fields: dict = {}
        fault = None
        for member, ending, is_picture in zip(members, endings, shows):
            if is_picture:
                continue
            if not member.isreg() or member.size > _LARGEST_FIELD:
                self._ignore(shard, [member])
            elif ending == "json":
                try:
                    details = orjson.loads(_content(path, member))
                except (ValueError, OSError) as error:
                    fault = (BadRow.__name__, f"its json can't be read: {error}")
                else:
                    fields.update(details if isinstance(details, dict) else {"json": details})
            else:
                try:
                    fields.setdefault(ending, _content(path, member).decode().strip())
                except (ValueError, OSError):
                    self._ignore(shard, [member])  # an embedding, a mask: no text
        fields["__key__"] = as_id(key)
        id = id_of(fields.get(self._id)) if self._id else None
        for member in itertools.compress(members, shows):
            image = f"{shard}/{as_id(member.name)}"
            where = Part(path, member.offset_data, member.size)
            trouble = fault if member.isreg() else (NotAFile.__name__, "the member is a link, a device or a pipe")
            yield Picture(id or image, image, where, dict(fields), trouble)

    def _ignore(self, shard: str, members: Sequence[tarfile.TarInfo]) -> None:
        self.ignored_first += [f"{shard}/{as_id(one.name)}" for one in members[: NAMED - len(self.ignored_first)]]
        self.ignored += len(members)


def _open(path: str) -> tarfile.TarFile:
    try:
        with open(path, "rb") as file:
            if file.read(4).startswith(_COMPRESSED):
                raise InputError(f"{shown(path)} is compressed, its members can't be read one by one", "decompress it")
        return tarfile.open(path, "r:", errors="surrogateescape")
    except (OSError, tarfile.TarError) as error:
        raise InputError(f"can't read {shown(path)}: {error}", "check that it is a tar") from error


def _follows(archive: tarfile.TarFile) -> bool:
    """Whether anything but zeros stands behind the end mark, as where one tar was appended to another."""
    archive.fileobj.seek(archive.offset)
    return any(any(block) for block in iter(lambda: archive.fileobj.read(1 << 20), b""))


def _content(path: str, member: tarfile.TarInfo) -> bytes:
    with open(path, "rb") as file:
        file.seek(member.offset_data)
        return file.read(member.size)


def _key(name: str) -> str:
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(".")[0]


def expand(pattern: str) -> list[str]:
    """Paths of a pattern with braces: ``{000..042}`` counts, ``{train,test}`` lists; several multiply."""
    found = _BRACES.search(pattern)
    if not found:
        return [pattern]
    counted = re.fullmatch(r"(\d+)\.\.(\d+)", found[1])
    if counted:
        first, last = counted.groups()
        parts = [f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1)]
    else:
        parts = found[1].split(",")
    rest = expand(pattern[found.end() :])
    return [pattern[: found.start()] + part + tail for part in parts for tail in rest]
