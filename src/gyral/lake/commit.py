"""The only way rows enter a table: compare-and-set on the version, with the log offsets in the same commit.

1. read version V and the offsets in its schema metadata; 2. the caller makes rows from the log behind those offsets; 3. write
fragments; 4. fsync them; 5. `Merge` commit at V, all fragments + new offsets, no retries; 6. a conflict means somebody else
committed: plan again from their offsets; 7. fsync manifest and folders. After 7 the log may forget those offsets.

`Merge` and not `Append`: two writers that planned the same offsets both succeed with `Append` (measured 5,800 rows where 3,000
were expected); `Merge` rejects the second. Offsets live in the schema metadata, where compaction and cleanup keep them; in
`transaction_properties` they vanish. Lance itself never fsyncs a local file, so steps 4 and 7 are ours. What a page tells of a
table (`Facts`) is counted on in the same commit, so nobody scans a table to show it.

In an object store steps 4 and 7 are empty (`place.py`): what was answered is stored. `Merge` is a compare-and-set there because
the manifest of a version is put under a condition. A put whose answer is lost may look like a lost race, or like an error, and
have happened: in both cases whoever plans again reads the newest offsets first, and finds its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import lance
import msgspec
import numpy as np
import pyarrow as pa
from lance.commit import CommitConflictError
from lance.fragment import FragmentMetadata, write_fragments
from lance.schema import LanceSchema

from gyral.errors import ConflictError
from gyral.faults import fail_point
from gyral.files import fsync_path, fsync_tree, publish, staging_folder
from gyral.lake.facts import FACTS_COLUMNS, Facts, counted
from gyral.lake.place import LakeError as LakeError
from gyral.lake.place import folder_of, hint_of, plain

OFFSETS_KEY = b"gyral.offsets"
FACTS_KEY = b"gyral.facts"
KEY_KEY = b"gyral.key"
PROMOTED_KEY = b"gyral.promoted"
FORMAT_KEY = b"gyral.format"
FORMAT = b"1"


def create(uri: str, schema: pa.Schema, options: Mapping[str, str]) -> lance.LanceDataset:
    """Make an empty table with no offsets, or open it when another process made it first.

    Lance's own create is not safe: of two at once, the later one can turn into an overwrite, which would empty the table of
    what the first has committed meanwhile. In a folder the table is made beside its place and renamed to it. In an object store
    its first version is put under the condition that there is none, and no retry may make another version of it.
    """
    folder = folder_of(uri)
    if folder is None:
        return _create_in_store(uri, _fresh(schema), dict(options))
    return _create_in_folder(folder, schema)


def _create_in_store(uri: str, schema: pa.Schema, options: dict[str, str]) -> lance.LanceDataset:
    empty = lance.LanceOperation.Overwrite(schema, [])
    try:
        return lance.LanceDataset.commit(uri, empty, read_version=0, max_retries=0, storage_options=options)
    except OSError as error:
        try:
            return lance.dataset(uri, storage_options=options)  # somebody else made it first
        except (OSError, ValueError):
            raise LakeError("the lake table cannot be made", why=plain(error), where=uri, hint=hint_of(uri)) from None


def _create_in_folder(uri: Path, schema: pa.Schema) -> lance.LanceDataset:
    try:
        with staging_folder(uri.parent, uri.name) as staging:
            table = staging / uri.name
            lance.write_dataset(pa.Table.from_batches([], schema), str(table), schema=_fresh(schema))
            with suppress(FileExistsError):  # somebody else made it first; theirs is opened
                publish(table, uri)
    except OSError as error:
        raise LakeError("the lake table cannot be made", why=plain(error), where=str(uri), hint=hint_of(str(uri))) from None
    return lance.dataset(str(uri))


def offsets_of(dataset: lance.LanceDataset) -> dict[str, int]:
    """Log offsets that a version contains: partition → first offset that is *not* in the table."""
    raw = (dataset.schema.metadata or {}).get(OFFSETS_KEY, b"{}")
    return msgspec.json.decode(raw, type=dict[str, int])


def facts_of(dataset: lance.LanceDataset) -> Facts:
    """A version in numbers, without reading a row."""
    raw = (dataset.schema.metadata or {}).get(FACTS_KEY, b"{}")
    return msgspec.json.decode(raw, type=Facts)


def key_of(dataset: lance.LanceDataset) -> str:
    """The key of the hashes in a table, where it has any; empty otherwise."""
    return bytes((dataset.schema.metadata or {}).get(KEY_KEY, b"")).decode()


def promoted_of(dataset: lance.LanceDataset) -> int:
    """How many fields of the registry all rows of a version were promoted by."""
    return int((dataset.schema.metadata or {}).get(PROMOTED_KEY, b"0"))


class Change(NamedTuple):
    """What a commit does beside adding rows.

    Attributes
    ----------
    fields : nullable columns to add; the rows of this commit do not have them yet.
    fragments : those that take the place of the fragments with their numbers.
    promoted : all rows are promoted by so many fields of the registry now.
    facts : the version in numbers, counted anew.
    """

    fields: Sequence[pa.Field] = ()
    fragments: Sequence[FragmentMetadata] = ()
    promoted: int | None = None
    facts: Facts | None = None


def commit(
    dataset: lance.LanceDataset, rows: pa.Table | None, offsets: Mapping[str, int], change: Change | None = None
) -> lance.LanceDataset:
    """Add rows and advance the offsets in one durable step.

    Parameters
    ----------
    dataset : the version the rows were planned on.
    rows : new rows, or None when only the offsets advance.
    offsets : the partitions that advance; the others keep theirs.
    change : what else the same step does.

    Raises
    ------
    ConflictError : somebody committed after `dataset`; plan again. Nothing was added.
    LakeError : an offset would go back, or the disk refused.
    """
    uri = str(dataset.uri)
    before = offsets_of(dataset)
    for partition, offset in offsets.items():
        if offset < before.get(partition, 0):
            raise LakeError(
                f"the offset of `{partition}` would go back from {before[partition]} to {offset}",
                where=uri,
                hint="was the log folder deleted while the lake was kept? Move both or neither",
            )
    change = change or Change()
    facts = facts_of(dataset) if change.facts is None else change.facts
    facts = facts if rows is None else counted(facts, rows)
    state = _state({**before, **offsets}, facts, promoted_of(dataset) if change.promoted is None else change.promoted)
    every = {fragment.fragment_id: fragment.metadata for fragment in dataset.get_fragments()}
    every |= {fragment.id: fragment for fragment in change.fragments}
    with _told(uri):
        new = _write(dataset, rows, 1 + max(every, default=-1))
        merged = lance.LanceOperation.Merge([*every.values(), *new], _lance_schema(dataset, change.fields, state))
        with durable(uri, "_transactions", "_versions"):
            result = lance.LanceDataset.commit(dataset, merged, read_version=dataset.version, max_retries=0)
            fail_point("lake.merged")
    return result


@contextmanager
def _told(uri: str) -> Iterator[None]:
    """Tell what Lance raises when a commit loses a race, or cannot be written."""
    try:
        yield
    except (CommitConflictError, OSError) as error:
        if isinstance(error, CommitConflictError) or "conflict" in str(error).lower():
            raise ConflictError("another process committed to the lake first", where=uri) from None
        raise LakeError("the lake could not be written", why=plain(error), where=uri, hint=hint_of(uri)) from None


@contextmanager
def durable(table: str, *places: str) -> Iterator[None]:
    """Flush every file that the block makes in a table, then the folders that name them.

    Files are told by name and not by time, because a clock may step back. What another process makes meanwhile is flushed too;
    what a losing writer takes away meanwhile is none of ours.
    """
    uri = folder_of(table)
    if uri is None:
        yield
        return
    before = {place: _names(uri / place) for place in places}
    yield
    for place in places:
        for name in _names(uri / place) - before[place]:
            with suppress(FileNotFoundError):
                _flush(uri / place / name)
        for folder in (uri / place, (uri / place).parent):
            with suppress(FileNotFoundError):
                fsync_path(folder)
    fsync_path(uri)


def rewritten(dataset: lance.LanceDataset, where: str, columns: Callable[[pa.Table], pa.Table]) -> list[FragmentMetadata]:
    """Fragments in which the rows that fulfil a condition have other values; durable, to be committed.

    Parameters
    ----------
    columns : makes of those rows, a fragment at a time, the columns that change; shape (rows, columns).
    """
    changed = []
    there = dataset.scanner(columns=[], filter=where, with_row_address=True).to_table()["_rowaddr"]
    concerned = set((np.asarray(there) >> np.uint64(32)).tolist())
    with durable(str(dataset.uri), "data"):
        for fragment in dataset.get_fragments() if concerned else ():
            if fragment.fragment_id not in concerned:
                continue
            rows = fragment.to_table(filter=where, with_row_id=True)
            made = columns(rows).append_column("_rowid", rows["_rowid"])
            changed.append(fragment.update_columns(made, "_rowid", "_rowid")[0])
    return changed


def deleted(dataset: lance.LanceDataset, where: str) -> tuple[lance.LanceDataset, int]:
    """Take the rows that fulfil a condition out of the table; their bytes stay until compaction and clean-up.

    Facts are not counted anew. Whoever planned to commit on an earlier version is refused.

    Returns
    -------
    The new version, and how many rows went.

    Raises
    ------
    ConflictError : somebody committed after `dataset`; nothing was deleted.
    """
    uri = str(dataset.uri)
    updated, gone, rows = [], [], 0
    with _told(uri):
        with durable(uri, "_deletions"):
            for fragment in dataset.get_fragments():
                if count := fragment.count_rows(filter=where):
                    rows += count
                    kept = fragment.delete(where)
                    if kept is None:
                        gone.append(fragment.fragment_id)
                    else:
                        updated.append(kept)
        if rows == 0:
            return dataset, 0
        operation = lance.LanceOperation.Delete(updated, gone, "")  # not the condition: it may name somebody
        with durable(uri, "_transactions", "_versions"):
            after = lance.LanceDataset.commit(dataset, operation, read_version=dataset.version, max_retries=0)
    fail_point("lake.deleted")
    return after, rows


def counted_anew(dataset: lance.LanceDataset) -> lance.LanceDataset:
    """A version whose facts are those of its rows, which are all read where their number is another than the facts say."""
    if dataset.count_rows() == facts_of(dataset).rows:
        return dataset
    facts = Facts()
    columns = [name for name in FACTS_COLUMNS if name in dataset.schema.names]
    for batch in dataset.scanner(columns=columns).to_batches():
        facts = counted(facts, pa.Table.from_batches([batch]))
    return commit(dataset, None, {}, Change(facts=facts))


def rewrite(dataset: lance.LanceDataset, num_rows: int) -> lance.LanceDataset:
    """Write every fragment with deleted rows anew, without them, as fragments of about `num_rows` rows.

    Raises
    ------
    ConflictError : somebody committed first.
    LakeError : some deleted rows are still in the files.
    """
    uri = str(dataset.uri)
    dataset = dataset.checkout_version(dataset.version)  # of its own, because compacting moves it on
    with _told(uri), durable(uri, "data", "_transactions", "_versions"):
        dataset.optimize.compact_files(target_rows_per_fragment=num_rows, materialize_deletions_threshold=0.0)
    if any(fragment.num_deletions for fragment in dataset.get_fragments()):
        raise LakeError("deleted rows are still in the files of the lake table", where=uri, hint="run the same command again")
    return dataset


def flush_version(dataset: lance.LanceDataset, flushed: set[str]) -> None:
    """Flush a version that somebody else committed and perhaps could not flush: they may have been killed in between.

    Parameters
    ----------
    flushed : files known to be on the disk; those of this version are added, those that it does not have are let go of.
    """
    uri = folder_of(dataset.uri)
    if uri is None:
        return
    files = {name for fragment in dataset.get_fragments() for name in _files(fragment.metadata)}
    for name in files - flushed:
        _flush(uri / "data" / name)
    flushed |= files
    manifests = {f"{(1 << 64) - 1 - dataset.version:020d}.manifest", f"{dataset.version}.manifest"}
    written = [name for name in _names(uri / "_transactions") if name.startswith(f"{dataset.version - 1}-")]
    deletions = _names(uri / "_deletions")
    removed = deletions - flushed
    flushed |= removed
    flushed &= files | deletions
    every = (("data", set[str]()), ("_deletions", removed), ("_transactions", set(written)), ("_versions", manifests))
    for place, names in every:
        for name in names & _names(uri / place):
            fsync_path(uri / place / name)
        with suppress(FileNotFoundError):
            fsync_path(uri / place)
    fsync_path(uri)


def _write(dataset: lance.LanceDataset, rows: pa.Table | None, next_id: int) -> list[FragmentMetadata]:
    """Write rows, which need not have all the nullable columns of the table."""
    if rows is None or rows.num_rows == 0:
        return []
    fragments = write_fragments(rows, dataset, schema=rows.schema, mode="append", data_storage_version="stable")
    fail_point("lake.written")
    for number, fragment in enumerate(fragments):
        fragment.id = next_id + number  # a fresh fragment is always numbered from 0; the merged list needs its own numbers
    uri = folder_of(dataset.uri)
    if uri is not None:
        for name in [name for fragment in fragments for name in _files(fragment)]:
            _flush(uri / "data" / name)
        fsync_path(uri / "data")
    fail_point("lake.flushed")
    return list(fragments)


def _files(fragment: FragmentMetadata) -> list[str]:
    """Names of its data files. `DataFile.path` makes a class for each that it tells (pylance 14), 2.8 kB while one is held."""
    return [file._path for file in fragment.files]


def _flush(path: Path) -> None:
    """Flush a file or folder, and the folder of a data file's large blobs, which no fragment names."""
    for each in (path, path.with_suffix("")):
        if each.is_dir():
            fsync_tree(each)
    if not path.is_dir():
        fsync_path(path)


def _fresh(schema: pa.Schema) -> pa.Schema:
    """The schema of a table that has nothing yet."""
    return schema.with_metadata({**(schema.metadata or {}), **_state({}, Facts())})


def _state(offsets: Mapping[str, int], facts: Facts, promoted: int = 0) -> dict[bytes, bytes]:
    return {
        FORMAT_KEY: FORMAT,
        OFFSETS_KEY: msgspec.json.encode(dict(sorted(offsets.items()))),
        FACTS_KEY: msgspec.json.encode(facts),
        PROMOTED_KEY: b"%d" % promoted,
    }


def _lance_schema(dataset: lance.LanceDataset, added: Sequence[pa.Field], state: dict[bytes, bytes]) -> LanceSchema:
    """The table's schema with new state; field ids must stay what they are, or old files would be read as other columns."""
    fields = [*dataset.schema, *added]
    schema = LanceSchema.from_pyarrow(pa.schema(fields, {**(dataset.schema.metadata or {}), **state}))
    ids, before = ([field.id() for field in each.fields()] for each in (schema, dataset.lance_schema))
    if ids[: len(before)] != before:
        raise LakeError("the columns of the lake table are not those it was made with", where=str(dataset.uri))
    return schema


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except FileNotFoundError:
        return set()
