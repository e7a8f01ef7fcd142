"""Kernels of the search for near-duplicates: candidates by equal parts of a hash, and how alike two thumbnails are."""

from __future__ import annotations

from typing import Any

import numpy as np

from gyral.curate.images.hash_kernel import kernel

LUMA, CHROMA = 256, 128
"""Bytes of a thumbnail: 16 × 16 of luma, two times 8 × 8 of colour."""
FLAT = 2.0
"""Standard deviation of luma below which a thumbnail shows nothing but noise, so that a correlation would be one of noise."""
FLAT_DIFFERENCE = 4.0
MAX_CONTRAST = 3.0
"""Standard deviations may differ by this factor: more is another picture, a black square on white and a pale one."""
MAX_BUCKET = 4_096
"""Hashes that one is compared with in a bucket, at most; a random million has about 15 in one."""
MAX_HUBS = 8
"""Different pictures of one hash that are compared with those of others."""
Array = np.ndarray


@kernel
def spread(hashes: Array) -> Array:
    """The same bits in other places (25 p mod 64), so that each part of a hash has bits of many frequencies."""
    moved = np.zeros(len(hashes), np.uint64)
    for n in range(len(hashes)):
        value, result = hashes[n], np.uint64(0)
        for place in range(64):
            result |= ((value >> np.uint64(place)) & np.uint64(1)) << np.uint64(25 * place % 64)
        moved[n] = result
    return moved


@kernel
def distance(one: Any, two: Any) -> int:
    """Bits in which two hashes differ."""
    x = one ^ two
    x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((x * np.uint64(0x0101010101010101)) >> np.uint64(56))  # type: ignore[return-value]


@kernel
def table_pairs(
    hashes: Array, starts: Array, blocks: Array, width: int, max_distance: int, places: Array, ordered: Array, into: Array
) -> tuple[int, int]:
    """Pairs of hashes that are equal in some blocks and whose first equal blocks these are; so that no other table has them.

    Parameters
    ----------
    hashes : uint64 [n].
    starts : int64 [num_blocks + 1], bits at which the blocks of a hash begin.
    blocks : int64 [kept], ascending: which are equal.
    width : 2 ** width buckets, into which the values of those blocks are hashed.
    places, ordered : int32 [n] and uint64 [n], room to work in.
    into : int32 [room, 2], the pairs.

    Returns
    -------
    Pairs found, which may be more than there was room for; comparisons left out, because a bucket held too many.
    """
    bounds = np.zeros((1 << width) + 1, np.int64)
    for value in hashes:
        bounds[_key(value, starts, blocks, width) + 1] += 1
    for key in range(1 << width):
        bounds[key + 1] += bounds[key]
    for n in range(len(hashes)):
        key = _key(hashes[n], starts, blocks, width)
        places[bounds[key]] = n
        ordered[bounds[key]] = hashes[n]
        bounds[key] += 1  # at the end it is where the next one begins
    found: Any = 0
    skipped: Any = 0
    begin: Any = 0
    for key in range(1 << width):
        end = bounds[key]
        for i in range(begin, end - 1):
            last = min(end, i + 1 + MAX_BUCKET)
            skipped += end - last
            for j in range(i + 1, last):
                if distance(ordered[i], ordered[j]) <= max_distance and _is_first(ordered[i] ^ ordered[j], starts, blocks):
                    if found < len(into):
                        into[found, 0], into[found, 1] = places[i], places[j]
                    found += 1
        begin = end
    return found, skipped


@kernel
def _key(value: Any, starts: Array, blocks: Array, width: int) -> int:
    key = np.uint64(0)
    for block in blocks:
        bits = np.uint64(starts[block + 1] - starts[block])
        key = (key << bits) | ((value >> np.uint64(starts[block])) & ((np.uint64(1) << bits) - np.uint64(1)))
    return np.int64((key * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - width))  # type: ignore[return-value]


@kernel
def _is_first(difference: Any, starts: Array, blocks: Array) -> bool:
    """Are `blocks` the first blocks in which there is no difference?"""
    seen = 0
    for block in range(len(starts) - 1):
        width = np.uint64(starts[block + 1] - starts[block])
        if (difference >> np.uint64(starts[block])) & ((np.uint64(1) << width) - np.uint64(1)) == np.uint64(0):
            if blocks[seen] != block:
                return False
            seen += 1
            if seen == len(blocks):
                return True
    return False


