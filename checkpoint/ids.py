"""Which ids are done: 128-bit hashes in two sorted numpy arrays, 16 bytes an id."""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

RECENT = 1 << 17  # new hashes kept in a set before they are merged into the arrays


def digest(id: str) -> bytes:
    """BLAKE2b-128 (RFC 7693) of the id; ids may hold lone surrogates."""
    return blake2b(id.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class IdSet:
    """A set of 16-byte digests that grows: sorted by the first half, looked up by binary search, recent ones in a set.

    Peak while it is built or merged: 32 bytes an id.
    """

    def __init__(self, first: np.ndarray, second: np.ndarray):
        """Two uint64 arrays of n: the halves of the digests. Takes them over."""
        order = np.argsort(first)
        first.sort()
        self._first, self._second = first, second[order]
        self._recent: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._first) + len(self._recent)

    def contains(self, digests: Sequence[bytes]) -> np.ndarray:
        """Bool array of len(digests)."""
        found = self._sorted_contains(*_halves(digests))
        if self._recent:
            found |= np.fromiter(map(self._recent.__contains__, digests), bool, len(digests))
        return found

    def add(self, digests: Sequence[bytes]) -> None:
        """Digests that are not in the set yet."""
        self._recent.update(digests)
        if len(self._recent) >= RECENT:
            self._merge()

    def discard(self, digests: Sequence[bytes]) -> None:
        """Drops those that are in the set."""
        self._merge()
        gone = IdSet(*_halves(digests))
        keep = ~gone._sorted_contains(self._first, self._second)
        self._first, self._second = self._first[keep], self._second[keep]

    def repeated(self) -> int:
        """How many digests are in the set more than once: zero, unless it was built from a bad file."""
        self._merge()
        same = np.flatnonzero(self._first[1:] == self._first[:-1])
        # Equal first halves are chance (rare) or repetition: only these few are looked at one by one.
        near = np.unique(np.concatenate([same, same + 1]))
        pairs = np.stack([self._first[near], self._second[near]], axis=1)
        return len(pairs) - len(np.unique(pairs, axis=0))

    def _sorted_contains(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        found = np.zeros(len(first), bool)
        if not len(self._first):
            return found
        order = np.argsort(first)  # sorted queries walk through the array once, which spares the caches
        wanted, rest = first[order], second[order]
        place = np.searchsorted(self._first, wanted)
        open_ = np.flatnonzero(place < len(self._first))
        while len(open_):  # a second round only where different ids share a first half
            open_ = open_[self._first[place[open_]] == wanted[open_]]
            hit = self._second[place[open_]] == rest[open_]
            found[order[open_[hit]]] = True
            open_ = open_[~hit]
            place[open_] += 1
            open_ = open_[place[open_] < len(self._first)]
        return found

    def _merge(self) -> None:
        if not self._recent:
            return
        first, second = _halves(list(self._recent))
        self._recent = set()
        order = np.argsort(first)
        first, second = first[order], second[order]
        place = np.searchsorted(self._first, first)
        self._first = np.insert(self._first, place, first)
        self._second = np.insert(self._second, place, second)


def _halves(digests: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    pairs = np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2)
    return pairs[:, 0].copy(), pairs[:, 1].copy()
