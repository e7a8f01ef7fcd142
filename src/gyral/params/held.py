"""Tables as a shard holds them: the rows of its buckets, and for each bucket which push of each worker it has had.

This is where exactly once is decided, by one rule: push `seq` of a worker applies to those of its keys whose bucket has had
only earlier ones. A retry, a push sent again after a crash to a bucket recovered from an older cut, and a bucket that moved
between send and retry are the same case.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from gyral.errors import GyralError
from gyral.params.hashing_kernel import buckets_of
from gyral.params.keep import Changed, Kept, Part
from gyral.params.records import Changes, Records
from gyral.params.routing_kernel import foreign, sift
from gyral.params.spec import BUCKETS, TableSpec


class Rows(Protocol):
    """What `gyral.params.table.Table` does."""

    @property
    def spec(self) -> TableSpec: ...

    def __len__(self) -> int: ...

    def pull(self, keys_K: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...

    def push(self, keys_K: np.ndarray, grads_KD: np.ndarray, at: int = 0) -> None: ...

    def expire(self, now: int) -> int: ...

    def export(self, bucket: int) -> tuple[Records, np.ndarray]: ...

    def load(self, bucket: int, records: Records, counters: np.ndarray) -> None: ...

    def drop(self, bucket: int) -> None: ...

    def cut(self, first_bucket: int = 0, last_bucket: int = BUCKETS) -> Changes: ...


class Moved(GyralError):
    """Keys are of buckets that this shard does not own."""


class Entry(NamedTuple):
    """A push, or what of it is for one shard; `table` is a number."""

    table: int
    worker: int
    seq: int
    at: int
    keys: np.ndarray
    grads: np.ndarray


class Held:
    """All tables' buckets in one shard.

    Attributes
    ----------
    owned : uint8 [BUCKETS], whether a bucket is this shard's.
    applied : worker → its last push that each bucket has had, uint64 [BUCKETS].
    versions : of each table, uint64 [BUCKETS].
    fresh_rows : pushed since it was last set to 0.
    """

    def __init__(self, tables: Sequence[Rows], owned: np.ndarray) -> None:
        self.tables, self.owned = tables, owned
        self.salts = [np.uint64(table.spec.salt) for table in tables]
        self.versions = [np.zeros(BUCKETS, np.uint64) for _ in tables]
        self.applied: dict[int, np.ndarray] = {}
        self.touched = np.zeros(BUCKETS, np.uint8)
        self.fresh_rows, self.event_s, self.acknowledged_s = 0, 0, 0.0

    def of(self, worker: int) -> np.ndarray:
        """The last push of a worker that each bucket has had."""
        if worker not in self.applied:
            self.applied[worker] = np.zeros(BUCKETS, np.uint64)
        return self.applied[worker]

    def last(self, worker: int) -> int:
        """The last push of a worker that any bucket has had."""
        return int(self.applied[worker].max()) if worker in self.applied else 0

    def check(self, table: int, keys_K: np.ndarray) -> None:
        """Raises `Moved` where keys are of buckets that are not owned."""
        if num := foreign(keys_K, self.salts[table], self.owned):
            raise self._moved(table, num, len(keys_K))

    def push(self, entry: Entry, now: float) -> int:
        """Apply what is new of a push; how many keys that were.

        Raises
        ------
        Moved : nothing was changed.
        InputError : the table refuses it; nothing was changed.
        """
        keys, grads, touched = self._fresh(entry)
        if len(keys):
            self.tables[entry.table].push(keys, grads, entry.at)
            self._mark(entry, touched, len(keys), now)
        return len(keys)

    def push_together(self, entries: Sequence[Entry], now: float) -> int:
        """Apply pushes as one step a table: a key's gradients are summed in the order of the entries."""
        kept: dict[int, list[Entry]] = {}
        total = 0
        for entry in entries:
            keys, grads, touched = self._fresh(entry)
            if len(keys):
                self._mark(entry, touched, len(keys), now)
                kept.setdefault(entry.table, []).append(entry._replace(keys=keys, grads=grads))
                total += len(keys)
        for table, parts in kept.items():
            _push_as_one(self.tables[table], parts)
        return total

    def _fresh(self, entry: Entry) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Keys that have not had this push, their gradients and their buckets (uint8 [BUCKETS])."""
        fresh, touched = np.empty(len(entry.keys), np.bool_), np.zeros(BUCKETS, np.uint8)
        applied, salt = self.of(entry.worker), self.salts[entry.table]
        num, num_foreign = sift(entry.keys, salt, self.owned, applied, np.uint64(entry.seq), fresh, touched)
        if num_foreign:
            raise self._moved(entry.table, num_foreign, len(fresh))
        if num == len(fresh):
            return entry.keys, entry.grads, touched
        return entry.keys[fresh], entry.grads[fresh], touched

    def _moved(self, table: int, num: int, of: int) -> Moved:
        name = self.tables[table].spec.name
        return Moved(f"{num:,} of {of:,} keys of `{name}` are in buckets of another shard")

    def _mark(self, entry: Entry, touched: np.ndarray, num: int, now: float) -> None:
        applied = self.of(entry.worker)
        np.maximum(applied, touched.astype(np.uint64) * np.uint64(entry.seq), out=applied)
        self.touched |= touched
        self.fresh_rows += num
        self.event_s, self.acknowledged_s = max(self.event_s, entry.at), now

    def part(self, first: int, last: int, notes: bytes) -> Part | None:
        """What changed in a range since it was last asked; None: nothing."""
        changes = [table.cut(first, last) for table in self.tables]
        if not self.touched[first:last].any() and not any(len(each.buckets) for each in changes):
            return None
        self.touched[first:last] = 0
        for versions, each in zip(self.versions, changes, strict=True):
            versions[each.buckets] += np.uint64(1)
        return self._part(first, last, changes, notes)

    def _part(self, first: int, last: int, changes: Sequence[Changes], notes: bytes, is_whole: bool = False) -> Part:
        workers = sorted(self.applied)
        applied = np.zeros((last - first, len(workers)), np.uint64)
        for column, worker in enumerate(workers):
            applied[:, column] = self.applied[worker][first:last]
        changed = [
            Changed(table.spec.name, each, versions[first:last].copy())
            for table, each, versions in zip(self.tables, changes, self.versions, strict=True)
        ]
        numbers = np.array(workers, np.int64)
        return Part(first, last, changed, numbers, applied, notes, self.event_s, self.acknowledged_s, is_whole)

    def put(self, kept: Kept) -> None:
        """A bucket as it was on the disk, or at another shard."""
        table = next(number for number, each in enumerate(self.tables) if each.spec.name == kept.table)
        self.tables[table].load(kept.bucket, kept.records, kept.counters)
        self.versions[table][kept.bucket] = kept.version
        for worker, seq in zip(kept.workers.tolist(), kept.applied.tolist(), strict=True):
            self.of(worker)[kept.bucket] = seq

    def give(self, first: int, last: int) -> list[Kept]:
        """Buckets of a range, table after table, to be moved to another shard; they stay until `forget`."""
        workers = np.array(sorted(self.applied), np.int64)
        buckets = [bucket for bucket in range(first, last) if self.owned[bucket]]
        seqs = {bucket: np.array([self.applied[w][bucket] for w in workers.tolist()], np.uint64) for bucket in buckets}
        return [
            Kept(table.spec.name, bucket, *table.export(bucket), int(versions[bucket]), workers, seqs[bucket])
            for table, versions in zip(self.tables, self.versions, strict=True)
            for bucket in buckets
        ]

    def take(self, moved: Sequence[Kept], notes: bytes) -> Part:
        """Buckets that another shard gave; as a part that holds them whole, to be written before anything else."""
        for kept in moved:
            self.owned[kept.bucket] = 1
            self.put(kept._replace(version=kept.version + 1))
        first, last = min(kept.bucket for kept in moved), max(kept.bucket for kept in moved) + 1
        changes = [_whole([kept for kept in moved if kept.table == table.spec.name]) for table in self.tables]
        return self._part(first, last, changes, notes, is_whole=True)

    def forget(self) -> None:
        """Drop what is another shard's now."""
        mine = self.owned != 0
        for table, versions in zip(self.tables, self.versions, strict=True):
            for bucket in np.flatnonzero(~mine & (versions > 0)).tolist():
                table.drop(bucket)
            versions *= mine
        for bucket in np.flatnonzero(~mine & (self.touched != 0)).tolist():
            for table in self.tables:
                table.drop(bucket)
        self.touched *= mine
        for applied in self.applied.values():
            applied *= mine


