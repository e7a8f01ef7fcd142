"""What in a text may need repair, told in one pass over Arrow's bytes; clean text costs nothing else.

Eight ASCII bytes at a time are passed over at once, other characters by a table: one byte of marks a code point and one of its
canonical combining class (2.2 MB together, made of Python's `unicodedata` at first use).
"""

from __future__ import annotations

import functools
import unicodedata

import numpy as np
from numba import njit

CONTROL, INVISIBLE, LINE_END, NORMAL, MOJIBAKE = 1, 2, 4, 8, 16
"""Bits of what was found: control characters, invisible characters, line ends, text that may be no NFC, pairs that look like
UTF-8 read as something else."""
_LEAD_WEST, _TRAIL_WEST, _LEAD_EAST, _TRAIL_EAST = 16, 32, 64, 128
_CODES, _CODES_THERE = 0x110000, 0x30000
"""Code points, and how many are looked up one by one: above, none is composed (0.1 s instead of 0.6 s)."""

INVISIBLES = "\u00ad\u200b\u2060\ufeff"
"""Soft hyphen, zero-width space, word joiner, byte order mark. Joiners and marks of direction stay: they change the reading."""
LINE_ENDS = "\r\u0085\u2028\u2029"


def is_control(code: int) -> bool:
    """Controls but tab and line end, and what is no character."""
    return (code < 32 and code not in (9, 10, 13)) or (127 <= code < 160 and code != 0x85) or (code & 0xFFFE) == 0xFFFE


def trails(charset: str) -> list[int]:
    """Characters that a continuation byte of UTF-8, 0x80 to 0xBF, is read as in an eight-bit charset."""
    return [ord(bytes([byte]).decode(charset, "ignore") or chr(byte)) for byte in range(0x80, 0xC0)]


@functools.cache
def tables() -> tuple[np.ndarray, np.ndarray]:
    """Marks and combining class of every code point, uint8 [0x110000] each."""
    marks, classes = np.zeros(_CODES, np.uint8), np.zeros(_CODES, np.uint8)
    for code in (*range(_CODES_THERE), *range(0xE0000, 0xE0200)):
        character = chr(code)
        classes[code] = unicodedata.combining(character)
        decomposed = unicodedata.decomposition(character)
        if decomposed and decomposed[0] != "<":
            if not unicodedata.is_normalized("NFC", character):
                marks[code] |= NORMAL
            else:
                marks[int(decomposed.split()[-1], 16)] |= NORMAL  # it may be drawn into the one before it
    codes = np.arange(_CODES)
    marks[(codes & 0xFFFE) == 0xFFFE] |= CONTROL
    marks[[code for code in range(160) if is_control(code)]] |= CONTROL
    marks[0x1161:0x1176] |= NORMAL  # vowels and final consonants of Hangul, which are composed by rule
    marks[0x11A8:0x11C3] |= NORMAL
    for character in INVISIBLES:
        marks[ord(character)] |= INVISIBLE
    for character in LINE_ENDS:
        marks[ord(character)] |= LINE_END
    marks[0xC2:0xF5] |= _LEAD_WEST
    marks[trails("cp1252")] |= _TRAIL_WEST
    marks[[0x420, 0x421]] |= _LEAD_EAST
    marks[trails("cp1251")] |= _TRAIL_EAST
    return marks, classes


@njit(nogil=True, cache=True)
def find_faults(data: np.ndarray, offsets: np.ndarray, marks: np.ndarray, classes: np.ndarray, found: np.ndarray) -> None:
    """Mark the texts that may need repair.

    Parameters
    ----------
    data, offsets : texts as UTF-8, uint8 and int32 [n + 1]; it must be valid.
    marks, classes : `tables()`.
    found : filled with the bits, uint8 [n].
    """
    one, two, three, eight = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(8)
    high, low, spaces = np.uint64(0x8080808080808080), np.uint64(0x0101010101010101), np.uint64(0x2020202020202020)
    deletes = np.uint64(0x7F7F7F7F7F7F7F7F)
    for row in range(found.size):
        at, end = np.uint64(offsets[row]), np.uint64(offsets[row + 1])
        bits, before, last_class = np.uint8(0), np.uint8(0), np.uint8(0)
        while at < end:
            if at + eight <= end:
                word = np.uint64(0)
                for number in range(8):
                    word |= np.uint64(data[at + np.uint64(number)]) << np.uint64(8 * number)
                gone = word ^ deletes
                # a byte of the word is above 127, below 32 or 127
                if ((word | (word - spaces) | (gone - low)) & high) == 0:
                    at += eight
                    before = last_class = np.uint8(0)
                    continue
            byte = np.uint64(data[at])
            if byte < 128:
                if (byte < 32 and byte != 10 and byte != 9) or byte == 127:
                    bits |= np.uint8(LINE_END) if byte == 13 else np.uint8(CONTROL)
                before = last_class = np.uint8(0)
                at += one
                continue
            if byte < 0xE0:
                code = (byte & np.uint64(31)) << np.uint64(6) | (np.uint64(data[at + one]) & np.uint64(63))
                at += two
            elif byte < 0xF0:
                code = (
                    (byte & np.uint64(15)) << np.uint64(12)
                    | (np.uint64(data[at + one]) & np.uint64(63)) << np.uint64(6)
                    | (np.uint64(data[at + two]) & np.uint64(63))
                )
                at += three
            else:
                code = (
                    (byte & np.uint64(7)) << np.uint64(18)
                    | (np.uint64(data[at + one]) & np.uint64(63)) << np.uint64(12)
                    | (np.uint64(data[at + two]) & np.uint64(63)) << np.uint64(6)
                    | (np.uint64(data[at + three]) & np.uint64(63))
                )
                at += np.uint64(4)
            mark, combining = marks[code], classes[code]
            bits |= mark & np.uint8(15)
            # lead of the one before, trail of this one: bits 4 and 5, 6 and 7
            if (before << np.uint8(1)) & mark & np.uint8(_TRAIL_WEST | _TRAIL_EAST):
                bits |= np.uint8(MOJIBAKE)
            if combining != 0 and combining < last_class:
                bits |= np.uint8(NORMAL)
            before, last_class = mark & np.uint8(_LEAD_WEST | _LEAD_EAST), combining
        found[row] = bits
