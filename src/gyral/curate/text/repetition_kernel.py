"""The kernel that counts repetitions: of lines and paragraphs, and of n-grams of words for n from 2 to 10.

An n-gram can only be repeated where the (n-1)-grams at its first and its second word are. So each n is looked at only where the
last was repeated, with the pair of the numbers that those have as its key: one table of a third of a text's words serves all,
where nine full ones would be needed, and no statistic loses exactness but for 64-bit hashes of words and of pairs of them.

A slot of the table holds the place of an element above `base`, which grows with all that was ever put in: what is below it is
empty, so nothing is cleared between texts, and a small text touches a small part only.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gyral.curate.text.words_kernel import Array, kernel, kernel_of_others

_MIX, _PAIR = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
_ONE, _R32, _R31 = np.uint64(1), np.uint64(32), np.uint64(31)
_LIMIT = 0xFFFFFFFF
_u64: Any = np.uint64


class Room(NamedTuple):
    """Memory for as many elements as a text has words."""

    keys: Array
    first: Array
    places: Array
    number: Array
    seen: Array


@kernel
def repeated(
    hashes: Array, ends: Array, word_bounds: Array, list_hashes: Array, list_chars: Array, list_bounds: Array,
    table: Array, state: Array, counts: Array, into: Array, room: Room,
) -> None:  # fmt: skip
    """Fill rows of `counts` from column `into[0]` on, and `into[1]` on for what is left.

    Parameters
    ----------
    hashes, ends : of words, uint64 [N]; running sums of their characters, int32 [N + 1].
    table : uint32, a power of two, at least twice as many as elements in a text or list; `state`: its base, int64 [1].
    """
    for row in range(len(counts)):
        at = into[0]
        for kind in range(3):
            begin, end = list_bounds[row, kind], list_bounds[row + 1, kind]
            repeats, chars = _repeats(list_hashes[kind], list_chars[kind], begin, end, table, state)
            if kind == 2:
                counts[row, into[1]] = chars
            else:
                counts[row, at], counts[row, at + 1], counts[row, at + 2] = end - begin, repeats, chars
                at += 3
        begin, end = word_bounds[row], word_bounds[row + 1]
        _grams(
            hashes[begin:end],
            ends[begin : end + 1],
            table,
            state,
            counts[row, at:],
            room.keys,
            room.first,
            room.places,
            room.number,
            room.seen,
        )


@kernel_of_others
def _base(table: Array, state: Array, elements: int) -> tuple[Any, Any, Any]:
    """The base for so many new elements, and the shift and mask of a table of the least size for them."""
    if state[0] + elements >= _LIMIT:
        table[:] = 0
        state[0] = 1
    base, bits = state[0], 4
    while (1 << bits) < 2 * elements:
        bits += 1
    state[0] += elements
    return _u64(base), _u64(64 - bits), _u64((1 << bits) - 1)


@kernel_of_others
def _repeats(keys: Array, chars: Array, begin: int, end: int, table: Array, state: Array) -> tuple[int, int]:
    """Elements that were there before, and their characters."""
    if end - begin < 2:
        return 0, 0
    base, shift, mask = _base(table, state, end - begin)
    repeats, repeated_chars = 0, 0
    for place in range(_u64(end - begin)):
        key = keys[_u64(begin) + place]
        slot = (key * _MIX) >> shift
        while True:
            held = _u64(table[slot])
            if held < base:
                table[slot] = base + place
                break
            if keys[_u64(begin) + held - base] == key:
                repeats += 1
                repeated_chars += chars[_u64(begin) + place]
                break
            slot = (slot + _ONE) & mask
    return repeats, repeated_chars


@kernel_of_others
def _grams(
    hashes: Array, ends: Array, table: Array, state: Array, count: Array,
    keys: Array, first: Array, places: Array, number: Array, seen: Array,
) -> None:  # fmt: skip
    """Characters of the most frequent 2-, 3- and 4-gram, then of repeated 5- to 10-grams."""
    words = len(hashes)
    size = max(words - 1, 0)
    for place in range(_u64(size)):
        other = hashes[place + _ONE] * _PAIR
        keys[place] = (hashes[place] + (other ^ (other >> _R31))) * _MIX
        places[place] = place
    for n in range(2, 11):
        count[n - 2] = 0
        if n < 5 and words >= n:
            count[n - 2] = ends[n] - ends[0] + n - 1
        if size < 2:
            continue
        if n < 5:
            best, leader = _number(size, table, state, keys, first, number)
            if best > 1:
                place = places[leader]
                count[n - 2] = best * (ends[place + n] - ends[place] + n - 1)
        else:
            _number(size, table, state, keys, first, number)
            count[n - 2] = _covered(n, size, ends, first, places, number, seen)
        size = _narrow(size, keys, first, places, number)


@kernel_of_others
def _number(size: int, table: Array, state: Array, keys: Array, first: Array, number: Array) -> tuple[int, int]:
    """The first element equal to each, and how many are equal to each first; the greatest such number and who has it first."""
    base, shift, mask = _base(table, state, size)
    best, leader = _u64(1), _u64(0)
    for place in range(_u64(size)):
        key = keys[place]
        slot = (key * _MIX) >> shift
        number[place] = 1
        while True:
            held = _u64(table[slot])
            if held < base:
                table[slot] = base + place
                first[place] = place
                break
            held -= base
            if keys[held] == key:
                first[place] = held
                total = _u64(number[held] + 1)
                number[held] = total
                if total > best or (total == best and held < leader):
                    best, leader = total, held
                break
            slot = (slot + _ONE) & mask
    return best, leader


@kernel_of_others
def _covered(n: int, size: int, ends: Array, first: Array, places: Array, number: Array, seen: Array) -> int:
    """Characters of n-grams that were met before, where after each that was its words are passed over."""
    seen[:size] = 0
    chars, free = 0, 0
    for element in range(size):
        place = places[element]
        if place < free or number[first[element]] < 2:
            continue
        if seen[first[element]]:
            chars += ends[place + n] - ends[place]
            free = place + n
        else:
            seen[first[element]] = 1
    return chars


@kernel_of_others
def _narrow(size: int, keys: Array, first: Array, places: Array, number: Array) -> int:
    """Keep the elements that are repeated and whose next is; their key is the pair of both."""
    kept = 0
    for element in range(size - 1):
        this, after = first[element], first[element + 1]
        if places[element + 1] == places[element] + 1 and number[this] > 1 and number[after] > 1:
            keys[kept] = (_u64(this) << _R32) | _u64(after)
            places[kept] = places[element]
            kept += 1
    return kept
