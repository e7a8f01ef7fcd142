"""The Lake of a project: its tables by name, snapshots of them, and what they hold in numbers."""

from __future__ import annotations

import secrets
import time
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import lance

from gyral.config import Config
from gyral.errors import ConflictError, NotFound
from gyral.event.clock import rfc3339
from gyral.event.schema import TABLES
from gyral.faults import fail_point
from gyral.files import together, without_others
from gyral.lake import commit as protocol
from gyral.lake.commit import Change, LakeError
from gyral.lake.facts import LATENESS, Facts, drift, watermark
from gyral.lake.place import FOLDER, NO_OPTIONS, Options, hint_of, place_of, plain, reached
from gyral.lake.registry import Field, Registry
from gyral.lake.snapshot import Snapshot
from gyral.log.base import EventLog
from gyral.log.sqlite import SqliteLog
from gyral.memory import give_back

PLURALS = {"kind": "kinds", "app": "apps", "country": "countries", "language": "languages", "schema_id": "schemas"}
MAX_VERSIONS = 500
KEEP_VERSIONS_FOR = timedelta(hours=1)
"""Versions younger than this are never forgotten: somebody may be reading them."""
CLEAN_EVERY_S = 600.0
LOCK = ".writing"
WAIT_S = 60.0


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
        self._settled: dict[str, int] = {}
        """Versions of tables that are known to be on the disk whole."""
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

    def writing(self) -> AbstractContextManager[None]:
        """A block in which tables are written or new versions pinned; it waits for an erasure that is under way."""
        return together(self.folder / LOCK)

    def alone(self) -> AbstractContextManager[None]:
        """A block in which nobody else is `writing`; waits for those who are.

        Raises
        ------
        ConflictError : they did not end within a minute.
        """
        return without_others(self.folder / LOCK, WAIT_S, "other processes write to the lake")

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
            raise NotFound(
                f"the table `{name}` has no version {version}",
                where=uri,
                why=str(error),
                hint="`gyral show lake` lists its tables",
            ) from None
        except OSError as error:
            raise LakeError("the lake table cannot be read", why=str(error), where=uri) from None

    def open(self, name: str) -> Snapshot:
        """Open the newest version of a table to write to it: made when it is missing, with every column there is today."""
        if not self.exists(name):
            key = secrets.token_hex(16).encode() if name == "erasures" else b""
            schema = TABLES[name].with_metadata({protocol.KEY_KEY: key})
            return Snapshot(protocol.create(self.place.table(name), schema, self.place.options))
        while True:
            snapshot = self.snapshot(name)
            there = set(snapshot.schema.names)
            missing = [field for field in TABLES[name] if field.name not in there]
            if not missing:
                return snapshot
            with suppress(ConflictError):  # somebody else added them, or rows
                snapshot.commit(None, {}, Change(fields=missing))

    def registry(self) -> Registry:
        """The schemas registered so far."""
        if not self.exists("schemas"):
            return Registry()
        rows = self.snapshot("schemas").read(list(Field._fields)).to_pylist()
        return Registry(Field(**row) for row in rows)

    def settled(self) -> dict[str, int]:
        """Partition → offset below which every table has everything, on the disk: so far the log may be trimmed."""
        every = []
        for name in TABLES:
            snapshot = self.open(name)
            if snapshot.version != self._settled.get(name):
                try:
                    snapshot.make_durable(self._flushed.setdefault(name, set()))
                except OSError as error:
                    hint = hint_of(self.place.uri)
                    raise LakeError("the lake could not be flushed", why=str(error), where=self.place.uri, hint=hint) from None
                self._settled[name] = snapshot.version
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
                    away = f"remove the folder `{partition}` there: what it holds is in the lake"
                    if log.others_write:
                        away = "make the topic under another name, which is read from its beginning"
                    raise LakeError(
                        f"the log partition `{partition}` ends at {end}, but `{name}` has it up to {offset}",
                        where=self.place.uri if log.others_write else str(self.log_folder),
                        why="the log is older than the lake",
                        hint=f"put the newer log back; or {away}",
                    )

    def maintain(self, name: str, snapshot: Snapshot) -> Snapshot:
        """Merge small fragments and forget old versions nobody pinned, when it is due; called by the process that commits.

        Returns
        -------
        The newest version that holds the same rows, which is `snapshot` itself when nothing was merged.
        """
        if snapshot.is_crowded():
            snapshot = snapshot.compact()
            give_back()  # a merge takes up to 40 MB, in many threads, and what they freed would stay with the process
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
        if name == "quarantine":
            return {**facts, "reasons": _largest_first(known.counts.get("reason", {})), "days": _daily(known, "reason")}
        if name == "schemas":
            return {**facts, "fields": self.registry().described()}
        if name != "events":
            return facts
        for column, plural in PLURALS.items():
            facts[plural] = _largest_first(known.counts.get(column, {}))
        facts["devices"] = {
            name: {
                "rows": sum(device.late) + device.ahead + device.behind,
                "newest": _rfc3339(device.newest_us),
                "watermark": _rfc3339(watermark(device)),
                "late": dict(zip(LATENESS, device.late, strict=True)),
                "ahead": device.ahead,
                "behind": device.behind,
            }
            for name, device in sorted(known.devices.items())
        }
        facts |= {"days": _daily(known, "kind"), "drift": drift(known)}
        return {**facts, "first_event": _rfc3339(known.first_us), "last_event": _rfc3339(known.last_us)}


def _daily(known: Facts, column: str) -> dict[str, int]:
    """Rows that came in on each of the last days."""
    return {day: sum(counts.get(column, {}).values()) for day, counts in known.days.items()}


def _largest_first(counts: dict[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _rfc3339(micros: int | None) -> str | None:
    if micros is None:
        return None
    return rfc3339(datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros))
