"""The numba kernels that see a text as hashes of its words and of runs of words: for the classifier, and for contamination.

A word is a run of letters, digits and marks, in lower case; a character of a script that is written without spaces (Han, kana,
Thai, Lao, Khmer, Burmese) is a word of its own. So `Hello, World` and `hello world` are the same, and thirteen characters of
Chinese are a run of thirteen words. Characters beyond the basic plane are words of their own, too.

Code points are mixed into a word's hash one by one (FNV-1a on 64 bits), and hashes of words are kept in a ring for what needs
the last few. All kernels are in this file, since numba's cache looks at one file only.
"""

from __future__ import annotations

import unicodedata
from typing import Any

import numpy as np

from gyral.curate.text.compile_kernel import Array, kernel, signed, unsigned

TOKENIZER = 1
"""Raised when the same text would have other words: what was made of other ones cannot be used."""
RING = 16
"""Hashes of words that are kept; a power of two above the longest run."""
SURE = 256
"""Features up to which a text says the more the longer it is; of longer ones the mean counts."""
_ALONE = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x2E80, 0x2FDF),
    (0x3040, 0x30FF),
    (0x3400, 0x9FFF),
    (0xF900, 0xFAFF),
)


def _characters() -> Array:
    """A code point below 65,536 → 0: between words, 1: a word of its own, else its lower case; uint16."""
    table = np.zeros(1 << 16, np.uint16)
    for code in range(1 << 16):
        if unicodedata.category(chr(code))[0] in "LNM":
            lower = ord(chr(code).lower()[0])
            table[code] = lower if lower < 1 << 16 else code
    for first, last in _ALONE:
        part = table[first : last + 1]
        part[part > 0] = 1
    return table


CHARACTERS = _characters()
_ASCII = CHARACTERS[:128].astype(np.uint8)
_START, _PRIME = unsigned(0xCBF29CE484222325), unsigned(0x100000001B3)
_MIX, _BASE = unsigned(0x9E3779B97F4A7C15), unsigned(0xD6E8FEB86659FD93)
_ONE, _TURN, _ZERO = unsigned(1), unsigned(32), unsigned(0)
_RING_MASK = unsigned(RING - 1)


@kernel
def mix(value: int) -> int:
    """Spread the bits of a hash; uint64."""
    value = (value ^ (value >> _TURN)) * _MIX
    return value ^ (value >> _TURN)  # type: ignore[no-any-return]


@kernel
def next_word(data: Array, place: int, end: int) -> tuple[int, int]:
    """Hash of the next word from a place on, and the place after it; hash 0: there is no more. All uint64."""
    at, hashed = place, _ZERO
    while at < end:
        byte = data[at]
        if byte < 128:
            code, size = unsigned(_ASCII[byte]), _ONE
        else:
            code, size = _character(data, at, end)
        if code > _ONE:
            if hashed == _ZERO:
                hashed = _START
            hashed = (hashed ^ code) * _PRIME
        elif hashed != _ZERO:
            break
        elif code == _ONE:  # a word of its own
            hashed = _START
            for number in range(size):
                hashed = (hashed ^ unsigned(data[at + unsigned(number)])) * _PRIME
            at += size
            break
        at += size
    return (mix(hashed) | _ONE if hashed != _ZERO else _ZERO), at


@kernel
def _character(data: Array, at: int, end: int) -> tuple[int, int]:
    """What a character beyond ASCII is, as `CHARACTERS` says, and its bytes."""
    byte = unsigned(data[at])
    low = unsigned(0x3F)
    if byte < unsigned(0xE0):
        size = unsigned(2)
    elif byte < unsigned(0xF0):
        size = unsigned(3)
    else:
        size = unsigned(4)
    if at + size > end:  # never in valid UTF-8
        return _ZERO, end - at
    if size == unsigned(4):
        return _ONE, size
    code = unsigned(data[at + _ONE]) & low
    if size == unsigned(2):
        return unsigned(CHARACTERS[(byte & unsigned(0x1F)) << unsigned(6) | code]), size
    last = unsigned(data[at + unsigned(2)]) & low
    return unsigned(CHARACTERS[(byte & unsigned(0x0F)) << unsigned(12) | code << unsigned(6) | last]), size


