"""The one scan over a text's bytes that both the signature and the verification are made of: bytes → tokens → shingles.

A token is a word, or one character of a script that puts no spaces between words. A word weighs 1 / `words` of a shingle, a
Han character 1 / `chars`, a character of kana, Thai, Khmer and the like half of that, and a shingle is the shortest run of
tokens, up to each end, that is whole: 5 words, 6 Han characters, 12 of kana, or, where scripts meet, what lies in between. So
mixed text needs no case of its own.

ASCII is read eight bytes at a time: which of them are letters or digits is a few operations on one register, and `| 0x20`
lowers them. Every other character is decoded and folded by a table. A word's folded bytes are hashed in blocks of eight, so
`é` and `e` are one wherever they stand. A run's hash is a polynomial over its tokens' hashes modulo 2⁶⁴, rolled on by one
multiplication a token, then mixed. The scan goes on where it stopped, so a text of any length needs a fixed buffer.
Byte by byte through the table it took 2.2 times as long.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

U = np.uint64
LETTER, HAN, IGNORED, SPACELESS = U(1), U(2), U(3), U(4)
"""Kinds of a character, above bit 24 of the table; 0: it separates."""
BASE = U(0x9E3779B97F4A7C15)
WORD_SEED, WORD_PRIME = U(0xCBF29CE484222325), U(0x2127599BF4325C37)
MIX_A, MIX_B = U(0xFF51AFD7ED558CCD), U(0xC4CEB9FE1A85EC53)
STATE = 6
"""uint64 slots of a scan that can go on: place, hash, weight, length, tokens so far, shingles so far."""
RING = 64
"""Tokens of a shingle at most."""
_0, _1, _3, _6, _7, _8, _12, _18, _24 = U(0), U(1), U(3), U(6), U(7), U(8), U(12), U(18), U(24)
_29, _32, _33, _63, _64, _MASK = U(29), U(32), U(33), U(63), U(64), U(RING - 1)
_CODE, _LOW6, _KNOWN, _HAN_END = U(0xFFFFFF), U(0x3F), U(0x20000), U(0x32400)
_TAGS, _PRIVATE = U(0xE0000), U(0xF0000)
_80, _C0, _E0, _F0, _FF = U(0x80), U(0xC0), U(0xE0), U(0xF0), U(0xFF)
_ONES, _HIGH = U(0x0101010101010101), U(0x8080808080808080)
_CASE, _LOW7 = _ONES * U(0x20), _HIGH - _ONES
_FROM_A, _PAST_Z = _ONES * U(0x80 - ord("a")), _ONES * U(0x7F - ord("z"))
_FROM_0, _PAST_9 = _ONES * U(0x80 - ord("0")), _ONES * U(0x7F - ord("9"))


def _load(typing: Any, data: Any, place: Any) -> Any:
    """Eight bytes of a uint8 array from any place as one little-endian number."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = context.make_array(data)(context, builder, args[0])
        pointer = builder.gep(array.data, [args[1]])
        return builder.load(builder.bitcast(pointer, context.get_value_type(types.uint64).as_pointer()), align=1)

    return types.uint64(data, place), generate


