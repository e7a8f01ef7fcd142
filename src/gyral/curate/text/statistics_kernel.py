"""The kernel that reads texts once: counts of words and lines, what C4's line rules cut, what is left for FineWeb's rules.

C4 looks at each line as stripped of space, and without citations if there are any: it is then copied behind the texts and read
again. A line that is cut takes the blank lines behind it along. The hashes of lines and paragraphs are kept for
`repetition_kernel`, which finds those that are equal.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gyral.curate.text.characters import ALPHA, BREAK, CURLY, DIGIT, ODD, SPACE, SQUARE, TERMINAL, UNIT, WIDE
from gyral.curate.text.counts import MAX_LINES, MAX_WORDS
from gyral.curate.text.words_kernel import (
    BASE, BULLETS, CHARS, CHUNKS, CUM, CURLY_LINES, ELLIPSES, ELLIPSIS_LINES, FEW_LINES, FIRST, FLAGS, HASHES, JAVASCRIPT_LINES,
    LAST, LEFT_BREAKS, LEFT_CHARS, LEFT_LINES, LEFT_SHORT, LEFT_TERMINAL, LEFT_WORDS, LINES, LONG_LINES, LONGEST, LOREM_LINES,
    CLEAN_BEGIN, CLEAN_END, MASKS, OPEN_LINES, POLICY_LINES, SEEN, SENTENCES, STARTS, STOPS, STOP_WORDS, STORE, WORDS, Array, Store, Text, affixed,
    before, char, chars_of, hash_of, kernel, pieces, put, special, unspaced,
)  # fmt: skip

WORDS_KERNEL = "cf5bb99ef23d1fe970a07edb06d3fd86"
"""MD5 of `words_kernel.py`: numba must compile this file again when that one changes, and goes by this file's bytes."""
JAVASCRIPT, LOREM, POLICY = 1 << 28, 1 << 29, 1 << 30
TEXT_LINES, PARAGRAPHS, LEFT, CUTS = range(4)
_EDIT, _NEEDED = np.frombuffer(b"[edit]", np.uint8), np.frombuffer(b"[citation needed]", np.uint8)
_u64: Any = np.uint64
_LOWERED = np.uint64(0x2020202020202020)
_POLI, _COOK, _IPSU, _USE, _POLICY, _PRIVACY, _COOKIE, _COOKIES, _USE_OF, _USES, _TERMS_OF, _LOREM, _JAVASCRI, _PT = (
    np.uint64(int.from_bytes(letters, "little"))
    for letters in (
        b"poli", b"cook", b"ipsu", b"use ", b"policy", b"privacy ", b"cookie ", b"cookies", b"use of ", b"uses ", b"terms of",
        b"lorem ", b"javascri", b"pt",
    )
)  # fmt: skip


class Settings(NamedTuple):
    """What the counts depend on: whether lines are cut at all, and by which rules; -1 switches off a rule with a number."""

    cut_lines: bool
    terminal: bool
    min_words: int
    max_word: int
    citations: bool
    javascript: bool
    policy: bool
    short: int


class Lists(NamedTuple):
    """Lines of texts [3: text lines, paragraphs, lines left]: hashes uint64, characters int32; the bytes that are cut, int32; where the
    lines of each kind and the cuts of each text begin [texts + 1, 4]."""

    hashes: Array
    chars: Array
    cuts: Array
    bounds: Array


@kernel
def read(
    text: Text, bounds: Array, languages: Array, settings: Settings, store: Store, word_bounds: Array, lists: Lists, counts: Array,
    line: Array, again: Array, clean_count: Array, places: Array,
) -> None:  # fmt: skip
    """Count what is in the texts of the bytes, of which k is at [bounds[k], bounds[k + 1]), into row k of `counts`, int64."""
    for row in range(len(bounds) - 1):
        count, begin, end = counts[row], bounds[row], bounds[row + 1]
        _note(lists, row, places)
        word_bounds[row] = line[BASE]
        line[STORE], line[STOPS] = 2 + languages[row], 0
        count[CHARS] = chars_of(text.data, begin, end)
        _paragraphs(text, begin, end, lists, places)
        _lines(text, begin, end, bounds[-1] + 64, settings, store, lists, places, count, line, again, clean_count)
        while line[STOPS]:
            line[STOPS] &= line[STOPS] - 1
            count[STOP_WORDS] += 1
        line[BASE] += min(count[WORDS], MAX_WORDS)
    _note(lists, len(bounds) - 1, places)
    word_bounds[len(bounds) - 1] = line[BASE]


@kernel
def _note(lists: Lists, row: int, places: Array) -> None:
    for kind in range(4):
        lists.bounds[row, kind] = places[kind]


@kernel
def _push(text: Text, lists: Lists, places: Array, row: int, first: int, begin: int, end: int) -> int:
    """Keep a line or paragraph; its characters."""
    chars = chars_of(text.data, begin, end)
    if places[row] - first < MAX_LINES:
        lists.hashes[row, places[row]] = hash_of(text.words, begin, end)
        lists.chars[row, places[row]] = chars
        places[row] += 1
    return chars