@kernel
def sums(data: Array, offsets: Array, weights: Array, seed: int, out: Array) -> None:
    """Sum of the weights of a text's words and pairs of words, scaled by their number; float32 [n], NaN: no word."""
    mask = unsigned(len(weights) - 1)
    for row in range(len(offsets) - 1):
        total, count = _sum(data, unsigned(offsets[row]), unsigned(offsets[row + 1]), weights, mask, unsigned(seed))
        out[row] = total if count else np.float32(np.nan)


@kernel
def _sum(data: Array, place: int, end: int, weights: Array, mask: int, seed: int) -> tuple[Any, int]:
    total, count, before = np.float32(0), 0, _ZERO
    while True:
        word, place = next_word(data, place, end)
        if word == _ZERO:
            break
        total += weights[mix(word ^ seed) & mask]
        if before != _ZERO:
            total += weights[mix(before * _BASE + word ^ seed) & mask]
            count += 1
        before = word
        count += 1
    return total * _scale(count), count


@kernel
def _scale(count: int) -> float:
    return np.sqrt(np.float32(max(min(count, SURE), 1))) / np.float32(max(count, 1))  # type: ignore[no-any-return]


@kernel
def learn(
    data: Array,
    offsets: Array,
    order: Array,
    labels: Array,
    weights: Array,
    squares: Array,
    bias: Array,
    seed: int,
    rate: float,
) -> float:
    """One pass of logistic regression by AdaGrad (Duchi et al. 2011) over the texts in an order; the mean loss before it.

    Parameters
    ----------
    labels : 1 or 0 of each text.
    weights, squares : float32 [2^bits], changed: weights and the sums of their squared gradients.
    bias : float32 [2], changed: the bias and its sum.
    """
    mask, salt, loss = unsigned(len(weights) - 1), unsigned(seed), 0.0
    for row in order:
        place, end = unsigned(offsets[row]), unsigned(offsets[row + 1])
        margin, count = _sum(data, place, end, weights, mask, salt)
        chance = 1 / (1 + np.exp(-(margin + bias[0])))
        loss -= np.log(max(chance if labels[row] else 1 - chance, 1e-12))
        error = np.float32(chance - labels[row])
        bias[1] += error * error
        bias[0] -= rate * error / np.sqrt(bias[1] + np.float32(1e-8))
        step = error * _scale(count)
        before = _ZERO
        while True:
            word, place = next_word(data, place, end)
            if word == _ZERO:
                break
            _move(weights, squares, mix(word ^ salt) & mask, step, rate)
            if before != _ZERO:
                _move(weights, squares, mix(before * _BASE + word ^ salt) & mask, step, rate)
            before = word
    return loss / max(len(order), 1)


@kernel
def _move(weights: Array, squares: Array, place: int, step: Any, rate: float) -> None:
    squares[place] += step * step
    weights[place] -= np.float32(rate) * step / np.sqrt(squares[place] + np.float32(1e-8))


@kernel
def grams(data: Array, begin: int, end: int, size: int, mark: int, ring: Array, out: Array) -> int:
    """Hashes of all runs of `size` words of one text, in order, the lowest bit of each a mark (0 or 1); how many."""
    place, stop, count, words, rolled = unsigned(begin), unsigned(end), 0, _ZERO, _ZERO
    power = _power(size)
    while True:
        word, place = next_word(data, place, stop)
        if word == _ZERO:
            return count
        rolled = rolled * _BASE + word
        if words >= unsigned(size):
            rolled -= ring[(words - unsigned(size)) & _RING_MASK] * power
        ring[words & _RING_MASK] = word
        words += _ONE
        if words >= unsigned(size):
            out[count] = mix(rolled) >> _ONE << _ONE | unsigned(mark)
            count += 1


@kernel
def _power(size: int) -> int:
    power = _ONE
    for _ in range(size):
        power *= _BASE
    return power  # type: ignore[no-any-return]


