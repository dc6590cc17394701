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

    @classmethod
    def of(cls, digests: Sequence[bytes]) -> "IdSet":
        return cls(*halves(digests))

    def __len__(self) -> int:
        return len(self._first) + len(self._recent)

    def contains(self, digests: Sequence[bytes]) -> np.ndarray:
        """Bool array of len(digests)."""
        found = self.contains_halves(*halves(digests))
        if self._recent:
            found |= np.fromiter(map(self._recent.__contains__, digests), bool, len(digests))
        return found

    def add(self, digests: Sequence[bytes]) -> None:
        """Digests that are not in the set yet."""
        self._recent.update(digests)
        if len(self._recent) >= RECENT:
            self._merge()

    def repeated(self) -> list[bytes]:
        """Digests that the arrays hold more than once: none, unless the set was built from a bad file."""
        same = np.flatnonzero(self._first[1:] == self._first[:-1])
        near = np.union1d(same, same + 1)  # equal first halves are repetition or, rarely, chance
        pairs, counts = np.unique(np.stack([self._first[near], self._second[near]], axis=1), axis=0, return_counts=True)
        return [pair.tobytes() for pair in pairs[counts > 1]]

    def contains_halves(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Bool array of n for digests given as two uint64 arrays of n; the recent ones are not looked at."""
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
        first, second = halves(list(self._recent))
        self._recent = set()
        order = np.argsort(first)
        first, second = first[order], second[order]
        place = np.searchsorted(self._first, first)
        self._first = np.insert(self._first, place, first)
        self._second = np.insert(self._second, place, second)


def halves(digests: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """n digests as two uint64 arrays of n."""
    pairs = np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2)
    return pairs[:, 0].copy(), pairs[:, 1].copy()
