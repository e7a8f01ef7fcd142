"""An index and rows in memory that many processes read while one writes: no locks, and no row is ever half of two.

Rows are never changed in place. A new one is written to a free slot, then its *cell* (uint64: slot 28, tag 8, generation 28
bits) is stored in one piece; the old slot is free at once. A reader loads a cell, copies the row, and loads the cell again:
if it is the same, the slot was in use all the while, so the copy is whole; if not, he starts again. A writer that is killed
between any two instructions leaves the row before or after. A bucket's cells are a region (a power of two, linear probing);
to grow it, a new one is filled and the bucket's *place* (uint64: offset 32, generation 24, log2 8 bits) is stored; readers
check that word last.

The generation rises with every row that is written, so a cell is the same again only after 2²⁸ rows (45 minutes at 100,000 a
second) while one reader copies one row. Against a lock a bucket: a reader pays two more loads and never waits.

Source: sequence locks with fences, Boehm, MSPC 2012, section 4.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from gyral.params.hashing_kernel import bucket_of, hashed

U = np.uint64
GONE = U(1)
CELLS_AT, SLOTS_AT, FREE, GENERATION, CELLS_END, SLOTS_END, META = U(0), U(1), U(2), U(3), U(4), U(5), 6
"""Of the writer: next cell and slot never used, free slots, generation, and where what the file has room for ends."""
DONE, NO_CELLS, NO_SLOTS = 0, 1, 2
SLOT_BITS = 28
_0, _1, _2, _3, _8, _32 = U(0), U(1), U(2), U(3), U(8), U(32)
_SLOT, _TAG, _28, _24 = U(36), U(28), U((1 << 28) - 1), U((1 << 24) - 1)
_FF = U(0xFF)


def _pointer(context: Any, builder: Any, data: Any, args: Any) -> Any:
    return builder.gep(context.make_array(data)(context, builder, args[0]).data, [args[1]])


def _load(typing: Any, data: Any, place: Any) -> Any:
    """A word, with everything that was stored before it."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(_pointer(context, builder, data, args), "acquire", 8)

    return types.uint64(data, types.uint64), generate


def _store(typing: Any, data: Any, place: Any, value: Any) -> Any:
    """A word, after everything that was stored before it."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store_atomic(args[2], _pointer(context, builder, data, args), "release", 8)
        return context.get_dummy_value()

    return types.void(data, types.uint64, types.uint64), generate


def _fence(typing: Any) -> Any:
    """What stands before stays before."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


load: Any = intrinsic(_load)
store: Any = intrinsic(_store)
fence: Any = intrinsic(_fence)


@njit(inline="always", cache=True)
def _key(rows: np.ndarray, at: np.uint64) -> np.int64:
    return np.int64(U(rows[at]) | U(rows[at + _1]) << _32)


@njit(nogil=True, cache=True)
def lookup(
    cells: np.ndarray, places: np.ndarray, rows: np.ndarray, width: int, keys_K: np.ndarray, salt: np.uint64,
    out_KW: np.ndarray, held_K: np.ndarray,
) -> int:  # fmt: skip
    """Rows of keys, uint32 [K, W], and which there are; how often it had to start again."""
    step, again = U(width + 2), 0
    for k in range(U(len(keys_K))):
        key = keys_K[k]
        hash_ = hashed(key, salt)
        bucket = bucket_of(hash_)
        tag = hash_ & _FF
        is_done = False
        while not is_done:
            place = load(places, bucket)
            base, mask = (place >> _32) << _3, (_1 << (place & _FF)) - _1
            at = (hash_ >> _8) & mask
            held_K[k], is_moved = False, False
            while place != _0:
                cell = load(cells, base + at)
                if cell == _0:
                    break
                if cell != GONE and (cell >> _TAG) & _FF == tag:
                    row = (cell >> _SLOT) * step
                    is_key = _key(rows, row) == key
                    if is_key:
                        for w in range(U(width)):
                            out_KW[k, w] = rows[row + _2 + w]
                    fence()
                    if load(cells, base + at) != cell:
                        is_moved = True
                        break
                    if is_key:
                        held_K[k] = True
                        break
                at = (at + _1) & mask
            fence()
            is_done = not is_moved and load(places, bucket) == place
            if not is_done:
                again += 1
    return again


