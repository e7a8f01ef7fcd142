"""What stages computed, kept by content: a folder a part, named by what it was made of, so nothing is computed twice.

    datasets/.signals/<key>/00000.text.parquet      texts (and pictures) as the stages left them
                            00000.signals.parquet   everything else, a row a document; written last, so it tells of both
                            part.json               shards, rows, digests; there when the part is done

The key is a digest of the part (names, sizes and stamps of its files) and of the recipe. A worker that is killed leaves whole
shards, which the next one takes over. Datasets hold their own links to these files: `.signals` may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from gyral.curate.readers import Part
from gyral.curate.stage import Stage
from gyral.files import make_folder, write_atomic

FOLDER = Path("datasets", ".signals")
TEXT, SIGNALS = "text.parquet", "signals.parquet"
CONTENT = ("text", "raw")
"""Columns that are what is learned from; all others are signals."""
_DIGEST_CHARS = 64
ROW_GROUP = 1_024
"""Rows of texts that are read to show one of them; more would make files of web pages about 1 % smaller."""


class Shard(msgspec.Struct, frozen=True):
    """Two files of one part: documents in it, bytes of both, and their digests."""

    rows: int
    size_bytes: int
    text_sha256: str
    signals_sha256: str


class Stored(msgspec.Struct, frozen=True):
    """A part that is done."""

    key: str
    shards: list[Shard]


def recipe_digest(stages: Sequence[Stage]) -> str:
    """What the signals depend on beside the documents: names, versions and settings of the stages."""
    told = [(type(each).__qualname__, each.name, each.version, _settings(each)) for each in stages]
    return hashlib.sha256(msgspec.json.encode(told)).hexdigest()[:32]


def key_of(part: Part, recipe: str) -> str:
    """Name of a part's folder: the same files read in the same way by the same recipe.

    Files of a package are told by its digest, wherever it lies; others by their times, which those of another folder may share.
    """
    root = "" if all(len(file.stamp) == _DIGEST_CHARS for file in part.files) else str(Path(part.root).resolve())
    read = [part.reader, part.begin, part.end, part.options, root, part.prefix, part.below]
    told = [recipe, *read, *((file.path, file.size_bytes, file.stamp) for file in part.files)]
    return hashlib.sha256(msgspec.json.encode(told)).hexdigest()[:32]


def find(folder: Path) -> Stored | None:
    """A part that is done, None where it is not or where one of its files is gone."""
    try:
        stored = msgspec.json.decode((folder / "part.json").read_bytes(), type=Stored)
    except (OSError, ValueError):
        return None
    there = all(_size_of(folder, number) == shard.size_bytes for number, shard in enumerate(stored.shards))
    return stored if there else None


def _size_of(folder: Path, number: int) -> int:
    return sum(path.stat().st_size for name in names(number) if (path := folder / name).exists())


def names(number: int) -> tuple[str, str]:
    """File names of a shard: texts, signals."""
    return f"{number:05d}.{TEXT}", f"{number:05d}.{SIGNALS}"


def write(folder: Path, key: str, shards: Iterable[Iterator[pa.RecordBatch]]) -> Stored:
    """Write a part, shard by shard; shards that an earlier try left whole are not asked for. Of one that cannot be read
    nothing is left.

    Parameters
    ----------
    shards : for each shard an iterator of its finished batches, which is only begun when they are needed.
    """
    made = []
    for number, batches in enumerate(shards):
        text, signals = (folder / name for name in names(number))
        if not (text.exists() and signals.exists()):
            parts = [pa.Table.from_batches([batch]) for batch in batches]
            table = pa.concat_tables(parts, promote_options="default")  # all null in one batch may be a number in the next
            content = [name for name in CONTENT if name in table.schema.names]
            make_folder(folder)
            write_atomic(text, parquet(table.select(content), ROW_GROUP))
            write_atomic(signals, parquet(table.drop_columns(content)))
        bodies = [path.read_bytes() for path in (text, signals)]
        digests = [hashlib.sha256(body).hexdigest() for body in bodies]
        rows = pq.read_metadata(pa.BufferReader(bodies[1])).num_rows
        made.append(Shard(rows, sum(map(len, bodies)), *digests))
    stored = Stored(key, made)
    write_atomic(folder / "part.json", msgspec.json.encode(stored))
    return stored


def forget(root: Path, parts: Iterable[Stored]) -> None:
    """Let go of parts that hold no document, and of the folders that are empty then."""
    for part in parts:
        shutil.rmtree(root / FOLDER / part.key, ignore_errors=True)
    for folder in (root / FOLDER, root / FOLDER.parent):
        with suppress(OSError):  # something else is in it
            folder.rmdir()


def link(source: Path, target: Path) -> None:
    """Give a finished file a second name; a copy where the file system knows no links."""
    try:
        os.link(source, target)
    except OSError:
        target.write_bytes(source.read_bytes())


def parquet(table: pa.Table, row_group: int = 0) -> memoryview:
    """A table as a file: in one row group, unless their rows are given."""
    sink = pa.BufferOutputStream()
    size = row_group or table.num_rows or 1
    pq.write_table(table.combine_chunks(), sink, compression="zstd", row_group_size=size, write_statistics=False)
    return memoryview(sink.getvalue())


def _settings(stage: Stage) -> dict[str, object]:
    return {field.name: getattr(stage, field.name) for field in fields(stage)}
