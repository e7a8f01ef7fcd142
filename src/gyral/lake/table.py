"""The Lake of a project: its tables by name, snapshots of them, and what they hold in numbers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import lance
import pyarrow as pa
from lance.fragment import DataFile

from gyral.config import Config
from gyral.errors import ConflictError, NotFound
from gyral.event.schema import TABLES
from gyral.faults import fail_point
from gyral.lake import commit as protocol
from gyral.lake.commit import LakeError
from gyral.lake.facts import LATENESS, OTHER, Facts
from gyral.lake.place import FOLDER, NO_OPTIONS, Options, folder_of, hint_of, place_of, plain, reached
from gyral.log.base import EventLog
from gyral.log.sqlite import SqliteLog

PLURALS = {"kind": "kinds", "app": "apps", "country": "countries", "language": "languages", "schema_id": "schemas"}
MAX_FRAGMENTS = 200
"""Above this many fragments a commit costs over 20 ms instead of 2, so the committer compacts."""
MERGED_ROWS = 250_000
"""Small fragments are read and written anew up to this many rows at a time (80 MB of memory); copying their pages as they are
would take half as long and leave `take` 1.5 times slower. What is this large is later merged 16 to one, by copying."""
MAX_VERSIONS = 500
KEEP_VERSIONS_FOR = timedelta(hours=1)
"""Versions younger than this are never forgotten: somebody may be reading them."""
CLEAN_EVERY_S = 600.0


class Snapshot:
    """One version of one table; what is read from it never changes."""

    def __init__(self, dataset: lance.LanceDataset) -> None:
        self._dataset = dataset

    @property
    def version(self) -> int:
        return int(self._dataset.version)

    @property
    def schema(self) -> pa.Schema:
        return self._dataset.schema.remove_metadata()

    @property
    def offsets(self) -> dict[str, int]:
        return protocol.offsets_of(self._dataset)

    def count(self, where: str | None = None) -> int:
        """Number of rows, of those that fulfil a SQL condition when one is given."""
        with self._readable():
            return int(self._dataset.count_rows(filter=where))

    def scan(self, columns: list[str] | None = None, where: str | None = None) -> Iterator[pa.RecordBatch]:
        """Read rows in table order, in batches.

        Raises
        ------
        LakeError : files of this version are missing or damaged.
        """
        with self._readable():
            yield from self._dataset.scanner(columns=columns, filter=where, scan_in_order=True).to_batches()

    def read(self, columns: list[str] | None = None, where: str | None = None) -> pa.Table:
        """Read rows into one table."""
        with self._readable():
            return self._dataset.scanner(columns=columns, filter=where, scan_in_order=True).to_table()

    def take(self, indices: list[int], columns: list[str] | None = None) -> pa.Table:
        """Read single rows by their position in table order."""
        with self._readable():
            return self._dataset.take(indices, columns=columns)

    def find(self, event_id: str) -> dict[str, Any] | None:
        """The row with this id, None when there is none."""
        quoted = event_id.replace("'", "''")
        rows = self.read(where=f"event_id = '{quoted}'").to_pylist()
        return rows[0] if rows else None

    def distinct(self, column: str) -> list[str]:
        """Values of a counted column, sorted; read from the facts unless there are too many to be counted."""
        counts = self.facts.counts.get(column, {})
        if OTHER in counts:
            return sorted(filter(None, self.read([column])[column].unique().to_pylist()))
        return sorted(counts)

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:  # what Lance and Arrow raise for files that are gone or damaged
            missing = "put the missing files back from a copy, or move the `lake` folder away and ingest again"
            raise LakeError(
                f"version {self.version} of the lake table cannot be read",
                why=plain(error).splitlines()[0][:300],
                where=str(self._dataset.uri),
                hint=missing if folder_of(self._dataset.uri) else hint_of(self._dataset.uri),
            ) from None

    def commit(self, rows: pa.Table | None, offsets: Mapping[str, int]) -> Snapshot:
        """Add rows planned on this version; see `gyral.lake.commit`."""
        return Snapshot(protocol.commit(self._dataset, rows, offsets))

    @property
    def facts(self) -> Facts:
        """The version in numbers, without reading a row."""
        return protocol.facts_of(self._dataset)

    def pin(self, tag: str) -> None:
        """Keep this version for as long as the tag exists; the same tag on the same version is fine.

        Raises
        ------
        ConflictError : the tag is on another version.
        """
        with reached(self._dataset.uri, "the version cannot be pinned"):
            with protocol.durable(self._dataset.uri, "_refs/tags"), suppress(ValueError):  # made by another process first
                if tag not in self._dataset.tags.list():
                    self._dataset.tags.create(tag, self.version)
            pinned = self._dataset.tags.get_version(tag)
        if pinned != self.version:
            raise ConflictError(f"the tag `{tag}` keeps version {pinned}, not {self.version}", where=str(self._dataset.uri))

    def make_durable(self, flushed: set[str]) -> None:
        """Flush a version whoever committed it; `flushed` holds the data files known to be on the disk and grows."""
        protocol.flush_version(self._dataset, flushed)

    def compact(self) -> Snapshot:
        """Merge some small fragments; where somebody committed first, nothing changes and this version is returned."""
        dataset = self._dataset.checkout_version(self.version)
        try:
            with protocol.durable(dataset.uri, "data", "_transactions", "_versions"):
                done = dataset.optimize.compact_files(target_rows_per_fragment=MERGED_ROWS, max_source_rows=MERGED_ROWS)
                fail_point("lake.compacting")
                if not done.fragments_removed:  # all are large already, and so are their pages
                    dataset.optimize.compact_files(target_rows_per_fragment=16 * MERGED_ROWS, compaction_mode="try_binary_copy")
        except OSError:
            return self
        merged = Snapshot(dataset)
        return merged if merged.offsets == self.offsets else self

    def files(self) -> list[DataFile]:
        """The files that hold the rows of this version."""
        return [file for each in self._dataset.get_fragments() for file in each.metadata.files]

    @property
    def num_fragments(self) -> int:
        return len(self._dataset.get_fragments())


class Lake:
    """The tables below `root/lake`. Opening it makes nothing; the first write does.

    Parameters
    ----------
    root : the project folder.
    into : folder of the lake in it or anywhere, or its address in an object store.
    options : of the store, for Lance.
    """

    def __init__(self, root: Path, into: str = FOLDER, options: Options = NO_OPTIONS) -> None:
        self.place = place_of(root, into, options)
        self._flushed: dict[str, set[str]] = {}
        self._clean_at: dict[str, float] = {}

    @classmethod
    def of(cls, root: Path, config: Config) -> Self:
        """The lake that a configuration names."""
        return cls(root, config.lake, config.lake_options)

    @property
    def folder(self) -> Path:
        """What the lake has on this machine."""
        return self.place.folder

    @property
    def log_folder(self) -> Path:
        """Where the embedded log of this lake lives."""
        return self.place.log_folder

    def exists(self, name: str) -> bool:
        """Whether the table has been made."""
        return self.place.exists(name)

    def snapshot(self, name: str, version: int | None = None) -> Snapshot:
        """Open the newest version of a table, or a given one.

        Raises
        ------
        NotFound : the table or the version does not exist.
        LakeError : the table's files cannot be read.
        """
        uri = self.place.table(name)
        if not self.exists(name):
            raise NotFound(f"the lake has no table `{name}`", where=self.place.uri, hint="gyral ingest --source FILE")
        try:
            return Snapshot(lance.dataset(uri, version=version, storage_options=self.place.options))
        except ValueError as error:
            if version is None or "not found" not in str(error):
                raise LakeError("the lake table cannot be read", why=plain(error), where=uri, hint=hint_of(uri)) from None
            raise NotFound(f"the table `{name}` has no version {version}", where=uri, why=str(error)) from None
        except OSError as error:
            raise LakeError("the lake table cannot be read", why=str(error), where=uri) from None

    def open(self, name: str) -> Snapshot:
        """Open the newest version of a table, making the table when it is missing."""
        if not self.exists(name):
            return Snapshot(protocol.create(self.place.table(name), TABLES[name], self.place.options))
        return self.snapshot(name)

    def settled(self) -> dict[str, int]:
        """Partition → offset below which every table has everything, on the disk: so far the log may be trimmed."""
        every = []
        for name in TABLES:
            snapshot = self.open(name)
            try:
                snapshot.make_durable(self._flushed.setdefault(name, set()))
            except OSError as error:
                hint = hint_of(self.place.uri)
                raise LakeError("the lake could not be flushed", why=str(error), where=self.place.uri, hint=hint) from None
            every.append(snapshot.offsets)
        return {partition: min(each.get(partition, 0) for each in every) for partition in set().union(*every)}

    def check(self, log: EventLog) -> None:
        """Refuse a log that is older than what the lake has of it: what it is given next would be taken for known.

        Raises
        ------
        LakeError : names the partition; the hint says how to go on.
        """
        there = log.partitions()
        for name in (name for name in TABLES if self.exists(name)):
            for partition, offset in self.snapshot(name).offsets.items():
                if partition in there and (end := log.end(partition)) < offset:
                    raise LakeError(
                        f"the log partition `{partition}` ends at {end}, but `{name}` has it up to {offset}",
                        where=str(self.log_folder),
                        why="the log is older than the lake",
                        hint=f"put the newer log back; or remove the folder `{partition}` there: what it holds is in the lake",
                    )

    def maintain(self, name: str, snapshot: Snapshot) -> Snapshot:
        """Merge small fragments and forget old versions nobody pinned, when it is due; called by the process that commits.

        Returns
        -------
        The newest version that holds the same rows, which is `snapshot` itself when nothing was merged.
        """
        if snapshot.num_fragments > MAX_FRAGMENTS:
            snapshot = snapshot.compact()
        if time.monotonic() >= self._clean_at.get(name, 0.0) and self.place.num_versions(name) > MAX_VERSIONS:
            self._clean_at[name] = time.monotonic() + CLEAN_EVERY_S
            with reached(self.place.table(name), "old versions could not be forgotten"):
                dataset = lance.dataset(self.place.table(name), storage_options=self.place.options)
                dataset.cleanup_old_versions(KEEP_VERSIONS_FOR, error_if_tagged_old_versions=False)
            fail_point("lake.cleaning")
        return snapshot

    def overview(self) -> dict[str, Any]:
        """Tables and log in numbers, from what is committed; this is what `gyral show lake --json` prints."""
        tables: dict[str, Any] = {}
        for name in TABLES:
            if self.exists(name):
                tables[name] = self._describe(name)
        log = SqliteLog(self.log_folder)
        partitions = {name: {"bytes": log.size_bytes(name), "end": log.end(name)} for name in log.partitions()}
        return {"tables": tables, "log": {"partitions": partitions}}

    def _describe(self, name: str) -> dict[str, Any]:
        snapshot = self.snapshot(name)
        known = snapshot.facts
        facts: dict[str, Any] = {
            "rows": known.rows,
            "version": snapshot.version,
            "bytes": self.place.size_bytes(name, snapshot.files()),
            "offsets": snapshot.offsets,
        }
        if name != "events":
            return {**facts, "reasons": _largest_first(known.counts.get("reason", {}))}
        for column, plural in PLURALS.items():
            facts[plural] = _largest_first(known.counts.get(column, {}))
        facts["devices"] = {
            name: {
                "rows": sum(device.late) + device.ahead,
                "newest": _rfc3339(device.newest_us),
                "late": dict(zip(LATENESS, device.late, strict=True)),
                "ahead": device.ahead,
            }
            for name, device in sorted(known.devices.items())
        }
        return {**facts, "first_event": _rfc3339(known.first_us), "last_event": _rfc3339(known.last_us)}


def _largest_first(counts: dict[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _rfc3339(micros: int | None) -> str | None:
    if micros is None:
        return None
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)
    return moment.isoformat().replace("+00:00", "Z")
