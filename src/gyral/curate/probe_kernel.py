"""The numba kernels of the probe: counts of byte n-grams in one hashed table, and windows of words that two texts share.

A slot is four uint32: check, count, total, types. The n-gram's slot has how often it was counted, and, since an n-gram is the
context of a longer one, how much followed it and how many different bytes. A gram of at most 7 bytes and its length fit one
word, so a key is exact and only its hash is shortened: 31 bits are compared beside those that choose the slot.

Counting is Kneser–Ney's in one pass: a gram that is new at one length is counted once at the next shorter one, so most bytes
touch two slots, whatever the order.

numba's cache of a function does not see changes in other files: all of it is here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numba import njit

MAX_ORDER = 7
Array = np.ndarray
Function = TypeVar("Function", bound=Callable[..., Any])

_u64: Any = np.uint64
_u32: Any = np.uint32
_i64: Any = np.int64
_f64: Any = np.float64
MASKS = np.array([(1 << 8 * length) - 1 for length in range(MAX_ORDER + 1)], np.uint64)
SALTS = np.array([length << 56 for length in range(MAX_ORDER + 1)], np.uint64)
CHECK, COUNT, TOTAL, TYPES = range(4)
_NOT_THERE = -1


def kernel(function: Function) -> Function:
    """Compile."""
    options: dict[str, Any] = {"nogil": True, "cache": True}
    compiled: Function = njit(**options)(function)
    return compiled


@kernel
def _mixed(key: Any) -> Any:
    key = (key ^ (key >> _u64(31))) * _u64(0xBF58476D1CE4E5B9)
    key = (key ^ (key >> _u64(29))) * _u64(0x94D049BB133111EB)
    return key ^ (key >> _u64(32))


@kernel
def _slot(table: Array, bits: int, key: Any, room: bool) -> Any:
    """The slot of a key; a new one where there is room, else -1."""
    hashed = _mixed(key ^ _u64(0x9E3779B97F4A7C15))
    last = _u64(len(table) - 1)
    slot = hashed >> _u64(64 - bits)
    check = _u32(hashed & _u64(0xFFFFFFFF)) | _u32(1)
    while True:
        there = table[slot, _u64(CHECK)]
        if there == check:
            return _i64(slot)
        if there == _u32(0):
            if not room:
                return _NOT_THERE
            table[slot, _u64(CHECK)] = check
            return _i64(slot)
        slot = (slot + _u64(1)) & last


@kernel
def count(data: Array, bounds: Array, table: Array, bits: int, order: int, seen: Array, used: int) -> int:
    """Count the n-grams of texts.

    Parameters
    ----------
    bounds : where each text begins in `data`, and the end of the last; int64 [n + 1].
    table : uint32 [2 ** bits, 4].
    seen : [order + 1, 2], how many grams of each length were counted once, and twice; added to.
    used : slots that are taken. Beyond three in four no gram of more than three bytes is added, beyond seven in eight none of
        three, beyond fifteen in sixteen none: a new one is then counted by its shorter ones.

    Returns
    -------
    Slots that are taken now.
    """
    sixteenth = len(table) // 16
    for text in range(len(bounds) - 1):
        before = _u64(0)
        for place in range(bounds[text], bounds[text + 1]):
            now = (before << _u64(8)) | _u64(data[place])
            length = order
            while length >= 1:
                room = used < sixteenth * (12 if length > 3 else 14 if length == 3 else 15)
                gram = _slot(table, bits, (now & MASKS[length]) ^ SALTS[length], room)
                context = _slot(table, bits, (before & MASKS[length - 1]) ^ SALTS[length - 1], room)
                if gram >= 0 and context >= 0:
                    times = table[gram, COUNT]
                    table[gram, COUNT] = times + _u32(1)
                    table[context, TOTAL] += _u32(1)
                    if times == _u32(0):
                        table[context, TYPES] += _u32(1)
                        seen[length, 0] += 1
                        used += 1
                    else:
                        if times == _u32(1):
                            seen[length, 0] -= 1
                            seen[length, 1] += 1
                        elif times == _u32(2):
                            seen[length, 1] -= 1
                        break
                length -= 1
            before = now
    return used


@kernel
def bits_of(data: Array, bounds: Array, table: Array, bits: int, order: int, discounts: Array, into: Array) -> None:
    """Bits that each text takes, float64 [n]: interpolated Kneser–Ney with one discount a length."""
    for text in range(len(bounds) - 1):
        before, total_bits = _u64(0), 0.0
        for place in range(bounds[text], bounds[text + 1]):
            now = (before << _u64(8)) | _u64(data[place])
            chance = 1.0 / 256.0
            for length in range(1, order + 1):
                context = _slot(table, bits, (before & MASKS[length - 1]) ^ SALTS[length - 1], False)
                if context < 0 or table[context, TOTAL] == _u32(0):
                    break
                gram = _slot(table, bits, (now & MASKS[length]) ^ SALTS[length], False)
                times = 0.0 if gram < 0 else _f64(table[gram, COUNT])
                discount = discounts[length]
                backed_off = discount * _f64(table[context, TYPES]) * chance
                chance = (max(times - discount, 0.0) + backed_off) / _f64(table[context, TOTAL])
            total_bits -= np.log2(chance)
            before = now
        into[text] = total_bits


@kernel
def words(data: Array, begin: int, end: int, hashes: Array, begins: Array, ends: Array) -> int:
    """Words of a text: runs of ASCII letters and digits, and of other bytes of UTF-8, those cut after four characters.

    Returns how many there are. `hashes` uint64, `begins` and `ends` int64 have a place for each byte of the text.
    """
    found = 0
    place = begin
    while place < end:
        byte = data[place]
        is_wide = byte >= 0x80
        if not (is_wide or 48 <= byte <= 57 or 65 <= byte <= 90 or 97 <= byte <= 122):
            place += 1
            continue
        hashed = _u64(0xCBF29CE484222325)
        start = place
        chars = 0
        while place < end:
            byte = data[place]
            if is_wide:
                if byte < 0x80:
                    break
                if byte >= 0xC0:
                    if chars == 4:
                        break
                    chars += 1
            elif 65 <= byte <= 90:
                byte += 32
            elif not (48 <= byte <= 57 or 97 <= byte <= 122):
                break
            hashed = (hashed ^ _u64(byte)) * _u64(0x100000001B3)
            place += 1
        hashes[found], begins[found], ends[found] = _mixed(hashed), start, place
        found += 1
    return found


@kernel
def windows(hashes: Array, found: int, window: int, into: Array) -> int:
    """Hash of every `window` words in a row, never 0; how many there are."""
    base = _u64(0x9E3779B97F4A7C15)
    power = _u64(1)
    for _ in range(window - 1):
        power *= base
    rolling = _u64(0)
    for word in range(found):
        if word >= window:
            rolling -= hashes[word - window] * power
        rolling = rolling * base + hashes[word]
        if word >= window - 1:
            into[word - window + 1] = _mixed(rolling) | _u64(1)
    return max(0, found - window + 1)


@kernel
def insert(table: Array, keys: Array, number: int) -> None:
    """Put keys into a set: uint64 [2 ** k], 0 where it is free, never more than half full."""
    last = _u64(len(table) - 1)
    for place in range(number):
        slot = (keys[place] >> _u64(1)) & last
        while table[slot] != _u64(0) and table[slot] != keys[place]:
            slot = (slot + _u64(1)) & last
        table[slot] = keys[place]


@kernel
def shared(table: Array, keys: Array, number: int, window: int, begins: Array, ends: Array, spans: Array) -> int:
    """Ranges of a text that windows in the set cover, merged, in bytes: [begin, end] rows of `spans`; how many."""
    last = _u64(len(table) - 1)
    count = 0
    for place in range(number):
        slot = (keys[place] >> _u64(1)) & last
        while table[slot] != _u64(0) and table[slot] != keys[place]:
            slot = (slot + _u64(1)) & last
        if table[slot] == _u64(0):
            continue
        begin, end = begins[place], ends[place + window - 1]
        if count and begin <= spans[count - 1, 1]:
            spans[count - 1, 1] = end
        else:
            spans[count, 0], spans[count, 1] = begin, end
            count += 1
    return count
