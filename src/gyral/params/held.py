"""A table as a shard holds it: the rows of its buckets, and for each bucket which push of each worker it has had.

This is where exactly once is decided, by one rule: push `seq` of a worker applies to those of its keys whose bucket has had
only earlier ones. A retry, a push sent again after a crash to a bucket recovered from an older cut, and a bucket that moved
between send and retry are the same case.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from gyral.errors import GyralError, InputError
from gyral.params.batch import batch_of
from gyral.params.batch_kernel import LARGEST
from gyral.params.hashing_kernel import buckets_of
from gyral.params.keep import Kept, Part
from gyral.params.records import Changes, Records
from gyral.params.routing_kernel import foreign, sift
from gyral.params.spec import BUCKETS, TableSpec
from gyral.params.table import Table


class Rows(Protocol):
    """What `gyral.params.table.Table` does."""

    @property
    def spec(self) -> TableSpec: ...

    def __len__(self) -> int: ...

    def pull(self, keys_K: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...

    def push(
        self, keys_K: np.ndarray, grads_KD: np.ndarray, at: int = 0, base_KD: np.ndarray | None = None, factor: float = 1.0
    ) -> None: ...

    def expire(self, now: int) -> int: ...

    def remove(self, keys_K: np.ndarray) -> None: ...

    def export(self, bucket: int) -> tuple[Records, np.ndarray]: ...

    def load(self, bucket: int, records: Records, counters: np.ndarray) -> None: ...

    def num_rows(self, buckets_N: np.ndarray) -> np.ndarray: ...

    def drop(self, bucket: int) -> None: ...

    def cut(self, first_bucket: int = 0, last_bucket: int = BUCKETS) -> Changes: ...


class Moved(GyralError):
    """Keys are of buckets that this shard does not own."""


class Entry(NamedTuple):
    """A push, or what of it is for one shard; `table` is a number, `factor` on the rate."""

    table: int
    worker: int
    seq: int
    at: int
    keys: np.ndarray
    grads: np.ndarray
    base: np.ndarray | None = None
    factor: float = 1.0

    def at_places(self, chosen: np.ndarray) -> Entry:
        """A part of it."""
        base = None if self.base is None else self.base[chosen]
        return self._replace(keys=self.keys[chosen], grads=self.grads[chosen], base=base)

    def copied(self) -> Entry:
        """Of arrays that whoever sent it will change."""
        base = None if self.base is None else self.base.copy()
        return self._replace(keys=self.keys.copy(), grads=self.grads.copy(), base=base)


class Held:
    """One table's buckets in one shard.

    Attributes
    ----------
    owned : uint8 [BUCKETS], whether a bucket is this shard's; one array for all its tables.
    applied : worker → its last push that each bucket has had, uint64 [BUCKETS].
    versions : uint64 [BUCKETS].
    fresh_rows : pushed since it was last set to 0.
    """

    def __init__(self, table: Rows, owned: np.ndarray) -> None:
        self.table, self.owned = table, owned
        self.name, self.salt = table.spec.name, np.uint64(table.spec.salt)
        self.versions = np.zeros(BUCKETS, np.uint64)
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

    def check(self, keys_K: np.ndarray) -> None:
        """Raises `Moved` where keys are of buckets that are not owned."""
        if num := foreign(keys_K, self.salt, self.owned):
            raise self._moved(num, len(keys_K))

    def pull(self, keys_K: np.ndarray, out_KD: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Rows and which are held; into `out_KD` where there is one and the table can."""
        if out_KD is None or not isinstance(self.table, Table):
            return self.table.pull(keys_K)
        found = self.table.find(keys_K)
        return self.table.read(found, out_KD), found.held

    def push(self, entry: Entry, now: float) -> int:
        """Apply what is new of a push; how many keys that were.

        Raises
        ------
        Moved : nothing was changed.
        InputError : the table refuses it; nothing was changed.
        """
        fresh, touched = self._fresh(entry)
        if len(fresh.keys):
            self.table.push(fresh.keys, fresh.grads, fresh.at, fresh.base, fresh.factor)
            self._mark(fresh, touched, now)
        return len(fresh.keys)

    def push_together(self, entries: Sequence[Entry], now: float, scale: float = 1.0) -> int:
        """Apply pushes as one step: a key's gradients are summed in the order of the entries.

        Parameters
        ----------
        scale : of all gradients; 0: they are not learned from, and will not be when they come again.
        """
        kept: list[Entry] = []
        for entry in entries:
            fresh, touched = self._fresh(entry)
            if len(fresh.keys):
                self._mark(fresh, touched, now)
                kept.append(fresh)
        if kept and scale:
            _push_as_one(self.table, _scaled(kept, scale))
        return sum(len(entry.keys) for entry in kept)

    def squares(self, entries: Sequence[Entry]) -> np.ndarray:
        """Squares of the sums of some pushes' gradients that are new here, added up by bucket, float64 [BUCKETS].

        However many shards there are, a bucket's is the same.
        """
        squares, had = np.zeros(BUCKETS, np.float64), {worker: seqs.copy() for worker, seqs in self.applied.items()}
        kept: list[Entry] = []
        for entry in entries:
            fresh, touched = self._fresh(entry)
            seqs = self.of(entry.worker)
            np.maximum(seqs, touched.astype(np.uint64) * np.uint64(entry.seq), out=seqs)
            kept.append(fresh)
        self.applied = had
        if not any(len(entry.keys) for entry in kept):
            return squares
        batch = batch_of(np.concatenate([entry.keys for entry in kept]), self.salt)
        try:
            sums_UD = batch.totals(np.concatenate([entry.grads for entry in kept]))
        except InputError:  # a sum is not a number to learn from
            return np.full(BUCKETS, np.nan)
        buckets_U = np.empty(len(batch.keys), np.uint16)
        buckets_of(batch.keys, self.salt, buckets_U)
        np.add.at(squares, buckets_U, np.square(sums_UD, dtype=np.float64).sum(axis=1))
        return squares

    def _fresh(self, entry: Entry) -> tuple[Entry, np.ndarray]:
        """What of a push is for keys that have not had it, and their buckets (uint8 [BUCKETS])."""
        fresh, touched = np.empty(len(entry.keys), np.bool_), np.zeros(BUCKETS, np.uint8)
        applied = self.of(entry.worker)
        num, num_foreign = sift(entry.keys, self.salt, self.owned, applied, np.uint64(entry.seq), fresh, touched)
        if num_foreign:
            raise self._moved(num_foreign, len(fresh))
        return entry if num == len(fresh) else entry.at_places(fresh), touched

    def _moved(self, num: int, of: int) -> Moved:
        return Moved(f"{num:,} of {of:,} keys of `{self.name}` are in buckets of another shard")

    def _mark(self, entry: Entry, touched: np.ndarray, now: float) -> None:
        applied = self.of(entry.worker)
        np.maximum(applied, touched.astype(np.uint64) * np.uint64(entry.seq), out=applied)
        self.touched |= touched
        self.fresh_rows += len(entry.keys)
        self.event_s, self.acknowledged_s = max(self.event_s, entry.at), now

    def part(self, first: int, last: int, notes: bytes, owner_epoch: int) -> Part | None:
        """What changed in a range since it was last asked; None: nothing."""
        changes = self.table.cut(first, last)
        if not len(changes.buckets) and not self.touched[first:last].any():
            return None
        self.touched[first:last] = 0
        self.versions[changes.buckets] += np.uint64(1)
        return self._part(first, last, changes, notes, owner_epoch)

    def nothing(self, notes: bytes, owner_epoch: int) -> Part:
        """A part that says no more than its notes."""
        empty = np.zeros(0, np.int64)
        records = Records(empty, empty.astype(np.uint32), np.zeros((0, self.table.spec.body_bytes), np.uint8))
        none, starts = np.zeros(0, np.uint16), np.zeros(1, np.int64)
        return self._part(0, 0, Changes(none, records, starts, empty, starts, np.zeros((0, 0), np.uint8)), notes, owner_epoch)

    def _part(self, first: int, last: int, changes: Changes, notes: bytes, owner_epoch: int) -> Part:
        workers = sorted(self.applied)
        applied = np.zeros((last - first, len(workers)), np.uint64)
        for column, worker in enumerate(workers):
            applied[:, column] = self.applied[worker][first:last]
        versions, numbers = self.versions[changes.buckets], np.array(workers, np.int64)
        return Part(
            self.name, first, last, changes, versions, numbers, applied, notes, self.event_s, self.acknowledged_s, owner_epoch,
            self.table.num_rows(changes.buckets),
        )  # fmt: skip

    def put(self, kept: Kept) -> None:
        """A bucket as it was on the disk, or at another shard."""
        self.table.load(kept.bucket, kept.records, kept.counters)
        self.versions[kept.bucket] = kept.version
        for worker, seq in zip(kept.workers.tolist(), kept.applied.tolist(), strict=True):
            self.of(worker)[kept.bucket] = seq

    def has(self, keys_K: np.ndarray, wanted: np.ndarray) -> bool:
        """Whether a key is in one of some buckets (uint8 [BUCKETS])."""
        return bool(foreign(keys_K, self.salt, 1 - wanted))

    def give(self, buckets: Sequence[int]) -> list[Kept]:
        """Buckets, to be moved to another shard; they stay until `forget`."""
        workers = sorted(self.applied)
        return [
            Kept(
                bucket, *self.table.export(bucket), int(self.versions[bucket]), np.array(workers, np.int64),
                np.array([self.applied[worker][bucket] for worker in workers], np.uint64),
            )
            for bucket in buckets
        ]  # fmt: skip

    def take(self, moved: Sequence[Kept], notes: bytes, owner_epoch: int) -> Part:
        """Consecutive buckets that another shard gave; as a part that holds them whole, to be written before anything else."""
        for kept in moved:
            self.owned[kept.bucket] = 1
        for kept in moved:
            self.put(kept._replace(version=kept.version + 1))
        return self._part(moved[0].bucket, moved[-1].bucket + 1, _whole(moved), notes, owner_epoch)

    def forget(self) -> None:
        """Drop what is another shard's now."""
        mine = self.owned != 0
        for bucket in np.flatnonzero(~mine & ((self.versions > 0) | (self.touched != 0))).tolist():
            self.table.drop(bucket)
        self.versions *= mine
        self.touched *= mine
        for applied in self.applied.values():
            applied *= mine