def _trailing(typing: Any, value: Any) -> Any:
    """Zero bits below the lowest one; 64 where there is none."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], cgutils.false_bit)

    return types.uint64(value), generate


_eight: Any = intrinsic(_load)
_zeros: Any = intrinsic(_trailing)


@njit(inline="always")
def mix(value: np.uint64) -> np.uint64:
    """A bijection of 64 bits in which every bit depends on every bit (the finish of MurmurHash3)."""
    value ^= value >> _33
    value *= MIX_A
    value ^= value >> _33
    value *= MIX_B
    return value ^ (value >> _33)


@njit(inline="always")
def decode(data: np.ndarray, place: np.uint64, end: np.uint64, first: np.uint64) -> tuple[np.uint64, np.uint64]:
    """Code point of a character of more than one byte, and the place after it; what is cut off counts as one byte."""
    if first >= _F0 and place + _3 < end:
        code = (first & U(7)) << _18 | (U(data[place + _1]) & _LOW6) << _12
        return code | (U(data[place + U(2)]) & _LOW6) << _6 | (U(data[place + _3]) & _LOW6), place + U(4)
    if _E0 <= first < _F0 and place + U(2) < end:
        code = (first & U(15)) << _12 | (U(data[place + _1]) & _LOW6) << _6
        return code | (U(data[place + U(2)]) & _LOW6), place + _3
    if _C0 <= first < _E0 and place + _1 < end:
        return (first & U(31)) << _6 | (U(data[place + _1]) & _LOW6), place + U(2)
    return U(0xFFFD), place + _1


@njit(nogil=True, cache=True)
def shingle(
    data: np.ndarray,
    end: np.uint64,
    state: np.ndarray,
    ring: np.ndarray,
    table: np.ndarray,
    powers: np.ndarray,
    words: np.uint64,
    chars: np.uint64,
    out: np.ndarray,
) -> int:
    """Fill `out` with the next shingles of a text; fewer than fit: it is at its end.

    Parameters
    ----------
    data : uint8, the text ends before `end`.
    state : uint64 [STATE], zeros but for the first, where the text begins; changed.
    ring : uint64 [2, RING], the last tokens' hashes and weights; changed.
    table : uint32 by code point: what it folds to, and its kind above bit 24.
    powers : uint64 [RING], `BASE` to the 0, 1, ….
    out : uint64, hashes of shingles.

    Returns
    -------
    Shingles written. A text of fewer tokens than a shingle takes is one shingle; one without tokens, the hash of its bytes.
    """
    place, rolled, weight, length, tokens, done = state[0], state[1], state[2], state[3], state[4], state[5]
    begin = place
    target, room, num = U(2) * words * chars, U(len(out)), _0
    while num < room:
        token, block, fill, unit = WORD_SEED, _0, _0, _0
        while place < end:
            if place + _8 <= end:
                eight = _eight(data, place)
            else:
                eight = _0
                for number in range(end - place):
                    eight |= U(data[place + U(number)]) << (_8 * U(number))
            if eight & _80 == _0:
                low = eight & _LOW7
                lowered = low | _CASE
                letters = ((lowered + _FROM_A) & ~(lowered + _PAST_Z)) | ((low + _FROM_0) & ~(low + _PAST_9))
                letters &= ~eight & _HIGH
                separators = ~(letters | eight) & _HIGH
                bits = _zeros(letters ^ _HIGH) & ~_7  # of the letters that come first
                if bits == _0:
                    place = min(end, place + (_zeros(separators ^ _HIGH) >> _3))
                    if unit != _0:
                        break
                    continue
                value = (eight | _CASE) & (~_0 >> (_64 - bits))
                unit = U(2) * chars
                place += bits >> _3
                rest = _zeros(~(separators >> bits) & _HIGH) >> _3 if bits < _64 else _0
            else:
                code, after = decode(data, place, end, eight & _FF)
                if code < _KNOWN:
                    folded = U(table[code])
                    kind = folded >> _24
                else:
                    folded = code
                    kind = HAN if code < _HAN_END else (IGNORED if _TAGS <= code < _PRIVATE else LETTER)
                if kind == HAN or kind == SPACELESS:  # noqa: SIM109 - a tuple is slower here
                    if unit == _0:
                        block, unit, place = folded, U(2) * words if kind == HAN else words, after
                    break
                place = after
                if kind == _0:
                    if unit != _0:
                        break
                    continue
                if kind == IGNORED:
                    continue
                value = folded & _CODE
                bits = _8 if value < _80 else _24
                unit = U(2) * chars
                rest = _0
            block |= value << fill
            if fill + bits >= _64:
                token = (token ^ block) * WORD_PRIME
                token ^= token >> _32
                block = (value >> _1) >> (_63 - fill)
            fill = (fill + bits) & _63
            if rest != _0:
                place = min(end, place + rest)
                break
        if unit == _0:
            break
        token = (token ^ block) * WORD_PRIME
        token ^= token >> _29
        token *= MIX_A
        token ^= token >> _32
        slot = tokens & _MASK
        ring[0, slot], ring[1, slot] = token, unit
        tokens += _1
        rolled = rolled * BASE + token
        length += _1
        weight += unit
        oldest = (tokens - length) & _MASK
        while weight - ring[1, oldest] >= target:
            weight -= ring[1, oldest]
            length -= _1
            rolled -= ring[0, oldest] * powers[length]
            oldest = (oldest + _1) & _MASK
        if weight >= target:
            out[num] = mix(rolled)
            num += _1
    if num < room and done + num == _0 and begin < end:
        if tokens == _0:
            while begin < end:
                rolled = (rolled ^ U(data[begin])) * WORD_PRIME
                begin += _1
        out[num] = mix(rolled)
        num += _1
    state[0], state[1], state[2], state[3], state[4], state[5] = place, rolled, weight, length, tokens, done + num
    return int(num)


@njit(nogil=True, cache=True)
def distinct(hashes: np.ndarray, spare: np.ndarray) -> int:
    """Sort hashes in place, each once; returns how many they are.

    Hashes are uniform, so their upper bits say nearly where they belong: one counting pass, then insertion, which has little
    left to do. 8 ns a hash where a comparison sort takes 25.

    Parameters
    ----------
    spare : uint64, as long or longer; overwritten.
    """
    num = len(hashes)
    if num == 0:
        return 0
    bits = _1
    while (_1 << bits) < U(num) and bits < U(16):
        bits += _1
    shift = _64 - bits
    places = np.zeros((1 << np.int64(bits)) + 1, np.int64)
    for at in range(num):
        places[(hashes[at] >> shift) + _1] += 1
    for at in range(1, len(places)):
        places[at] += places[at - 1]
    for at in range(num):
        bucket = hashes[at] >> shift
        spare[places[bucket]] = hashes[at]
        places[bucket] += 1
    if num > 1 << 20:  # more to a bucket than insertion is good for
        spare[:num].sort()
    for at in range(1, num):
        value, to = spare[at], at
        while to > 0 and spare[to - 1] > value:
            spare[to] = spare[to - 1]
            to -= 1
        spare[to] = value
    kept = 0
    for at in range(num):
        if at == 0 or spare[at] != spare[at - 1]:
            hashes[kept] = spare[at]
            kept += 1
    return kept


@njit(nogil=True, cache=True)
def sets(
    data: np.ndarray,
    offsets: np.ndarray,
    table: np.ndarray,
    powers: np.ndarray,
    words: np.uint64,
    chars: np.uint64,
    hashes: np.ndarray,
    ends: np.ndarray,
) -> None:
    """The set of each text's shingles, ascending, one after the other in `hashes`; `ends` int64 [n] says where each ends.

    `hashes` has room for half of the bytes and two more a text: a token takes a byte and one that ends it, or three.
    """
    state, ring = np.zeros(STATE, np.uint64), np.zeros((2, RING), np.uint64)
    longest = 0
    for text in range(len(ends)):
        longest = max(longest, offsets[text + 1] - offsets[text])
    spare = np.empty(longest // 2 + 2, np.uint64)
    begin = 0
    for text in range(len(ends)):
        state[:] = _0
        state[0] = U(offsets[text])
        room = hashes[begin : begin + (offsets[text + 1] - offsets[text]) // 2 + 2]
        num = shingle(data, U(offsets[text + 1]), state, ring, table, powers, words, chars, room)
        begin += distinct(room[:num], spare)
        ends[text] = begin
