"""Near-duplicates among pictures: hashes that differ in few bits, and thumbnails that agree.

A hash of 64 bits is not proof. Icons of one shape in other colours, pages of text and blank pictures share hashes, so a pair
is reported only if the thumbnails correlate and have the same colours; what removes by pHash alone removes those.

The search is exact. With `d` bits allowed, a hash is cut into `d + 2` blocks or so: two that differ in `d` bits are equal in
at least two blocks, so there is a table for every choice of two, and only hashes in one bucket are compared. A million random
hashes take 1.4 CPU seconds for 6 bits (28 tables of two blocks), 9 to 15 for 10 (286 of three), and 120 MB beside them. As
candidates are verified, more bits may differ than where the hash alone decides: of photographs changed in eleven ways 90 % are
found at 10 bits, 87 % at 8, 92 % at 12.

Work is bounded where hashes pile up: pictures of one hash are compared with the 8 best different ones among them, and a hash
with at most 4,096 others in a bucket; what that leaves out is counted. It can only keep a repetition, never remove more.
"""

from __future__ import annotations

from itertools import combinations
from math import comb
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from gyral.errors import InputError

MAX_DISTANCE = 16
_SORT_COST, _BIN_COST = 12.0, 2.0
"""Of a hash in one table and of a bucket, in comparisons."""
_MAX_WIDTH = 26
"""At most 2 ** 26 buckets, 512 MiB of their bounds."""


class Pairs(NamedTuple):
    """Near-duplicates.

    Attributes
    ----------
    a, b : int64 [pairs], pictures; `a` is the better one.
    similarity : float32 [pairs], 1 - distance / 64.
    skipped : comparisons left out because hashes piled up; 0: the search was complete.
    """

    a: np.ndarray
    b: np.ndarray
    similarity: np.ndarray
    skipped: int


def find_pairs(
    hashes: np.ndarray,
    thumbnails: np.ndarray,
    *,
    best_first: np.ndarray | None = None,
    max_distance: int = 10,
    min_likeness: float = 0.9,
    max_colour: float = 8.0,
) -> Pairs:
    """Find pairs of pictures that look alike.

    Parameters
    ----------
    hashes : uint64 [n].
    thumbnails : uint8 [n, 384]; may be mapped from a file, only those of candidates are read.
    best_first : int64 [n], all pictures, the one to keep rather than others first; as given if None. See `best_first`.
    max_distance : bits in which hashes may differ, 0 to 16.
    min_likeness : correlation of luma that thumbnails must have.
    max_colour : mean difference of their colours, in levels of 255, that they may have.

    Returns
    -------
    Pairs in an order that the pictures and `best_first` determine, not the order in which they are given.

    Raises
    ------
    InputError : arrays that do not belong together.

    Source
    ------
    Norouzi, Punjani, Fleet 2012, "Fast Search in Hamming Space with Multi-Index Hashing", section 3; several blocks
    together as in Manku, Jain, Das Sarma 2007, "Detecting Near-Duplicates for Web Crawling", section 3.
    """
    from gyral.curate.images import near_kernel as near

    num = len(hashes)
    if thumbnails.shape != (num, near.LUMA + near.CHROMA) or not 0 <= max_distance <= MAX_DISTANCE:
        raise InputError("hashes and thumbnails do not belong together", why=f"{num} hashes, thumbnails {thumbnails.shape}")
    rank = np.empty(num, np.int64)
    rank[np.arange(num) if best_first is None else best_first] = np.arange(num)
    nodes = np.lexsort((rank, hashes))
    ordered = hashes[nodes]
    bounds = np.concatenate([np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if num else [], [num]]).astype(np.int64)
    distinct = ordered[bounds[:-1]]
    hubs = np.empty((len(distinct), near.MAX_HUBS), np.int64)
    same = np.empty((_room(bounds, near.MAX_HUBS), 2), np.int64)
    count, unsearched = near.within_groups(nodes, bounds, thumbnails, min_likeness, max_colour, hubs, same)
    groups, skipped = near_hashes(distinct, max_distance)
    room = 2 * len(groups) + 1024
    while True:
        into = np.empty((room, 3), np.int64)
        found = near.across_groups(groups, nodes, bounds, thumbnails, min_likeness, max_colour, hubs, into)
        if found <= room:
            break
        room = found
    a = np.concatenate([same[:count, 0], into[:found, 0]])
    b = np.concatenate([same[:count, 1], into[:found, 1]])
    a, b = np.where(rank[a] < rank[b], a, b), np.where(rank[a] < rank[b], b, a)
    order = np.lexsort((rank[b], rank[a]))
    a, b = a[order], b[order]
    bits = np.bitwise_count(hashes[a] ^ hashes[b])
    return Pairs(a, b, (1 - bits / 64).astype(np.float32), int(skipped + unsearched))


