"""Log → Lake: read behind the table's own offsets, drop known ids, commit rows and offsets in one step, then trim.

Any number of drains may run: a commit that lost the race is planned again from the winner's offsets. A drain that dies
anywhere leaves either the old version or the new one, and the log is trimmed only below what every table has on the disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress

import msgspec
import numpy as np
import pyarrow as pa

from gyral.config import Config
from gyral.config.sections import Device
from gyral.errors import ConflictError
from gyral.event.codec import decode_payload
from gyral.event.schema import TABLES
from gyral.faults import fail_point
from gyral.ingest import refine
from gyral.ingest.dedup import Run as HashedIds
from gyral.ingest.dedup import SeenIds
from gyral.ingest.tombstones import Tombstones
from gyral.lake.commit import Change, LakeError
from gyral.lake.facts import MAX_VALUES, OTHER, merged, of_values
from gyral.lake.registry import Registry
from gyral.lake.snapshot import Snapshot
from gyral.lake.table import Lake
from gyral.log.base import EventLog

MAX_TRIES = 100
SIDES = tuple(name for name in TABLES if name != "events")
"""Tables that few batches have rows for."""
SIDES_EVERY_S = 30.0
REGISTRATIONS = "schemas"
"""Kind of the partitions that registrations are appended to."""
COMMIT_BYTES = 256 << 20
"""A commit takes no more rows once it has this much, however few they are."""


class Drained(msgspec.Struct):
    """What a drain did: rows committed (also by kind), known ids dropped, rows of erased subjects dropped, rows quarantined by
    reason, fields registered, newest `events`."""

    accepted: int = 0
    kinds: dict[str, int] = {}
    duplicate: int = 0
    erased: int = 0
    quarantined: dict[str, int] = {}
    registered: int = 0
    version: int = 0

    def __add__(self, later: Drained) -> Drained:
        """What this and a later run did together."""
        return Drained(
            accepted=self.accepted + later.accepted,
            kinds=merged(self.kinds, later.kinds, MAX_VALUES),
            duplicate=self.duplicate + later.duplicate,
            erased=self.erased + later.erased,
            quarantined=merged(self.quarantined, later.quarantined, MAX_VALUES),
            registered=self.registered + later.registered,
            version=max(self.version, later.version),
        )


class _Plan(msgspec.Struct):
    rows: pa.Table | None
    offsets: dict[str, int]
    duplicate: int = 0
    erased: int = 0


class Drain:
    """Commits a log to a lake; keep one for as long as the process lives, it remembers the ids it has seen.

    Parameters
    ----------
    commit_rows : rows a commit at most.
    dedup_days : days an event id is remembered; 0: always.
    devices : classes of devices, how far their clocks may be off.
    """

    def __init__(
        self, lake: Lake, log: EventLog, commit_rows: int, dedup_days: int = 0, devices: Mapping[str, Device] | None = None
    ) -> None:
        self.offsets: dict[str, int] = {}
        """How far the `events` are committed, as of the last run."""
        self.is_committing = False
        """Whether a commit is being made at this moment; the rest of a run may be cut off anywhere."""
        self._lake = lake
        self._log = log
        self._commit_rows = commit_rows
        self._devices = devices or {}
        self._seen = {name: SeenIds(dedup_days if name in ("events", "quarantine") else 0) for name in TABLES}
        self._due_at = dict.fromkeys(SIDES, 0.0)
        self._is_same = not log.others_write
        """Whether the log was seen to be the one the lake has events of, and nothing failed since."""
        self._until: dict[str, int] = {}
        """Where the partitions ended when the run began: what comes meanwhile is for the next, or a run might never end."""
        self._plain: dict[str, tuple[int, int]] = {}
        """Batches from … to … of a partition that have rows for `events` only: the other tables need not read them again."""
        self._registry, self._registry_version = Registry(), 0
        self._tombstones = Tombstones()
        self._seals = False
        """Whether somebody was erased: then the log goes on in new segments, so that the old ones soon go whole."""

    @classmethod
    def of(cls, lake: Lake, log: EventLog, config: Config) -> Drain:
        """The drain that a configuration describes."""
        return cls(lake, log, config.ingest.commit_rows, config.ingest.dedup_days, config.devices)

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
        eager : commit to the other tables even when only their offsets advance; otherwise those wait up to 30 s, because each
            commit costs a flush.
        goes_on : told after each commit what this run did so far; False ends the run there.

        Raises
        ------
        LakeError, LogError : the disk refused; run it again, nothing is lost or doubled.
        """
        with self._lake.writing():
            return self._run(eager, goes_on)

    def _run(self, eager: bool, goes_on: Callable[[Drained], bool]) -> Drained:
        done = Drained()
        self._lake.check(self._log)
        if not self._is_same:
            self._check_same()
        self._is_same = not self._log.others_write
        self._until = {partition: self._log.end(partition) for partition in self._log.partitions()}
        if self._has_registrations():  # first, or events that came with them would have to be promoted afterwards
            self._commit_all("schemas", done, goes_on)
        self._promote_what_waited()
        registered = done.registered
        for name in ("events", *SIDES):
            if name == "events" or eager or time.monotonic() >= self._due_at[name]:
                if not self._commit_all(name, done, goes_on):
                    return done
                self._due_at[name] = time.monotonic() + SIDES_EVERY_S
        if done.registered > registered:
            self._promote_what_waited()
        done.version = self._lake.open("events").version
        self._trim()
        self._is_same = True
        return done

    def _has_registrations(self) -> bool:
        """Whether a partition that is written by registrations, which its name tells, has new ones."""
        ends = {name: end for name, end in self._until.items() if name.startswith(REGISTRATIONS)}
        if not ends:
            return False
        known = self._lake.open("schemas").offsets
        return any(end > known.get(name, 0) for name, end in ends.items())

    def _commit_all(self, name: str, done: Drained, goes_on: Callable[[Drained], bool]) -> bool:
        """Commit to one table all that the log has; False where the run was told to end."""
        while self._step(name, done):
            if not goes_on(done):
                return False
        return True

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
            for following, batch in self._entries(partition, last, last + 1, "events") if ids else ():
                there = set() if batch is None else set(batch["event_id"].to_pylist())
                if following == last + 1 and not ids <= there:
                    raise LakeError(
                        f"the log partition `{partition}` has other events at {last:,} than the lake has from there",
                        where=self._lake.place.uri,
                        why="it was made anew under its old name, or the broker lost what it had acknowledged",
                        hint="put the old one back; or make it under another name, which is read from its beginning",
                    )

    def _step(self, name: str, done: Drained) -> bool:
        """Make one commit to a table; False where the log has nothing new for it."""
        for _ in range(MAX_TRIES):
            try:
                return self._try_step(name, done)
            except ConflictError:  # somebody else committed first: plan again
                continue
            finally:
                self.is_committing = False
        raise ConflictError(
            f"other processes committed to `{name}` {MAX_TRIES} times first",
            hint="run fewer drains on one lake at a time",
        )

    def _try_step(self, name: str, done: Drained) -> bool:
        snapshot = self._lake.open(name)
        if name == "events":
            self.offsets = snapshot.offsets
            snapshot = self._grown(snapshot)
        plan = self._plan(name, snapshot)
        if plan is None:
            return False
        fail_point("lake.planned")
        self.is_committing = True
        after = snapshot.commit(plan.rows, plan.offsets, self._change(name, snapshot))
        fail_point("lake.committed")
        self._count(name, plan, done, self._lake.maintain(name, after))
        if name == "events":
            done.version = after.version
        return True

    def _plan(self, name: str, snapshot: Snapshot) -> _Plan | None:
        """Read up to `commit_rows` rows behind the table's offsets; None when the log holds nothing new."""
        offsets = snapshot.offsets
        advanced: dict[str, int] = {}
        batches: list[pa.RecordBatch] = []
        num_rows = size = 0
        for partition, end in self._until.items():
            for next_offset, batch in self._entries(partition, offsets.get(partition, 0), end, name):
                advanced[partition] = next_offset
                if batch is not None:
                    batches.append(refine.placed(batch, partition, next_offset - 1, name))
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
        came = pa.Table.from_batches(batches, TABLES[name])
        rows = self._of_living(name, came)
        self._seen[name].refresh(snapshot)
        fresh = self._seen[name].is_new(rows["event_id"].combine_chunks())
        kept = rows if fresh.all() else rows.filter(pa.array(fresh))
        if name == "events":
            kept = refine.promoted(refine.adjusted(kept, self._devices), self._registry)
        return _Plan(kept, advanced, int(len(fresh) - fresh.sum()), came.num_rows - rows.num_rows)

    def _of_living(self, name: str, rows: pa.Table) -> pa.Table:
        """Leave out what is of subjects that were erased.

        The tombstones are read after the version that the rows are planned on: an erasure marks first and deletes then, so
        either its mark is seen here or its deletion makes this commit fail.
        """
        if name not in ("events", "quarantine") or not self._lake.exists("erasures"):
            return rows
        snapshot = self._lake.snapshot("erasures")
        if snapshot.version != self._tombstones.version:
            self._seals = self._seals or len(self._tombstones) < snapshot.facts.rows
            self._tombstones = Tombstones(snapshot)
        if not len(self._tombstones):
            return rows
        dead = self._tombstones.has(rows["subject"]) if name == "events" else self._tombstones.in_raw(rows["raw"])
        return rows.filter(pa.array(~dead)) if dead.any() else rows

    def _entries(self, partition: str, offset: int, end: int, name: str) -> Iterator[tuple[int, pa.RecordBatch | None]]:
        """The offset behind each batch and its rows for a table, None when it has none."""
        while offset < end:
            plain = self._plain.get(partition, (0, 0))
            if name != "events" and plain[0] <= offset < plain[1]:
                offset = min(plain[1], end)
                yield offset, None
                continue
            last = offset
            for entry in self._log.read(partition, offset):
                if entry.offset >= end:
                    return
                if name != "events" and plain[0] <= entry.offset < plain[1]:
                    break
                batch = f"{partition}:{entry.offset}" if self._log.others_write else ""
                tables = decode_payload(entry.payload, "" if name == "events" else name, batch)
                last = entry.offset + 1
                if name == "events":
                    self._note_sides(partition, entry.offset, tables)
                yield last, tables.get(name)
            if last == offset:
                return
            offset = last

    def _note_sides(self, partition: str, offset: int, tables: Mapping[str, pa.RecordBatch]) -> None:
        sides = [name for name in tables if name != "events"]
        self._due_at.update(dict.fromkeys(sides, 0.0))
        first, following = self._plain.get(partition, (offset, offset))
        if sides:
            self._plain[partition] = (offset + 1, offset + 1)
        elif following >= offset:
            self._plain[partition] = (first, max(following, offset + 1))
        else:
            self._plain[partition] = (offset, offset + 1)

    def _grown(self, snapshot: Snapshot) -> Snapshot:
        """The `events` with a column for every field that is promoted."""
        version = self._lake.snapshot("schemas").version if self._lake.exists("schemas") else 0
        if version != self._registry_version:
            self._registry, self._registry_version = self._lake.registry(), version
        missing = self._registry.missing(snapshot.schema)
        if not missing:
            return snapshot
        grown = snapshot.commit(None, {}, Change(fields=missing))
        self._seen["events"].same(snapshot, grown)
        return grown

    def _promote_what_waited(self) -> None:
        """Promote the rows that came before their schema, or before a field of it."""
        for _ in range(MAX_TRIES):
            with suppress(ConflictError):
                snapshot = self._grown(self._lake.open("events"))
                if late := self._late(snapshot):
                    after = snapshot.promote(self._registry.behind(late), self._columns, len(self._registry.fields))
                    self._seen["events"].same(snapshot, after)
                return

    def _late(self, snapshot: Snapshot) -> set[str]:
        """Schemas of which rows may be there that were not promoted by all of their fields."""
        counts = snapshot.facts.counts.get("schema_id", {})
        late = {field.schema_id for field in self._registry.fields[snapshot.promoted :]}
        return late if OTHER in counts else late & set(counts)

    def _change(self, name: str, snapshot: Snapshot) -> Change | None:
        """With rows that are promoted by the whole registry goes that all are, when those that are there are."""
        total = len(self._registry.fields)
        if name != "events" or snapshot.promoted >= total or self._late(snapshot):
            return None
        return Change(promoted=total)

    def _columns(self, rows: pa.Table) -> pa.Table:
        """All promoted columns of rows of the lake, and how many fields they have of their schemas."""
        made = refine.promoted(rows.select(TABLES["events"].names), self._registry)
        return made.select([name for name in made.column_names if name == "promoted" or name in self._registry.columns])

    def _count(self, name: str, plan: _Plan, done: Drained, after: Snapshot) -> None:
        done.duplicate += plan.duplicate
        done.erased += plan.erased
        if plan.rows is None:
            return
        self._seen[name].committed(after)
        if name == "events":
            done.accepted += plan.rows.num_rows
            done.kinds = merged(done.kinds, of_values(plan.rows["kind"]), MAX_VALUES)
        elif name == "quarantine":
            done.quarantined = merged(done.quarantined, of_values(plan.rows["reason"]), MAX_VALUES)
        elif name == "schemas":
            done.registered += plan.rows.num_rows

    def _trim(self) -> None:
        for partition, below in self._lake.settled().items():
            if below and partition in self._log.partitions():
                self._log.trim(partition, below, self._seals)
        self._seals = False