def within(entry: Entry, salt: np.uint64, wanted: np.ndarray) -> Entry:
    """What of a push is in some buckets (uint8 [BUCKETS])."""
    buckets = np.empty(len(entry.keys), np.uint16)
    buckets_of(entry.keys, salt, buckets)
    chosen = wanted[buckets] != 0
    return entry._replace(keys=entry.keys[chosen], grads=entry.grads[chosen])


def _push_as_one(table: Rows, entries: Sequence[Entry]) -> None:
    """One step. A key's event time is the newest of its pushes, so it does not depend on what else the shard holds."""
    keys_K = np.concatenate([entry.keys for entry in entries])
    grads_KD = np.concatenate([entry.grads for entry in entries])
    times = sorted({entry.at for entry in entries})
    if len(times) == 1:
        table.push(keys_K, grads_KD, times[0])
        return
    _, group_K = np.unique(keys_K, return_inverse=True)
    newest = np.zeros(int(group_K.max()) + 1, np.int64)
    at_K = np.repeat([entry.at for entry in entries], [len(entry.keys) for entry in entries])
    np.maximum.at(newest, group_K, at_K)
    for at in times:
        chosen = newest[group_K] == at
        if chosen.any():
            table.push(keys_K[chosen], grads_KD[chosen], at)


def _whole(moved: Sequence[Kept]) -> Changes:
    empty = np.zeros(0, np.int64)
    return Changes(
        np.array([kept.bucket for kept in moved], np.uint16),
        Records(*(np.concatenate([getattr(kept.records, name) for kept in moved]) for name in Records._fields)),
        np.cumsum([0, *(len(kept.records) for kept in moved)], dtype=np.int64),
        empty, np.zeros(len(moved) + 1, np.int64), np.stack([kept.counters for kept in moved]),
    )  # fmt: skip
