"""The kernels of paragraphs: one finds and hashes them in one pass over the bytes, one decides who keeps which."""

from __future__ import annotations

import numpy as np
from numba import njit

_PRIME = np.uint64(0x100000001B3)
_START = np.uint64(0xCBF29CE484222325)
_MIX = np.uint64(0x9E3779B97F4A7C15)


@njit(nogil=True, cache=True)
def find(data, offsets, min_chars, hashes, bounds, counts):  # type: ignore[no-untyped-def]
    """Fill hashes [m] and bounds [2 m] of the paragraphs of at least `min_chars` characters; counts [n] of each text.

    A paragraph is a stretch of lines between empty ones. Its hash is that of its bytes, white space at its ends left out and
    each run inside taken for one blank; bounds count from the text's first byte and hold the white space behind it.

    Returns how many there are; with hashes of length 0 nothing is filled.
    """
    total = np.uint64(0)
    fill = len(hashes) > 0
    for row in range(len(offsets) - 1):
        begin, end = np.int64(offsets[row]), np.int64(offsets[row + 1])
        found = 0
        at = begin
        while at < end:
            while at < end and data[at] <= 32:
                at += 1
            start = at
            state = _START
            chars = 0
            gap = False
            lines = 0
            while at < end:
                byte = data[at]
                if byte <= 32:
                    if byte == 10:
                        lines += 1
                    gap = True
                    at += 1
                    continue
                if lines > 1:
                    break
                lines = 0
                if gap:
                    state = (state ^ np.uint64(32)) * _PRIME
                    chars += 1
                    gap = False
                state = (state ^ np.uint64(byte)) * _PRIME
                chars += (byte & 0xC0) != 0x80
                at += 1
            if chars >= min_chars:
                if fill:
                    state ^= state >> np.uint64(32)
                    state *= _MIX
                    state ^= state >> np.uint64(29)
                    hashes[total] = state
                    bounds[np.uint64(2) * total] = start - begin
                    bounds[np.uint64(2) * total + np.uint64(1)] = at - begin
                total += np.uint64(1)
                found += 1
        counts[row] = found
    return np.int64(total)


@njit(nogil=True, cache=True)
def keep_first(starts, hashes, sizes, left, max_share, is_repeated, is_dropped, table, slots):  # type: ignore[no-untyped-def]
    """Go through documents in order; each keeps the paragraphs that none before it has.

    A document of whose bytes more than `max_share` would go is dropped, and its paragraphs are as if it had not been.

    Parameters
    ----------
    starts : of the paragraphs of each document, int64 [n + 1].
    hashes, sizes : of the paragraphs, uint64 [m] and int64 [m].
    left : bytes of each document, int64 [n].
    is_repeated, is_dropped : bool [m] and [n], filled here.
    table, slots : zeros uint64 [power of two, at least 2 m + 2], int64 [longest document]: room to work in.
    """
    mask = np.uint64(len(table) - 1)
    for row in range(len(starts) - 1):
        taken = 0
        gone = 0
        for at in range(starts[row], starts[row + 1]):
            key = hashes[at] | np.uint64(1)
            slot = (key >> np.uint64(7)) & mask
            while table[slot] != 0 and table[slot] != key:
                slot = (slot + np.uint64(1)) & mask
            if table[slot] == key:
                is_repeated[at] = True
                gone += sizes[at]
            else:
                table[slot] = key
                slots[taken] = slot
                taken += 1
        if gone > max_share * left[row]:
            is_dropped[row] = True
            for undone in range(taken - 1, -1, -1):
                table[slots[undone]] = 0
