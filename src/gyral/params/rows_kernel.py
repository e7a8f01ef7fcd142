"""Rows read and stepped, many a call: what follows is asked for while one row is worked on (row s begins at word s · width).

Reading 65,536 random rows of a table far larger than the caches is bound by their latency, so every line of a row is prefetched
`_AHEAD` rows ahead.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from gyral.params.admission_kernel import tick
from gyral.params.hashing_kernel import GOLDEN, INITS, bucket_of, first_value, mixed
from gyral.params.index_kernel import Held, prefetch
from gyral.params.optimizer_kernel import Step, stepped
from gyral.params.rounding_kernel import DTYPES, F32, decode, encode
from gyral.params.spec import TableSpec

U = np.uint64
HEAD = 3
"""Words of a row before its body: key, stamp."""
_0, _1, _2, _3, _6, _16, _63 = U(0), U(1), U(2), U(3), U(6), U(16), U(63)
_AHEAD = U(16)
_ROUNDING = U(0x9FB21C651E98DF25)


class Form(NamedTuple):
    """Where things are in a row, in words of four bytes, and how it begins."""

    dim: np.uint64
    width: np.uint64
    half: np.uint64
    state: np.uint64
    weights: np.uint64
    dtype: int
    init: int
    scale: np.float32
    salt: np.uint64


def form_of(spec: TableSpec) -> Form:
    """Rows are an even number of words, so that keys are aligned."""
    words = HEAD + spec.body_bytes // 4
    width, state = words + words % 2, spec.optimizer.state_words(spec.dim)
    return Form(
        U(spec.dim), U(width), U(width // 2), U(HEAD), U(HEAD + state), DTYPES[spec.dtype], INITS[spec.init],
        np.float32(spec.scale), U(spec.salt),
    )  # fmt: skip


@njit(nogil=True, cache=True)
def gather(
    held: Held, form: Form, slots_U: np.ndarray, hashes_U: np.ndarray, inverse_K: np.ndarray, out: np.ndarray, bits: np.ndarray
) -> None:
    """Weights of rows into `out`, float32 [K · dim] (`bits`: its memory as uint32); first values where the row is 0."""
    num, dim, lines = U(len(inverse_K)), form.dim, form.weights + form.dim
    for at in range(num):
        if at + _AHEAD < num:
            ahead = U(slots_U[inverse_K[at + _AHEAD]]) * form.width
            for word in range(_0, lines, _16):
                prefetch(held.words, ahead + word)
        unique_at, into = U(inverse_K[at]), at * dim
        slot = U(slots_U[unique_at])
        if slot == _0:
            for place in range(dim):
                out[into + place] = first_value(hashes_U[unique_at], U(place), form.init, form.scale)
        elif form.dtype == F32:
            start = slot * form.width + form.weights
            for place in range(dim):
                out[into + place] = held.floats[start + place]
        else:
            start = slot * form.width + form.weights
            decode(form.dtype, held.floats, held.halves, held.octets, start, dim, out, bits, into)


@njit(nogil=True, cache=True)
def step(
    held: Held,
    form: Form,
    how: Step,
    slots_U: np.ndarray,
    hashes_U: np.ndarray,
    fresh_U: np.ndarray,
    found_U: np.ndarray,
    num: np.uint64,
    grads: np.ndarray,
    sums: np.ndarray,
    base: np.ndarray,
    base_at_U: np.ndarray,
    at: np.uint64,
    work: np.ndarray,
    work_bits: np.ndarray,
) -> None:
    """One step of every row that is not 0.

    Parameters
    ----------
    fresh_U : uint8, rows that are at their first values and whose memory is as it was left.
    found_U, num : row of `grads` (below `num`) or of `sums` where a key's gradient is.
    base, base_at_U : rows the gradients were computed at, for compensation of delay; empty without.
    at : event time.
    work, work_bits : float32 [2 · dim], and its memory as uint32.
    """
    dim, width, lines = form.dim, form.width, form.weights + form.dim
    compensated = len(base_at_U) > 0
    for place in range(U(len(slots_U))):
        if place + _AHEAD < U(len(slots_U)):
            ahead = U(slots_U[place + _AHEAD]) * width
            for word in range(_0, lines, _16):
                prefetch(held.words, ahead + word)
        slot = U(slots_U[place])
        if slot == _0:
            continue
        row, hash_ = slot * width, hashes_U[place]
        weights, state = row + form.weights, row + form.state
        held.words[row + _2] = max(U(held.words[row + _2]) if fresh_U[place] == 0 else _0, at)
        held.dirty[slot >> _6] |= _1 << (slot & _63)
        held.changed[bucket_of(hash_)] = 1
        if fresh_U[place] != 0:
            held.floats[state:weights] = 0
        values, into = held.floats, weights
        if form.dtype != F32:
            values, into = work, _0
        if fresh_U[place] != 0:
            for column in range(dim):
                values[into + column] = first_value(hash_, U(column), form.init, form.scale)
        elif form.dtype != F32:
            decode(form.dtype, held.floats, held.halves, held.octets, weights, dim, work, work_bits, _0)
        found = U(found_U[place])
        if found < num:
            given, start = grads, found * dim
        else:
            given, start = sums, (found - num) * dim
        if compensated:
            was = U(base_at_U[place]) * dim
            for column in range(dim):
                g = given[start + column]
                work[dim + column] = g + how.compensation * g * g * (values[into + column] - base[was + column])
            given, start = work, dim
        stepped(how, held.floats, state, values, into, given, start, dim)
        if form.dtype != F32:
            moment = mixed((hash_ ^ _ROUNDING) + tick(held.counters, bucket_of(hash_)) * GOLDEN)
            encode(form.dtype, work, work_bits, dim, moment, held.floats, held.halves, held.octets, weights)


@njit(nogil=True, cache=True)
def old_rows(held: Held, form: Form, slots: np.ndarray, expire_s: np.uint64, now: np.uint64) -> int:
    """Move rows without a push for longer than `expire_s` to the front of `slots`; how many they are."""
    num = _0
    for at in range(U(len(slots))):
        if at + _AHEAD < U(len(slots)):
            prefetch(held.words, U(slots[at + _AHEAD]) * form.width)
        slot = U(slots[at])
        if U(held.words[slot * form.width + _2]) + expire_s < now:
            slots[num] = slot
            num += _1
    return int(num)


@njit(nogil=True, cache=True)
def dirty_rows(held: Held, slots: np.ndarray) -> int:
    """Move rows that were pushed since the last cut to the front of `slots` and call them clean; how many they are."""
    num = _0
    for at in range(U(len(slots))):
        slot = U(slots[at])
        if (held.dirty[slot >> _6] >> (slot & _63)) & _1 != _0:
            held.dirty[slot >> _6] &= ~(_1 << (slot & _63))
            slots[num] = slot
            num += _1
    return int(num)


@njit(nogil=True, cache=True)
def written(held: Held, form: Form, slots: np.ndarray, keys: np.ndarray, stamps: np.ndarray, bodies: np.ndarray) -> None:
    """Rows as records; `bodies` is uint32 [K, words of a body]."""
    for at in range(U(len(slots))):
        if at + _AHEAD < U(len(slots)):
            ahead = U(slots[at + _AHEAD]) * form.width
            for word in range(_0, form.width, _16):
                prefetch(held.words, ahead + word)
        slot = U(slots[at])
        keys[at] = held.keys[slot * form.half]
        stamps[at] = held.words[slot * form.width + _2]
        for word in range(U(bodies.shape[1])):
            bodies[at, word] = held.words[slot * form.width + _3 + word]


@njit(nogil=True, cache=True)
def read_in(held: Held, form: Form, slots: np.ndarray, stamps: np.ndarray, bodies: np.ndarray) -> None:
    """Records into rows, which have their keys."""
    for at in range(U(len(slots))):
        slot = U(slots[at])
        held.words[slot * form.width + _2] = stamps[at]
        for word in range(U(bodies.shape[1])):
            held.words[slot * form.width + _3 + word] = bodies[at, word]