@njit(nogil=True, cache=True)
def scan(
    cells: np.ndarray, places: np.ndarray, inserted: np.ndarray, rows: np.ndarray, width: int, first: int, last: int,
    keys: np.ndarray, out_KW: np.ndarray,
) -> np.int64:  # fmt: skip
    """All rows of buckets `first` to `last`; how many, −1: there is no room for so many."""
    step, count = U(width + 2), _0
    for bucket in range(U(first), U(last)):
        start, is_done = count, False
        while not is_done:
            count, is_done = start, True
            version, place = load(inserted, bucket), load(places, bucket)
            base = (place >> _32) << _3
            for at in range((_1 << (place & _FF)) if place != _0 else _0):
                cell = load(cells, base + at)
                while cell > GONE:
                    if count == U(len(keys)):
                        return np.int64(-1)
                    row = (cell >> _SLOT) * step
                    keys[count] = _key(rows, row)
                    for w in range(U(out_KW.shape[1])):
                        out_KW[count, w] = rows[row + _2 + w]
                    fence()
                    again = load(cells, base + at)
                    if again == cell:
                        count += _1
                        break
                    cell = again
            fence()
            is_done = load(places, bucket) == place and load(inserted, bucket) == version
    return np.int64(count)


@njit(cache=True)
def _find(
    cells: np.ndarray, place: np.uint64, rows: np.ndarray, step: np.uint64, key: np.int64, hash_: np.uint64
) -> tuple[np.uint64, bool]:
    """Where a key's cell is, or the first free one; the writer's own view. A place of 0 has none."""
    base, mask = (place >> _32) << _3, (_1 << (place & _FF)) - _1
    at, free, has_free = (hash_ >> _8) & mask, _0, False
    while True:
        cell = cells[base + at]
        if cell == _0:
            return (free if has_free else base + at), False
        if cell == GONE:
            if not has_free:
                free, has_free = base + at, True
        elif (cell >> _TAG) & _FF == hash_ & _FF and _key(rows, (cell >> _SLOT) * step) == key:
            return base + at, True
        at = (at + _1) & mask


@njit(cache=True)
def _grow(
    cells: np.ndarray, places: np.ndarray, rows: np.ndarray, step: np.uint64, bucket: np.uint64, salt: np.uint64,
    live: np.uint64, used: np.ndarray, regions: np.ndarray, num_regions: np.ndarray, meta: np.ndarray,
) -> bool:  # fmt: skip
    """Move a bucket's cells to a region that has room; False: the file has none."""
    size = _3
    while (_1 << size) < _2 * (live + _1):
        size += _1
    if num_regions[size]:
        num_regions[size] -= _1
        base = regions[size, num_regions[size]]
    else:
        base = meta[CELLS_AT]
        if base + (_1 << size) > meta[CELLS_END]:
            return False
        meta[CELLS_AT] = base + (_1 << size)
    mask = (_1 << size) - _1
    fence()
    for at in range(base, base + mask + _1):
        store(cells, at, _0)
    old = places[bucket]
    old_base = (old >> _32) << _3
    for at in range((_1 << (old & _FF)) if old != _0 else _0):
        cell = cells[old_base + at]
        if cell > GONE:
            to = (hashed(_key(rows, (cell >> _SLOT) * step), salt) >> _8) & mask
            while cells[base + to] != _0:
                to = (to + _1) & mask
            store(cells, base + to, cell)
    generation = ((old >> _8) + _1) & _24
    store(places, bucket, ((base >> _3) << _32) | (generation << _8) | size)
    if old != _0:
        regions[old & _FF, num_regions[old & _FF]] = old_base
        num_regions[old & _FF] += _1
    used[bucket] = live
    return True


