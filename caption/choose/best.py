"""Best: which caption of each image has the highest value; 28 bytes a caption."""

from __future__ import annotations

import re
from array import array
from typing import Any

import numpy as np

from checkpoint.ids import digest

_AGAIN = re.compile(r"(~\d+)?")  # what makes an id unique that stands again


def without_prompt(id: str, prompt: str) -> str | None:
    """The id less the name of this prompt; None if the item is not one of several prompts of its image."""
    head, _, tail = id.rpartition(f"#{prompt}")
    return head + tail if head and _AGAIN.fullmatch(tail) else None


def image_key(row: dict[str, Any]) -> str:
    """What the rows of one image have in common: the id, less the name of the prompt where an image has several."""
    return without_prompt(row["id"], row.get("prompt_name", "")) or row["id"]


class Best:
    """Captions with their values, in the order in which they stand.

    Attributes:
        beaten: captions that are not the best; without_value: images whose captions have none. Known after ``places``.
    """

    def __init__(self):
        self.beaten = self.without_value = 0
        self._images, self._values, self._places = array("Q"), array("d"), array("Q")
        self._ranks = array("I")

    def add(self, row: dict[str, Any], place: int, value: float, rank: int) -> None:
        """place: above those of rows before; value: NaN where it has none; rank: of equal values the lowest wins."""
        self._images.append(int.from_bytes(digest(image_key(row))[:8], "little"))
        self._values.append(value)
        self._places.append(place)
        self._ranks.append(rank)

    def places(self) -> np.ndarray:
        """uint64, ascending: of each image's highest value the place; of equal ones the lowest rank, then the first."""
        images, places = np.frombuffer(self._images, np.uint64), np.frombuffer(self._places, np.uint64)
        values = np.frombuffer(self._values)
        order = np.lexsort((places, np.frombuffer(self._ranks, np.uint32), -values, images))  # NaN comes last
        begins = np.flatnonzero(np.diff(images[order], prepend=~images[order[:1]]))
        sizes = np.diff(begins, append=len(order))
        valued = ~np.isnan(values[order[begins]])
        self.beaten, self.without_value = int((sizes[valued] - 1).sum()), int((~valued).sum())
        return np.sort(places[order[begins[valued]]])
