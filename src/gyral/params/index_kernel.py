"""Keys to rows: open addressing inside each bucket's own stretch of one array, four bytes an entry.

An entry is five bits of the key's hash over 27 of the row's number (0: empty, so rows count from 1): a key that is elsewhere
is passed without a look at its row in 31 of 32 cases, and the key itself stands in the row, in the cache line that a pull
needs anyway. A bucket's stretch is .62 to .78 full; it grows by a quarter, alone (488 keys at two million), to the end of the
array, and when what is left behind comes to a sixteenth, all stretches slide together. So an entry costs 5.1 to 6.4 bytes a
key and the longest pause is one copy of the index. Removal shifts back what follows: there are no graves.

Indices are unsigned throughout: signed ones cost three times as much (wrap-around tests stop vectors).

Source: Knuth, TAOCP 3, 6.4, algorithm R (removal from linear probing); Lemire, arXiv 1805.10941 (multiply-shift for places).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gyral.params.hashing_kernel import bucket_of, hashed
from gyral.params.kernel import kernel, part

U = np.uint64
SLOT_BITS = 27
SLOTS = 1 << SLOT_BITS
"""Rows that one table of one shard can hold, and one."""
TOP, GARBAGE, HIGH, FREE, NUM, SLOTS_AT = range(6)
"""Places in `Held.meta`: end of the index and what is unused in it (entries), rows ever used, first free row, rows in use, and
rows there is room for."""
META = 6
_0, _1, _3, _4, _5, _6 = U(0), U(1), U(3), U(4), U(5), U(6)
_12, _15, _24, _25, _27, _32, _63 = U(12), U(15), U(24), U(25), U(27), U(32), U(63)
_SLOT, _ROOM, _LEAST = U(SLOTS - 1), U((1 << 24) - 1), U(16)
_AHEAD = U(24)


class Held(NamedTuple):
    """Where a table is: views of its memory.

    Attributes
    ----------
    keys, words, floats, halves, octets : the rows' memory as int64, uint32, float32, uint16 and uint8. Row s begins at word
        s · width: key (2 words), stamp (1), state, weights.
    entries : uint32, the index.
    regions : uint64 [BUCKETS], begin of each bucket's stretch (40 bits) and its entries (24).
    rows : uint64 [BUCKETS], how many.
    dirty : uint64, one bit a row: pushed since the last cut.
    changed : uint8 [BUCKETS], anything to cut.
    counters : uint8 [BUCKETS, bytes], what `admission_kernel` counts.
    meta : uint64 [META].
    """

    keys: np.ndarray
    words: np.ndarray
    floats: np.ndarray
    halves: np.ndarray
    octets: np.ndarray
    entries: np.ndarray
    regions: np.ndarray
    rows: np.ndarray
    dirty: np.ndarray
    changed: np.ndarray
    counters: np.ndarray
    meta: np.ndarray


def _touch(typing: Any, data: Any, place: Any) -> Any:
    """Ask for the cache line of an array's element, without waiting."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = context.make_array(data)(context, builder, args[0])
        pointer = builder.bitcast(builder.gep(array.data, [args[1]]), ir.IntType(8).as_pointer())
        i32 = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, i32, i32, i32])
        function = cgutils.get_or_insert_function(  # type: ignore[no-untyped-call]
            builder.module, kind, "llvm.prefetch.p0"
        )
        builder.call(function, [pointer, i32(0), i32(3), i32(1)])
        return context.get_dummy_value()

    return types.none(data, place), generate


prefetch: Any = intrinsic(_touch)


@part
def _home(region: np.uint64, hash_: np.uint64) -> np.uint64:
    """Where in its bucket's stretch a hash belongs."""
    return (((hash_ << _12) >> _32) * (region & _ROOM)) >> _32


@kernel
def find(held: Held, half: np.uint64, key: np.int64, hash_: np.uint64) -> np.uint64:
    """Row of a key; 0: it has none."""
    region = held.regions[bucket_of(hash_)]
    room, start = region & _ROOM, region >> _24
    if room == _0:
        return _0
    place, tag = _home(region, hash_), (hash_ & U(31)) << _27
    while True:
        entry = U(held.entries[start + place])
        if entry == _0:
            return _0
        if (entry & ~_SLOT) == tag and held.keys[(entry & _SLOT) * half] == key:
            return entry & _SLOT
        place += _1
        if place == room:
            place = _0


@kernel
def locate(held: Held, half: np.uint64, keys_U: np.ndarray, hashes_U: np.ndarray, slots_U: np.ndarray) -> None:
    """Rows of keys into an array of uint32.

    Three stages in one loop, each `_AHEAD` keys behind the one before: ask for the entry; read it and ask for the row it may
    mean; compare the key.
    """
    num = U(len(keys_U))
    for step in range(num + _AHEAD + _AHEAD):
        if step < num:
            region = held.regions[bucket_of(hashes_U[step])]
            prefetch(held.entries, (region >> _24) + _home(region, hashes_U[step]))
        if _AHEAD <= step < num + _AHEAD:
            at = step - _AHEAD
            hash_ = hashes_U[at]
            region = held.regions[bucket_of(hash_)]
            room, start, place, tag = region & _ROOM, region >> _24, _home(region, hash_), (hash_ & U(31)) << _27
            entry = _0
            while room != _0:
                entry = U(held.entries[start + place])
                if entry == _0 or (entry & ~_SLOT) == tag:
                    break
                place += _1
                if place == room:
                    place = _0
            slots_U[at] = entry & _SLOT
            if entry != _0:
                prefetch(held.keys, (entry & _SLOT) * half)
        if step >= _AHEAD + _AHEAD:
            at = step - _AHEAD - _AHEAD
            slot = U(slots_U[at])
            if slot != _0 and held.keys[slot * half] != keys_U[at]:
                slots_U[at] = find(held, half, keys_U[at], hashes_U[at])