@kernel
def fill(keys: Array, slots: Array, sieve: Array, short_sieve: Array) -> None:
    """Open addressing: `slots` int32 [2^k] of places in `keys`, -1 where none; three bits for each key in its mark's sieve."""
    mask = unsigned(len(slots) - 1)
    for number in range(len(keys)):
        key = keys[number]
        at = (key >> _ONE) & mask
        while slots[at] >= 0:
            at = (at + _ONE) & mask
        slots[at] = number
        own = short_sieve if key & _ONE else sieve
        own[(key >> _TURN) & unsigned(len(own) - 1)] |= _three(key)


@kernel
def contain(
    data: Array,
    offsets: Array,
    sizes: Array,
    keys: Array,
    slots: Array,
    sieve: Array,
    short_sieve: Array,
    starts: Array,
    items: Array,
    totals: Array,
    seen: Array,
    counts: Array,
    stamps: Array,
    ring: Array,
    shares: Array,
    best: Array,
) -> None:
    """The largest share of an item's runs of words that a text holds, and which item; `shares` float32, `best` int32 [n].

    `seen` int32 [keys], `stamps` int32 [items], both -1, and `counts` int32 [items] remember what was found in this text.
    """
    long, short = unsigned(sizes[0]), unsigned(sizes[1])
    long_power, short_power = _power(sizes[0]), _power(sizes[1])
    for row in range(len(offsets) - 1):
        place, end = unsigned(offsets[row]), unsigned(offsets[row + 1])
        words, long_rolled, short_rolled = _ZERO, _ZERO, _ZERO
        shares[row], best[row] = 0, -1
        while True:
            word, place = next_word(data, place, end)
            if word == _ZERO:
                break
            long_rolled = long_rolled * _BASE + word
            short_rolled = short_rolled * _BASE + word
            if words >= short:
                short_rolled -= ring[(words - short) & _RING_MASK] * short_power
            if words >= long:
                long_rolled -= ring[(words - long) & _RING_MASK] * long_power
            ring[words & _RING_MASK] = word
            words += _ONE
            key = mix(long_rolled) >> _ONE << _ONE
            if words >= long and _may_hold(sieve, key):
                _count(row, _find(keys, slots, key), starts, items, totals, seen, counts, stamps, shares, best)
            key = mix(short_rolled) | _ONE
            if words >= short and _may_hold(short_sieve, key):
                _count(row, _find(keys, slots, key), starts, items, totals, seen, counts, stamps, shares, best)


@kernel
def _may_hold(sieve: Array, key: Any) -> bool:
    three = _three(key)
    return bool(sieve[(key >> _TURN) & unsigned(len(sieve) - 1)] & three == three)


@kernel
def _three(key: Any) -> Any:
    """Three bits of one word: a sieve by words (Putze, Sanders, Singler 2007) costs one look at memory."""
    low = unsigned(63)
    return _ONE << (key >> _ONE & low) | _ONE << (key >> unsigned(7) & low) | _ONE << (key >> unsigned(13) & low)


@kernel
def _find(keys: Array, slots: Array, key: Any) -> int:
    mask = unsigned(len(slots) - 1)
    at = (key >> _ONE) & mask
    while slots[at] >= 0 and keys[slots[at]] != key:
        at = (at + _ONE) & mask
    return signed(slots[at])  # type: ignore[no-any-return]


@kernel
def _count(
    row: int,
    found: int,
    starts: Array,
    items: Array,
    totals: Array,
    seen: Array,
    counts: Array,
    stamps: Array,
    shares: Array,
    best: Array,
) -> None:
    """A run that is in the index counts for its items, once a text."""
    if found < 0 or seen[found] == row:
        return
    seen[found] = row
    for at in range(starts[found], starts[found + 1]):
        item = items[at]
        if stamps[item] != row:
            stamps[item], counts[item] = row, 0
        counts[item] += 1
        share = np.float32(counts[item]) / np.float32(totals[item])
        if share > shares[row]:
            shares[row], best[row] = share, signed(item)
