"""Buckets in messages: a table taken out of its shards whole, and put into others, for checkpoints of whoever trains on it.

Rows come with what their optimizer keeps and with which push of each worker they have had, so exactly once holds across it. A
message has as many buckets as fit into `MOST_BYTES`; a table of a gigabyte takes some two thousand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from gyral.errors import InputError
from gyral.params import parcel, wire
from gyral.params.held import Held
from gyral.params.keep import Kept
from gyral.params.moving import runs
from gyral.params.spec import BUCKETS

if TYPE_CHECKING:
    from gyral.params.shard import Shard

MOST_BYTES = 1 << 19


def taken(held: Held, first: int) -> dict[str, Any]:
    """Buckets from `first` on that have rows, and where to go on; BUCKETS: these were the last."""
    found: list[Kept] = []
    size, at = 0, first
    while at < BUCKETS and size < MOST_BYTES:
        for kept in held.give([at] if held.owned[at] else []):
            if len(kept.records):
                found.append(kept)
                size += kept.records.bodies.nbytes + 12 * len(kept.records)
        at += 1
    return {"next": at, "buckets": msgspec.msgpack.encode([parcel.packed(found)] if found else [])}


def put(held: Held, body: bytes) -> list[Kept]:
    """The way back: those of them that this shard owns.

    Raises
    ------
    InputError : they are no buckets of such a table.
    """
    try:
        found = msgspec.msgpack.decode(body, type=list[parcel.Packed])
        return [kept for each in found for kept in parcel.unpacked(each, held.table.spec) if held.owned[kept.bucket]]
    except (msgspec.MsgspecError, ValueError, IndexError) as error:
        raise InputError(f"these are no buckets of `{held.name}`", why=str(error)) from None


def answer(shard: Shard, ask: wire.Ask) -> dict[str, Any]:
    """What a shard says to `export` and `load`; what was loaded is on its disk when this returns."""
    table, first = divmod(ask.value, BUCKETS)
    if not 0 <= table < len(shard.tables):
        raise InputError(f"there is no table {table}")
    held = shard.tables[table]
    if ask.what == "export":
        return taken(held, first)
    moved = put(held, ask.body)
    for run in runs(moved):
        shard.cutter.write_now(held.take(run, shard.noted(), shard.cutter.owner_epoch))
    for worker, applied in held.applied.items() if moved else ():
        low = min(int(applied[kept.bucket]) for kept in moved)  # what its worker has sent since may come only now
        shard.received[worker] = min(shard.received.get(worker, low), low)
    shard.cutter.forget_marks()
    return {"loaded": len(moved)}


def packed(bodies: Sequence[bytes]) -> bytes:
    """Messages of a table as one."""
    return msgspec.msgpack.encode(list(bodies))


def unpacked(whole: bytes) -> list[bytes]:
    """The way back."""
    return msgspec.msgpack.decode(whole, type=list[bytes])
