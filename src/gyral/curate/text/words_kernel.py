"""The tokenizer, compiled: a line of bytes → words, close to spaCy's English ones; characters of scripts without spaces are units.

A line is read chunk by chunk (what stands between spaces). Four chunks of five are letters alone, or one of the special chunks
of English, and become words at once; others are cut by the rules of spaCy's tokenizer: affixes from both ends, then an address
is one word, then infixes. A chunk with a character of an unspaced script is cut at each of its characters.

`words` has the uint64 that begins at each byte of `data`, so that eight bytes are hashed at once; zeros follow the texts.
numba's cache of `statistics_kernel`, which calls this, does not see changes here: it holds this file's digest, so it changes too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numba import njit

from gyral.curate.text.characters import (
    AFFIX, ALPHA, BREAK, CURLY, CURRENCY, DIGIT, HYPHEN, ICON, LOWER, MARK, ODD, POINT_AFTER, PREFIX_ONLY, PUNCTUATION, QUOTE,
    SPACE, SQUARE, SYMBOL, TABLE_SIZE, TERMINAL, UNIT, UNMARKED, UPPER, WIDE,
)  # fmt: skip
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
_MAX_SUFFIXES = 4096
_MIX, _MIX_2, _LENGTH = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93), np.uint64(0xA24BAED4963EE407)
MASKS = np.array([(1 << 8 * size) - 1 for size in range(9)], np.uint64)
_R32, _R29 = np.uint64(32), np.uint64(29)
_u64: Any = np.uint64
_i64: Any = np.int64


class Text(NamedTuple):
    """Bytes and what they are: `data` uint8, `words` uint64 at each byte, `bits` of code points, tables of chunks and words."""

    data: Array
    words: Array
    bits: Array
    special_keys: Array
    special_cuts: Array
    stop_keys: Array
    stop_bits: Array


class Store(NamedTuple):
    """What is kept of the words: their hashes, uint64, and running sums of their characters, int32; suffixes of a chunk."""

    hashes: Array
    ends: Array
    suffixes: Array


def kernel(function: Function) -> Function:
    """Compile. Nothing is made in kernels, so nobody counts who refers to arrays, which took most of the time."""
    options: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy", "_nrt": False}
    compiled: Function = njit(**options)(function)
    return compiled


@kernel
def hash_of(words: Array, begin: int, end: int) -> Any:
    """64 bits of a range of bytes."""
    value = _LENGTH * _u64(end - begin + 1)
    while end - begin > 8:
        value = (value ^ words[begin]) * _MIX
        value ^= value >> _R32
        begin += 8
    value = (value ^ (words[begin] & MASKS[end - begin])) * _MIX
    value = (value ^ (value >> _R29)) * _MIX_2
    return value ^ (value >> _R32)


@kernel
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


@kernel
def before(text: Text, at: int, begin: int) -> int:
    """Where the character before a byte begins."""
    at -= 1
    while at > begin and (text.data[at] & 0xC0) == 0x80:
        at -= 1
    return at


@kernel
def _is_digit(text: Text, at: int) -> bool:
    return 48 <= text.data[at] <= 57


@kernel
def chars_of(data: Array, begin: int, end: int) -> int:
    count = 0
    for at in range(begin, end):
        count += (data[at] & 0xC0) != 0x80
    return count


@kernel
def put(text: Text, store: Store, count: Array, line: Array, key: Any, chars: int, some: int, every: int) -> None:
    """Take a word, of whose characters `some` bits are on one and `every` bit on all."""
    number = count[WORDS]
    if line[STORE] and number < MAX_WORDS:
        at = line[BASE] + number
        store.hashes[at] = key
        line[CUM] += chars
        store.ends[at + 1] = line[CUM]
        if line[STORE] > 1:
            language, slot = line[STORE] - 2, _i64(key >> _u64(56))
            while text.stop_keys[language, slot]:
                if text.stop_keys[language, slot] == key:
                    line[STOPS] |= _i64(text.stop_bits[language, slot])
                slot = (slot + 1) & 0xFF
    count[WORDS] = number + 1
    if every & SYMBOL:
        count[SYMBOL_WORDS] += 1
    else:
        count[WORD_CHARS] += chars
    if some & ALPHA:
        count[ALPHA_WORDS] += 1
    ends = chars == 1 and every & TERMINAL
    if ends:
        line[SEEN] = 1
    elif line[SEEN] and not every & PUNCTUATION:
        line[STARTS] += 1
        line[SEEN] = 0


@kernel
def _word(text: Text, store: Store, count: Array, line: Array, begin: int, end: int) -> None:
    at, some, every, chars = begin, 0, -1, 0
    while at < end:
        bits, size = char(text, at)
        some, every, chars, at = some | bits, every & bits, chars + 1, at + size
    put(text, store, count, line, hash_of(text.words, begin, end), chars, some, every)


@kernel
def special(text: Text, key: Any) -> int:
    """Where a chunk is in the table of special ones, -1 if it is none."""
    slot = _i64(key >> _u64(51))
    while text.special_keys[slot]:
        if text.special_keys[slot] == key:
            return slot
        slot = (slot + 1) & 0x1FFF
    return -1


@kernel
def _is_special(text: Text, begin: int, end: int) -> bool:
    return 0 < end - begin <= 16 and special(text, hash_of(text.words, begin, end)) >= 0


@kernel
def pieces(text: Text, store: Store, count: Array, line: Array, begin: int, end: int, slot: int) -> None:
    first, second = begin + _i64(text.special_cuts[slot, 0]), begin + _i64(text.special_cuts[slot, 1])
    if first == begin:
        _word(text, store, count, line, begin, end)
        return
    _word(text, store, count, line, begin, first)
    _word(text, store, count, line, first, second if second > begin else end)
    if second > begin:
        _word(text, store, count, line, second, end)


@kernel
def _prefix(text: Text, begin: int, end: int) -> int:
    bits, size = char(text, begin)
    if bits & (AFFIX | CURRENCY | PREFIX_ONLY):
        return size
    data, first = text.data, text.data[begin]
    if first == 46 and begin + 1 < end and data[begin + 1] == 46:
        at = begin
        while at < end and data[at] == 46:
            at += 1
        return at - begin
    if first == 43 and not (begin + 1 < end and _is_digit(text, begin + 1)):
        return 1
    if begin + 1 < end and data[begin + 1] == 36 and (first == 65 or first == 67):
        return 2
    return 3 if begin + 2 < end and first == 85 and data[begin + 1] == 83 and data[begin + 2] == 36 else 0


@kernel
def _suffix(text: Text, begin: int, end: int) -> int:
    data = text.data
    at = before(text, end, begin)
    bits, size = char(text, at)
    if bits & AFFIX:
        return size
    last = data[end - 1]
    previous = before(text, at, begin) if at > begin else at
    bits_before = char(text, previous)[0] if at > begin else 0
    if last == 46:
        if at > begin and data[at - 1] == 46:
            while at > begin and data[at - 1] == 46:
                at -= 1
            return end - at
        if bits_before & (LOWER | POINT_AFTER) or (at > begin and _is_digit(text, previous)):
            return 1
        if bits_before & UPPER and previous > begin and char(text, before(text, previous, begin))[0] & UPPER:
            return 1
        return 0
    if (last == 115 or last == 83) and (data[previous] == 39 or text.words[previous] & MASKS[3] == _u64(0x9980E2)) and at > begin:
        return end - previous
    if at > begin and _is_digit(text, previous) and (last == 43 or last == 37 or bits & CURRENCY):
        return size
    if bits & ALPHA or last == 0xB2 or last == 0xB3:
        return _unit(text, begin, end)
    return 0


@kernel
def _unit(text: Text, begin: int, end: int) -> int:
    """Bytes of a unit of measure after a digit."""
    at = end - 1
    while at > begin and at > end - 6 and not _is_digit(text, at):
        at -= 1
    if not _is_digit(text, at):
        return 0
    size = end - at - 1
    return size if special(text, hash_of(text.words, at + 1, end) ^ _MIX) >= 0 else 0


@kernel
def _infix(text: Text, begin: int, at: int, end: int) -> tuple[int, int]:
    """The next infix of a chunk from a byte on: where it begins and its bytes, 0 if there is none."""
    data, previous = text.data, 0
    if at > begin:
        previous = char(text, before(text, at, begin))[0]
    while at < end:
        bits, size = char(text, at)
        width = 0
        if bits & ODD:
            first, after = data[at], at + size
            next_bits = char(text, after)[0] if after < end else 0
            digit = at > begin and _is_digit(text, at - 1)
            joined = previous & ALPHA or digit
            if bits & ICON or text.words[at] & MASKS[3] == _u64(0xA680E2):
                width = size
            elif first == 46:
                if after < end and data[after] == 46:
                    while at + width < end and data[at + width] == 46:
                        width += 1
                elif previous & (LOWER | QUOTE) and next_bits & (UPPER | QUOTE):
                    width = 1
            elif first == 44:
                width = 1 if previous & ALPHA and next_bits & ALPHA else 0
            elif first == 58 or first == 60 or first == 61 or first == 62 or first == 47:
                width = 1 if joined and next_bits & ALPHA else 0
            elif digit and after < end and (_is_digit(text, after) or data[after] == 45) and 0 < first < 95 and (
                first == 43 or first == 45 or first == 42 or first == 94
            ):
                width = 1
            elif bits & HYPHEN and joined:
                while width < 3 * size and at + width < end and data[at + width] == first:
                    width += size
                width = width if at + width < end and char(text, at + width)[0] & ALPHA else 0
        if width and at > begin:
            return at, width
        at += max(width, size)
        previous = bits
    return end, 0


@kernel
def _is_host(text: Text, at: int, end: int) -> bool:
    """Whether a domain stands at a byte, then nothing, a port or a path."""
    data, label, dots, lower = text.data, at, 0, True
    while at < end:
        char = data[at]
        if char == 46:
            if at == label or data[at - 1] == 95 or data[at - 1] == 45:
                return False
            label, dots, lower = at + 1, dots + 1, True
        elif 97 <= char <= 122 or char >= 0x80:
            lower = lower and True
        elif 65 <= char <= 90 or 48 <= char <= 57 or char == 95 or char == 45:
            if at == label and (char == 95 or char == 45):
                return False
            lower = False
        else:
            break
        at += 1
    if dots == 0 or not lower or at - label < 2:
        return False
    if at < end and data[at] == 58:
        at += 1
        while at < end and _is_digit(text, at):
            at += 1
    return at == end or data[at] == 47 or data[at] == 63 or data[at] == 35


@kernel
def _is_address(text: Text, begin: int, end: int) -> bool:
    """Whether a chunk is an address with a domain: it stays one word."""
    data, first, last, scheme = text.data, -1, -1, -1
    for at in range(begin, end):
        if data[at] == 64 and at > begin:
            first, last = at if first < 0 else first, at
        if data[at] == 58 and scheme < 0 and at + 2 < end and data[at + 1] == 47 and data[at + 2] == 47:
            scheme = at
    if _is_host(text, begin, end) or (scheme >= begin + 2 and _is_host(text, scheme + 3, end)):
        return True
    return first > 0 and (_is_host(text, first + 1, end) or _is_host(text, last + 1, end))


@kernel
def _core(text: Text, store: Store, count: Array, line: Array, begin: int, end: int) -> None:
    """What is left of a chunk between its affixes."""
    if end - begin <= 16:
        slot = special(text, hash_of(text.words, begin, end))
        if slot >= 0:
            pieces(text, store, count, line, begin, end, slot)
            return
    at, width = _infix(text, begin, begin, end)
    if width and not _is_address(text, begin, end):
        start = begin
        while width:
            if at > start:
                _word(text, store, count, line, start, at)
            _word(text, store, count, line, at, at + width)
            start = at + width
            at, width = _infix(text, begin, start, end)
        begin = start
    if begin < end:
        _word(text, store, count, line, begin, end)


@kernel
def affixed(text: Text, store: Store, count: Array, line: Array, begin: int, end: int) -> None:
    """A chunk with anything but letters, or digits, in it."""
    number = 0
    while begin < end and not _is_special(text, begin, end):
        prefix = _prefix(text, begin, end)
        if prefix and _is_special(text, begin + prefix, end):
            _word(text, store, count, line, begin, begin + prefix)
            begin += prefix
            break
        suffix = 0
        if begin + prefix < end and number < _MAX_SUFFIXES:
            suffix = _suffix(text, begin + prefix, end)
        if suffix:
            store.suffixes[number] = end
            number += 1
            if _is_special(text, begin, end - suffix):
                end -= suffix
                break
        if prefix + suffix == 0:
            break
        if prefix:
            _word(text, store, count, line, begin, begin + prefix)
        begin, end = begin + prefix, end - suffix
    if begin < end:
        _core(text, store, count, line, begin, end)
    for place in range(number - 1, -1, -1):
        _word(text, store, count, line, end, store.suffixes[place])
        end = store.suffixes[place]


@kernel
def unspaced(text: Text, store: Store, count: Array, line: Array, begin: int, end: int) -> int:
    """A chunk with characters that are units: each is a word, and so is each mark and each run of other letters; number of units."""
    at, units = begin, 0
    while at < end:
        start, (bits, size) = at, char(text, at)
        at += size
        kept = MARK if bits & UNIT else ALPHA | DIGIT | MARK
        if not bits & ODD:
            while at < end:
                more, size = char(text, at)
                if not more & kept or (more & UNIT and not bits & UNIT):
                    break
                at += size
        if bits & UNIT:
            units += 1
            count[UNMARKED_UNITS] += 1 if bits & UNMARKED else 0
        _word(text, store, count, line, start, at)
    count[UNITS] += units
    return units
