"""A table in this process: keys to rows of weights that learn, without collisions, in numba and numpy.

`pull` never inserts: a key that nobody pushed has first values that follow from (seed, key). `push` sums the gradients of a key
that repeats and makes one step with the sum. Not thread-safe, but kernels let go of the interpreter: two shards in two threads
run side by side.

A row is one record of [key 8, stamp 4, state, weights] bytes and costs an index entry of 5.1 to 6.4 bytes more: 150 for 32
weights with `rowwise_adagrad`, whose numbers alone are 132. What each part decides is in its module: `memory` (growth without
copies), `index_kernel`, `batch_kernel` (repeats), `rows_kernel`, `optimizer_kernel`, `rounding_kernel`, `admission_kernel`.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from gyral.errors import InputError
from gyral.params import admission_kernel as admission
from gyral.params import index_kernel as index
from gyral.params import rows_kernel as rows
from gyral.params.batch import Batch, batch_of
from gyral.params.hashing_kernel import buckets_of
from gyral.params.memory import Reservation
from gyral.params.optimizer_kernel import step_of
from gyral.params.records import Changes, Records
from gyral.params.spec import BUCKETS, TableSpec

U = np.uint64
NOTHING = np.zeros(0, np.float32)
NOWHERE = np.zeros(0, np.uint32)


class Found(NamedTuple):
    """A batch that was looked up.

    Attributes
    ----------
    batch : its keys.
    slots : uint32 [U], their rows, 0 for none.
    epoch : while the table's is this one, rows are where they were.
    """

    batch: Batch
    slots: np.ndarray
    epoch: int

    @property
    def held(self) -> np.ndarray:
        """Whether each of the K keys has a row."""
        held_U = self.slots != 0
        return np.ones(len(self.batch.inverse), bool) if held_U.all() else held_U.take(self.batch.inverse)


class Table:
    """One table, or the part of it that a shard owns.

    Parameters
    ----------
    spec : what it is.
    folder : where rows go in a sparse file, whose cold pages the system keeps out of memory; `None`: memory.

    Raises
    ------
    InputError : there is no memory.
    """

    def __init__(self, spec: TableSpec, folder: Path | None = None) -> None:
        self.spec = spec
        self.form = rows.form_of(spec)
        self._step = step_of(spec.optimizer)
        self._admission = admission.admission_of(spec)
        row_bytes = 4 * int(self.form.width)
        self._rows = Reservation(index.SLOTS * row_bytes, folder)
        slots = min(index.SLOTS, len(self._rows) // row_bytes)
        self._index = Reservation(4 * (4 * slots + 64 * BUCKETS))
        self._dirty = Reservation(slots // 8 + 8)
        meta = np.zeros(index.META, np.uint64)
        meta[index.SLOTS_AT] = slots - 1
        view = self._rows.view
        self.held = index.Held(
            view(np.int64),
            view(np.uint32),
            view(np.float32),
            view(np.uint16),
            view(np.uint8),
            self._index.view(np.uint32),
            np.zeros(BUCKETS, np.uint64),
            np.zeros(BUCKETS, np.uint64),
            self._dirty.view(np.uint64),
            np.zeros(BUCKETS, np.uint8),
            np.zeros((BUCKETS, admission.counter_bytes(spec)), np.uint8),
            meta,
        )
        self._gone: list[np.ndarray] = []
        self._work = np.zeros(2 * spec.dim, np.float32)
        self.epoch = 0

    def __len__(self) -> int:
        return int(self.held.meta[index.NUM])

    @property
    def nbytes(self) -> int:
        """Of rows ever used, index, marks and counters."""
        held, used = self.held, int(self.held.meta[index.HIGH]) + 1
        parts = (held.regions, held.rows, held.changed, held.counters)
        return 4 * int(self.form.width) * used + 4 * int(held.meta[index.TOP]) + used // 8 + sum(part.nbytes for part in parts)

    @property
    def folder_bytes(self) -> int:
        """Of the rows' file, where they have one: what of it has a place on disk."""
        return self._rows.file_bytes

    def pull(self, keys_K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weights of keys, float32 [K, D], and whether each has a row (else they are its first values)."""
        found = self.find(keys_K)
        return self.read(found), found.held

    def push(
        self, keys_K: np.ndarray, grads_KD: np.ndarray, at: int = 0, base_KD: np.ndarray | None = None, factor: float = 1.0
    ) -> None:
        """One step of every key's row, by the sum of its gradients in order of occurrence.

        Parameters
        ----------
        keys_K : int64, may repeat; the first push of a key that is admitted makes its row.
        grads_KD : float32.
        at : event time, seconds since the epoch; 0: unknown.
        base_KD : the weights that the gradients were computed at, where the optimizer compensates for delay; of a key
            that repeats, those of its first occurrence count.
        factor : on the rate of this step.

        Raises
        ------
        InputError : shapes or times are off, a gradient (or a sum) is not finite or beyond 2⁵⁷, or there is no room;
            nothing has changed then.
        """
        self.step(self.find(keys_K), grads_KD, at, base_KD, factor)

    def find(self, keys_K: np.ndarray) -> Found:
        """Look up a batch of int64 keys, for `read` and `step`."""
        batch = batch_of(keys_K, self.form.salt)
        slots_U = np.empty(len(batch.keys), np.uint32)
        index.locate(self.held, self.form.half, batch.keys, batch.hashes, slots_U)
        return Found(batch, slots_U, self.epoch)

    def read(self, found: Found, out_KD: np.ndarray | None = None) -> np.ndarray:
        """Weights of a batch, float32 [K, D], into `out_KD` if there is one (contiguous)."""
        batch, out = found.batch, out_KD
        if out is None:
            out = np.empty((len(batch.inverse), self.spec.dim), np.float32)
        flat = out.reshape(-1)
        rows.gather(self.held, self.form, found.slots, batch.hashes, batch.inverse, flat, flat.view(np.uint32))
        return out

    def step(
        self, found: Found, grads_KD: np.ndarray, at: int = 0, base_KD: np.ndarray | None = None, factor: float = 1.0
    ) -> None:
        """`push` for keys that were looked up; raises what it raises."""
        batch = found.batch
        grads_KD = self._shaped(grads_KD, len(batch.inverse), "gradients")
        base = NOTHING
        if base_KD is not None and self.spec.optimizer.compensation:
            base = self._shaped(base_KD, len(batch.inverse), "rows").reshape(-1)
        if not 0 <= at < 2**32:
            raise self._refused("the event time of a push is not in seconds since 1970", str(at))
        found_U, sums = batch.summed(grads_KD)
        slots_U = found.slots
        if found.epoch != self.epoch:
            index.locate(self.held, self.form.half, batch.keys, batch.hashes, slots_U)
        fresh_U = self._enter(batch, slots_U, at)
        how = self._step if factor == 1.0 else step_of(self.spec.optimizer, factor)
        given = (self.held, self.form, how, slots_U, batch.hashes, fresh_U, found_U, U(len(grads_KD)))
        grads, flat_sums = grads_KD.reshape(-1), sums.reshape(-1)
        if self.spec.dtype == "f32" and not len(base):
            rows.step(*given, grads, flat_sums, U(at))
            return
        base_at = batch.first if len(base) else NOWHERE
        rows.step_beside(*given, grads, flat_sums, base, base_at, U(at), self._work, self._work.view(np.uint32))

    def expire(self, now: int, first_bucket: int = 0, last_bucket: int = BUCKETS) -> int:
        """Remove rows of these buckets whose last push is more than `expire_s` of event time ago; how many.

        Each is gone in the next cut. 0 where the table keeps rows for ever.
        """
        if not self.spec.expire_s:
            return 0
        slots = self._slots(range(first_bucket, last_bucket))
        slots = slots[: rows.old_rows(self.held, self.form, slots, U(self.spec.expire_s), U(max(0, now)))]
        keys = self.held.keys[slots.astype(np.int64) * int(self.form.half)]
        self.remove(keys)
        return len(keys)

    def remove(self, keys_K: np.ndarray) -> None:
        """Take rows away; those of keys that have one are gone in the next cut."""
        found = self.find(keys_K)
        held = found.slots != 0
        if held.any():
            keys, hashes = found.batch.keys[held], found.batch.hashes[held]
            index.remove_all(self.held, self.form.half, self.form.salt, keys, hashes)
            self._gone.append(keys)
            self.epoch += 1

    def export(self, bucket: int) -> tuple[Records, np.ndarray]:
        """A bucket whole, for moving and repair: its rows, and what was counted (uint8)."""
        return self._records(self._slots([bucket])), self.held.counters[bucket].copy()

    def load(self, bucket: int, records: Records, counters: np.ndarray) -> None:
        """Replace a bucket by what `export` gave or a follower folded; nothing of it is in the next cut.

        Raises
        ------
        InputError : a key of another bucket, one that repeats, or bodies of another width.
        """
        keys, width = np.ascontiguousarray(records.keys, np.int64), self.spec.body_bytes
        if records.bodies.shape != (len(keys), width) or len(records.stamps) != len(keys):
            raise self._refused(
                "rows are not this table's", f"bodies of shape {list(records.bodies.shape)}, {width} bytes a row"
            )
        if len(counters) not in (0, self.held.counters.shape[1]):
            raise self._refused("counters are not this table's", f"{len(counters)} bytes")
        if len(self._gone) or self.held.rows[bucket] or self.held.changed[bucket]:
            if len(np.unique(keys)) != len(keys) or (self._buckets(keys) != bucket).any():
                raise self._not_of(bucket)  # what is there stays
            self.drop(bucket)
        if len(keys):
            self._adopt(bucket, keys, records)
        self.held.counters[bucket] = counters if len(counters) else 0

    def _adopt(self, bucket: int, keys: np.ndarray, records: Records) -> None:
        """Rows of a bucket that has none."""
        self._check_room(len(keys))
        while not index.grow(self.held, self.form.half, self.form.salt, U(bucket), U(len(keys))):
            self._slide(always=True)
        bodies = np.ascontiguousarray(records.bodies).view(np.uint32)
        if rows.adopt(self.held, self.form, U(bucket), keys, np.ascontiguousarray(records.stamps), bodies) < len(keys):
            self.drop(bucket)
            raise self._not_of(bucket)
        self.epoch += 1

    def num_rows(self, buckets_N: np.ndarray) -> np.ndarray:
        """Rows that buckets have, uint32 [N]."""
        return self.held.rows[buckets_N.astype(np.int64)].astype(np.uint32)

    def drop(self, bucket: int) -> None:
        """Forget a bucket, as when it has moved away: no tombstones."""
        index.forget(self.held, self.form.half, U(bucket))
        self.held.counters[bucket] = 0
        self._gone = [keys[self._buckets(keys) != bucket] for keys in self._gone]
        self.epoch += 1
        self._slide()

    def cut(self, first_bucket: int = 0, last_bucket: int = BUCKETS) -> Changes:
        """What changed in these buckets since they were last cut."""
        gone = np.unique(np.concatenate([np.zeros(0, np.int64), *self._gone]))
        at = self._buckets(gone)
        inside = (at >= first_bucket) & (at < last_bucket)
        self._gone = [gone[~inside]] if not inside.all() else []
        gone, at = gone[inside], at[inside]
        changed = self.held.changed[first_bucket:last_bucket].astype(bool)
        changed[at - first_bucket] = True
        buckets = np.flatnonzero(changed) + first_bucket
        self.held.changed[first_bucket:last_bucket] = 0
        back = self.find(gone).slots != 0
        gone, at = gone[~back], at[~back]
        order = np.argsort(at, kind="stable")
        slots = self._slots(buckets)
        slots = slots[: rows.dirty_rows(self.held, slots)]
        upserts = self._records(slots)
        starts = np.searchsorted(self._buckets(upserts.keys), buckets)
        return Changes(
            buckets.astype(np.uint16), upserts, np.append(starts, len(upserts)).astype(np.int64), gone[order],
            np.append(np.searchsorted(at[order], buckets), len(gone)).astype(np.int64), self.held.counters[buckets],
        )  # fmt: skip

    def _enter(self, batch: Batch, slots_U: np.ndarray, at: int) -> np.ndarray:
        """Rows for new keys that are admitted; which they are, uint8."""
        fresh_U = np.zeros(len(slots_U), np.uint8)
        missing = len(slots_U) - int(np.count_nonzero(slots_U))
        if missing:
            self._check_room(missing)
            self._insert(batch, slots_U, fresh_U, at)
        return fresh_U

    def _insert(self, batch: Batch, slots_U: np.ndarray, fresh_U: np.ndarray, at: int) -> None:
        all_in, done = self.spec.admits_all, 0
        times_U = NOWHERE if all_in else batch.times
        while done < len(slots_U):
            start = done
            done = int(admission.enter(
                self.held, self._admission, self.form.half, self.form.salt, all_in, batch.keys, batch.hashes, times_U,
                U(at), slots_U, fresh_U, U(start),
            ))  # fmt: skip
            self._slide(always=done < len(slots_U))

    def _check_room(self, missing: int) -> None:
        most = int(self.held.meta[index.SLOTS_AT])
        if missing > most - len(self):
            raise self._refused(
                "the table is full", f"{len(self):,} of {most:,} rows a shard, {missing:,} more wanted",
                "use more shards, `expire_s` or `max_rows`",
            )  # fmt: skip

    def _slide(self, always: bool = False) -> None:
        """Close the gaps of the index when they are worth it."""
        top, garbage = int(self.held.meta[index.TOP]), int(self.held.meta[index.GARBAGE])
        if always or garbage > top // 16 + 4096:
            index.slide(self.held, np.argsort(self.held.regions >> U(24), kind="stable").astype(np.uint64))
            self._index.release(4 * int(self.held.meta[index.TOP]))

    def _slots(self, buckets: range | list[int] | np.ndarray) -> np.ndarray:
        """Rows of buckets, one after the other, uint32."""
        asked = np.asarray(buckets, dtype=np.uint64)
        slots = np.empty(int(self.held.rows[asked.astype(np.int64)].sum()), np.uint32)
        index.slots_of(self.held, asked, slots)
        return slots

    def _records(self, slots: np.ndarray) -> Records:
        num, words = len(slots), self.spec.body_bytes // 4
        found = Records(np.empty(num, np.int64), np.empty(num, np.uint32), np.empty((num, 4 * words), np.uint8))
        rows.written(self.held, self.form, slots, found.keys, found.stamps, found.bodies.view(np.uint32))
        return found

    def _buckets(self, keys_K: np.ndarray) -> np.ndarray:
        found = np.empty(len(keys_K), np.uint16)
        buckets_of(keys_K, self.form.salt, found)
        return found.astype(np.int64)

    def _shaped(self, given_KD: np.ndarray, num: int, what: str) -> np.ndarray:
        """As contiguous float32 [num, D]."""
        if given_KD.shape != (num, self.spec.dim):
            why = f"{list(given_KD.shape)}, not [{num}, {self.spec.dim}]"
            raise self._refused(f"{what} are of another shape than the keys", why)
        return np.ascontiguousarray(given_KD, dtype=np.float32)

    def _not_of(self, bucket: int) -> InputError:
        return self._refused("rows are not of one bucket", f"bucket {bucket}: a key of another one, or one that is there twice")

    def _refused(self, what: str, why: str, hint: str = "") -> InputError:
        return InputError(what, where=f"table `{self.spec.name}`", why=why, hint=hint)
