"""How deep HTML is nested and how many attributes a tag has, told in one pass before a tree is made of it.

A tree parser takes time quadratic in both (measured with resiliparse 2.0.1: 1 MB of open `<div>` over 60 s, 1 MB of
attributes in one tag 51 s), so what is far beyond any page is refused here, at over a gigabyte a second.
"""

from __future__ import annotations

import numpy as np
from numba import njit

MOST_DEPTH = 512
"""Deeper is refused: the depth at which Chromium stops nesting too."""
MOST_ATTRIBUTES = 1_000
_LOOK_BACK = 64


@njit(nogil=True, cache=True)
def _name_hash(data: np.ndarray, at: np.uint64, end: np.uint64) -> np.uint64:
    value = np.uint64(0)
    while at < end:
        byte = data[at] | np.uint8(32)
        if byte < 97 or byte > 122:
            if not (48 <= data[at] <= 57):
                break
            byte = data[at]
        value = value * np.uint64(31) + np.uint64(byte)
        at += np.uint64(1)
    return value


def _hash(name: str) -> np.uint64:
    value = 0
    for byte in name.encode():
        value = (value * 31 + byte) & 0xFFFFFFFFFFFFFFFF
    return np.uint64(value)


def _hashes(names: str) -> np.ndarray:
    return np.array([_hash(name) for name in names.split()], np.uint64)


_UNCOUNTED = _hashes(
    "p li td tr br img dt dd th thead tbody tfoot option optgroup colgroup rt rp rb rtc caption html head body "
    "area base col embed hr input link meta param source track wbr"
)
"""Elements without an end tag, or with one that may be left out."""
_RAW = _hashes("script style textarea title xmp iframe noframes")
"""Elements whose content is no markup."""


@njit(nogil=True, cache=True)
def _in(names: np.ndarray, name: np.uint64) -> bool:
    for number in range(names.size):  # noqa: SIM110 (compiled)
        if names[number] == name:
            return True
    return False


@njit(nogil=True, cache=True)
def _bracket(data: np.ndarray, at: np.uint64, end: np.uint64) -> np.uint64:
    """Where the next `<` is, at or behind a place; the end where it is nowhere. Eight bytes are passed over at once."""
    one, eight, high, low = np.uint64(1), np.uint64(8), np.uint64(0x8080808080808080), np.uint64(0x0101010101010101)
    brackets = np.uint64(0x3C3C3C3C3C3C3C3C)
    while at + eight <= end:
        word = np.uint64(0)
        for number in range(8):
            word |= np.uint64(data[at + np.uint64(number)]) << np.uint64(8 * number)
        word ^= brackets
        if ((word - low) & ~word & high) != 0:
            break
        at += eight
    while at < end and data[at] != 60:
        at += one
    return at


@njit(nogil=True, cache=True)
def _after(data: np.ndarray, at: np.uint64, end: np.uint64, name: np.uint64) -> np.uint64:
    """Where `</name` begins, at or behind a place; the end where it is nowhere."""
    one, two = np.uint64(1), np.uint64(2)
    at = _bracket(data, at, end)
    while at + two < end:
        if data[at + one] == 47 and _name_hash(data, at + two, end) == name:
            return at
        at = _bracket(data, at + one, end)
    return end


@njit(nogil=True, cache=True)
def _after_comment(data: np.ndarray, at: np.uint64, end: np.uint64) -> np.uint64:
    one, two = np.uint64(1), np.uint64(2)
    while at + two < end:
        if data[at] == 45 and data[at + one] == 45 and data[at + two] == 62:
            return at + two
        at += one
    return end


@njit(nogil=True, cache=True)
def _tag(data: np.ndarray, at: np.uint64, end: np.uint64) -> tuple[np.uint64, int]:
    """Where a tag ends, `>` or the end of all, and how many attributes it has; `at` is in its name."""
    one, quote, attributes = np.uint64(1), np.uint8(0), 0
    while at < end:
        byte = data[at]
        if quote != 0:
            if byte == quote:
                quote = np.uint8(0)
        elif byte == 62:
            break
        elif (byte == 34 or byte == 39) and data[at - one] == 61:
            quote = byte
        elif byte <= 32 or byte == 47:
            following = at + one
            if following < end and data[following] > 32 and data[following] != 62 and data[following] != 47:
                attributes += 1
        at += one
    return at, attributes


@njit(nogil=True, cache=True)
def shape(data: np.ndarray) -> tuple[int, int]:
    """Deepest nesting of elements and most attributes of a tag; each stops counting one above its limit.

    An end tag closes the nearest element of its name among the last 64; elements whose end tag may be left out do not count.

    Parameters
    ----------
    data : HTML, uint8 [n].
    """
    stack = np.zeros(MOST_DEPTH + 2, np.uint64)
    end, at, one = np.uint64(data.size), np.uint64(0), np.uint64(1)
    depth, deepest, most = 0, 0, 0
    while at < end:
        at = _bracket(data, at, end) + one
        if at >= end:
            break
        if data[at] == 33 and at + one < end and data[at + one] == 45:
            at = _after_comment(data, at, end)
            continue
        closing = int(data[at]) == 47
        if closing:
            at += one
        letter = int(data[at] | np.uint8(32)) if at < end else 0
        if letter < 97 or letter > 122:
            continue
        name = _name_hash(data, at, end)
        at, attributes = _tag(data, at, end)
        most = max(most, attributes)
        if most > MOST_ATTRIBUTES:
            return deepest, most
        if _in(_UNCOUNTED, name) or (at < end and data[at - one] == 47):
            continue
        if closing:
            for place in range(depth - 1, max(0, depth - _LOOK_BACK) - 1, -1):
                if stack[place] == name:
                    depth = place
                    break
        elif _in(_RAW, name):
            at = _after(data, at, end, name)
        else:
            stack[depth] = name
            depth += 1
            deepest = max(deepest, depth)
            if deepest > MOST_DEPTH:
                return deepest, most
    return deepest, most
