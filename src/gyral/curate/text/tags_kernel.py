"""Parts of the tokenizer of HTML: elements by number, references to characters, words of attributes."""

from __future__ import annotations

import numpy as np
from numba import njit


def names(text: str) -> list[str]:
    """Names parted by blanks."""
    return text.split()


BLOCK_TAGS = names(
    "body div p section article main aside header footer nav ul ol li dl dt dd table tbody thead tfoot tr td th caption h1 "
    "h2 h3 h4 h5 h6 blockquote pre figure figcaption form fieldset legend details summary address center menu hgroup button "
    "html head"
)
INLINE_TAGS = names("a span time small b strong em i label")
SKIP_TAGS = names(
    "script style noscript svg template textarea title iframe select math object canvas audio video noframes noembed"
)
BREAK_TAGS = ["br", "hr"]
TAGS = ["", *BLOCK_TAGS, "custom", *INLINE_TAGS, *SKIP_TAGS, *BREAK_TAGS]
"""Names of elements by their number; 0 is any other, which leaves no trace; `custom` is every name with a hyphen."""

TAG = {name: number for number, name in enumerate(TAGS)}
BUCKETS = 1 << 14
"""Numbers that words of attributes are hashed to; the first few are `HIDDEN`."""
HIDDEN = 4


def packed(name: str) -> int:
    """The first eight bytes of a name as one number, the first lowest."""
    return int.from_bytes(name.encode()[:8], "little")


def _table(entries: dict[int, int], size: int) -> tuple[np.ndarray, np.ndarray]:
    keys, values = np.zeros(size, np.uint64), np.zeros(size, np.int32)
    for key, value in entries.items():
        slot = ((key * 0x9E3779B97F4A7C15) & (2**64 - 1)) >> 40 & (size - 1)
        while keys[slot]:
            slot = (slot + 1) & (size - 1)
        keys[slot], values[slot] = key, value
    return keys, values


def _references() -> dict[int, int]:
    """Named references of one character, `;` dropped: its number, plus 2^24 where the standard wants the `;`."""
    from html.entities import html5

    found: dict[int, int] = {}
    for name, value in html5.items():
        plain = name.rstrip(";")
        if len(value) == 1 and len(plain) <= 8 and len(value.encode()) <= len(plain) + 1:
            found[packed(plain)] = min(found.get(packed(plain), 2**30), ord(value) + (name.endswith(";") << 24))
    return found


TAG_KEYS, TAG_VALUES = _table({packed(name): number for name, number in TAG.items() if name and name != "custom"}, 512)
_NAME_KEYS, _NAME_VALUES = _table(_references(), 8192)
_CLASS, _ID, _ROLE, _ITEMPROP, _STYLE, _HIDDEN, _ARIA, _HREF = (
    np.uint64(packed(name)) for name in ("class", "id", "role", "itemprop", "style", "hidden", "aria-hidden", "href")
)
# References to 128–159 mean what Windows-1252 has there, as the standard says.
_C1 = np.array([ord(bytes([128 + place]).decode("cp1252", "replace")) for place in range(32)], np.int32)
_MIX = np.uint64(0x9E3779B97F4A7C15)
_ONE = np.uint64(1)


def bucket(word: str) -> int:
    """Token of a word of a `class` or an `id`, as the kernel hashes it."""
    mask, state = 2**64 - 1, 7
    for letter in word.encode():
        state = ((state ^ (letter | 32)) * 0x9E3779B97F4A7C15) & mask
        state ^= state >> 29
    return HIDDEN + (((state * 0x9E3779B97F4A7C15) & mask) >> 40) % (BUCKETS - HIDDEN)


# What a byte is to a name: 0 its end, 1 a small letter, 2 a capital, 3 a digit, 4 other.
KIND = np.full(256, 4, np.uint8)
KIND[[9, 10, 12, 13, 32, 47, 62]] = 0
KIND[97:123], KIND[65:91], KIND[48:58] = 1, 2, 3


@njit(nogil=True, cache=True)
def find_byte(data, at, end, byte):  # type: ignore[no-untyped-def]
    """Where a byte is next, `end` if nowhere; unsigned, so that no index is checked for being below zero."""
    place, stop = np.uint64(at), np.uint64(max(at, end))
    while place < stop and data[place] != byte:
        place += _ONE
    return np.int64(place)


@njit(nogil=True, cache=True, inline="always")
def look_up(keys, values, key):  # type: ignore[no-untyped-def]
    mask = np.uint64(len(keys) - 1)
    slot = ((key * _MIX) >> np.uint64(40)) & mask
    while keys[slot] != 0:
        if keys[slot] == key:
            return values[slot]
        slot = (slot + _ONE) & mask
    return np.int32(0)


