"""A snapshot as Parquet files, for tools that read nothing else. A copy: it does not follow the lake."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gyral.errors import UsageError
from gyral.files import publish, staging_folder
from gyral.lake.commit import LakeError
from gyral.lake.snapshot import Snapshot
from gyral.progress import Meter

FILE_ROWS = 1_000_000


def export(snapshot: Snapshot, folder: Path, where: str | None, meter: Meter) -> int:
    """Write the rows that fulfil a condition, in table order, as `00000.parquet` and so on; returns how many.

    The folder appears once all of it is on the disk.

    Raises
    ------
    UsageError : the folder is there already, or the condition cannot be read.
    LakeError : the rows cannot be read.
    """
    if folder.exists():
        raise UsageError(f"`{folder}` is there already", hint="name a folder that is not, or remove it")
    try:
        meter.total = snapshot.count(where)
    except LakeError as error:
        snapshot.count()  # if that fails, it is not the condition
        hint = "SQL over the columns of events, for example \"kind = 'view' and subject is not null\""
        raise UsageError(f"`--where {where}` cannot be read", why=error.why, hint=hint) from None
    rows = 0
    with staging_folder(folder.parent, folder.name) as staging:
        inside = staging / folder.name
        inside.mkdir()
        writer: pq.ParquetWriter | None = None
        try:
            for batch in snapshot.scan(where=where):
                while batch.num_rows:
                    if writer is None or rows % FILE_ROWS == 0:
                        if writer is not None:
                            writer.close()
                        writer = pq.ParquetWriter(inside / f"{rows // FILE_ROWS:05d}.parquet", batch.schema, compression="zstd")
                    part = batch.slice(0, FILE_ROWS - rows % FILE_ROWS)
                    writer.write_batch(part)
                    rows, batch = rows + part.num_rows, batch.slice(part.num_rows)
                meter.update(rows)
            if writer is None:
                pq.write_table(pa.Table.from_batches([], snapshot.schema), inside / "00000.parquet")
        finally:
            if writer is not None:
                writer.close()
        publish(inside, folder)
    return rows
