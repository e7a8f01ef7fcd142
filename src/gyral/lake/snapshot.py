"""A Snapshot: one version of one table, read or planned on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import lance
import pyarrow as pa
from lance.fragment import DataFile

from gyral.errors import ConflictError, NotFound
from gyral.faults import fail_point
from gyral.lake import commit as protocol
from gyral.lake.commit import Change, LakeError
from gyral.lake.facts import OTHER, Facts
from gyral.lake.place import folder_of, hint_of, plain, reached
from gyral.lake.sql import literal

MAX_FRAGMENTS = 200
"""Above this many fragments of one size a commit costs over 20 ms instead of 2, so the committer compacts."""
MERGED_ROWS = 125_000
"""Small fragments, of less than half of it, are read and written anew up to this many rows at a time (40 MB of memory); copying
their pages as they are would take half as long and leave `take` 1.5 times slower. What is larger is later merged into fragments
16 times as large, by copying, and those stay as they are: so a row is written about three times, however large a table gets."""
SMALL, LARGE = 1 / 2, 16


def blob_field(name: str) -> pa.Field:
    """A column for images and the like, which are stored apart from the rows: `take_blobs` reads 50 KB each in half the time of
    a plain binary column, and a scan or `take` of it tells where they are instead of reading them."""
    return pa.field(name, pa.large_binary(), metadata={"lance-encoding:blob": "true"})


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

    def read(
        self, columns: list[str] | None = None, where: str | None = None, fragment: int | None = None, limit: int | None = None
    ) -> pa.Table:
        """Read rows into one table: all, or those of one of `fragments`, or the first few."""
        some = None if fragment is None else [each for each in [self._dataset.get_fragment(fragment)] if each is not None]
        with self._readable():
            return self._dataset.scanner(
                columns=columns, filter=where, limit=limit, scan_in_order=True, fragments=some
            ).to_table()

    def fragments(self) -> list[tuple[int, int, str]]:
        """Number, bytes and digest of each fragment: what has the same digest has the same rows, in any version."""
        found = []
        for each in self._dataset.get_fragments():
            data = each.metadata
            size = sum(file.file_size_bytes or 0 for file in data.files)
            told = repr(([file.path for file in data.files], data.deletion_file))
            found.append((each.fragment_id, size, hashlib.sha256(told.encode()).hexdigest()))
        return found

    def take(self, indices: list[int], columns: list[str] | None = None) -> pa.Table:
        """Read single rows by their position in table order."""
        with self._readable():
            return self._dataset.take(indices, columns=columns)

    def take_blobs(self, column: str, indices: list[int]) -> list[bytes | None]:
        """Read single values of a `blob_field` by their position in table order; None where it is null."""
        with self._readable():
            return [blob for _, blob in self._dataset.read_blobs(column, indices=indices, preserve_order=True)]

    def find(self, event_id: str) -> dict[str, Any] | None:
        """The row with this id, None when there is none."""
        rows = self.read(where=f"event_id = {literal(event_id)}").to_pylist()
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

    def commit(self, rows: pa.Table | None, offsets: Mapping[str, int], change: Change | None = None) -> Snapshot:
        """Add rows planned on this version; see `gyral.lake.commit`."""
        return Snapshot(protocol.commit(self._dataset, rows, offsets, change))

    def promote(self, where: str, columns: Callable[[pa.Table], pa.Table], num_fields: int) -> Snapshot:
        """Give the rows that fulfil a condition their promoted columns, in their places.

        Parameters
        ----------
        columns : makes them of such rows.
        num_fields : of the registry, by which all rows are promoted then.
        """
        with self._readable():
            changed = protocol.rewritten(self._dataset, where, columns)
        return self.commit(None, {}, Change(fragments=changed, promoted=num_fields))

    @property
    def facts(self) -> Facts:
        """The version in numbers, without reading a row."""
        return protocol.facts_of(self._dataset)

    @property
    def key(self) -> str:
        """The key of hashes in the table, where it has any; empty otherwise."""
        return protocol.key_of(self._dataset)

    @property
    def promoted(self) -> int:
        """How many fields of the registry all rows were promoted by."""
        return protocol.promoted_of(self._dataset)

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

    def at(self, version: int) -> Snapshot:
        """Another version of the same table.

        Raises
        ------
        NotFound : it is not there.
        """
        try:
            return Snapshot(self._dataset.checkout_version(version))
        except (OSError, ValueError) as error:
            what = f"there is no version {version} of the table"
            raise NotFound(what, where=str(self._dataset.uri), why=plain(error)) from None

    def unpin(self, tag: str) -> None:
        """Let go of a tag."""
        with reached(self._dataset.uri, "the version cannot be let go of"), protocol.durable(self._dataset.uri, "_refs/tags"):
            self._dataset.tags.delete(tag)

    def tags(self) -> dict[str, int]:
        """Tag → the version that it keeps."""
        with reached(self._dataset.uri):
            return {name: int(tag["version"]) for name, tag in self._dataset.tags.list().items()}

    def erase(self, where: str) -> tuple[Snapshot, int]:
        """Delete rows and count the rest anew, also where that was cut off before; returns the new version and how many went.

        Their bytes are gone once `forget` has run.

        Raises
        ------
        ConflictError : somebody committed first; nothing was deleted.
        """
        with self._readable():
            dataset, count = protocol.deleted(self._dataset, where)
            return Snapshot(protocol.counted_anew(dataset)), count

    def rewrite(self) -> Snapshot:
        """Write every fragment with deleted rows anew, without them.

        Raises
        ------
        ConflictError : somebody committed first; nothing changed.
        """
        return Snapshot(protocol.rewrite(self._dataset, MERGED_ROWS))

    def forget(self) -> bool:
        """Remove every file that belongs to no tagged version and not to the newest; nobody may be writing.

        Returns
        -------
        Whether that is all: in an object store files that no version ever named stay until they are seven days old, because
        somebody elsewhere may be about to commit them.
        """
        is_local = folder_of(self._dataset.uri) is not None
        with reached(self._dataset.uri, "old versions cannot be removed"):
            self._dataset.cleanup_old_versions(timedelta(0), delete_unverified=is_local, error_if_tagged_old_versions=False)
        return is_local

    def make_durable(self, flushed: set[str]) -> None:
        """Flush a version whoever committed it; `flushed` holds the data files known to be on the disk and grows."""
        protocol.flush_version(self._dataset, flushed)

    def is_crowded(self) -> bool:
        """Whether commits get slow because too many fragments wait to be merged."""
        rows = [fragment.physical_rows for fragment in self._dataset.get_fragments()]
        small = sum(each < SMALL * MERGED_ROWS for each in rows)
        large = sum(each >= LARGE * SMALL * MERGED_ROWS for each in rows)
        return max(small, len(rows) - small - large) > MAX_FRAGMENTS

    def compact(self) -> Snapshot:
        """Merge some small fragments; where somebody committed first, nothing changes and this version is returned."""
        dataset = self._dataset.checkout_version(self.version)
        small = int(SMALL * MERGED_ROWS)
        try:
            with protocol.durable(dataset.uri, "data", "_transactions", "_versions"):
                done = dataset.optimize.compact_files(target_rows_per_fragment=small, max_source_rows=MERGED_ROWS)
                fail_point("lake.compacting")
                if not done.fragments_removed:
                    dataset.optimize.compact_files(target_rows_per_fragment=LARGE * small, compaction_mode="try_binary_copy")
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
