"""One bucket as bytes, and back: copies, checksums and folding over all buckets of a chunk in one call.

A segment is `keys | gone keys | stamps | bodies | counters`, padded to 8 bytes, so that everything in it is aligned and its
checksum is over whole words. Checksum: XXH64 of those words, 0.1 ns a byte where zlib's CRC-32 takes 0.43.

Source: XXH64 of Collet, https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from gyral.params.hashing_kernel import mixed

U = np.uint64
_1, _2 = U(0x9E3779B185EBCA87), U(0xC2B2AE3D27D4EB4F)
_3, _4, _5 = U(0x165667B19E3779F9), U(0x85EBCA77C2B2AE63), U(0x27D4EB2F165667C5)
CUT, WHOLE = 0, 1
"""Kinds of segments: what changed since version − 1, and all rows of the bucket."""


@njit(inline="always", cache=True)
def _rotated(x: np.uint64, by: np.uint64) -> np.uint64:
    return (x << by) | (x >> (U(64) - by))


@njit(inline="always", cache=True)
def _round(lane: np.uint64, word: np.uint64) -> np.uint64:
    return _rotated(lane + word * _2, U(31)) * _1


@njit(nogil=True, cache=True)
def xxh64(words: np.ndarray, start: int, stop: int) -> np.uint64:
    """XXH64 with seed 0 of `words[start:stop]`, uint64."""
    at, end = U(start), U(stop)
    size = (end - at) * U(8)
    if size >= U(32):
        a, b, c, d = _1 + _2, _2, U(0), U(0) - _1
        while at + U(4) <= end:
            a, b = _round(a, words[at]), _round(b, words[at + U(1)])
            c, d = _round(c, words[at + U(2)]), _round(d, words[at + U(3)])
            at += U(4)
        h = _rotated(a, U(1)) + _rotated(b, U(7)) + _rotated(c, U(12)) + _rotated(d, U(18))
        h = (h ^ _round(U(0), a)) * _1 + _4
        h = (h ^ _round(U(0), b)) * _1 + _4
        h = (h ^ _round(U(0), c)) * _1 + _4
        h = (h ^ _round(U(0), d)) * _1 + _4
    else:
        h = _5
    h += size
    while at < end:
        h = _rotated(h ^ _round(U(0), words[at]), U(27)) * _1 + _4
        at += U(1)
    h = (h ^ (h >> U(33))) * _2
    h = (h ^ (h >> U(29))) * _3
    return h ^ (h >> U(32))


@njit(nogil=True, cache=True)
def check(words: np.ndarray, offsets_N: np.ndarray, sizes_N: np.ndarray, digests_N: np.ndarray) -> np.int64:
    """Index of the first segment (bytes at `offsets_N`, of `sizes_N`) that does not have its checksum; −1: all have."""
    for n in range(U(len(offsets_N))):
        start = offsets_N[n] >> U(3)
        if xxh64(words, start, start + (sizes_N[n] >> U(3))) != digests_N[n]:
            return np.int64(n)
    return np.int64(-1)


@njit(nogil=True, cache=True)
def pack(
    words: np.ndarray, halves: np.ndarray, octets: np.ndarray, offsets_N: np.ndarray, sizes_N: np.ndarray,
    keys: np.ndarray, stamps: np.ndarray, bodies: np.ndarray, starts: np.ndarray,
    gone: np.ndarray, gone_starts: np.ndarray, counters: np.ndarray, digests_N: np.ndarray,
) -> None:  # fmt: skip
    """Write segments into one buffer, seen as uint64, uint32 and uint8; bodies come as uint32 [K, words a body]."""
    width = U(bodies.shape[1])
    for n in range(U(len(offsets_N))):
        first, last, at = U(starts[n]), U(starts[n + U(1)]), offsets_N[n] >> U(3)
        for k in range(first, last):
            words[at] = U(keys[k])
            at += U(1)
        for k in range(U(gone_starts[n]), U(gone_starts[n + U(1)])):
            words[at] = U(gone[k])
            at += U(1)
        at <<= U(1)
        for k in range(first, last):
            halves[at] = stamps[k]
            at += U(1)
        for k in range(first, last):
            for w in range(width):
                halves[at + w] = bodies[k, w]
            at += width
        at <<= U(2)
        for c in range(U(counters.shape[1])):
            octets[at] = counters[n, c]
            at += U(1)
        while at < offsets_N[n] + sizes_N[n]:
            octets[at] = np.uint8(0)
            at += U(1)
        start = offsets_N[n] >> U(3)
        digests_N[n] = xxh64(words, start, start + (sizes_N[n] >> U(3)))


@njit(nogil=True, cache=True)
def unpack(
    words: np.ndarray, halves: np.ndarray, octets: np.ndarray, offsets_N: np.ndarray,
    keys: np.ndarray, stamps: np.ndarray, bodies: np.ndarray, starts: np.ndarray,
    gone: np.ndarray, gone_starts: np.ndarray, counters: np.ndarray,
) -> None:  # fmt: skip
    """The way back of `pack`."""
    width = U(bodies.shape[1])
    for n in range(U(len(offsets_N))):
        first, last, at = U(starts[n]), U(starts[n + U(1)]), offsets_N[n] >> U(3)
        for k in range(first, last):
            keys[k] = np.int64(words[at])
            at += U(1)
        for k in range(U(gone_starts[n]), U(gone_starts[n + U(1)])):
            gone[k] = np.int64(words[at])
            at += U(1)
        at <<= U(1)
        for k in range(first, last):
            stamps[k] = halves[at]
            at += U(1)
        for k in range(first, last):
            for w in range(width):
                bodies[k, w] = halves[at + w]
            at += width
        at <<= U(2)
        for c in range(U(counters.shape[1])):
            counters[n, c] = octets[at + c]


@njit(nogil=True, cache=True)
def fold(
    words: np.ndarray, halves: np.ndarray, groups: np.ndarray, kinds_N: np.ndarray, offsets_N: np.ndarray,
    upserts_N: np.ndarray, gone_N: np.ndarray, seen: np.ndarray, when: np.ndarray,
    keys: np.ndarray, stamps: np.ndarray, bodies: np.ndarray, starts: np.ndarray,
) -> None:  # fmt: skip
    """Rows of buckets from their segments, oldest first in each group of `groups` [G + 1].

    Newest first: the first time that a key is met decides, so each row that stays is copied once. `seen` (uint64) and `when`
    (uint32, zeros) are a scratch table of a power of two, twice as large as a group has keys.
    """
    width, mask = U(bodies.shape[1]), U(len(seen) - 1)
    out = U(0)
    for g in range(U(len(groups) - 1)):
        starts[g] = out
        first, n = groups[g], groups[g + U(1)]
        alone = n - first == U(1)
        while n > first:
            n -= U(1)
            at = offsets_N[n] >> U(3)
            rows, gone = U(upserts_N[n]), U(gone_N[n])
            stamp_at = (at + rows + gone) << U(1)
            body_at = stamp_at + rows
            for k in range(rows + gone):
                key = words[at + k]
                if not alone:
                    slot = mixed(key) & mask
                    while when[slot] == g + U(1) and seen[slot] != key:
                        slot = (slot + U(1)) & mask
                    if when[slot] == g + U(1):
                        continue
                    when[slot], seen[slot] = g + U(1), key
                if k < rows:
                    keys[out] = np.int64(key)
                    stamps[out] = halves[stamp_at + k]
                    for w in range(width):
                        bodies[out, w] = halves[body_at + k * width + w]
                    out += U(1)
            if kinds_N[n] == WHOLE:
                break
    starts[len(groups) - 1] = out
