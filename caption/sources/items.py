"""ItemSource: pictures of any input become items: position, seed, prompts, limits and what is carried through."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import orjson

from caption.checks import no_utf_8
from caption.errors import BadRow, MissingField
from caption.item import Item
from caption.prompts import MissingFieldError, Prompts, filled, is_missing
from caption.shard import Shard, image_of
from caption.sources.picture import NAMED, Picture, Pictures
from checkpoint.ids import IdSet, digest

_BLOCK = 1024  # items whose ids are looked up at once
_ENOUGH = 100_000  # images of a shard, from which on their number is known well enough without counting them
_LARGEST_EXTRA = 1 << 20  # bytes of JSON that a row may carry


class ItemSource:
    """A source of items.

    Args:
        pictures: the input.
        seed: of the image at position 0; the one at position i has ``seed + i``.
        prompts: what each image is asked.
        skip_existing: endings; images that have a file of their name with one of them are left out.
        shard: only the images of this one; None: all. Their seeds stay those of the whole input.

    Attributes:
        elsewhere: images passed over so far because they are in other shards.
        left_out: images left out so far because they have a sidecar; left_out_first: the ids of the first of them.
    """

    def __init__(
        self,
        pictures: Pictures,
        seed: int,
        prompts: Prompts,
        skip_existing: Sequence[str] = (),
        shard: Shard | None = None,
    ):
        self._pictures, self._seed, self._prompts, self._endings = pictures, seed, prompts, tuple(skip_existing)
        self._shard = shard
        self.left_out, self.left_out_first, self.elsewhere = 0, [], 0

    @property
    def described(self) -> str:
        whole = self._pictures.described
        return f"shard {self._shard} of the {whole}" if self._shard else whole

    @property
    def takes(self) -> str:
        return self._pictures.takes

    @property
    def ignored(self) -> int:
        return self._pictures.ignored

    @property
    def ignored_first(self) -> Sequence[str]:
        return self._pictures.ignored_first

    @property
    def warnings(self) -> list[str]:
        return self._pictures.warnings

    def size(self, limit: int | None = None) -> int | None:
        """How many items there are, where that is known without reading all of them; of a large shard, about."""
        images = None if self._endings else self._pictures.size()
        if images is None:
            return None
        images = min(images, images if limit is None else limit)
        if self._shard:
            images = round(images / self._shard.of)
            if images < _ENOUGH:
                return None
        return images * self._prompts.per_image

    def items(self, limit: int | None = None) -> Iterator[Item]:
        """The items of the first ``limit`` images, in order; their ids are made unique."""
        self.left_out, self.left_out_first, self.elsewhere = 0, [], 0
        items = self._numbered(itertools.islice(self._pictures.pictures(), limit))
        if not self._pictures.unique:
            items = _unique(items, self.warnings.append)
        # Last, so that files that come to lie beside pictures later change neither id nor index of any other item.
        return self._without_existing(items) if self._endings else items

    def _numbered(self, pictures: Iterator[Picture]) -> Iterator[Item]:
        index = 0
        for position, picture in enumerate(pictures):
            if self._shard and not self._shard.holds(image_of(picture.id, self._prompts.endings)):
                self.elsewhere += 1
                continue
            seed = self._seed + position
            if picture.fields is None and picture.fault is None and self._prompts.plain:
                made = [Item(index, picture.id, picture.image, picture.where, seed)]
            else:
                made = self._made(picture, index, seed)
            yield from made
            index += len(made)

    def _without_existing(self, items: Iterator[Item]) -> Iterator[Item]:
        latest = None  # of several items of one image, the first counts
        for item in items:
            if not self._has_sidecar(item):
                yield item
            elif item.where != latest:
                latest = item.where
                self.left_out += 1
                self.left_out_first += [item.id] * (self.left_out <= NAMED)

    def _has_sidecar(self, item: Item) -> bool:
        """Of its image, or of its own: an image with several prompts gets ``a.PROMPT.txt`` for each."""
        if not isinstance(item.where, str):
            return False
        stem = os.path.splitext(item.where)[0]
        stems = (stem, f"{stem}.{item.prompt_name}") if item.prompt_name else (stem,)
        return any(os.path.lexists(one + ending) for one in stems for ending in self._endings)

    def _made(self, picture: Picture, index: int, seed: int) -> list[Item]:
        """The items of one picture: one a prompt."""
        item = Item(index, picture.id, picture.image, picture.where, seed, fault=picture.fault)
        fields = picture.fields or {}
        if fields and not picture.fault:
            try:
                item = _with_fields(item, fields)
            except ValueError as error:
                item = item._replace(fault=(BadRow.__name__, str(error)))
        if item.prompt is not None:  # its own: as it stands
            return [item]
        prompts = self._prompts.of(item.seed)
        known = {"id": picture.id, "image": picture.image, **fields}
        made = []
        for name, text in prompts:
            one = item._replace(index=index + len(made), prompt_name=name)
            if len(prompts) > 1:
                one = one._replace(id=f"{item.id}#{name}")
            if text is not None and not one.fault:
                try:
                    one = one._replace(prompt=_text(filled(text, known), "prompt"))
                except MissingFieldError as error:
                    one = one._replace(fault=(MissingField.__name__, f"it has no {error}, which the prompt asks for"))
                except ValueError as error:
                    one = one._replace(fault=(BadRow.__name__, str(error)))
            made.append(one)
        return made


def _with_fields(item: Item, fields: dict) -> Item:
    """Sets what the fields say of the item itself; the others are carried through.

    Raises:
        ValueError: one of them is of the wrong type, or they are too large for a row.
    """
    extra = {str(name): value for name, value in fields.items() if name not in _OWN}
    own = {name: read(fields[name], name) for name, read in _OWN.items() if not is_missing(fields.get(name))}
    return item._replace(**own, extra=_plain(extra) if extra else None)


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or no_utf_8(value):
        raise ValueError(f"its {name} is no text: {_shown(value)}")
    return value


def _number(low: int) -> Callable[[Any, str], int]:
    def read(value: Any, name: str) -> int:
        try:
            try:
                exact = int(value) if isinstance(value, str) else value
            except ValueError:
                exact = float(value)  # "1.0": tables make floats of whole numbers where one is missing
            number = int(exact)
            if isinstance(value, bool) or number != exact or not low <= number < 2**62:
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"its {name} is no whole number from {low} on: {_shown(value)}") from None
        return number

    return read


def _decimal(value: Any, name: str) -> float:
    try:
        number = float(value)
        if isinstance(value, bool) or not math.isfinite(number):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"its {name} is no number: {_shown(value)}") from None
    return number


_OWN = {
    "prompt": _text, "seed": _number(0), "max_new_tokens": _number(1), "lora": _text, "lora_scale": _decimal,
}  # fmt: skip


def _shown(value: Any) -> str:
    return repr(value)[:80]


def _plain(extra: dict) -> dict:
    """The fields as JSON can hold them: what it does not know is written as text."""
    try:
        size = len(orjson.dumps(extra))
    except TypeError:
        extra = _as_json(extra)
        size = len(orjson.dumps(extra))
    if size > _LARGEST_EXTRA:
        raise ValueError(f"its fields take {size:,} bytes; a row carries {_LARGEST_EXTRA:,}")
    return extra


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {_as_json(str(name)): _as_json(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(part) for part in value]
    try:
        orjson.dumps(value)
    except TypeError:
        return str(value).encode(errors="replace").decode()
    return value


def _unique(items: Iterator[Item], warn: Callable[[str], None]) -> Iterator[Item]:
    """An id that stands again gets ~2, ~3, ... so that each item has a row of its own."""
    seen, times, repeated = IdSet.of([]), {}, 0
    while block := list(itertools.islice(items, _BLOCK)):
        digests = [digest(item.id) for item in block]
        known = seen.contains(digests)
        fresh: set[bytes] = set()
        for item, key, is_known in zip(block, digests, known.tolist()):
            if is_known or key in fresh:
                if not repeated:
                    warn(f"the id {item.id!r} stands more than once: repeated ids get ~2, ~3 and so on")
                repeated += 1
                number, name = times.get(key, 1), item.id
                while is_known or key in fresh:
                    number += 1
                    again = f"{name}~{number}"
                    key = digest(again)
                    is_known = bool(seen.contains([key])[0])
                times[digest(name)] = number
                item = item._replace(id=again)
            fresh.add(key)
            yield item
        seen.add(list(fresh))
