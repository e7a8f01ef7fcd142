"""The tokenizer, compiled: what is cut off both ends of a chunk and inside it, as spaCy's English tokenizer does.

A special chunk is tried first, then a prefix and a suffix at a time are cut off; of what remains, an address is one word, and
else infixes cut it. Left out: special chunks that only appear by cutting, most of them faces, `f(x):`; one chunk in a thousand.
A chunk with a character of a script without spaces is cut at each of its characters.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gyral.curate.text.characters import (
    AFFIX,
    ALPHA,
    CURRENCY,
    DIGIT,
    HYPHEN,
    ICON,
    LOWER,
    MARK,
    ODD,
    POINT_AFTER,
    PREFIX_ONLY,
    QUOTE,
    UNIT,
    UNMARKED,
    UPPER,
)
from gyral.curate.text.words_kernel import (
    MASKS,
    MIX,
    UNITS,
    UNMARKED_UNITS,
    Array,
    Store,
    Text,
    before,
    char,
    hash_of,
    is_digit,
    is_special,
    kernel_of_others,
    part,
    pieces,
    special,
    word,
)

MAX_SUFFIXES = 4096
"""Suffixes of a chunk beyond these stay with it, so that memory is bounded."""
_u64: Any = np.uint64


@part
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
    if first == 43 and not (begin + 1 < end and is_digit(text, begin + 1)):
        return 1
    if begin + 1 < end and data[begin + 1] == 36 and (first == 65 or first == 67):
        return 2
    return 3 if begin + 2 < end and first == 85 and data[begin + 1] == 83 and data[begin + 2] == 36 else 0


@part
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
        if bits_before & (LOWER | POINT_AFTER) or (at > begin and is_digit(text, previous)):
            return 1
        if bits_before & UPPER and previous > begin and char(text, before(text, previous, begin))[0] & UPPER:
            return 1
        return 0
    if (
        (last == 115 or last == 83)
        and (data[previous] == 39 or text.words[previous] & MASKS[3] == _u64(0x9980E2))
        and at > begin
    ):
        return end - previous
    if at > begin and is_digit(text, previous) and (last == 43 or last == 37 or bits & CURRENCY):
        return size
    if bits & ALPHA or last == 0xB2 or last == 0xB3:
        return _unit(text, begin, end)
    return 0


@kernel_of_others
def _unit(text: Text, begin: int, end: int) -> int:
    """Bytes of a unit of measure after a digit."""
    at = end - 1
    while at > begin and at > end - 6 and not is_digit(text, at):
        at -= 1
    if not is_digit(text, at):
        return 0
    size = end - at - 1
    return size if special(text, hash_of(text.words, at + 1, end) ^ MIX) >= 0 else 0


@kernel_of_others
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
            digit = at > begin and is_digit(text, at - 1)
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
            elif (
                digit
                and after < end
                and (is_digit(text, after) or data[after] == 45)
                and 0 < first < 95
                and (first == 43 or first == 45 or first == 42 or first == 94)
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


@kernel_of_others
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
        while at < end and is_digit(text, at):
            at += 1
    return at == end or data[at] == 47 or data[at] == 63 or data[at] == 35


@kernel_of_others
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


@part
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
                word(text, store, count, line, start, at)
            word(text, store, count, line, at, at + width)
            start = at + width
            at, width = _infix(text, begin, start, end)
        begin = start
    if begin < end:
        word(text, store, count, line, begin, end)


@part
def affixed(text: Text, store: Store, count: Array, line: Array, begin: int, end: int) -> None:
    """A chunk with anything but letters, or digits, in it."""
    number = 0
    while begin < end and not is_special(text, begin, end):
        prefix = _prefix(text, begin, end)
        if prefix and is_special(text, begin + prefix, end):
            word(text, store, count, line, begin, begin + prefix)
            begin += prefix
            break
        suffix = 0
        if begin + prefix < end and number < MAX_SUFFIXES:
            suffix = _suffix(text, begin + prefix, end)
        if suffix:
            store.suffixes[number] = end
            number += 1
            if is_special(text, begin, end - suffix):
                end -= suffix
                break
        if prefix + suffix == 0:
            break
        if prefix:
            word(text, store, count, line, begin, begin + prefix)
        begin, end = begin + prefix, end - suffix
    if begin < end:
        _core(text, store, count, line, begin, end)
    for place in range(number - 1, -1, -1):
        word(text, store, count, line, end, store.suffixes[place])
        end = store.suffixes[place]


@kernel_of_others
def unspaced(text: Text, store: Store, count: Array, line: Array, begin: int, end: int) -> int:
    """A chunk with units: each is a word, and so is each mark and each run of other letters. Returns the number of units."""
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
        word(text, store, count, line, start, at)
    count[UNITS] += units
    return units
