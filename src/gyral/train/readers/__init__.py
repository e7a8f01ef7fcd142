"""Rows by index out of the shard formats that other trainers write: what they have is used where it lies, in our order.

| format | told by | a row costs |
|---|---|---|
| WebDataset | `*.tar` | one read a member; the tars are scanned once, and what was found is kept beside them |
| MDS (mosaicml-streaming) | `index.json` with `shards` | one read; a compressed shard is unpacked whole |
| litdata | `index.json` with `chunks` | one read |
| Parquet | `*.parquet` | its row group, of which the last few are kept |

Each of these libraries shuffles by a buffer or by blocks of shards, so that a position in their order is a state to be kept.
Here any row can be had by its number, so the order is `gyral.train.loader.Order`, and the position one integer.
"""

from __future__ import annotations

from pathlib import Path

from gyral.errors import InputError
from gyral.train.readers.rows import Rows


def is_readable(path: Path) -> bool:
    """Whether a folder looks like one of the formats."""
    return path.is_dir() and _format_of(path) != ""


def open_rows(path: Path) -> Rows:
    """Open a folder of shards.

    Raises
    ------
    InputError : it is none of the formats, or cannot be used.
    """
    name = _format_of(path) if path.is_dir() else ""
    if name == "index":
        from gyral.train.readers.indexed import open_indexed

        return open_indexed(path)
    if name == "tar":
        from gyral.train.readers.webdataset import Tars

        return Tars(path)
    if name == "parquet":
        from gyral.train.readers.parquet import Parquet

        return Parquet(path)
    hint = "known are WebDataset (*.tar), MDS and litdata (index.json), and Parquet (*.parquet)"
    raise InputError("no shards that can be read by index", where=str(path), hint=hint)


def _format_of(path: Path) -> str:
    if (path / "index.json").exists():
        return "index"
    return next((ending for ending in ("tar", "parquet") if next(path.glob(f"*.{ending}"), None) is not None), "")