def near_hashes(distinct: np.ndarray, max_distance: int) -> tuple[np.ndarray, int]:
    """Pairs of places, int32 [pairs, 2], of different hashes, uint64 [n], within a distance; and comparisons left out."""
    from gyral.curate.images import near_kernel as near

    num = len(distinct)
    if num < 2 or max_distance < 1:
        return np.empty((0, 2), np.int32), 0
    num_blocks, kept = plan(num, max_distance)
    starts = np.arange(num_blocks + 1) * 64 // num_blocks
    width = _width(num, num_blocks, kept)
    moved = near.spread(distinct)
    places, ordered = np.empty(num, np.int32), np.empty(num, np.uint64)
    into, every, skipped = np.empty((1024, 2), np.int32), [], 0
    for blocks in combinations(range(num_blocks), kept):
        found = len(into) + 1
        while found > len(into):
            if found > len(into) + 1:
                into = np.empty((found, 2), np.int32)
            found, left = near.table_pairs(moved, starts, np.array(blocks), width, max_distance, places, ordered, into)
        every.append(into[:found].copy())
        skipped += left
    return np.concatenate(every), skipped


def plan(num: int, max_distance: int) -> tuple[int, int]:
    """Blocks that a hash is cut into, and how many of them are equal in a table; by the number of comparisons to expect."""

    def cost(kept: int) -> float:
        num_blocks = max_distance + kept
        bins: float = 2.0 ** _width(num, num_blocks, kept)
        return comb(num_blocks, kept) * (_SORT_COST * num + _BIN_COST * bins + num * num / bins / 2)

    kept = min(range(1, 5), key=cost)
    return max_distance + kept, kept


def _width(num: int, num_blocks: int, kept: int) -> int:
    """Bits of the number of buckets: those of the blocks together, but no more than there are hashes to fill."""
    return min(64 * kept // num_blocks, max(num.bit_length(), 1), _MAX_WIDTH)


def best_first(width: np.ndarray, height: np.ndarray, num_bytes: np.ndarray, digests: pa.Array) -> np.ndarray:
    """Pictures, the one to keep first: most pixels, then most bytes, then by digest, so that their order does not matter.

    Returns
    -------
    int64 [n], a permutation.
    """
    halves = _halves(digests)
    pixels = np.asarray(width, np.int64) * np.asarray(height, np.int64)
    return np.lexsort((halves[:, 1], halves[:, 0], -np.asarray(num_bytes, np.int64), -pixels))


def pictures(digests: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Which rows hold one picture: a picture with several captions is one node of the search.

    Parameters
    ----------
    digests : `image_digest`, fixed binary of 16 bytes, without nulls.

    Returns
    -------
    The first row of each picture, int64 [pictures], and the picture of each row, int64 [rows].
    """
    halves = _halves(digests)
    order = np.lexsort((halves[:, 1], halves[:, 0]))
    is_new = np.ones(len(order), bool)
    is_new[1:] = (halves[order[1:]] != halves[order[:-1]]).any(1)
    node = np.empty(len(order), np.int64)
    node[order] = np.cumsum(is_new) - 1
    return order[is_new], node


def _halves(digests: pa.Array) -> np.ndarray:
    """Digests as big-endian uint64 [n, 2], which sort as their bytes do."""
    data = digests.buffers()[1]
    if data is None or not len(digests):
        return np.empty((0, 2), ">u8")
    return np.frombuffer(data, ">u8", 2 * len(digests), 16 * digests.offset).reshape(-1, 2)


def _room(bounds: np.ndarray, hubs: int) -> int:
    """Pairs there can be within groups."""
    sizes = np.diff(bounds)
    return int((np.minimum(sizes, hubs) * np.maximum(sizes - 1, 0)).sum())