def is_small(grads_KD: np.ndarray) -> bool:
    """Whether no gradient is NaN, infinite or so large that a table refuses it."""
    return not len(grads_KD) or bool(max(grads_KD.max(), -grads_KD.min()) < LARGEST)


def in_order(entries: Sequence[Entry], table: int) -> list[Entry]:
    """Those of one table, as one step takes them; of a push that was sent again the newer, which has all keys that are here."""
    newest = {(entry.worker, entry.seq): entry for entry in entries if entry.table == table}
    return [newest[key] for key in sorted(newest)]


def within(entry: Entry, salt: np.uint64, wanted: np.ndarray) -> Entry:
    """What of a push is in some buckets (uint8 [BUCKETS])."""
    buckets = np.empty(len(entry.keys), np.uint16)
    buckets_of(entry.keys, salt, buckets)
    return entry.at_places(wanted[buckets] != 0)


def _scaled(entries: Sequence[Entry], scale: float) -> Sequence[Entry]:
    by = np.float32(scale)
    return entries if by == 1 else [entry._replace(grads=entry.grads * by) for entry in entries]


def _push_as_one(table: Rows, entries: Sequence[Entry]) -> None:
    """One step. A key's event time is the newest of its pushes, so it does not depend on what else the shard holds."""
    keys_K = np.concatenate([entry.keys for entry in entries])
    grads_KD = np.concatenate([entry.grads for entry in entries])
    bases = [entry.base for entry in entries if entry.base is not None]
    base_KD = np.concatenate(bases) if len(bases) == len(entries) else None
    times, factor = sorted({entry.at for entry in entries}), entries[0].factor
    if len(times) == 1:
        table.push(keys_K, grads_KD, times[0], base_KD, factor)
        return
    _, group_K = np.unique(keys_K, return_inverse=True)
    newest = np.zeros(int(group_K.max()) + 1, np.int64)
    at_K = np.repeat([entry.at for entry in entries], [len(entry.keys) for entry in entries])
    np.maximum.at(newest, group_K, at_K)
    for at in times:
        chosen = newest[group_K] == at
        if chosen.any():
            table.push(keys_K[chosen], grads_KD[chosen], at, None if base_KD is None else base_KD[chosen], factor)


def _whole(moved: Sequence[Kept]) -> Changes:
    empty = np.zeros(0, np.int64)
    return Changes(
        np.array([kept.bucket for kept in moved], np.uint16),
        Records(*(np.concatenate([getattr(kept.records, name) for kept in moved]) for name in Records._fields)),
        np.cumsum([0, *(len(kept.records) for kept in moved)], dtype=np.int64),
        empty, np.zeros(len(moved) + 1, np.int64), np.stack([kept.counters for kept in moved]),
    )  # fmt: skip
