"""The tokenizer, compiled: a line of bytes → words, close to those of spaCy's English.

A line is read chunk by chunk (what stands between spaces). Most chunks are up to fifteen letters, which are found eight bytes
at once, maybe between marks that are words of their own, and become words right here; `affixes_kernel` cuts the others. C4's
phrases are looked for where a chunk begins with the last word of one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gyral.curate.text.affixes_kernel import (
    affixed,
    unspaced,
)
from gyral.curate.text.characters import (
    AFFIX,
    ALPHA,
    BREAK,
    DIGIT,
    ODD,
    SPACE,
    UNIT,
)
from gyral.curate.text.words_kernel import (
    CHUNKS,
    CLEAN_BEGIN,
    ELLIPSES,
    FIFTY_SIX,
    FIRST,
    FLAGS,
    HASHES,
    LAST,
    LONGEST,
    MASKS,
    SEVEN,
    Array,
    Store,
    Text,
    char,
    hash_of,
    kernel_of_others,
    part,
    pieces,
    put,
    special,
)

JAVASCRIPT, LOREM, POLICY = 1 << 28, 1 << 29, 1 << 30
"""Bits of a line beside those of its characters."""
_ONE = np.uint64(1)
_HIGHS, _SEVENS = np.uint64(0x8080808080808080), np.uint64(0x7F7F7F7F7F7F7F7F)
_FROM_A, _OVER_Z = np.uint64(0x1F1F1F1F1F1F1F1F), np.uint64(0x0505050505050505)
"""Added to a byte below 128 they reach 128 from `a` on and after `z`."""
_PLACES = np.uint64(0x0001020304050607)
_i64: Any = np.int64
_u64: Any = np.uint64
_LOWERED = np.uint64(0x2020202020202020)
_POLI, _COOK, _IPSU, _USE, _POLICY, _PRIVACY, _COOKIE, _COOKIES, _USE_OF, _USES, _TERMS_OF, _LOREM, _JAVASCRI, _PT = (
    np.uint64(int.from_bytes(letters, "little"))
    for letters in (
        b"poli", b"cook", b"ipsu", b"use ", b"policy", b"privacy ", b"cookie ", b"cookies", b"use of ", b"uses ", b"terms of",
        b"lorem ", b"javascri", b"pt",
    )
)  # fmt: skip


@part
def _letters(word: Any) -> int:
    """ASCII letters before anything else in eight bytes."""
    lower = word | _LOWERED
    ascii_lower = lower & _SEVENS
    other = (ascii_lower + _OVER_Z) | ~(ascii_lower + _FROM_A) | lower
    other &= _HIGHS
    return _i64((((other & (~other + _ONE)) >> SEVEN) * _PLACES) >> FIFTY_SIX) if other else 8


@kernel_of_others
def read_line(text: Text, store: Store, count: Array, line: Array, at: int, end: int) -> int:
    """Count the words of a line that begins at a byte, and say where it ends: at a line break or the end of the text."""
    line[CHUNKS:CLEAN_BEGIN] = 0
    data, line_begin, line[FIRST], line[LAST] = text.data, at, -1, at
    while at < end:
        begin, letters = at, _letters(text.words[at])
        if letters == 8:
            letters += _letters(text.words[at + 8])
        after = at + letters
        if letters and (after == end or (after < end and (data[after] == 32 or data[after] == 10))):
            at = after
            key = hash_of(text.words, begin, at)
            slot = special(text, key) if letters <= 9 else -1
            if slot >= 0:
                pieces(text, store, count, line, begin, at, slot)
            else:
                put(text, store, count, line, key, letters, ALPHA, 0)
            line[LONGEST] = max(line[LONGEST], letters)
        else:
            bits, size = char(text, at)
            if bits & SPACE:
                if bits & BREAK:
                    break
                at += size
                continue
            at = _read_simple(text, store, count, line, at, end)
            if at == begin:
                at = _read_chunk(text, store, count, line, at, end)
        line[FIRST] = begin if line[FIRST] < 0 else line[FIRST]
        line[LAST] = at
        line[FLAGS] |= _phrases(text, line_begin, begin, at)
        line[CHUNKS] += 1
        at += at < end and data[at] == 32
    return at


@part
def _read_simple(text: Text, store: Store, count: Array, line: Array, begin: int, end: int) -> int:
    """Count the words of a chunk of at most fifteen letters between marks that are words of their own, `(word),`, and say where
    it ends; or `begin` if it is not surely such a chunk, and then nothing is counted."""
    data, bits, first = text.data, text.bits, begin
    while first < end and first < begin + 4 and data[first] < 128 and bits[data[first]] & AFFIX:
        if data[first] == 39 or data[first] == 58 or data[first] == 59:  # 's and :D are one word
            return begin
        first += 1
    letters = _letters(text.words[first])
    if letters == 8:
        letters += _letters(text.words[first + 8])
    last = first + letters
    after = last
    if letters == 0 or letters == 16:
        return begin
    if after < end and data[after] == 46:
        if data[after - 1] < 97 or (letters < 9 and special(text, hash_of(text.words, first, after + 1)) >= 0):
            return begin
        after += 1
    while after < end and after < last + 4 and data[after] < 128 and bits[data[after]] & AFFIX and data[after] != 39:
        after += 1
    if after > end or (after < end and data[after] != 32 and data[after] != 10):
        return begin
    for place in range(begin, first):
        _put_mark(text, store, count, line, place)
    key = hash_of(text.words, first, last)
    slot = special(text, key) if letters <= 9 else -1
    if slot >= 0:
        pieces(text, store, count, line, first, last, slot)
    else:
        put(text, store, count, line, key, letters, ALPHA, 0)
    for place in range(last, after):
        _put_mark(text, store, count, line, place)
    line[LONGEST] = max(line[LONGEST], after - begin)
    return after


@part
def _put_mark(text: Text, store: Store, count: Array, line: Array, at: int) -> None:
    """Take an ASCII mark as a word."""
    bits = _i64(text.bits[text.data[at]])
    line[FLAGS] |= bits
    count[HASHES] += text.data[at] == 35
    put(text, store, count, line, hash_of(text.words, at, at + 1), 1, bits, bits)


@part
def _read_chunk(text: Text, store: Store, count: Array, line: Array, begin: int, end: int) -> int:
    """Count the words of a chunk of any characters, and say where it ends."""
    at, some, every, chars, units = begin, 0, -1, 0, 0
    while at < end:
        bits, size = char(text, at)
        if bits & SPACE:
            break
        some, every, chars, at = some | bits, every & bits, chars + 1, at + size
    at = min(at, end)
    line[FLAGS] |= some
    if not some & (ODD | UNIT) and not (some & DIGIT and some & ALPHA):
        key = hash_of(text.words, begin, at)
        slot = special(text, key) if at - begin <= 9 else -1
        if slot >= 0:
            pieces(text, store, count, line, begin, at, slot)
        else:
            put(text, store, count, line, key, chars, some, every)
    else:
        _signs(text, count, begin, at)
        if some & UNIT:
            units = unspaced(text, store, count, line, begin, at)
            line[CHUNKS] += max(units - 1, 0)
        else:
            affixed(text, store, count, line, begin, at)
    line[LONGEST] = max(line[LONGEST], chars - units)
    return at


@part
def _signs(text: Text, count: Array, begin: int, end: int) -> None:
    """Count number signs and ellipses."""
    dots = 0
    for at in range(begin, end):
        char = text.data[at]
        dots = dots + 1 if char == 46 else 0
        if dots == 3:
            count[ELLIPSES] += 1
            dots = 0
        elif char == 35:
            count[HASHES] += 1
        elif char == 0xE2 and text.words[at] & MASKS[3] == _u64(0xA680E2):
            count[ELLIPSES] += 1


@part
def _matches(text: Text, at: int, pattern: Any, size: int) -> bool:
    """Whether at most eight letters, in any case, or spaces stand at a byte."""
    return bool((text.words[at] | _LOWERED) & MASKS[size] == pattern)


@part
def _phrases(text: Text, line_begin: int, begin: int, end: int) -> int:
    """C4's phrases whose last word begins with this chunk, or that are in it."""
    found, room = 0, begin - line_begin
    if room >= 4:
        first = (text.words[begin] | _LOWERED) & MASKS[4]
        if first == _POLI and _matches(text, begin, _POLICY, 6):
            if (room >= 8 and _matches(text, begin - 8, _PRIVACY, 8)) or (room >= 7 and _matches(text, begin - 7, _COOKIE, 7)):
                found = POLICY
        elif first == _COOK and _matches(text, begin, _COOKIES, 7):
            used = _matches(text, begin - 4, _USE, 4) or (room >= 5 and _matches(text, begin - 5, _USES, 5))
            if used or (room >= 7 and _matches(text, begin - 7, _USE_OF, 7)):
                found = POLICY
        elif first & MASKS[3] == _USE & MASKS[3]:
            if room >= 9 and _matches(text, begin - 9, _TERMS_OF, 8) and text.data[begin - 1] == 32:
                found = POLICY
        elif first == _IPSU and text.data[begin + 4] | 32 == 109 and room >= 6 and _matches(text, begin - 6, _LOREM, 6):
            found = LOREM
    for at in range(begin, end - 9):
        if _matches(text, at, _JAVASCRI, 8) and _matches(text, at + 8, _PT, 2):
            found |= JAVASCRIPT
    return found