@njit(nogil=True, cache=True)
def reference(data, at, end, text, out):  # type: ignore[no-untyped-def]
    """Decode the reference whose `&` is before `at`; bytes read (0: it is none) and bytes written; -1: it is a blank."""
    code = np.int64(0)
    start = at
    if at < end and data[at] == 35:
        at += 1
        hexadecimal = at < end and (data[at] | 32) == 120
        at += hexadecimal
        digits = at
        while at < end and at - digits < 8:
            byte = data[at]
            if 48 <= byte <= 57:
                code = code * (16 if hexadecimal else 10) + byte - 48
            elif hexadecimal and 97 <= (byte | 32) <= 102:
                code = code * 16 + (byte | 32) - 87
            else:
                break
            at += 1
        if at == digits:
            return 0, 0
        if 128 <= code < 160:
            code = np.int64(_C1[code - 128])
        if code == 0 or code > 0x10FFFF or 0xD800 <= code < 0xE000:
            code = np.int64(0x3F)
    else:
        key = np.uint64(0)
        shift = np.uint64(0)
        while at < end and shift < 64 and 1 <= KIND[data[at]] <= 3:
            key |= np.uint64(data[at]) << shift
            shift += np.uint64(8)
            at += 1
        code = np.int64(look_up(_NAME_KEYS, _NAME_VALUES, key)) if shift > 0 else np.int64(0)
        if code >= 1 << 24:
            if at >= end or data[at] != 59:
                return 0, 0
            code = code - (1 << 24)
        if code == 0:
            return 0, 0
    at += at < end and data[at] == 59
    if code <= 32 or code == 0xA0 or 0x2000 <= code <= 0x200A:
        return at - start, -1
    if code < 0x80:
        text[out] = code
        return at - start, 1
    if code < 0x800:
        text[out] = 0xC0 | code >> 6
        text[out + 1] = 0x80 | code & 63
        return at - start, 2
    if code < 0x10000:
        text[out] = 0xE0 | code >> 12
        text[out + 1] = 0x80 | code >> 6 & 63
        text[out + 2] = 0x80 | code & 63
        return at - start, 3
    text[out] = 0xF0 | code >> 18
    text[out + 1] = 0x80 | code >> 12 & 63
    text[out + 2] = 0x80 | code >> 6 & 63
    text[out + 3] = 0x80 | code & 63
    return at - start, 4


@njit(nogil=True, cache=True)
def _words(data, at, end, salt, tokens, count):  # type: ignore[no-untyped-def]
    """Hash the words of an attribute's value: runs of letters, parted where a capital follows a small one, and whole names."""
    word = whole = np.uint64(salt)
    last = np.uint8(0)
    length = parts = 0
    limit = min(count + 24, len(tokens))
    while at <= end:
        kind = KIND[data[at]] if at < end else np.uint8(0)
        if length and (kind == 0 or kind > 2 or (kind == 2 and last == 1)):
            if length > 1 and count < limit:
                tokens[count] = HIDDEN + ((word * _MIX) >> np.uint64(40)) % np.uint64(BUCKETS - HIDDEN)
                count += 1
            word, length = np.uint64(salt), 0
            parts += 1
        if kind == 0:
            if parts > 1 and count < limit:
                tokens[count] = HIDDEN + ((whole * _MIX) >> np.uint64(40)) % np.uint64(BUCKETS - HIDDEN)
                count += 1
            whole, parts = np.uint64(salt), 0
        else:
            small = np.uint64(data[at] | 32)
            if kind <= 2:
                word = (word ^ small) * _MIX
                word ^= word >> np.uint64(29)
                length += 1
            if kind != 3:
                whole = (whole ^ small) * _MIX
                whole ^= whole >> np.uint64(31)
        last = kind
        at += 1
    return count


@njit(nogil=True, cache=True)
def attributes(data, at, end, wanted, tokens, count):  # type: ignore[no-untyped-def]
    """Read attributes to behind the `>`; where it is, how many tokens there are now, and whether one is `href`."""
    linking = False
    while at < end:
        byte = data[at]
        if byte == 62:
            return at + 1, count, linking
        if byte <= 32 or byte == 47:
            at += 1
            continue
        key = np.uint64(0)
        shift = np.uint64(0)
        while at < end and data[at] > 32 and data[at] != 62 and (data[at] != 61 or shift == 0) and data[at] != 47:
            if shift < 64:
                key |= np.uint64(data[at] | (32 if KIND[data[at]] == 2 else 0)) << shift
            shift += np.uint64(8)
            at += 1
        while at < end and data[at] <= 32:
            at += 1
        start = stop = at
        if at < end and data[at] == 61:
            at += 1
            while at < end and data[at] <= 32:
                at += 1
            start = at
            if at < end and (data[at] == 34 or data[at] == 39):
                quote = data[at]
                start = at = at + 1
                stop = at = find_byte(data, at, end, quote)
                at += 1
            else:
                while at < end and data[at] > 32 and data[at] != 62:
                    at += 1
                stop = at
        linking |= key == _HREF
        if wanted and count < len(tokens):
            if key in (_CLASS, _ID):
                count = _words(data, start, stop, 7, tokens, count)
            elif key in (_ROLE, _ITEMPROP):
                count = _words(data, start, stop, 11, tokens, count)
            elif key == _HIDDEN or (key == _ARIA and stop > start and data[start] == 116):
                tokens[count] = 1 + (key == _ARIA)
                count += 1
            elif key == _STYLE:
                for place in range(start, stop - 7):
                    if data[place] == 112 and data[place + 1] == 108 and data[place + 2] == 97 and data[place + 3] == 121:
                        behind = place + 4
                        while behind < stop and (data[behind] == 58 or data[behind] == 32):
                            behind += 1
                        if behind + 4 <= stop and data[behind] == 110 and data[behind + 1] == 111:
                            tokens[count] = 3
                            count += 1
                            break
    return end, count, linking
