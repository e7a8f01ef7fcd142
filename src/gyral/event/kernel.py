"""The numba kernel that finds events in JSON: where each begins and ends, and where the value of each of its fields is.

It takes only what it is certain about, which is never more than msgspec takes: the strict grammar of JSON, UTF-8, known keys
once each, names without escapes. Of anything else its functions say `UNSURE`; times are for `filling` to read. Only `scan`
imports this, once it is worth it.

`words` has the uint64 that begins at each byte of `data`, so that eight bytes are looked at at once (SWAR). Bodies are followed
by zeros, which no rule takes: nothing reads past the end, and no function checks for it.

numba's cache of a function does not see changes in other files: functions that call each other are in one, and `scan` tries
what it has loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numba import njit

from gyral.event.scan import KEYS, Scanned
from gyral.event.schema import MAX_NAME_CHARS

PROPS, TIME = KEYS.index("props"), KEYS.index("event_time")
NULL, UNSURE = -1, -1
_REQUIRED_BITS = sum(1 << KEYS.index(name) for name in ("event_id", "event_time", "kind", "subject"))
_MAX_DEPTH = 60


def _words(texts: list[bytes]) -> tuple[Array, Array]:
    """Little-endian words of texts shorter than 8 bytes, and the masks that select as much of others; uint64."""
    words = [int.from_bytes(text, "little") for text in texts]
    return np.array(words, np.uint64), np.array([(1 << 8 * len(text)) - 1 for text in texts], np.uint64)


_QUOTED = [name.encode() + b'"' for name in KEYS]
_LENGTHS = np.array([len(text) for text in _QUOTED])
_FIRST, _FIRST_MASK = _words([text[:8] for text in _QUOTED])
_SECOND, _SECOND_MASK = _words([text[8:16] for text in _QUOTED])

_ONES, _HIGHS = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
_QUOTES, _SLASHES, _SPACES = _ONES * np.uint64(0x22), _ONES * np.uint64(0x5C), _ONES * np.uint64(0x20)
_PLACES = np.uint64(0x0001020304050607)
_SEVEN, _FIFTY_SIX, _ZERO = np.uint64(7), np.uint64(56), np.uint64(0)
_signed: Any = np.int64

BRACE, BRACE_END, BRACKET, BRACKET_END, QUOTE, SLASH, COMMA, COLON = b'{}[]"\\,:'
SPACE, TAB, NEWLINE, RETURN, DASH, PLUS, DOT, ZERO, NINE = b" \t\n\r-+.09"
LETTER_E, LETTER_N, LETTER_U = b"enu"
_TRUE, _FALSE, _NULL, _ESCAPES = (np.frombuffer(text, np.uint8) for text in (b"true", b"false", b"null", b'"\\/bfnrt'))

Array = np.ndarray
Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """Compile. Nothing is made in kernels, so nobody counts who refers to arrays, which took three quarters of the time."""
    options: dict[str, Any] = {"cache": True, "nogil": True, "_nrt": False}
    compiled: Function = njit(**options)(function)
    return compiled


@kernel
def find(words: Array, max_events: int, into: Scanned) -> int:
    """Rows found. Those of an odd body are given up: the next body's take their places."""
    row = 0
    for body in range(len(into.counts)):
        begin, end = into.bounds[body], into.bounds[body + 1] - 1
        limit = min(row + max_events, len(into.begins))
        if into.data[begin] == BRACKET:
            after = _array(words, begin, end, row, limit, into)
        else:
            after = _lines(words, begin, end, row, limit, into)
        into.counts[body] = after - row if after != UNSURE else UNSURE
        row = max(row, after)
    return row


@kernel
def _array(words: Array, at: int, last: int, row: int, limit: int, into: Scanned) -> int:
    """The row after those of an array that ends at `last`."""
    data = into.data
    at = _space(data, at + 1)
    if data[at] == BRACKET_END and at + 1 == last:
        return row
    while row < limit:
        at = _row(words, at, row, into)
        if at == UNSURE:
            return UNSURE
        row += 1
        at = _space(data, at)
        if data[at] != COMMA:
            return row if data[at] == BRACKET_END and at + 1 == last else UNSURE
        at = _space(data, at + 1)
    return UNSURE


@kernel
def _lines(words: Array, at: int, last: int, row: int, limit: int, into: Scanned) -> int:
    """The row after those of lines with an event each, whose white space is theirs."""
    data, first = into.data, at
    while row < limit:
        begin = at
        at = _row(words, at, row, into)
        if at == UNSURE:
            return UNSURE
        for place in range(begin, at):
            if data[place] == NEWLINE or data[place] == RETURN:
                return UNSURE
        while data[at] == SPACE or data[at] == TAB:
            at += 1
        if at < last and data[at] != NEWLINE and data[at] != RETURN:
            return UNSURE
        while begin > first and (data[begin - 1] == SPACE or data[begin - 1] == TAB):
            begin -= 1
        into.begins[row], into.ends[row] = begin, at
        row += 1
        at = _space(data, at)
        if at == last:
            return row
    return UNSURE