@kernel
def _paragraphs(text: Text, begin: int, end: int, lists: Lists, places: Array) -> None:
    """Keep what stands between two line feeds or more, within the text without space around it."""
    first = places[PARAGRAPHS]
    while begin < end:
        bits, size = char(text, begin)
        if not bits & SPACE:
            break
        begin += size
    while end > begin and char(text, before(text, end, begin))[0] & SPACE:
        end = before(text, end, begin)
    start = begin
    for at in range(begin, end):
        if text.data[at] == 10 and text.data[at + 1] == 10 and at >= start:
            _push(text, lists, places, PARAGRAPHS, first, start, at)
            start = at
            while text.data[start] == 10:
                start += 1
    _push(text, lists, places, PARAGRAPHS, first, start, end)


@kernel
def _lines(
    text: Text, begin: int, end: int, scratch: int, settings: Settings, store: Store, lists: Lists, places: Array,
    count: Array, line: Array, again: Array, clean_count: Array,
) -> None:  # fmt: skip
    """Count what is in a text line by line: `at` goes through lines of any break, `start` through those of line feeds."""
    data, at, start, blank, cut_begin, kept = text.data, begin, begin, True, -1, 0
    first, first_left = places[TEXT_LINES], places[LEFT]
    while at < end:
        line_begin, words = at, count[WORDS]
        at = _read_line(text, store, count, line, at, end)
        count[LINES] += 1
        if line[FIRST] >= 0:
            blank = False
            _marks(data, count, line)
            if settings.cut_lines and _keep(text, settings, scratch, store, count, line, again, clean_count, words):
                kept += 1
                _left(text, settings, lists, places, first_left, count, again[CLEAN_BEGIN], again[CLEAN_END])
                if cut_begin >= 0:
                    _cut(lists, places, cut_begin - begin, line_begin - begin)
                    cut_begin = -1
            elif settings.cut_lines and cut_begin < 0:
                cut_begin = line_begin
        if at < end:
            at += 1 if data[at] == 13 and at + 1 < end and data[at + 1] == 10 else 0
            if data[at] == 10:
                count[LEFT_BREAKS] += 1
                if at > start or at == begin:
                    _push(text, lists, places, TEXT_LINES, first, start, at)
                if not blank and not settings.cut_lines:
                    _left(text, settings, lists, places, first_left, count, start, at)
                start, blank = at + 1, True
            at += char(text, at)[1]
    _push(text, lists, places, TEXT_LINES, first, start, end)
    if cut_begin >= 0:
        _cut(lists, places, cut_begin - begin, end - begin)
    if settings.cut_lines:
        count[LEFT_BREAKS] = max(kept - 1, 0)
        return
    if not blank:
        _left(text, settings, lists, places, first_left, count, start, end)
    count[LEFT_WORDS], count[LEFT_CHARS] = count[WORDS], count[CHARS] - count[LEFT_BREAKS]


@kernel
def _cut(lists: Lists, places: Array, begin: int, end: int) -> None:
    lists.cuts[places[CUTS]], lists.cuts[places[CUTS] + 1] = begin, end
    places[CUTS] += 2


@kernel
def _marks(data: Array, count: Array, line: Array) -> None:
    """Bullets at its begin and ellipses at its end."""
    first, last = line[FIRST], line[LAST]
    bullet = data[first] == 0xE2 and data[first + 1] == 0x80 and data[first + 2] == 0xA2
    count[BULLETS] += data[first] == 45 or bullet
    if last - first >= 3:
        dots = data[last - 1] == 46 and data[last - 2] == 46 and data[last - 3] == 46
        count[ELLIPSIS_LINES] += dots or (data[last - 3] == 0xE2 and data[last - 2] == 0x80 and data[last - 1] == 0xA6)


@kernel
def _keep(
    text: Text, settings: Settings, scratch: int, store: Store, count: Array, line: Array, again: Array, clean_count: Array,
    words: int,
) -> bool:  # fmt: skip
    """Whether C4 keeps the line, and then its sentences and words; where it is, without citations, is left in `again`."""
    if settings.max_word >= 0 and line[LONGEST] > settings.max_word:
        count[LONG_LINES] += 1
        return False
    begin, end, words, starts, flags, blank = line[FIRST], line[LAST], count[WORDS] - words, line[STARTS], line[FLAGS], False
    if settings.citations and flags & SQUARE:
        clean = _without_citations(text.data, begin, end, scratch)
        if clean - scratch < end - begin:
            clean_count[:] = 0
            _read_line(text, store, clean_count, again, scratch, clean)
            begin, end, words, starts, flags = scratch, clean, clean_count[WORDS], again[STARTS], again[FLAGS]
            blank = again[FIRST] < 0
    if settings.terminal and not _is_closed(text, begin, end):
        count[OPEN_LINES] += 1
        return False
    if line[CHUNKS] < settings.min_words:
        count[FEW_LINES] += 1
        return False
    count[LOREM_LINES] += flags & LOREM != 0
    if settings.javascript and flags & JAVASCRIPT:
        count[JAVASCRIPT_LINES] += 1
        return False
    count[CURLY_LINES] += flags & CURLY != 0
    if settings.policy and flags & POLICY:
        count[POLICY_LINES] += 1
        return False
    count[SENTENCES] += starts + 1
    count[LEFT_WORDS] += words
    count[LEFT_CHARS] += chars_of(text.data, begin, end)
    again[CLEAN_BEGIN], again[CLEAN_END] = begin, begin if blank else end
    return True


