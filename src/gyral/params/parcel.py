"""Buckets on their way from one shard to another, as bytes that say whether they are whole.

A parcel holds rows with their state, admission counters, versions and which push of each worker every bucket has had: all that
a bucket's future depends on. Pushes that wait for the end of a clock are not in it: workers send them again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec
import numpy as np

from gyral.errors import InputError
from gyral.params.keep import Kept
from gyral.params.records import Records
from gyral.params.spec import TableSpec

_DIGEST = 16


class Packed(msgspec.Struct, array_like=True):
    """One table's buckets: arrays one after the other."""

    buckets: bytes
    counts: bytes
    keys: bytes
    stamps: bytes
    bodies: bytes
    counters: bytes
    versions: bytes
    workers: bytes
    applied: bytes


class Parcel(msgspec.Struct, array_like=True):
    """What moves.

    Attributes
    ----------
    token : of the mover, for this one.
    epoch : under which the taker will own the buckets.
    buckets : uint16, ascending.
    ticks : worker → clocks whose pushes the rows hold.
    """

    token: str
    epoch: int
    giver: int
    taker: int
    buckets: bytes
    ticks: dict[int, int]
    tables: list[Packed]

    @property
    def numbers(self) -> np.ndarray:
        """The buckets, int64."""
        return np.frombuffer(self.buckets, np.uint16).astype(np.int64)


def packed(buckets: Sequence[Kept]) -> Packed:
    """Buckets of one table, all with the same workers."""
    counters = [kept.counters for kept in buckets]
    return Packed(
        np.array([kept.bucket for kept in buckets], np.uint16).tobytes(),
        np.array([len(kept.records) for kept in buckets], np.int64).tobytes(),
        _together([kept.records.keys for kept in buckets]),
        _together([kept.records.stamps for kept in buckets]),
        _together([kept.records.bodies for kept in buckets]),
        _together(counters),
        np.array([kept.version for kept in buckets], np.uint64).tobytes(),
        buckets[0].workers.astype(np.int64).tobytes(),
        np.stack([kept.applied for kept in buckets]).astype(np.uint64).tobytes(),
    )


def unpacked(packed: Packed, spec: TableSpec) -> list[Kept]:
    """As they were given."""
    buckets = np.frombuffer(packed.buckets, np.uint16)
    ends = np.cumsum(np.frombuffer(packed.counts, np.int64))
    keys, stamps = np.frombuffer(packed.keys, np.int64).copy(), np.frombuffer(packed.stamps, np.uint32).copy()
    bodies = np.frombuffer(packed.bodies, np.uint8).reshape(len(keys), spec.body_bytes).copy()  # kernels know only such arrays
    counters = np.frombuffer(packed.counters, np.uint8).reshape(len(buckets), -1).copy()
    versions, workers = np.frombuffer(packed.versions, np.uint64), np.frombuffer(packed.workers, np.int64)
    applied = np.frombuffer(packed.applied, np.uint64).reshape(len(buckets), len(workers))
    made = []
    for at, (bucket, end) in enumerate(zip(buckets.tolist(), ends.tolist(), strict=True)):
        first = int(ends[at - 1]) if at else 0
        records = Records(keys[first:end], stamps[first:end], bodies[first:end])
        made.append(Kept(bucket, records, counters[at], int(versions[at]), workers, applied[at]))
    return made


def sealed(parcel: Parcel) -> bytes:
    """With a digest before it."""
    body = msgspec.msgpack.encode(parcel)
    return hashlib.blake2b(body, digest_size=_DIGEST).digest() + body


def opened(data: bytes) -> Parcel:
    """Raises `InputError`: a byte is not what was sealed."""
    digest, body = data[:_DIGEST], memoryview(data)[_DIGEST:]
    if hashlib.blake2b(body, digest_size=_DIGEST).digest() != digest:
        raise InputError("a parcel of buckets is damaged", why="its checksum is another")
    return msgspec.msgpack.decode(body, type=Parcel)


def _together(arrays: Sequence[np.ndarray]) -> bytes:
    return b"".join(np.ascontiguousarray(each).tobytes() for each in arrays)
