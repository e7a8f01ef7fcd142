"""Buckets to candidate pairs, pairs to their true Jaccard, and the greedy star.

Each is one pass over arrays that were sorted by numpy; none allocates more than its result.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from gyral.curate.near.shingle_kernel import U, mix

_32 = U(32)
_ONE, _TWO = U(0xA0761D6478BD642F), U(0xE7037ED1A0B428DB)


@njit(nogil=True, cache=True)
def scatter(
    keys: np.ndarray, nodes: np.ndarray, shift: np.uint64, starts: np.ndarray, out_keys: np.ndarray, out_nodes: np.ndarray
) -> None:
    """Sort records by partition, the key's bits above `shift`.

    Parameters
    ----------
    keys, nodes : uint64 [n, bands], uint32 [n].
    starts : int64 [partitions + 1], zeros; filled.
    out_keys, out_nodes : uint64 and uint32 [n · bands], filled.
    """
    for row in range(len(nodes)):
        for band in range(keys.shape[1]):
            starts[(keys[row, band] >> shift) + U(1)] += 1
    for part in range(1, len(starts)):
        starts[part] += starts[part - 1]
    place = starts.copy()
    for row in range(len(nodes)):
        for band in range(keys.shape[1]):
            part = keys[row, band] >> shift
            out_keys[place[part]] = keys[row, band]
            out_nodes[place[part]] = nodes[row]
            place[part] += 1


@njit(nogil=True, cache=True)
def count_pairs(keys: np.ndarray, bucket: int) -> tuple[int, int]:
    """Pairs in the buckets of `bucket` nodes at most, and the number of larger buckets; `keys` ascending."""
    pairs, capped, begin = 0, 0, 0
    for place in range(1, len(keys) + 1):
        if place == len(keys) or keys[place] != keys[begin]:
            size = place - begin
            if size > bucket:
                capped += 1
            else:
                pairs += size * (size - 1) // 2
            begin = place
    return pairs, capped


@njit(nogil=True, cache=True)
def fill_pairs(keys: np.ndarray, nodes: np.ndarray, bucket: int, pairs: np.ndarray, capped: np.ndarray) -> int:
    """Write the pairs as `smaller << 32 | larger`, uint64, and [begin, end] of the larger buckets; returns how many pairs.

    A node that is in a bucket twice is no pair with itself.
    """
    num, large, begin = 0, 0, 0
    for place in range(1, len(keys) + 1):
        if place == len(keys) or keys[place] != keys[begin]:
            if place - begin > bucket:
                capped[large, 0], capped[large, 1] = begin, place
                large += 1
            else:
                for one in range(begin, place):
                    for other in range(one + 1, place):
                        a, b = U(nodes[one]), U(nodes[other])
                        if a != b:
                            pairs[num] = min(a, b) << _32 | max(a, b)
                            num += 1
            begin = place
    return num


@njit(nogil=True, cache=True)
def pair_keys(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """128 bits that name a pair of digests, whichever comes first; uint64 [n, 2] each."""
    first, second = np.empty(len(one), np.uint64), np.empty(len(one), np.uint64)
    for row in range(len(one)):
        a0, a1, b0, b1 = one[row, 0], one[row, 1], other[row, 0], other[row, 1]
        if b0 < a0 or (b0 == a0 and b1 < a1):
            a0, a1, b0, b1 = b0, b1, a0, a1
        first[row] = mix(b1 ^ mix(b0 + mix(a1 ^ mix(a0 + _ONE))))
        second[row] = mix(b1 + mix(b0 ^ mix(a1 + mix(a0 ^ _TWO))))
    return first, second


@njit(nogil=True, cache=True)
def jaccards(
    hashes: np.ndarray, offsets: np.ndarray, left: np.ndarray, right: np.ndarray, floor: float, out: np.ndarray
) -> None:
    """True Jaccard of pairs of sets, float32; 0 as soon as it is certain to be below `floor`.

    Parameters
    ----------
    hashes, offsets : uint64, each set ascending and distinct; int64 [sets + 1].
    left, right : int64 [n], numbers of sets.
    """
    for pair in range(len(left)):
        one, one_end = offsets[left[pair]], offsets[left[pair] + 1]
        two, two_end = offsets[right[pair]], offsets[right[pair] + 1]
        together = (one_end - one) + (two_end - two)
        least = np.int64(np.ceil(floor * together / (1.0 + floor) - 1e-9))  # in common, for a Jaccard of `floor`
        common = 0
        while one < one_end and two < two_end and common + min(one_end - one, two_end - two) >= least:
            a, b = hashes[one], hashes[two]
            common += a == b
            one += a <= b
            two += b <= a
        out[pair] = 0.0
        if common >= least and together > common:
            out[pair] = np.float32(common / (together - common))


@njit(nogil=True, cache=True)
def neighbours(num_nodes: int, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compressed rows of an undirected graph: `starts` int64 [n + 1], the other node, and the number of the pair."""
    starts = np.zeros(num_nodes + 1, np.int64)
    for pair in range(len(a)):
        starts[a[pair] + 1] += 1
        starts[b[pair] + 1] += 1
    for node in range(num_nodes):
        starts[node + 1] += starts[node]
    place = starts[:-1].copy()
    other, number = np.empty(2 * len(a), np.int64), np.empty(2 * len(a), np.int64)
    for pair in range(len(a)):
        one, two = a[pair], b[pair]
        other[place[one]], number[place[one]] = two, pair
        place[one] += 1
        other[place[two]], number[place[two]] = one, pair
        place[two] += 1
    return starts, other, number


@njit(nogil=True, cache=True)
def greedy(
    order: np.ndarray,
    is_alive: np.ndarray,
    starts: np.ndarray,
    other: np.ndarray,
    number: np.ndarray,
    similarity: np.ndarray,
    twin: np.ndarray,
    jaccard: np.ndarray,
) -> None:
    """In order: a node that no kept one claims is kept, and claims its neighbours; of claims the higher, then the earlier."""
    for node in order:
        if not is_alive[node] or twin[node] >= 0:
            continue
        for place in range(starts[node], starts[node + 1]):
            claimed, similar = other[place], similarity[number[place]]
            if is_alive[claimed] and similar > jaccard[claimed]:
                twin[claimed], jaccard[claimed] = node, similar
