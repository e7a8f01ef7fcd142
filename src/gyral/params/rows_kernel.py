"""Rows read and stepped, many a call: what follows is asked for while one row is worked on (row s begins at word s · width).

Reading 65,536 random rows of a table far larger than the caches is bound by their latency, so every line of a row is prefetched
`_AHEAD` rows ahead.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gyral.params.admission_kernel import tick
from gyral.params.hashing_kernel import GOLDEN, INITS, PUSHED, bucket_of, first_value, hashed, mixed
from gyral.params.index_kernel import Held, find, insert, prefetch
from gyral.params.kernel import kernel, part
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


@kernel
def gather(
    held: Held, form: Form, slots_U: np.ndarray, hashes_U: np.ndarray, inverse_K: np.ndarray, out: np.ndarray, bits: np.ndarray
) -> None:
    """Weights of rows into `out`, float32 [K · dim] (`bits`: its memory as uint32); first values where the row is 0."""
    num, dim, lines, floats = U(len(inverse_K)), form.dim, form.weights + form.dim, held.floats
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
                out[into + place] = floats[start + place]
        else:
            start = slot * form.width + form.weights
            decode(form.dtype, held.floats, held.halves, held.octets, start, dim, out, bits, into)


@part
def _begin(held: Held, form: Form, slot: np.uint64, hash_: np.uint64, fresh: bool, at: np.uint64) -> None:
    """Stamp a row, mark it, and clear the state of one that is new."""
    row = slot * form.width
    held.words[row + _2] = at if fresh else max(U(held.words[row + _2]), at)
    held.dirty[slot >> _6] |= _1 << (slot & _63)
    held.changed[bucket_of(hash_)] = 1
    if fresh:
        for word in range(row + form.state, row + form.weights):
            held.floats[word] = 0


@kernel
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
    at: np.uint64,
) -> None:
    """One step of every row that is not 0, where weights are float32 and delay is not compensated.

    Parameters
    ----------
    fresh_U : uint8, rows that are at their first values and whose memory is as it was left.
    found_U, num : row of `grads` (below `num`) or of `sums` where a key's gradient is.
    at : event time.
    """
    dim, width, lines, floats = form.dim, form.width, form.weights + form.dim, held.floats
    for place in range(U(len(slots_U))):
        if place + _AHEAD < U(len(slots_U)):
            ahead = U(slots_U[place + _AHEAD]) * width
            for word in range(_0, lines, _16):
                prefetch(held.words, ahead + word)
        slot = U(slots_U[place])
        if slot == _0:
            continue
        hash_, fresh = hashes_U[place], fresh_U[place] != 0
        _begin(held, form, slot, hash_, fresh, at)
        state, weights = slot * width + form.state, slot * width + form.weights
        if fresh:
            for column in range(dim):
                floats[weights + column] = first_value(hash_, U(column), form.init, form.scale)
        found = U(found_U[place])
        if fresh and form.init == PUSHED:
            for column in range(dim):
                floats[weights + column] = grads[found * dim + column] if found < num else sums[(found - num) * dim + column]
        elif found < num:
            stepped(how, floats, state, floats, weights, grads, found * dim, dim)
        else:
            stepped(how, floats, state, floats, weights, sums, (found - num) * dim, dim)


@kernel
def step_beside(
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
    bits: np.ndarray,
) -> None:
    """`step` of weights of any width, and against delay: decoded beside the row, stepped and rounded back.

    Parameters
    ----------
    base, base_at_U : rows the gradients were computed at, for compensation of delay; empty without.
    work, bits : float32 [2 · dim], and its memory as uint32.
    """
    dim, compensated = form.dim, len(base_at_U) > 0
    for place in range(U(len(slots_U))):
        slot = U(slots_U[place])
        if slot == _0:
            continue
        hash_, fresh = hashes_U[place], fresh_U[place] != 0
        _begin(held, form, slot, hash_, fresh, at)
        state, weights = slot * form.width + form.state, slot * form.width + form.weights
        if fresh:
            for column in range(dim):
                work[column] = first_value(hash_, U(column), form.init, form.scale)
        else:
            decode(form.dtype, held.floats, held.halves, held.octets, weights, dim, work, bits, _0)
        found = U(found_U[place])
        for column in range(dim):
            work[dim + column] = grads[found * dim + column] if found < num else sums[(found - num) * dim + column]
        is_first = fresh and form.init == PUSHED
        if is_first:
            for column in range(dim):
                work[column] = work[dim + column]
        elif compensated:
            was = U(base_at_U[place]) * dim
            for column in range(dim):
                g = work[dim + column]
                work[dim + column] = g + how.compensation * g * g * (work[column] - base[was + column])
        if not is_first:
            stepped(how, held.floats, state, work, _0, work, dim, dim)
        moment = U(0)
        if form.dtype != F32:
            moment = mixed((hash_ ^ _ROUNDING) + tick(held.counters, bucket_of(hash_)) * GOLDEN)
        encode(form.dtype, work, bits, dim, moment, held.floats, held.halves, held.octets, weights)


@kernel
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


@kernel
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


@kernel
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


@kernel
def adopt(held: Held, form: Form, bucket: np.uint64, keys: np.ndarray, stamps: np.ndarray, bodies: np.ndarray) -> np.int64:
    """Records as rows of a bucket that has none, and room for them.

    Returns
    -------
    How many: fewer than there are where a key is of another bucket, or has come before.
    """
    for at in range(U(len(keys))):
        hash_ = hashed(keys[at], form.salt)
        if bucket_of(hash_) != bucket or find(held, form.half, keys[at], hash_) != _0:
            return np.int64(at)
        row = insert(held, form.half, form.salt, keys[at], hash_) * form.width
        held.words[row + _2] = stamps[at]
        for word in range(U(bodies.shape[1])):
            held.words[row + _3 + word] = bodies[at, word]
    return np.int64(len(keys))
