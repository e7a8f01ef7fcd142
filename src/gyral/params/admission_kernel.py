"""Who gets a row: counted within about a window of event time, by chance, and while there is room; all of it bucket by bucket.

A bucket counts its keys that have no row in `COUNTERS` counters of a byte, four a key; the least of the four is the count, and
only those that equal it rise (conservative update), so a count is never too low and rarely too high. When event time comes
into a later window, all counters of the bucket are halved once a window: old occurrences fade. Before the counters stand the
bucket's clock, which numbers occurrences and, for rows of fewer bits, steps, and the number of its window: whatever chance
decides follows from (seed, key, clock). 4 MB a table of which a bucket's kilobyte moves, is cut and recovered with its rows: so
the number of shards makes no difference, and a flood of ids that occur once costs these 4 MB and no more.

`max_rows` is dealt out to the buckets evenly, so a table of even hashes is about 5 % below it when the first bucket is full.

Source: Cormode and Muthukrishnan, J. Algorithms 2005; Estan and Varghese, SIGCOMM 2002 (conservative update).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gyral.params.hashing_kernel import GOLDEN, bucket_of, drawn, mixed
from gyral.params.index_kernel import Held, insert
from gyral.params.kernel import kernel, part
from gyral.params.spec import BUCKETS, TableSpec

U = np.uint64
CLOCK_BYTES = 8
COUNTERS = 1016
"""A bucket; four sets of 254. With 254 keys of one occurrence in a bucket (a million in the table) a key is counted one too
high with probability .16, with 64 (260,000) .003."""
_SET = U(COUNTERS // 4)
_0, _1, _8, _16, _24, _32, _LOW = U(0), U(1), U(8), U(16), U(24), U(32), U(0xFFFF)
_COUNT_DRAW, _CHANCE = U(1 << 40), U(0xA24BAED4963EE407)


class Admission(NamedTuple):
    """Numbers of a spec as the kernel wants them; `chance` is out of 2³²."""

    least: np.uint64
    window_s: np.uint64
    chance: np.uint64
    most: np.uint64


def admission_of(spec: TableSpec) -> Admission:
    """What a table's spec says of admission, as kernels read it: the chance in 2⁻³²."""
    return Admission(U(spec.admit_count), U(spec.admit_window_s), U(round(spec.admit_probability * 2**32)), U(spec.max_rows))


def counter_bytes(spec: TableSpec) -> int:
    """Bytes a bucket: none where every key is let in and no rounding is at random."""
    if spec.admit_count > 1:
        return CLOCK_BYTES + COUNTERS
    return CLOCK_BYTES if spec.dtype != "f32" or spec.admit_probability < 1 else 0


@part
def _read(counters: np.ndarray, bucket: np.uint64, place: np.uint64) -> np.uint64:
    """A number of 32 bits, little-endian."""
    return (
        U(counters[bucket, place])
        | U(counters[bucket, place + _1]) << _8
        | U(counters[bucket, place + U(2)]) << _16
        | U(counters[bucket, place + U(3)]) << _24
    )


@part
def _write(counters: np.ndarray, bucket: np.uint64, place: np.uint64, value: np.uint64) -> None:
    for number in range(U(4)):
        counters[bucket, place + number] = (value >> (_8 * number)) & U(0xFF)


@kernel
def tick(counters: np.ndarray, bucket: np.uint64) -> np.uint64:
    """Next number of a bucket's clock, modulo 2³²."""
    clock = (_read(counters, bucket, _0) + _1) & U(0xFFFFFFFF)
    _write(counters, bucket, _0, clock)
    return clock


@kernel
def _counted(held: Held, how: Admission, bucket: np.uint64, hash_: np.uint64) -> np.uint64:
    """Count one occurrence; what the count is now (255: that or more)."""
    places = drawn(hash_, _COUNT_DRAW)
    counters, least = held.counters, U(255)
    for number in range(U(4)):
        place = _8 + number * _SET + ((((places >> (_16 * number)) & _LOW) * _SET) >> _16)
        least = min(least, U(counters[bucket, place]))
    if least == U(255):
        return least
    for number in range(U(4)):
        place = _8 + number * _SET + ((((places >> (_16 * number)) & _LOW) * _SET) >> _16)
        if U(counters[bucket, place]) == least:
            counters[bucket, place] = least + _1
    return least + _1


@kernel
def fade(held: Held, how: Admission, bucket: np.uint64, at: np.uint64) -> None:
    """Halve a bucket's counters, once for each window that event time has come on."""
    window, last = at // how.window_s, _read(held.counters, bucket, U(4))
    if window <= last:
        return
    _write(held.counters, bucket, U(4), window)
    by = min(window - last, _8)
    for place in range(_8, U(held.counters.shape[1])):
        held.counters[bucket, place] = U(held.counters[bucket, place]) >> by


@kernel
def admitted(held: Held, how: Admission, hash_: np.uint64, times: np.uint64, at: np.uint64) -> bool:
    """Whether a key without a row, which occurs `times` times in a push, gets one."""
    bucket = bucket_of(hash_)
    ready = bool(how.least <= _1)
    if how.least > _1:
        held.changed[bucket] = 1
        if how.window_s > _0:
            fade(held, how, bucket, at)
    let_in = False
    for _ in range(times):
        if how.least > _1 and _counted(held, how, bucket, hash_) >= how.least:
            ready = True
        if ready and how.chance < _1 << _32:
            held.changed[bucket] = 1
            let_in |= bool(mixed((hash_ ^ _CHANCE) + tick(held.counters, bucket) * GOLDEN) >> _32 < how.chance)
        else:
            let_in |= ready
    limit = how.most // U(BUCKETS) + (_1 if bucket < how.most % U(BUCKETS) else _0)
    return let_in and bool(how.most == _0 or held.rows[bucket] < limit)


@kernel
def enter(
    held: Held,
    how: Admission,
    half: np.uint64,
    salt: np.uint64,
    all_in: bool,
    keys_U: np.ndarray,
    hashes_U: np.ndarray,
    times_U: np.ndarray,
    at: np.uint64,
    slots_U: np.ndarray,
    fresh_U: np.ndarray,
    start: np.uint64,
) -> np.int64:
    """Rows for keys that have none and may have one, from place `start` on.

    Their memory is as it was left: `fresh_U` says which.

    Returns
    -------
    The place before which the index must slide; as many as there are keys: done.
    """
    for place in range(start, U(len(keys_U))):
        if slots_U[place] == 0:
            if not all_in and fresh_U[place] == 0 and not admitted(held, how, hashes_U[place], U(times_U[place]), at):
                continue
            fresh_U[place] = 1
            slot = insert(held, half, salt, keys_U[place], hashes_U[place])
            if slot == _0:
                return np.int64(place)
            slots_U[place] = slot
    return np.int64(len(keys_U))