@kernel
def _place(held: Held, hash_: np.uint64, slot: np.uint64) -> None:
    """Enter a row where its bucket has room."""
    region = held.regions[bucket_of(hash_)]
    room, start, place = region & _ROOM, region >> _24, _home(region, hash_)
    while held.entries[start + place] != _0:
        place += _1
        if place == room:
            place = _0
    held.entries[start + place] = slot | (hash_ & U(31)) << _27


@kernel
def grow(held: Held, half: np.uint64, salt: np.uint64, bucket: np.uint64, rows: np.uint64) -> bool:
    """Make room for `rows` rows in a bucket, at the end of the index; False: it is at its end, slide first."""
    old = held.regions[bucket]
    room, start, meta = old & _ROOM, old >> _24, held.meta
    wished = max(_LEAST, (rows * U(41) >> _5) + _1, room + (room >> U(2)))  # rows / .78
    wished = (wished + U(7)) & ~U(7)
    top = meta[TOP]
    if top + wished > U(len(held.entries)):
        return False
    for at in range(top, top + wished):
        held.entries[at] = 0
    meta[TOP] = top + wished
    meta[GARBAGE] += room
    held.regions[bucket] = top << _24 | wished
    for at in range(start, start + room):
        if at + _AHEAD < start + room:
            prefetch(held.keys, (U(held.entries[at + _AHEAD]) & _SLOT) * half)
        slot = U(held.entries[at]) & _SLOT
        if slot != _0:
            _place(held, hashed(held.keys[slot * half], salt), slot)
    return True


@kernel
def insert(held: Held, half: np.uint64, salt: np.uint64, key: np.int64, hash_: np.uint64) -> np.uint64:
    """A row for a key that has none, its memory as it was left; 0: the index must slide first."""
    bucket, meta = bucket_of(hash_), held.meta
    rows = held.rows[bucket] + _1
    if rows * U(41) >> _5 >= held.regions[bucket] & _ROOM and not grow(held, half, salt, bucket, rows):
        return _0
    slot = meta[FREE]
    if slot != _0:
        meta[FREE] = U(held.keys[slot * half])
    else:
        meta[HIGH] += _1
        slot = meta[HIGH]
    held.keys[slot * half] = key
    held.rows[bucket] = rows
    meta[NUM] += _1
    _place(held, hash_, slot)
    return U(slot)


@kernel
def remove(held: Held, half: np.uint64, salt: np.uint64, key: np.int64, hash_: np.uint64) -> None:
    """Free the row of a key that has one, and close the gap in the index."""
    region = held.regions[bucket_of(hash_)]
    room, start, place, entries = region & _ROOM, region >> _24, _home(region, hash_), held.entries
    while held.keys[(U(entries[start + place]) & _SLOT) * half] != key:
        place = _0 if place + _1 == room else place + _1
    slot = U(entries[start + place]) & _SLOT
    hole = place
    while True:
        place = _0 if place + _1 == room else place + _1
        entry = U(entries[start + place])
        if entry == _0:
            break
        home = _home(region, hashed(held.keys[(entry & _SLOT) * half], salt))
        if (place - home if place >= home else place + room - home) >= (place - hole if place >= hole else place + room - hole):
            entries[start + hole] = entry
            hole = place
    entries[start + hole] = 0
    held.dirty[slot >> _6] &= ~(_1 << (slot & _63))
    held.keys[slot * half] = np.int64(held.meta[FREE])
    held.meta[FREE] = slot
    held.meta[NUM] -= _1
    held.rows[bucket_of(hash_)] -= _1


@kernel
def remove_all(held: Held, half: np.uint64, salt: np.uint64, keys_U: np.ndarray, hashes_U: np.ndarray) -> None:
    """`remove` many different keys, each of which has a row."""
    for at in range(U(len(keys_U))):
        remove(held, half, salt, keys_U[at], hashes_U[at])


@kernel
def slots_of(held: Held, buckets: np.ndarray, slots: np.ndarray) -> None:
    """All rows of buckets (uint64), bucket after bucket, into an array of as many uint32."""
    num = _0
    for number in range(U(len(buckets))):
        bucket = buckets[number]
        region = held.regions[bucket]
        for at in range(region >> _24, (region >> _24) + (region & _ROOM)):
            entry = U(held.entries[at])
            if entry != _0:
                slots[num] = entry & _SLOT
                num += _1


@kernel
def forget(held: Held, half: np.uint64, bucket: np.uint64) -> None:
    """Free all rows of a bucket, and its stretch."""
    region = held.regions[bucket]
    for at in range(region >> _24, (region >> _24) + (region & _ROOM)):
        slot = U(held.entries[at]) & _SLOT
        if slot != _0:
            held.dirty[slot >> _6] &= ~(_1 << (slot & _63))
            held.keys[slot * half] = np.int64(held.meta[FREE])
            held.meta[FREE] = slot
    held.meta[NUM] -= held.rows[bucket]
    held.meta[GARBAGE] += region & _ROOM
    held.rows[bucket] = 0
    held.regions[bucket] = 0
    held.changed[bucket] = 0


@kernel
def slide(held: Held, order: np.ndarray) -> None:
    """Move all stretches together; `order` is the buckets by where theirs begin, uint64."""
    top = _0
    for number in range(U(len(order))):
        bucket = order[number]
        region = held.regions[bucket]
        start, room = region >> _24, region & _ROOM
        for at in range(room):
            held.entries[top + at] = held.entries[start + at]
        held.regions[bucket] = top << _24 | room
        top += room
    held.meta[TOP] = top
    held.meta[GARBAGE] = 0