@kernel
def _row(words: Array, at: int, row: int, into: Scanned) -> int:
    """Read the object at `at`, surely or as odd, and return its end."""
    if into.data[at] != BRACE:
        return UNSURE
    end = _event(words, at, row, into)
    into.is_odd[row] = end == UNSURE
    if end == UNSURE:
        end = _value(into.data, words, at)
    into.begins[row], into.ends[row] = at, end
    return end


@kernel
def _event(words: Array, at: int, row: int, into: Scanned) -> int:
    data, seen, field = into.data, 0, -1
    into.lengths[row] = NULL
    at = _space(data, at + 1)
    while data[at] == QUOTE:
        field = _field(words, at + 1, field)
        if field == UNSURE or seen & (1 << field):
            return UNSURE
        seen |= 1 << field
        at = _space(data, at + 1 + _LENGTHS[field])
        if data[at] != COLON:
            return UNSURE
        at = _space(data, at + 1)
        start = at
        if data[at] == LETTER_N and not _REQUIRED_BITS >> field & 1:
            at = _literal(data, at, _NULL)
        elif field < PROPS:
            at = _name(data, words, at, field)
            into.starts[row, field], into.lengths[row, field] = start + 1, at - start - 2
        else:
            at = _value(data, words, at) if field == TIME or data[at] == BRACE else UNSURE
            into.starts[row, field], into.lengths[row, field] = start, at - start
        if at == UNSURE:
            return UNSURE
        at = _space(data, at)
        if data[at] == BRACE_END:
            return at + 1 if seen & _REQUIRED_BITS == _REQUIRED_BITS else UNSURE
        if data[at] != COMMA:
            return UNSURE
        at = _space(data, at + 1)
    return UNSURE


@kernel
def _field(words: Array, at: int, before: int) -> int:
    """Which key is at `at`, looked for from the one behind that of the field before: most events are like the last."""
    first, second = words[at], words[at + 8]
    for step in range(1, len(_LENGTHS) + 1):
        field = (before + step) % len(_LENGTHS)
        if first & _FIRST_MASK[field] == _FIRST[field] and second & _SECOND_MASK[field] == _SECOND[field]:
            return field
    return UNSURE


@kernel
def _name(data: Array, words: Array, at: int, field: int) -> int:
    """End of a quoted name without escapes, at most as many bytes as it may have characters."""
    if data[at] != QUOTE:
        return UNSURE
    end, has_escape = _text(data, words, at + 1)
    length = end - at - 2
    if end == UNSURE or has_escape or length > MAX_NAME_CHARS or (length == 0 and _REQUIRED_BITS >> field & 1):
        return UNSURE
    return end


@kernel
def _value(data: Array, words: Array, at: int) -> int:
    """End of any JSON value. The bits of `kinds` tell of each open bracket, the innermost first, whether it is of an object."""
    depth, kinds = 0, 0
    while True:
        at = _space(data, at)
        is_object = data[at] == BRACE
        if is_object or data[at] == BRACKET:
            if depth == _MAX_DEPTH:
                return UNSURE
            depth, kinds = depth + 1, kinds << 1 | is_object
            at = _space(data, at + 1)
            if data[at] != (BRACE_END if is_object else BRACKET_END):
                at = _key(data, words, at) if is_object else at
                if at == UNSURE:
                    return UNSURE
                continue
        else:
            at = _scalar(data, words, at)
            if at == UNSURE:
                return UNSURE
        while depth:
            at = _space(data, at)
            if data[at] == COMMA:
                at = _key(data, words, _space(data, at + 1)) if kinds & 1 else at + 1
                break
            if data[at] != (BRACE_END if kinds & 1 else BRACKET_END):
                return UNSURE
            at, depth, kinds = at + 1, depth - 1, kinds >> 1
        if depth == 0 or at == UNSURE:
            return at


@kernel
def _key(data: Array, words: Array, at: int) -> int:
    """Where the value of a key begins, or the white space before it."""
    if data[at] != QUOTE:
        return UNSURE
    at, _ = _text(data, words, at + 1)
    if at == UNSURE:
        return UNSURE
    at = _space(data, at)
    return at + 1 if data[at] == COLON else UNSURE


