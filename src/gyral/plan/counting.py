"""How much there is to do, counted where it lies and sampled where counting would mean reading: nothing is written or fetched.

Rows of Parquet stand in its footer. Of lines and of documents some are read, within a second, and the rest told by their bytes:
the interval is by how unlike two halves of the sample are, and never under 5 %. A package is not fetched to be counted.
"""

from __future__ import annotations

import codecs
import contextlib
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gyral import plugins
from gyral.config import Config
from gyral.curate import readers
from gyral.errors import InputError, UsageError
from gyral.plan.figure import Figure

SAMPLE_BYTES = 8 << 20
SAMPLE_S = 0.7
_LEAST = 0.05
_PACKED = {".gz": "gzip", ".zst": "zstd"}
_PIECE = 1 << 14
_CUT = 1 << 17
"""Bytes that Arrow may hold back of a packed file that ends anywhere."""


def rows_of(source: str) -> tuple[Figure, Figure]:
    """Rows and bytes of a file of events.

    Raises
    ------
    UsageError : it is a package.  InputError : it is not there, or cannot be read.
    """
    path = _local(source.removeprefix("file://").removeprefix("file:"))
    if not path.is_file():
        raise InputError(f"there is no file `{path}`", where=str(path.absolute()), hint="check the path")
    size = path.stat().st_size
    held = Figure(float(size), "bytes", "counted", f"of `{path.name}`")
    try:
        if path.suffix.lower() == ".parquet":
            return Figure(float(pq.ParquetFile(path).metadata.num_rows), "rows", "counted", "its footer"), held
        return _lines(path, size), held
    except (pa.ArrowInvalid, OSError) as error:
        why = str(error).splitlines()[0]
        raise InputError(f"`{path}` cannot be read", where=str(path), why=why, hint="is it truncated?") from None


def documents_of(source: str, config: Config, note: Callable[[str], None]) -> tuple[Figure, Figure, str]:
    """Documents and bytes of a place, and what kind they are.

    Raises
    ------
    UsageError : it is a package.  InputError : there is no such place, or nothing in it can be read.
    """
    for each in source.split():
        _local(each)
    by = config.curate
    options = readers.Options(by.text_field, by.url_field, by.language_field, by.max_document_bytes)
    place = readers.open_place(source, Path(), note, options=options)
    files = [file for part in place.parts for file in part.files]
    size = float(sum(part.size_bytes for part in place.parts))
    held = Figure(size, "bytes", "counted", f"of {len(files):,} files")
    if all(part.reader in ("files", "images") for part in place.parts):
        return Figure(float(len(files)), "documents", "counted", "a file each"), held, place.kind
    return _sampled(place.parts, size), held, place.kind


def _sampled(parts: Sequence[readers.Part], size: float) -> Figure:
    """Documents of parts, as many as are read within a second."""
    begun, found, read = time.monotonic(), 0, 0
    for part in parts:
        for batch in readers.read(part):
            found += batch.num_rows
            if time.monotonic() - begun > SAMPLE_S:
                break
        else:
            read += part.size_bytes
            if time.monotonic() - begun < SAMPLE_S:
                continue
        break
    if read >= size:
        return Figure(float(found), "documents", "counted", "read")
    if not read:  # one part, not read to its end: at least so many
        why = f"{found:,} were read in {SAMPLE_S} s"
        return Figure(10.0 * found, "documents", "assumed", why, found, 100.0 * found)
    value = found * size / read
    return Figure(value, "documents", "measured", f"the first {read / size:.0%}, read", value / 1.3, value * 1.3)


def _lines(path: Path, size: int) -> Figure:
    """Lines of a file that may be packed, by the first of them."""
    packed = path.suffix.lower() in _PACKED
    with open(path, "rb") as file:
        taken = file.read(SAMPLE_BYTES // 8 if packed else SAMPLE_BYTES)
    text = _unpacked(taken, _PACKED[path.suffix.lower()]) if packed else taken
    text = text.removeprefix(codecs.BOM_UTF8)
    found = text.count(b"\n")
    header = 0 if path.name.lower().removesuffix(path.suffix if packed else "").endswith((".jsonl", ".ndjson", ".json")) else 1
    if len(taken) >= size:
        whole = found + (not text.endswith(b"\n")) - header
        return Figure(float(whole), "rows", "counted", "its lines")
    half = len(text) // 2
    first, second = text[:half].count(b"\n"), text[half:].count(b"\n")
    value = max(found * size / len(taken) - header, 1.0)
    cut = _CUT / max(len(text), 1) if packed else 0.0
    off = 1 + max(_LEAST, 2 * abs(math.log(max(first, 1) / max(second, 1)))) + cut
    return Figure(value, "rows", "measured", f"the first {len(taken) / size:.0%} of its bytes, read", value / off, value * off)


def _unpacked(packed: bytes, codec: str) -> bytes:
    """What so many bytes of a packed file hold, which may end anywhere."""
    pieces = []
    with contextlib.suppress(OSError), pa.CompressedInputStream(pa.BufferReader(packed), codec) as stream:
        while piece := stream.read(_PIECE):
            pieces.append(piece)
    return b"".join(pieces)


def _local(source: str) -> Path:
    scheme = source.partition(":")[0]
    if ":" in source and scheme in (*plugins.names("source"), "apt") and scheme != "file":
        hint = "`--plan` fetches nothing: name the file or folder that is there"
        raise UsageError(f"`{source}` is fetched before it can be counted", hint=hint)
    return Path(source).expanduser()
