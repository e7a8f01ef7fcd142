"""The kernel that reads texts once: counts of words and lines, what C4's line rules cut, what is left for FineWeb's rules.

C4 looks at each line as stripped of space, and without citations if there are any: it is then copied behind the texts and read
again. A line that is cut takes the blank lines behind it along. The hashes of lines and paragraphs are kept for
`repetition_kernel`, which finds those that are equal.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gyral.curate.text.characters import (
    CURLY,
    SPACE,
    SQUARE,
    TERMINAL,
    WIDE,
)
from gyral.curate.text.counts import MAX_LINES, MAX_WORDS
from gyral.curate.text.tokenize_kernel import (
    JAVASCRIPT,
    LOREM,
    POLICY,
    read_line,
)
from gyral.curate.text.words_kernel import (
    BASE,
    BULLETS,
    CHARS,
    CHUNKS,
    CLEAN_BEGIN,
    CLEAN_END,
    CURLY_LINES,
    ELLIPSIS_LINES,
    FEW_LINES,
    FIRST,
    FLAGS,
    JAVASCRIPT_LINES,
    LAST,
    LEFT_BREAKS,
    LEFT_CHARS,
    LEFT_LINES,
    LEFT_SHORT,
    LEFT_TERMINAL,
    LEFT_WORDS,
    LINES,
    LONG_LINES,
    LONGEST,
    LOREM_LINES,
    OPEN_LINES,
    POLICY_LINES,
    SENTENCES,
    STARTS,
    STOP_WORDS,
    STOPS,
    STORE,
    WORDS,
    Array,
    Store,
    Text,
    before,
    char,
    chars_of,
    hash_of,
    kernel,
    kernel_of_others,
    part,
)

TOKENIZER = "a3720a23189d0e4eb984c545dec13218"
"""MD5 of the files of the tokenizer: numba compiles `read` again when this file changes, and looks at no other."""
TEXT_LINES, PARAGRAPHS, LEFT, CUTS = range(4)
_EDIT, _NEEDED = np.frombuffer(b"[edit]", np.uint8), np.frombuffer(b"[citation needed]", np.uint8)


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
    """Lines of texts [3: text lines, paragraphs, lines left]: hashes uint64, characters int32; the bytes that are cut, int32;
    where the lines of each kind and the cuts of each text begin [texts + 1, 4]."""

    hashes: Array
    chars: Array
    cuts: Array
    bounds: Array


@kernel
def read(
    text: Text, bounds: Array, languages: Array, settings: Settings, store: Store, word_bounds: Array, lists: Lists,
    counts: Array, line: Array, again: Array, clean_count: Array, places: Array,
) -> None:  # fmt: skip
    """Count what is in the texts of the bytes, of which k is at [bounds[k], bounds[k + 1]), into row k of `counts`, int64."""
    for row in range(len(bounds) - 1):
        count, begin, end = counts[row], bounds[row], bounds[row + 1]
        _note(lists, row, places)
        word_bounds[row] = line[BASE]
        line[STORE], line[STOPS] = 2 + languages[row], 0
        count[CHARS] = chars_of(text.words, begin, end)
        _lines(text, begin, end, bounds[-1] + 64, settings, store, lists, places, count, line, again, clean_count)
        while line[STOPS]:
            line[STOPS] &= line[STOPS] - 1
            count[STOP_WORDS] += 1
        line[BASE] += min(count[WORDS], MAX_WORDS)
    _note(lists, len(bounds) - 1, places)
    word_bounds[len(bounds) - 1] = line[BASE]


@part
def _note(lists: Lists, row: int, places: Array) -> None:
    for kind in range(4):
        lists.bounds[row, kind] = places[kind]


@kernel_of_others
def _push(text: Text, lists: Lists, places: Array, row: int, first: int, begin: int, end: int) -> int:
    """Keep a line or paragraph; its characters."""
    chars = chars_of(text.words, begin, end)
    if places[row] - first < MAX_LINES:
        lists.hashes[row, places[row]] = hash_of(text.words, begin, end)
        lists.chars[row, places[row]] = chars
        places[row] += 1
    return chars


@kernel_of_others
def _stripped(text: Text, begin: int, end: int) -> tuple[int, int]:
    """A range without the space around it."""
    while begin < end:
        bits, size = char(text, begin)
        if not bits & SPACE:
            break
        begin += size
    while end > begin and char(text, before(text, end, begin))[0] & SPACE:
        end = before(text, end, begin)
    return begin, end


@part
def _lines(
    text: Text, begin: int, end: int, scratch: int, settings: Settings, store: Store, lists: Lists, places: Array,
    count: Array, line: Array, again: Array, clean_count: Array,
) -> None:  # fmt: skip
    """Count what is in a text line by line: `at` goes through lines of any break, `start` through those of line feeds."""
    data, at, start, blank, cut_begin, kept = text.data, begin, begin, True, -1, 0
    first, first_left, first_paragraph = places[TEXT_LINES], places[LEFT], places[PARAGRAPHS]
    paragraph, last = _stripped(text, begin, end)
    while at < end:
        line_begin, words = at, count[WORDS]
        at = read_line(text, store, count, line, at, end)
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
                if paragraph <= at < last and data[at + 1] == 10:
                    _push(text, lists, places, PARAGRAPHS, first_paragraph, paragraph, at)
                    paragraph = at
                    while data[paragraph] == 10:
                        paragraph += 1
                start, blank = at + 1, True
            at += char(text, at)[1]
    _push(text, lists, places, TEXT_LINES, first, start, end)
    _push(text, lists, places, PARAGRAPHS, first_paragraph, paragraph, last)
    if cut_begin >= 0:
        _cut(lists, places, cut_begin - begin, end - begin)
    if settings.cut_lines:
        count[LEFT_BREAKS] = max(kept - 1, 0)
        return
    if not blank:
        _left(text, settings, lists, places, first_left, count, start, end)
    count[LEFT_WORDS], count[LEFT_CHARS] = count[WORDS], count[CHARS] - count[LEFT_BREAKS]


@part
def _cut(lists: Lists, places: Array, begin: int, end: int) -> None:
    lists.cuts[places[CUTS]], lists.cuts[places[CUTS] + 1] = begin, end
    places[CUTS] += 2


@part
def _marks(data: Array, count: Array, line: Array) -> None:
    """Bullets at its begin and ellipses at its end."""
    first, last = line[FIRST], line[LAST]
    bullet = data[first] == 0xE2 and data[first + 1] == 0x80 and data[first + 2] == 0xA2
    count[BULLETS] += data[first] == 45 or bullet
    if last - first >= 3:
        dots = data[last - 1] == 46 and data[last - 2] == 46 and data[last - 3] == 46
        count[ELLIPSIS_LINES] += dots or (data[last - 3] == 0xE2 and data[last - 2] == 0x80 and data[last - 1] == 0xA6)


@part
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
            read_line(text, store, clean_count, again, scratch, clean)
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
    count[LEFT_CHARS] += chars_of(text.words, begin, end)
    again[CLEAN_BEGIN], again[CLEAN_END] = begin, begin if blank else end
    return True


@kernel_of_others
def _is_closed(text: Text, begin: int, end: int) -> bool:
    """Whether a line ends with a terminal mark, or a quotation mark as those of C4, but not with an ellipsis."""
    data = text.data
    if end <= begin or (end - begin >= 3 and data[end - 1] == 46 and data[end - 2] == 46 and data[end - 3] == 46):
        return False
    return data[end - 1] == 34 or data[end - 1] == 39 or char(text, before(text, end, begin))[0] & TERMINAL != 0


@kernel_of_others
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


@kernel_of_others
def _is_at(data: Array, at: int, end: int, pattern: Array) -> bool:
    if at + len(pattern) > end:
        return False
    same = True
    for place in range(len(pattern)):
        same &= data[at + place] == pattern[place]
    return same


@part
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