@kernel
def _scalar(data: Array, words: Array, at: int) -> int:
    byte = data[at]
    if byte == QUOTE:
        return _text(data, words, at + 1)[0]
    for literal in (_TRUE, _FALSE, _NULL):
        if byte == literal[0]:
            return _literal(data, at, literal)
    return _number(data, at)


@kernel
def _literal(data: Array, at: int, text: Array) -> int:
    for place in range(len(text)):
        if data[at + place] != text[place]:
            return UNSURE
    return at + len(text)


@kernel
def _number(data: Array, at: int) -> int:
    at += data[at] == DASH
    end = _digits(data, at)
    if end == at or (data[at] == ZERO and end > at + 1):
        return UNSURE
    if data[end] == DOT:
        at = end + 1
        end = _digits(data, at)
        if end == at:
            return UNSURE
    if data[end] | 0x20 == LETTER_E:
        at = end + 1
        at += data[at] == PLUS or data[at] == DASH
        end = _digits(data, at)
        if end == at:
            return UNSURE
    return end


@kernel
def _digits(data: Array, at: int) -> int:
    while ZERO <= data[at] <= NINE:
        at += 1
    return at


@kernel
def _space(data: Array, at: int) -> int:
    while data[at] <= SPACE and (data[at] == SPACE or data[at] == NEWLINE or data[at] == RETURN or data[at] == TAB):
        at += 1
    return at


@kernel
def _text(data: Array, words: Array, at: int) -> tuple[int, bool]:
    """Where a text that began before `at` ends, behind its quote, and whether it has escapes."""
    has_escape = False
    while True:
        at = _plain(words, at)
        byte = data[at]
        if byte == QUOTE:
            return at + 1, has_escape
        if byte == SLASH:
            has_escape = True
            at = _escape(data, at + 1)
        elif byte >= 0x80:
            at = _letter(data, at)
        else:
            return UNSURE, has_escape
        if at == UNSURE:
            return UNSURE, has_escape


@kernel
def _plain(words: Array, at: int) -> int:
    """The first byte from `at` on that is a quote, a backslash, below a space or not ASCII.

    Source: Anderson, Bit twiddling hacks, `haszero` and `hasless`, of which the lowest hit is exact.
    """
    while True:
        word = words[at]
        quote, slash = word ^ _QUOTES, word ^ _SLASHES
        hits = ((quote - _ONES) & ~quote | (slash - _ONES) & ~slash | (word - _SPACES) & ~word | word) & _HIGHS
        if hits != _ZERO:
            lowest = hits & (_ZERO - hits)
            first: int = at + _signed((lowest >> _SEVEN) * _PLACES >> _FIFTY_SIX)
            return first
        at += 8


@kernel
def _escape(data: Array, at: int) -> int:
    """End of an escape, of both halves where it is of a pair."""
    byte = data[at]
    if byte != LETTER_U:
        for known in _ESCAPES:
            if byte == known:
                return at + 1
        return UNSURE
    code = _hex(data, at + 1)
    if code == UNSURE or 0xDC00 <= code <= 0xDFFF:
        return UNSURE
    if code < 0xD800 or code > 0xDFFF:
        return at + 5
    if data[at + 5] != SLASH or data[at + 6] != LETTER_U:
        return UNSURE
    return at + 11 if 0xDC00 <= _hex(data, at + 7) <= 0xDFFF else UNSURE


@kernel
def _hex(data: Array, at: int) -> int:
    """The number of four hexadecimal digits."""
    code = 0
    for place in range(at, at + 4):
        byte = _signed(data[place])
        if ZERO <= byte <= NINE:
            code = code * 16 + byte - ZERO
        elif 0x61 <= byte | 0x20 <= 0x66:
            code = code * 16 + (byte | 0x20) - 0x57
        else:
            return UNSURE
    return code


@kernel
def _letter(data: Array, at: int) -> int:
    """End of a character of two to four bytes in UTF-8: the shortest form, no surrogates, up to U+10FFFF."""
    first, second = data[at], data[at + 1]
    if 0xC2 <= first <= 0xDF:
        size, low, high = 2, 0x80, 0xBF
    elif 0xE0 <= first <= 0xEF:
        size, low, high = 3, 0xA0 if first == 0xE0 else 0x80, 0x9F if first == 0xED else 0xBF
    elif 0xF0 <= first <= 0xF4:
        size, low, high = 4, 0x90 if first == 0xF0 else 0x80, 0x8F if first == 0xF4 else 0xBF
    else:
        return UNSURE
    if not low <= second <= high:
        return UNSURE
    for place in range(at + 2, at + size):
        if not 0x80 <= data[place] <= 0xBF:
            return UNSURE
    return at + size
