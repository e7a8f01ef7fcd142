"""datatrove's MinHash, number for number: XXH64 of five joined words, `(a · s + b) mod 2⁶⁴ mod (2⁶¹ − 1)`, minima of 64 bits.

For comparing rates of duplicates, not for speed. The overflow modulo 2⁶⁴ is datatrove's own, so it is kept.
Source: datatrove 0.10.1, `pipeline/dedup/minhash.py`; XXH64: Collet, xxHash specification 0.1.1.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from gyral.curate.near.minhash_kernel import band_keys
from gyral.curate.near.shingle_kernel import U, distinct

P1, P2, P3 = U(0x9E3779B185EBCA87), U(0xC2B2AE3D27D4EB4F), U(0x165667B19E3779F9)
P4, P5 = U(0x85EBCA77C2B2AE63), U(0x27D4EB2F165667C5)
PRIME = U((1 << 61) - 1)
_61 = U(61)


@njit(inline="always")
def _left(value: np.uint64, bits: int) -> np.uint64:
    return (value << U(bits)) | (value >> U(64 - bits))


@njit(inline="always")
def _read(data: np.ndarray, place: int, size: int) -> np.uint64:
    value = U(0)
    for byte in range(size):
        value |= U(data[place + byte]) << U(8 * byte)
    return value


@njit(inline="always")
def _round(lane: np.uint64, value: np.uint64) -> np.uint64:
    return _left(lane + value * P2, 31) * P1


@njit(nogil=True, cache=True)
def xxh64(data: np.ndarray, begin: int, end: int) -> np.uint64:
    """XXH64 of bytes, seed 0."""
    place = begin
    if end - begin >= 32:
        one, two, three, four = P1 + P2, P2, U(0), U(0) - P1
        while place + 32 <= end:
            one, two = _round(one, _read(data, place, 8)), _round(two, _read(data, place + 8, 8))
            three, four = _round(three, _read(data, place + 16, 8)), _round(four, _read(data, place + 24, 8))
            place += 32
        value = _left(one, 1) + _left(two, 7) + _left(three, 12) + _left(four, 18)
        for lane in (one, two, three, four):
            value = (value ^ _round(U(0), lane)) * P1 + P4
    else:
        value = P5
    value += U(end - begin)
    while place + 8 <= end:
        value = _left(value ^ _round(U(0), _read(data, place, 8)), 27) * P1 + P4
        place += 8
    if place + 4 <= end:
        value = _left(value ^ (_read(data, place, 4) * P1), 23) * P2 + P3
        place += 4
    while place < end:
        value = _left(value ^ (U(data[place]) * P5), 11) * P1
        place += 1
    value = (value ^ (value >> U(33))) * P2
    value = (value ^ (value >> U(29))) * P3
    return value ^ (value >> U(32))


@njit(nogil=True, cache=True)
def shingle(data: np.ndarray, begin: int, end: int, words: int, out: np.ndarray) -> int:
    """Hashes of every `words` words in a row, of a text in which single spaces separate them; returns how many they are."""
    starts = np.empty(words, np.int64)
    num, start = 0, begin
    for place in range(begin, end + 1):
        if place == end or data[place] == 0x20:
            if place > start:
                starts[num % words] = start
                num += 1
                if num >= words:
                    out[num - words] = xxh64(data, starts[num % words], place)
            start = place + 1
    return max(0, num - words + 1)


@njit(nogil=True, cache=True)
def minima(hashes: np.ndarray, a: np.ndarray, b: np.ndarray, least: np.ndarray) -> None:
    """The least value of each function, uint64."""
    least[:] = ~U(0)
    for place in range(len(hashes)):
        for function in range(len(a)):
            value = hashes[place] * a[function] + b[function]
            value = (value & PRIME) + (value >> _61)
            value = value - PRIME if value >= PRIME else value
            least[function] = min(least[function], value)


@njit(nogil=True, cache=True)
def sign(
    data: np.ndarray,
    offsets: np.ndarray,
    words: int,
    a: np.ndarray,
    b: np.ndarray,
    rows: int,
    keys: np.ndarray,
    counts: np.ndarray,
    least: np.ndarray,
) -> None:
    """Band keys, numbers of shingles and minima (uint64 [n, bands · rows]) of each text; zeros where there is no shingle."""
    longest = 0
    for text in range(len(counts)):
        longest = max(longest, offsets[text + 1] - offsets[text])
    hashes = np.empty(longest // 2 + 2, np.uint64)
    for text in range(len(counts)):
        num = shingle(data, offsets[text], offsets[text + 1], words, hashes)
        counts[text] = num
        if num:
            minima(hashes[:num], a, b, least[text])
            band_keys(least[text], keys.shape[1], rows, keys[text])
        else:
            least[text] = U(0)
            keys[text] = U(0)


@njit(nogil=True, cache=True)
def sets(data: np.ndarray, offsets: np.ndarray, words: int, hashes: np.ndarray, ends: np.ndarray) -> None:
    """The set of each text's shingles, as `shingle_kernel.sets`."""
    begin = 0
    for text in range(len(ends)):
        room = hashes[begin : begin + (offsets[text + 1] - offsets[text]) // 2 + 2]
        num = shingle(data, offsets[text], offsets[text + 1], words, room)
        begin += distinct(room[:num], np.empty(num, np.uint64))
        ends[text] = begin
