"""MinHash of shingles: `(a · x + b) mod 2³²` for every hash function, the least over a text's shingles, folded into band keys.

A block of eight shingles lies in registers while the loop goes over the functions, of which LLVM makes vectors of multiply, add
and minimum: 6 ns a shingle for 112 functions with AVX2 (one shingle a time: 8; all shingles for one function: 6, but 14 for
short texts). Blocks are filled up by repeating a shingle, which changes no minimum.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from gyral.curate.near.shingle_kernel import RING, STATE, U, mix, shingle

CHUNK, BLOCK = 1024, 8
_32 = U(32)
_GOLDEN = U(0x9E3779B97F4A7C15)


@njit(inline="always")
def _value(a: np.uint32, x: np.uint32, b: np.uint32) -> np.uint32:
    return np.uint32(np.uint32(a * x) + b)


@njit(nogil=True, cache=True)
def lower(x: np.ndarray, num: int, a: np.ndarray, b: np.ndarray, least: np.ndarray) -> None:
    """Lower each function's minimum by `num` values x, uint32; `num` is a multiple of `BLOCK`."""
    for place in range(0, num, BLOCK):
        x0, x1, x2, x3 = x[place], x[place + 1], x[place + 2], x[place + 3]
        x4, x5, x6, x7 = x[place + 4], x[place + 5], x[place + 6], x[place + 7]
        for function in range(len(a)):
            factor, added = a[function], b[function]
            first = min(_value(factor, x0, added), _value(factor, x1, added))
            second = min(_value(factor, x2, added), _value(factor, x3, added))
            third = min(_value(factor, x4, added), _value(factor, x5, added))
            fourth = min(_value(factor, x6, added), _value(factor, x7, added))
            least[function] = min(least[function], min(min(first, second), min(third, fourth)))


@njit(nogil=True, cache=True)
def band_keys(least: np.ndarray, bands: int, rows: int, keys: np.ndarray) -> None:
    """One key a band of its minima and its number, so that equal minima of two bands are no match."""
    for band in range(bands):
        key = U(band + 1) * _GOLDEN
        for row in range(rows):
            key = mix(key ^ U(least[band * rows + row])) + _GOLDEN
        keys[band] = key


@njit(nogil=True, cache=True)
def sign(
    data: np.ndarray,
    offsets: np.ndarray,
    table: np.ndarray,
    powers: np.ndarray,
    words: np.uint64,
    chars: np.uint64,
    a: np.ndarray,
    b: np.ndarray,
    rows: int,
    keys: np.ndarray,
    counts: np.ndarray,
) -> None:
    """Band keys and numbers of shingles of each text; those of an empty one are zeros.

    Parameters
    ----------
    data, offsets : uint8 and int32 [n + 1], texts in UTF-8.
    a, b : uint32 [bands · rows], the hash functions; a is odd.
    keys, counts : uint64 [n, bands] and int32 [n], filled.
    """
    bands = len(a) // rows
    state, ring = np.zeros(STATE, np.uint64), np.zeros((2, RING), np.uint64)
    hashes, x, least = np.empty(CHUNK, np.uint64), np.empty(CHUNK, np.uint32), np.empty(len(a), np.uint32)
    for text in range(len(offsets) - 1):
        state[:] = U(0)
        state[0] = U(offsets[text])
        least[:] = np.uint32(0xFFFFFFFF)
        total = 0
        while True:
            num = shingle(data, U(offsets[text + 1]), state, ring, table, powers, words, chars, hashes)
            if num:
                for place in range(num):
                    x[place] = np.uint32(hashes[place] >> _32)
                padded = (num + BLOCK - 1) // BLOCK * BLOCK
                x[num:padded] = x[0]
                lower(x, padded, a, b, least)
                total += num
            if num < CHUNK:
                break
        counts[text] = total
        if total:
            band_keys(least, bands, rows, keys[text])
        else:
            keys[text] = U(0)