@njit(nogil=True, cache=True)
def upsert(
    cells: np.ndarray, places: np.ndarray, inserted: np.ndarray, counts: np.ndarray, rows: np.ndarray, salt: np.uint64,
    used: np.ndarray, free: np.ndarray, regions: np.ndarray, num_regions: np.ndarray, meta: np.ndarray,
    keys: np.ndarray, rows_KW: np.ndarray, start: int,
) -> tuple[np.int64, int]:  # fmt: skip
    """Make rows visible one by one, from `start` on; where it stopped, and why (`DONE`, `NO_CELLS`, `NO_SLOTS`)."""
    step = U(rows_KW.shape[1] + 2)
    for k in range(U(start), U(len(keys))):
        key = keys[k]
        hash_ = hashed(key, salt)
        bucket = bucket_of(hash_)
        place = places[bucket]
        if place == _0 or U(4) * (used[bucket] + _1) > U(3) * (_1 << (place & _FF)):
            if not _grow(cells, places, rows, step, bucket, salt, counts[bucket], used, regions, num_regions, meta):
                return np.int64(k), NO_CELLS
            place = places[bucket]
        if meta[FREE]:
            meta[FREE] -= _1
            slot = U(free[meta[FREE]])
        else:
            slot = meta[SLOTS_AT]
            if slot >= meta[SLOTS_END]:
                return np.int64(k), NO_SLOTS
            meta[SLOTS_AT] = slot + _1
        fence()
        at = slot * step
        rows[at], rows[at + _1] = np.uint32(U(key) & U(0xFFFFFFFF)), np.uint32(U(key) >> _32)
        for w in range(U(rows_KW.shape[1])):
            rows[at + _2 + w] = rows_KW[k, w]
        meta[GENERATION] = (meta[GENERATION] + _1) & _28
        cell = (slot << _SLOT) | ((hash_ & _FF) << _TAG) | meta[GENERATION]
        to, is_held = _find(cells, place, rows, step, key, hash_)
        old = cells[to]
        if not is_held:
            store(inserted, bucket, inserted[bucket] + _1)
            counts[bucket] += _1
            used[bucket] += _1 if old == _0 else _0
        store(cells, to, cell)
        if is_held:
            free[meta[FREE]] = np.uint32(old >> _SLOT)
            meta[FREE] += _1
    return np.int64(len(keys)), DONE


@njit(nogil=True, cache=True)
def remove(
    cells: np.ndarray, places: np.ndarray, counts: np.ndarray, rows: np.ndarray, width: int, salt: np.uint64,
    free: np.ndarray, meta: np.ndarray, keys: np.ndarray,
) -> None:  # fmt: skip
    """Take keys away; those that are not there are passed over."""
    step = U(width + 2)
    for k in range(U(len(keys))):
        hash_ = hashed(keys[k], salt)
        bucket = bucket_of(hash_)
        if places[bucket] == _0:
            continue
        at, is_held = _find(cells, places[bucket], rows, step, keys[k], hash_)
        if is_held:
            old = cells[at]
            store(cells, at, GONE)
            counts[bucket] -= _1
            free[meta[FREE]] = np.uint32(old >> _SLOT)
            meta[FREE] += _1


@njit(cache=True)
def take_over(
    cells: np.ndarray, places: np.ndarray, counts: np.ndarray, used: np.ndarray, free: np.ndarray, meta: np.ndarray,
    is_live: np.ndarray,
) -> None:  # fmt: skip
    """What a writer that died knew, from what is visible: counts, and which slots and cells nobody uses."""
    top = _0
    for bucket in range(U(len(places))):
        place = places[bucket]
        counts[bucket], used[bucket] = _0, _0
        if place == _0:
            continue
        base, size = (place >> _32) << _3, _1 << (place & _FF)
        meta[CELLS_AT] = max(meta[CELLS_AT], base + size)
        for at in range(base, base + size):
            if cells[at] != _0:
                used[bucket] += _1
            if cells[at] > GONE:
                counts[bucket] += _1
                slot = cells[at] >> _SLOT
                is_live[slot] = 1
                top = max(top, slot)
                meta[GENERATION] = max(meta[GENERATION], cells[at] & _28)
    meta[SLOTS_AT] = top + _1
    meta[FREE] = _0
    for slot in range(_1, top + _1):
        if not is_live[slot]:
            free[meta[FREE]] = np.uint32(slot)
            meta[FREE] += _1