@kernel
def _is_closed(text: Text, begin: int, end: int) -> bool:
    """Whether a line ends with a terminal mark, or a quotation mark as those of C4, but not with an ellipsis."""
    data = text.data
    if end <= begin or (end - begin >= 3 and data[end - 1] == 46 and data[end - 2] == 46 and data[end - 3] == 46):
        return False
    return data[end - 1] == 34 or data[end - 1] == 39 or char(text, before(text, end, begin))[0] & TERMINAL != 0


@kernel
def _without_citations(data: Array, begin: int, end: int, to: int) -> int:
    """Copy bytes but for `[1]`, `[]`, `[edit]` and `[citation needed]`; where the copy ends, which zeros follow."""
    at = begin
    while at < end:
        size = 0
        if data[at] == 91:
            close = at + 1
            while close < end and 48 <= data[close] <= 57:
                close += 1
            if close < end and data[close] == 93:
                size = close + 1 - at
            elif _is_at(data, at, end, _EDIT):
                size = len(_EDIT)
            elif _is_at(data, at, end, _NEEDED):
                size = len(_NEEDED)
        if size:
            at += size
            continue
        data[to] = data[at]
        at, to = at + 1, to + 1
    data[to : to + 16] = 0
    return to


@kernel
def _is_at(data: Array, at: int, end: int, pattern: Array) -> bool:
    if at + len(pattern) > end:
        return False
    for place in range(len(pattern)):
        if data[at + place] != pattern[place]:
            return False
    return True


@kernel
def _left(text: Text, settings: Settings, lists: Lists, places: Array, first: int, count: Array, begin: int, end: int) -> None:
    """Count a line that is left, unless it is blank, for FineWeb's rules."""
    if begin == end:
        return
    chars = _push(text, lists, places, LEFT, first, begin, end)
    count[LEFT_LINES] += 1
    count[LEFT_TERMINAL] += char(text, before(text, end, begin))[0] & TERMINAL != 0
    if chars <= settings.short:
        at = begin
        while at < end and chars < end - begin:
            bits, size = char(text, at)
            chars += 1 if bits & WIDE else 0
            at += size
        count[LEFT_SHORT] += chars <= settings.short


@kernel
def _matches(text: Text, at: int, pattern: Any, size: int) -> bool:
    """Whether at most eight letters, in any case, or spaces stand at a byte."""
    return (text.words[at] | _LOWERED) & MASKS[size] == pattern


@kernel
def _phrases(text: Text, line_begin: int, begin: int, end: int) -> int:
    """C4's phrases whose last word begins with this chunk, or that are in it."""
    found, room = 0, begin - line_begin
    if room >= 4:
        first = (text.words[begin] | _LOWERED) & MASKS[4]
        if first == _POLI and _matches(text, begin, _POLICY, 6):
            if (room >= 8 and _matches(text, begin - 8, _PRIVACY, 8)) or (room >= 7 and _matches(text, begin - 7, _COOKIE, 7)):
                found = POLICY
        elif first == _COOK and _matches(text, begin, _COOKIES, 7):
            if _matches(text, begin - 4, _USE, 4) or (room >= 7 and _matches(text, begin - 7, _USE_OF, 7)):
                found = POLICY
            elif room >= 5 and _matches(text, begin - 5, _USES, 5):
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


@kernel
def _read_line(text: Text, store: Store, count: Array, line: Array, at: int, end: int) -> int:
    """Count the words of a line that begins at a byte, and say where it ends: at a line break or the end of the text."""
    line[CHUNKS:CLEAN_BEGIN] = 0
    line_begin, line[FIRST], line[LAST] = at, -1, at
    while at < end:
        bits, size = char(text, at)
        if bits & SPACE:
            if bits & BREAK:
                break
            at += size
            continue
        begin, some, every, chars = at, 0, -1, 0
        while not bits & SPACE:
            some, every, chars, at = some | bits, every & bits, chars + 1, at + size
            if at >= end:
                break
            bits, size = char(text, at)
        at = min(at, end)
        if line[FIRST] < 0:
            line[FIRST] = begin
        line[LAST] = at
        line[FLAGS] |= some | _phrases(text, line_begin, begin, at)
        line[CHUNKS] += 1
        units = 0
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


@kernel
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
