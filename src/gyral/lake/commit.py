"""The only way rows enter a table: compare-and-set on the version, with the log offsets in the same commit.

1. read version V and the offsets in its schema metadata; 2. the caller makes rows from the log behind those offsets; 3. write
fragments; 4. fsync them; 5. `Merge` commit at V, all fragments + new offsets, no retries; 6. a conflict means somebody else
committed: plan again from their offsets; 7. fsync manifest and folders. After 7 the log may forget those offsets.

`Merge` and not `Append`: two writers that planned the same offsets both succeed with `Append` (measured 5,800 rows where 3,000
were expected); `Merge` rejects the second. Offsets live in the schema metadata, where compaction and cleanup keep them; in
`transaction_properties` they vanish. Lance itself never fsyncs a local file, so steps 4 and 7 are ours.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import lance
import msgspec
import pyarrow as pa
from lance.commit import CommitConflictError
from lance.fragment import FragmentMetadata, write_fragments
from lance.schema import LanceSchema

from gyral.errors import ConflictError, GyralError
from gyral.files import fsync_path, publish

OFFSETS_KEY = b"gyral.offsets"
CLOCK_SLACK_S = 0.1
"""File times come from a coarser clock than `time.time()`."""


DISK_HINT = "`gyral doctor` checks the disk; then run the same command again: what was committed is kept"


class LakeError(GyralError):
    """The lake could not be read or written; nothing half-written is visible."""


def create(uri: Path, schema: pa.Schema) -> lance.LanceDataset:
    """Make an empty table with no offsets, or open it when another process made it first.

    The table is made beside its place and renamed to it. Lance's own create is not safe here: of two at once, the later one can
    turn into an overwrite, which would empty the table of what the first has committed meanwhile.
    """
    uri.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{uri.name}.", suffix=".tmp", dir=uri.parent))
    try:
        table = staging / uri.name
        lance.write_dataset(pa.Table.from_batches([], schema), str(table), schema=_with_offsets(schema, {}))
        publish(table, uri)
    except FileExistsError:
        pass  # somebody else made it first; theirs is opened
    except OSError as error:
        raise LakeError("the lake table cannot be made", why=_first(error), where=str(uri), hint=DISK_HINT) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return lance.dataset(str(uri))


def offsets_of(dataset: lance.LanceDataset) -> dict[str, int]:
    """Log offsets that a version contains: partition → first offset that is *not* in the table."""
    raw = (dataset.schema.metadata or {}).get(OFFSETS_KEY, b"{}")
    return msgspec.json.decode(raw, type=dict[str, int])


def commit(dataset: lance.LanceDataset, rows: pa.Table | None, offsets: Mapping[str, int]) -> lance.LanceDataset:
    """Add rows and advance the offsets in one durable step.

    Parameters
    ----------
    dataset : the version the rows were planned on.
    rows : new rows, or None when only the offsets advance.
    offsets : the partitions that advance; the others keep theirs.

    Raises
    ------
    ConflictError : somebody committed after `dataset`; plan again. Nothing was added.
    LakeError : an offset would go back, or the disk refused.
    """
    uri = Path(dataset.uri)
    before = offsets_of(dataset)
    for partition, offset in offsets.items():
        if offset < before.get(partition, 0):
            raise LakeError(
                f"the offset of `{partition}` would go back from {before[partition]} to {offset}",
                where=str(uri),
                hint="was the log folder deleted while the lake was kept? Move both or neither",
            )
    schema = dataset.schema.remove_metadata()
    old = [fragment.metadata for fragment in dataset.get_fragments()]
    since = time.time()
    try:
        new = _write(uri, rows, schema, next_id=1 + max((each.id for each in old), default=-1))
        merged = lance.LanceOperation.Merge([*old, *new], _lance_schema(dataset, {**before, **offsets}))
        result = lance.LanceDataset.commit(str(uri), merged, read_version=dataset.version, max_retries=0)
        flush(uri, since)
    except CommitConflictError:
        raise ConflictError("another process committed to the lake first", where=str(uri)) from None
    except OSError as error:
        if "conflict" in str(error).lower():
            raise ConflictError("another process committed to the lake first", where=str(uri)) from None
        raise LakeError("the lake could not be written", why=_first(error), where=str(uri), hint=DISK_HINT) from None
    return result


def _write(uri: Path, rows: pa.Table | None, schema: pa.Schema, next_id: int) -> list[FragmentMetadata]:
    if rows is None or rows.num_rows == 0:
        return []
    fragments = write_fragments(rows, str(uri), schema=schema, mode="append", data_storage_version="stable")
    for number, fragment in enumerate(fragments):
        fragment.id = next_id + number  # a fresh fragment is always numbered from 0; the merged list needs its own numbers
        for file in fragment.files:
            fsync_path(uri / "data" / file.path)
    fsync_path(uri / "data")
    return list(fragments)


def _with_offsets(schema: pa.Schema, offsets: Mapping[str, int]) -> pa.Schema:
    return schema.with_metadata({OFFSETS_KEY: msgspec.json.encode(dict(sorted(offsets.items())))})


def _lance_schema(dataset: lance.LanceDataset, offsets: Mapping[str, int]) -> LanceSchema:
    """The table's schema with new offsets; field ids must stay what they are, or old files would be read as other columns."""
    schema = LanceSchema.from_pyarrow(_with_offsets(dataset.schema.remove_metadata(), offsets))
    if [field.id() for field in schema.fields()] != [field.id() for field in dataset.lance_schema.fields()]:
        raise LakeError("the columns of the lake table are not those it was made with", where=str(dataset.uri))
    return schema


def _first(error: Exception) -> str:
    """What Lance says without the place in its own source."""
    return re.sub(r", (/[^ ]*|src/[^ ]*)\.rs:\d+:\d+", "", str(error))


def flush(uri: Path, since: float) -> None:
    """Flush what was written to a table after a moment (`time.time()`): manifests, transactions, data, and their folders.

    A file that a losing writer takes away meanwhile is none of ours.
    """
    for name in ("_versions", "_transactions", "data"):
        folder = uri / name
        if not folder.is_dir():
            continue
        for entry in os.scandir(folder):
            try:
                if entry.stat().st_mtime >= since - CLOCK_SLACK_S:
                    fsync_path(Path(entry.path))
            except FileNotFoundError:
                continue
        fsync_path(folder)
    fsync_path(uri)
    fsync_path(uri.parent)
