"""What the kernels of the tokenizer share: characters and hashes of bytes, taking a word, the special chunks.

`words` has the uint64 that begins at each byte of `data`, so that eight bytes are hashed at once; zeros follow the texts.
Nothing is made in kernels, so nobody counts who refers to arrays: that took three quarters of the time. Hot functions are
compiled into each place that calls them, since a call hands over eleven arrays: that took a third of the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numba import njit

from gyral.curate.text.characters import ALPHA, PUNCTUATION, SYMBOL, TABLE_SIZE, TERMINAL, UNIT, WIDE
from gyral.curate.text.counts import MAX_WORDS

Array = np.ndarray
Function = TypeVar("Function", bound=Callable[..., Any])
(
    CHARS, WORDS, SYMBOL_WORDS, ALPHA_WORDS, WORD_CHARS, UNITS, UNMARKED_UNITS, STOP_WORDS, HASHES, ELLIPSES, LINES, BULLETS,
    ELLIPSIS_LINES, LONG_LINES, OPEN_LINES, FEW_LINES, JAVASCRIPT_LINES, POLICY_LINES, LOREM_LINES, CURLY_LINES, SENTENCES,
    LEFT_LINES, LEFT_TERMINAL, LEFT_SHORT, LEFT_CHARS, LEFT_WORDS, LEFT_BREAKS,
) = range(27)  # fmt: skip
"""Places in a row of counts, in the order of `COUNTS`."""
(STORE, BASE, CUM, STOPS, CHUNKS, LONGEST, SEEN, STARTS, FLAGS, FIRST, LAST, CLEAN_BEGIN, CLEAN_END) = range(13)
"""What is known of the line that is read; the first four stay through a text, the last two are set for what is left of it."""
NUM_COUNTED, NUM_LINE = 27, 13
MIX, _MIX_2, _LENGTH = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93), np.uint64(0xA24BAED4963EE407)
MASKS = np.array([(1 << 8 * size) - 1 for size in range(9)], np.uint64)
_R32, _R29 = np.uint64(32), np.uint64(29)
_SIX, SEVEN, FIFTY_SIX, _ONES = np.uint64(6), np.uint64(7), np.uint64(56), np.uint64(0x0101010101010101)
_u64: Any = np.uint64
_i64: Any = np.int64


class Text(NamedTuple):
    """Bytes and what they are: `data` uint8, `words` uint64 at each byte, `bits` of code points, tables of chunks and words."""

    data: Array
    words: Array
    bits: Array
    special_bits: Array
    special_keys: Array
    special_cuts: Array
    stop_keys: Array
    stop_bits: Array


class Store(NamedTuple):
    """What is kept of the words: their hashes, uint64, and running sums of their characters, int32; suffixes of a chunk."""

    hashes: Array
    ends: Array
    suffixes: Array


_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}


def kernel(function: Function) -> Function:
    """Compile what is called from Python, and keep it with all that it calls."""
    compiled: Function = njit(cache=True, **_OPTIONS)(function)
    return compiled


def kernel_of_others(function: Function) -> Function:
    """Compile what only kernels call: it is kept as a part of them."""
    compiled: Function = njit(**_OPTIONS)(function)
    return compiled


def part(function: Function) -> Function:
    """Compile what is written into each place that calls it."""
    compiled: Function = njit(forceinline=True, **_OPTIONS)(function)
    return compiled


@part
def hash_of(words: Array, begin: int, end: int) -> Any:
    """64 bits of a range of bytes."""
    value = _LENGTH * _u64(end - begin + 1)
    while end - begin > 8:
        value = (value ^ words[begin]) * MIX
        value ^= value >> _R32
        begin += 8
    value = (value ^ (words[begin] & MASKS[end - begin])) * MIX
    value = (value ^ (value >> _R29)) * _MIX_2
    return value ^ (value >> _R32)


@part
def char(text: Text, at: int) -> tuple[int, int]:
    """Bits of the character at a byte, and its bytes."""
    first = _i64(text.data[at])
    if first < 0x80:
        return _i64(text.bits[first]), 1
    code, size = first & 0x1F, 2
    if first >= 0xE0:
        code, size = first & 0x0F, 3
    if first >= 0xF0:
        code, size = first & 0x07, 4
    if first < 0xC0:
        return _i64(text.bits[0xFFFD]), 1
    for place in range(1, size):
        code = (code << 6) | (_i64(text.data[at + place]) & 0x3F)
    return _i64(text.bits[code if code < TABLE_SIZE else 0x4E00]), size


@part
def before(text: Text, at: int, begin: int) -> int:
    """Where the character before a byte begins."""
    at -= 1
    while at > begin and (text.data[at] & 0xC0) == 0x80:
        at -= 1
    return at


@part
def is_digit(text: Text, at: int) -> bool:
    return bool(48 <= text.data[at] <= 57)


@kernel_of_others
def chars_of(words: Array, begin: int, end: int) -> int:
    """Characters in a range of bytes: the bytes that do not continue one, of eight at once."""
    count, size = end - begin, end - begin
    while size > 0:
        word = words[begin]
        if size < 8:
            word &= MASKS[size]
        count -= _i64((((word >> SEVEN) & ~(word >> _SIX) & _ONES) * _ONES) >> FIFTY_SIX)
        begin, size = begin + 8, size - 8
    return count


@part
def put(text: Text, store: Store, count: Array, line: Array, key: Any, chars: int, some: int, every: int) -> None:
    """Take a word, of whose characters `some` bits are on one and `every` bit on all."""
    number = count[WORDS]
    if line[STORE] and number < MAX_WORDS:
        at = line[BASE] + number
        store.hashes[at] = key
        line[CUM] += chars
        store.ends[at + 1] = line[CUM]
        if line[STORE] > 1:
            language, slot = line[STORE] - 2, _i64(key >> FIFTY_SIX)
            while text.stop_keys[language, slot]:
                if text.stop_keys[language, slot] == key:
                    line[STOPS] |= _i64(text.stop_bits[language, slot])
                slot = (slot + 1) & 0xFF
    count[WORDS] = number + 1
    if every & SYMBOL:
        count[SYMBOL_WORDS] += 1
    elif not some & UNIT:
        count[WORD_CHARS] += 2 * chars if every & WIDE else chars
    if some & ALPHA:
        count[ALPHA_WORDS] += 1
    ends = chars == 1 and every & TERMINAL
    if ends:
        line[SEEN] = 1
    elif line[SEEN] and not every & PUNCTUATION:
        line[STARTS] += 1
        line[SEEN] = 0


@kernel_of_others
def word(text: Text, store: Store, count: Array, line: Array, begin: int, end: int) -> None:
    at, some, every, chars = begin, 0, -1, 0
    while at < end:
        bits, size = char(text, at)
        some, every, chars, at = some | bits, every & bits, chars + 1, at + size
    put(text, store, count, line, hash_of(text.words, begin, end), chars, some, every)


@part
def special(text: Text, key: Any) -> int:
    """Where a chunk is in the table of special ones, -1 if it is none, which 8 KiB of bits tell of most."""
    if not (text.special_bits[key >> _u64(51)] >> ((key >> _u64(48)) & SEVEN)) & _u64(1):
        return -1
    slot = _i64(key >> _u64(51))
    while text.special_keys[slot]:
        if text.special_keys[slot] == key:
            return int(slot)
        slot = (slot + 1) & 0x1FFF
    return -1


@part
def is_special(text: Text, begin: int, end: int) -> bool:
    return 0 < end - begin <= 16 and special(text, hash_of(text.words, begin, end)) >= 0


@kernel_of_others
def pieces(text: Text, store: Store, count: Array, line: Array, begin: int, end: int, slot: int) -> None:
    first, second = begin + _i64(text.special_cuts[slot, 0]), begin + _i64(text.special_cuts[slot, 1])
    if first == begin:
        word(text, store, count, line, begin, end)
        return
    word(text, store, count, line, begin, first)
    word(text, store, count, line, first, second if second > begin else end)
    if second > begin:
        word(text, store, count, line, second, end)
