"""Log → Lake: read behind the table's own offsets, drop known ids, commit rows and offsets in one step, then trim.

Any number of drains may run: a commit that lost the race is planned again from the winner's offsets. A drain that dies
anywhere leaves either the old version or the new one, and the log is trimmed only below what every table has on the disk.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator

import msgspec
import numpy as np
import pyarrow as pa

from gyral.errors import ConflictError
from gyral.event.codec import decode_payload
from gyral.event.schema import TABLES
from gyral.faults import fail_point
from gyral.ingest.dedup import Run as HashedIds
from gyral.ingest.dedup import SeenIds
from gyral.lake.commit import LakeError
from gyral.lake.table import Lake, Snapshot
from gyral.log.base import EventLog

MAX_TRIES = 100
QUARANTINE_EVERY_S = 30.0
COMMIT_BYTES = 256 << 20
"""A commit takes no more rows once it has this much, however few they are."""


class Drained(msgspec.Struct):
    """What a drain did: rows committed (also by kind), known ids dropped, rows quarantined by reason, newest `events`."""

    accepted: int = 0
    kinds: dict[str, int] = {}
    duplicate: int = 0
    quarantined: dict[str, int] = {}
    version: int = 0

    def __add__(self, later: Drained) -> Drained:
        """What this and a later run did together."""
        return Drained(
            self.accepted + later.accepted,
            dict(Counter(self.kinds) + Counter(later.kinds)),
            self.duplicate + later.duplicate,
            dict(Counter(self.quarantined) + Counter(later.quarantined)),
            max(self.version, later.version),
        )


class _Plan(msgspec.Struct):
    rows: pa.Table | None
    offsets: dict[str, int]
    duplicate: int = 0


class Drain:
    """Commits a log to a lake; keep one for as long as the process lives, it remembers the ids it has seen."""

    def __init__(self, lake: Lake, log: EventLog, commit_rows: int, dedup_days: int = 0) -> None:
        self.offsets: dict[str, int] = {}
        """How far the `events` are committed, as of the last run."""
        self.is_committing = False
        """Whether a commit is being made at this moment; the rest of a run may be cut off anywhere."""
        self._lake = lake
        self._log = log
        self._commit_rows = commit_rows
        self._seen = {name: SeenIds(dedup_days) for name in TABLES}
        self._quarantine_due_at = 0.0
        self._is_same = not log.others_write
        """Whether the log was seen to be the one the lake has events of, and nothing failed since."""
        self._until: dict[str, int] = {}
        """Where the partitions ended when the run began: what comes meanwhile is for the next, or a run might never end."""

    def known(self, asked: HashedIds) -> np.ndarray:
        """Which of these ids the `events` of the last run have; may be called from other threads."""
        return self._seen["events"].has(asked)

    def is_behind(self) -> bool:
        """Whether the log has anything that the last run did not commit, or less than it did, which a run tells."""
        was_same, self._is_same = self._is_same, False
        behind = any(self._log.end(name) != self.offsets.get(name, 0) for name in self._log.partitions())
        self._is_same = was_same
        return behind

    def open(self) -> None:
        """Learn what the lake has; `run` does when it needs to."""
        snapshot = self._lake.open("events")
        self.offsets = snapshot.offsets
        self._seen["events"].refresh(snapshot)

    def run(self, eager: bool = True, goes_on: Callable[[Drained], bool] = lambda _: True) -> Drained:
        """Commit everything that is in the log now and trim it.

        Parameters
        ----------
        eager : commit to the quarantine even when only its offsets advance; otherwise those wait up to 30 s, because each
            commit costs a flush.
        goes_on : told after each commit what this run did so far; False ends the run there.

        Raises
        ------
        LakeError, LogError : the disk refused; run it again, nothing is lost or doubled.
        """
        done = Drained()
        self._lake.check(self._log)
        if not self._is_same:
            self._check_same()
        self._is_same = not self._log.others_write
        self._until = {partition: self._log.end(partition) for partition in self._log.partitions()}
        for name in TABLES:
            if name == "events" or eager or time.monotonic() >= self._quarantine_due_at:
                while self._step(name, done):
                    if not goes_on(done):
                        return done
                if name == "quarantine":
                    self._quarantine_due_at = time.monotonic() + QUARANTINE_EVERY_S
        done.version = self._lake.open("events").version
        self._trim()
        self._is_same = True
        return done

    def _check_same(self) -> None:
        """Refuse a topic that was made anew under its old name and is no shorter: its first events would be skipped.

        The newest events that the lake has of a partition must be where it has them from, as far as both are still there.
        """
        snapshot = self._lake.open("events")
        for partition in self._log.partitions():
            last = snapshot.offsets.get(partition, 0) - 1
            if last < 0 or last < self._log.start(partition):
                continue
            where = f"src_partition = '{partition}' AND src_offset = {last}"
            ids = set(snapshot.read(["event_id"], where)["event_id"].to_pylist())
            for entry_offset, batch in self._entries(partition, last, last + 1, "events") if ids else ():
                there = set() if batch is None else set(batch["event_id"].to_pylist())
                if entry_offset == last and not ids <= there:
                    raise LakeError(
                        f"the log partition `{partition}` has other events at {last:,} than the lake has from there",
                        where=str(self._lake.folder),
                        why="it was made anew under its old name, or the broker lost what it had acknowledged",
                        hint="put the old one back; or make it under another name, which is read from its beginning",
                    )

    def _step(self, name: str, done: Drained) -> bool:
        for _ in range(MAX_TRIES):
            snapshot = self._lake.open(name)
            plan = self._plan(name, snapshot)
            if name == "events":
                self.offsets = snapshot.offsets
            if plan is None:
                return False
            fail_point("lake.planned")
            self.is_committing = True
            try:
                try:
                    after = snapshot.commit(plan.rows, plan.offsets)
                except ConflictError:
                    continue
                fail_point("lake.committed")
                self._count(name, plan, done, self._lake.maintain(name, after))
            finally:
                self.is_committing = False
            if name == "events":
                done.version = after.version
            return True
        raise ConflictError(
            f"other processes committed to `{name}` {MAX_TRIES} times first",
            hint="run fewer drains on one lake at a time",
        )

    def _plan(self, name: str, snapshot: Snapshot) -> _Plan | None:
        """Read up to `commit_rows` rows behind the table's offsets; None when the log holds nothing new."""
        offsets = snapshot.offsets
        advanced: dict[str, int] = {}
        batches: list[pa.RecordBatch] = []
        num_rows = size = 0
        for partition, end in self._until.items():
            for entry_offset, batch in self._entries(partition, offsets.get(partition, 0), end, name):
                advanced[partition] = entry_offset + 1
                if batch is not None:
                    batches.append(_placed(batch, partition, entry_offset, TABLES[name]))
                    num_rows += batch.num_rows
                    size += batch.nbytes
                if num_rows >= self._commit_rows or size >= COMMIT_BYTES:
                    break
            if num_rows >= self._commit_rows or size >= COMMIT_BYTES:
                break
        if not advanced:
            return None
        if not batches:
            return _Plan(None, advanced)
        rows = pa.Table.from_batches(batches, TABLES[name])
        self._seen[name].refresh(snapshot)
        fresh = self._seen[name].is_new(rows["event_id"].combine_chunks())
        kept = rows if fresh.all() else rows.filter(pa.array(fresh))
        return _Plan(kept, advanced, int(len(fresh) - fresh.sum()))

    def _entries(self, partition: str, offset: int, end: int, name: str) -> Iterator[tuple[int, pa.RecordBatch | None]]:
        while offset < end:
            last = offset
            for entry in self._log.read(partition, offset):
                if entry.offset >= end:
                    return
                batch = f"{partition}:{entry.offset}" if self._log.others_write else ""
                tables = decode_payload(entry.payload, "" if name == "events" else name, batch)
                if "quarantine" in tables:
                    self._quarantine_due_at = 0.0
                yield entry.offset, tables.get(name)
                last = entry.offset + 1
            if last == offset:
                return
            offset = last

    def _count(self, name: str, plan: _Plan, done: Drained, after: Snapshot) -> None:
        done.duplicate += plan.duplicate
        if plan.rows is None:
            return
        self._seen[name].committed(after)
        if name == "events":
            done.accepted += plan.rows.num_rows
            done.kinds = _added(done.kinds, plan.rows["kind"])
        else:
            done.quarantined = _added(done.quarantined, plan.rows["reason"])

    def _trim(self) -> None:
        for partition, below in self._lake.settled().items():
            if below and partition in self._log.partitions():
                self._log.trim(partition, below)


def _added(counts: dict[str, int], values: pa.ChunkedArray) -> dict[str, int]:
    more = Counter({pair["values"]: pair["counts"] for pair in values.value_counts().to_pylist()})
    return dict(Counter(counts) + more)


def _placed(batch: pa.RecordBatch, partition: str, offset: int, schema: pa.Schema) -> pa.RecordBatch:
    """Add where in the log each row came from."""
    count = batch.num_rows
    columns = [
        *batch.columns,
        pa.repeat(partition, count),
        pa.repeat(pa.scalar(offset, pa.int64()), count),
        pa.array(np.arange(count, dtype=np.int32)),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