@kernel
def likeness(one: Array, two: Array, max_colour: float) -> float:
    """How alike two thumbnails are: correlation of their luma, -1 to 1; -1 where colours differ.

    Two flat ones are alike (1) where their luma differs by no more than `FLAT_DIFFERENCE`; a flat one is like no other, nor
    are two whose contrasts differ by more than `MAX_CONTRAST`.
    Colours: the mean difference of 8 × 8 patches, in levels of Cr and Cb.
    """
    sums: Any = np.int64(0)
    others: Any = np.int64(0)
    squares: Any = np.int64(0)
    other_squares: Any = np.int64(0)
    products: Any = np.int64(0)
    for n in range(LUMA):
        a, b = np.int64(one[n]), np.int64(two[n])
        sums += a
        others += b
        squares += a * a
        other_squares += b * b
        products += a * b
    colour: Any = np.int64(0)
    for n in range(LUMA, LUMA + CHROMA):
        colour += abs(np.int64(one[n]) - np.int64(two[n]))
    if colour > max_colour * CHROMA:
        return -1.0
    spread_one = squares / LUMA - (sums / LUMA) ** 2
    spread_two = other_squares / LUMA - (others / LUMA) ** 2
    if spread_one < FLAT * FLAT or spread_two < FLAT * FLAT:
        both = spread_one < FLAT * FLAT and spread_two < FLAT * FLAT
        return 1.0 if both and abs(sums - others) <= FLAT_DIFFERENCE * LUMA else -1.0
    if max(spread_one, spread_two) > MAX_CONTRAST * MAX_CONTRAST * min(spread_one, spread_two):
        return -1.0
    correlation: float = (products / LUMA - (sums / LUMA) * (others / LUMA)) / np.sqrt(spread_one * spread_two)
    return correlation


@kernel
def within_groups(
    nodes: Array, bounds: Array, thumbnails: Array, min_likeness: float, max_colour: float, hubs: Array, into: Array
) -> tuple[int, int]:
    """Pairs among pictures of one hash, each with every hub before it that it is like; what is like none becomes a hub.

    Parameters
    ----------
    nodes : int64 [n], by hash, and the best first among equal ones; bounds : int64 [groups + 1] into them.
    hubs : int64 [groups, MAX_HUBS], filled with nodes, -1 behind the last.
    into : int64 [n * MAX_HUBS, 2], the better one first.

    Returns
    -------
    Pairs found; pictures that are like no hub and became none, because there were enough.
    """
    found: Any = 0
    unsearched: Any = 0
    for group in range(len(bounds) - 1):
        count: Any = 0
        for place in range(bounds[group], bounds[group + 1]):
            node, is_like = nodes[place], False
            for number in range(count):
                hub = hubs[group, number]
                if likeness(thumbnails[hub], thumbnails[node], max_colour) >= min_likeness:
                    into[found, 0], into[found, 1] = hub, node
                    found += 1
                    is_like = True
            if not is_like and count < MAX_HUBS:
                hubs[group, count] = node
                count += 1
            elif not is_like:
                unsearched += 1
        for number in range(count, MAX_HUBS):
            hubs[group, number] = -1
    return found, unsearched


@kernel
def across_groups(
    pairs: Array,
    nodes: Array,
    bounds: Array,
    thumbnails: Array,
    min_likeness: float,
    max_colour: float,
    hubs: Array,
    into: Array,
) -> int:
    """Pairs of pictures of two hashes near each other: every one of the first with the hubs of the second, and the reverse.

    `pairs`: int32 [m, 2], groups; `into`: int64 [room, 3], two nodes and their place in `pairs`. The number found may be more
    than there was room for.
    """
    found: int = 0
    for number in range(len(pairs)):
        for side in range(2):
            group, other = pairs[number, side], pairs[number, 1 - side]
            for place in range(bounds[group], bounds[group + 1]):
                node = nodes[place]
                if side == 1 and (hubs[group] == node).any():
                    continue  # met from the other side
                for hub in hubs[other]:
                    if hub < 0:
                        break
                    if likeness(thumbnails[hub], thumbnails[node], max_colour) >= min_likeness:
                        if found < len(into):
                            into[found, 0], into[found, 1], into[found, 2] = hub, node, number
                        found += 1
    return found
