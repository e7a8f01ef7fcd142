"""Pairs that were verified before: what two contents have in common never changes, so it is computed once.

A pair is named by 128 bits made of its two digests. Segments are sorted by them and searched in place; a new one is merged with
the one before while that is less than twice as large, so a pair is rewritten a logarithmic number of times. A folder of
segments belongs to one setting of shingles and floor. One process at a time writes to it.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np

from gyral.files import make_folder, write_atomic

_RECORD_BYTES = 20


class KnownPairs:
    """A folder of verified pairs.

    Attributes
    ----------
    num_pairs : pairs in it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        make_folder(folder)
        self._segments = {}
        for path in sorted(folder.glob("*.pairs")):
            with suppress(FileNotFoundError):  # another run has just put it into a larger one
                self._segments[path] = _open(path)

    @property
    def num_pairs(self) -> int:
        return sum(len(jaccard) for *_, jaccard in self._segments.values())

    def find(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """The stored Jaccard of pairs by their names, float32 [n]; NaN where it is not known."""
        found = np.full(len(first), np.nan, np.float32)
        for names, others, jaccard in self._segments.values():
            place = np.minimum(np.searchsorted(names, first), len(names) - 1)
            known = (names[place] == first) & (others[place] == second)
            found[known] = jaccard[place[known]]
        return found

    def store(self, first: np.ndarray, second: np.ndarray, jaccard: np.ndarray) -> None:
        """Add pairs that are not in it; when it returns they are on the disk."""
        if not len(first):
            return
        new = _sorted(first, second, jaccard)
        number, replaced = 0, []
        for path in reversed(self._segments):
            number = max(number, int(path.stem))
            segment = self._segments[path]
            if len(segment[0]) < 2 * len(new[0]):
                new = _sorted(*(np.concatenate(columns) for columns in zip(segment, new, strict=True)))
                replaced.append(path)
            else:
                break
        path = self._folder / f"{number + 1:08d}.pairs"
        write_atomic(path, b"".join(column.tobytes() for column in new))
        self._segments[path] = _open(path)
        for old in replaced:  # after the new one is there: a pair that is in both is found all the same
            del self._segments[old]
            old.unlink(missing_ok=True)


def _sorted(first: np.ndarray, second: np.ndarray, jaccard: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    order = np.lexsort((second, first))
    return first[order], second[order], jaccard[order].astype(np.float32)


def _open(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    data = np.memmap(path, np.uint8, "r").view(np.ndarray)
    num = len(data) // _RECORD_BYTES
    first, second = data[: 8 * num].view(np.uint64), data[8 * num : 16 * num].view(np.uint64)
    return first, second, data[16 * num : 20 * num].view(np.float32)
