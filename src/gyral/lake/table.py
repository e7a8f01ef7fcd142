"""The Lake of a project: its tables by name, snapshots of them, and what they hold in numbers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pyarrow.compute as pc

from gyral.errors import NotFound
from gyral.event.schema import TABLES
from gyral.lake import commit as protocol
from gyral.lake.commit import LakeError

FOLDER = "lake"
MAX_FRAGMENTS = 200
"""Above this many fragments a commit costs over 20 ms instead of 2, so the committer compacts."""


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
        return int(self._dataset.count_rows(filter=where))

    def scan(self, columns: list[str] | None = None, where: str | None = None) -> Iterator[pa.RecordBatch]:
        """Read rows in table order, in batches."""
        yield from self._dataset.scanner(columns=columns, filter=where, scan_in_order=True).to_batches()

    def read(self, columns: list[str] | None = None, where: str | None = None) -> pa.Table:
        """Read rows into one table."""
        return self._dataset.scanner(columns=columns, filter=where, scan_in_order=True).to_table()

    def take(self, indices: list[int], columns: list[str] | None = None) -> pa.Table:
        """Read single rows by their position in table order."""
        return self._dataset.take(indices, columns=columns)

    def commit(self, rows: pa.Table | None, offsets: Mapping[str, int]) -> Snapshot:
        """Add rows planned on this version; see `gyral.lake.commit`."""
        return Snapshot(protocol.commit(self._dataset, rows, offsets))

    def pin(self, tag: str) -> None:
        """Keep this version for as long as the tag exists; the same tag on the same version is fine."""
        if tag not in self._dataset.tags.list():
            self._dataset.tags.create(tag, self.version)

    @property
    def num_fragments(self) -> int:
        return len(self._dataset.get_fragments())


class Lake:
    """The tables below `root/lake`. Opening it makes nothing; the first write does.

    Parameters
    ----------
    root : the project folder.
    """

    def __init__(self, root: Path) -> None:
        self.folder = root / FOLDER

    @property
    def log_folder(self) -> Path:
        """Where the embedded log of this lake lives."""
        return self.folder / "log"

    def exists(self, name: str) -> bool:
        """Whether the table has been made."""
        return (self.folder / name / "_versions").is_dir()

    def snapshot(self, name: str, version: int | None = None) -> Snapshot:
        """Open the newest version of a table, or a given one.

        Raises
        ------
        NotFound : the table or the version does not exist.
        LakeError : the table's files cannot be read.
        """
        uri = self.folder / name
        if not self.exists(name):
            raise NotFound(f"the lake has no table `{name}`", where=str(self.folder), hint="gyral ingest --source FILE")
        try:
            return Snapshot(lance.dataset(str(uri), version=version))
        except ValueError as error:
            if version is None:
                raise LakeError("the lake table cannot be read", why=str(error), where=str(uri)) from None
            raise NotFound(f"the table `{name}` has no version {version}", where=str(uri), why=str(error)) from None
        except OSError as error:
            raise LakeError("the lake table cannot be read", why=str(error), where=str(uri)) from None

    def open(self, name: str) -> Snapshot:
        """Open the newest version of a table, making the table when it is missing."""
        if not self.exists(name):
            return Snapshot(protocol.create(self.folder / name, TABLES[name]))
        return self.snapshot(name)

    def compact(self, name: str) -> None:
        """Merge small fragments; owned by the process that commits. A lost race changes nothing."""
        dataset = lance.dataset(str(self.folder / name))
        since = time.time()
        try:
            dataset.optimize.compact_files()
        except OSError:
            return
        protocol.flush(self.folder / name, since)

    def overview(self) -> dict[str, Any]:
        """Tables and log in numbers, from what is committed; this is what `gyral show lake --json` prints."""
        tables: dict[str, Any] = {}
        for name in TABLES:
            if self.exists(name):
                tables[name] = self._describe(name)
        partitions = {
            path.stem: {"bytes": sum(each.stat().st_size for each in self.log_folder.glob(f"{path.stem}.sqlite*"))}
            for path in sorted(self.log_folder.glob("*.sqlite"))
        }
        return {"tables": tables, "log": {"partitions": partitions}}

    def _describe(self, name: str) -> dict[str, Any]:
        snapshot = self.snapshot(name)
        uri = self.folder / name
        facts: dict[str, Any] = {
            "rows": snapshot.count(),
            "version": snapshot.version,
            "bytes": sum(path.stat().st_size for path in uri.rglob("*") if path.is_file()),
            "offsets": snapshot.offsets,
        }
        if name == "events":
            facts["kinds"] = _counts(snapshot, "kind")
            facts["countries"] = _counts(snapshot, "country")
            times = pc.min_max(snapshot.read(["event_time"])["event_time"]).as_py()
            facts["first_event"], facts["last_event"] = (
                value.isoformat().replace("+00:00", "Z") if value else None for value in (times["min"], times["max"])
            )
        else:
            facts["reasons"] = _counts(snapshot, "reason")
        return facts


def _counts(snapshot: Snapshot, column: str) -> dict[str, int]:
    counted = snapshot.read([column])[column].value_counts().to_pylist()
    rows = sorted(
        ((row["values"], row["counts"]) for row in counted if row["values"] is not None),
        key=lambda row: (-row[1], row[0]),
    )
    return dict(rows)
