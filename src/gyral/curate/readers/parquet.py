"""Reads Parquet: one row group after the other, only the columns that are needed, into batches without a copy of the texts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gyral.curate.readers import BATCH_BYTES, PART_BYTES, File, Options, Part
from gyral.curate.readers.declared import by_path, language_code
from gyral.curate.readers.jsonl import HTML_FIELDS, LANGUAGE_FIELDS, TEXT_FIELDS, URL_FIELDS
from gyral.curate.readers.rows import CORRUPT, EMPTY, NO_TEXT_FIELD, TOO_LARGE, UNREADABLE, Row, first_folder, host, in_batches
from gyral.curate.stage import DOCUMENT

_ROWS_AT_ONCE = 4096


def ranges(path: Path) -> list[tuple[int, int]]:
    """Ranges of row groups of about `PART_BYTES` each; (0, -1) where the file cannot be read."""
    try:
        meta = pq.read_metadata(path)
    except (OSError, pa.ArrowException):
        return [(0, -1)]
    found, begin, size = [], 0, 0
    for number in range(meta.num_row_groups):
        group = meta.row_group(number)
        size += sum(group.column(column).total_compressed_size for column in range(group.num_columns))
        if size >= PART_BYTES or number + 1 == meta.num_row_groups:
            found.append((begin, number + 1))
            begin, size = number + 1, 0
    return found or [(0, -1)]


def read(part: Part) -> Iterator[pa.RecordBatch]:
    """Read the row groups of a part, or all of its files."""
    for file in part.files:
        try:
            with pq.ParquetFile(Path(part.root) / file.path, memory_map=True) as opened:
                yield from _batches(opened, file, part)
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            name = part.prefix + file.path
            reason = UNREADABLE if isinstance(error, PermissionError | FileNotFoundError) else CORRUPT
            yield from in_batches([Row(name, -1, "text", None, first_folder(name), None, None, None, reason)])


def _batches(opened: pq.ParquetFile, file: File, part: Part) -> Iterator[pa.RecordBatch]:
    columns, media = _columns(opened.schema_arrow, part.options)
    name = part.prefix + file.path
    if not columns.get("body"):
        yield from in_batches([Row(name, -1, "text", None, first_folder(name), None, None, None, NO_TEXT_FIELD)])
        return
    end = opened.num_row_groups if part.end < 0 else min(part.end, opened.num_row_groups)
    row = sum(opened.metadata.row_group(number).num_rows for number in range(min(part.begin, end)))
    wanted = sorted(set(columns.values()))
    for number in range(part.begin, end):
        for batch in opened.iter_batches(_ROWS_AT_ONCE, row_groups=[number], columns=wanted, use_threads=False):
            for piece in _pieces(batch, columns["body"]):
                yield _documents(piece, columns, media, name, row, by_path(file.path), part.options)
                row += piece.num_rows


def _columns(schema: pa.Schema, options: Options) -> tuple[dict[str, str], str]:
    """Columns by what they hold, and the media of the body."""

    def first(names: tuple[str, ...], binary: bool) -> str:
        for name in names:
            top, _, inner = name.partition(".")
            index = schema.get_field_index(top)
            kind = schema.field(index).type if index >= 0 else None
            while inner and kind is not None and pa.types.is_struct(kind):
                top, _, inner = inner.partition(".")
                place = kind.get_field_index(top)
                kind = kind.field(place).type if place >= 0 else None
            if inner or kind is None:
                continue
            if pa.types.is_dictionary(kind):
                kind = kind.value_type
            if (
                pa.types.is_string(kind)
                or pa.types.is_large_string(kind)
                or (binary and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)))
            ):
                return name
        return ""

    text = first((options.text,) if options.text else TEXT_FIELDS, True)
    html = "" if text or options.text else first(HTML_FIELDS, True)
    found = {
        "body": text or html,
        "url": first((options.url,) if options.url else URL_FIELDS, False),
        "language": first((options.language,) if options.language else LANGUAGE_FIELDS, False),
    }
    return {key: value for key, value in found.items() if value}, "html" if html else "text"


def _pieces(batch: pa.RecordBatch, body: str) -> Iterator[pa.RecordBatch]:
    """A batch in pieces of at most `BATCH_BYTES` of text, or one row."""
    sizes = pc.fill_null(pc.binary_length(_column(batch, body)), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    ends = np.cumsum(sizes)
    begin = 0
    while begin < batch.num_rows:
        before = ends[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, before + BATCH_BYTES, "right")))
        yield batch.slice(begin, end - begin)
        begin = end


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    top, _, inner = name.partition(".")
    array = batch.column(top)
    if inner:
        array = pc.struct_field(array, inner.split("."))
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _documents(
    batch: pa.RecordBatch, columns: dict[str, str], media: str, name: str, row: int, place: str | None, options: Options
) -> pa.RecordBatch:
    count = batch.num_rows
    body = _column(batch, columns["body"])
    sizes = pc.fill_null(pc.binary_length(body), 0)
    rejected = pc.if_else(
        pc.is_null(body),
        pa.scalar(NO_TEXT_FIELD),
        pc.if_else(
            pc.equal(sizes, 0),
            pa.scalar(EMPTY),
            pc.if_else(pc.greater(sizes, options.max_document_bytes), pa.scalar(TOO_LARGE), pa.scalar(None, pa.string())),
        ),
    )
    body = pc.if_else(pc.is_null(rejected), body, pa.scalar(None, body.type))
    is_raw = media == "html" or pa.types.is_binary(body.type) or pa.types.is_large_binary(body.type)
    if not is_raw:
        try:
            body.validate(full=True)
        except pa.ArrowInvalid:  # no UTF-8, which Parquet does not check
            is_raw = True
    urls = _column(batch, columns["url"]).cast(pa.string()) if "url" in columns else pa.nulls(count, pa.string())
    hosts = pa.array([host(url) for url in urls.to_pylist()], pa.string()) if "url" in columns else pa.nulls(count, pa.string())
    declared = (
        [language_code(tag) or place for tag in _column(batch, columns["language"]).to_pylist()]
        if "language" in columns
        else [place] * count
    )
    return pa.RecordBatch.from_arrays(
        [
            pa.repeat(name, count),
            pa.array(np.arange(row, row + count)),
            pa.repeat(media, count),
            urls,
            pc.fill_null(hosts, first_folder(name)) if first_folder(name) else hosts,
            pa.array(declared, pa.string()),
            body.cast(pa.binary()) if is_raw else pa.nulls(count, pa.binary()),
            pa.nulls(count, pa.string()) if is_raw else body.cast(pa.string()),
            rejected.cast(pa.string()),
        ],
        schema=DOCUMENT,
    )
