"""Request bodies → checked events: gzip or zstd around a JSON array, JSON lines, or an Arrow IPC stream.

What a client can make large is limited before it is: the decompressed size, the number of events, and Arrow streams with
compressed buffers are refused, because their sizes are only known once they are in memory.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from gyral.event.clock import TIMESTAMP, parse_times
from gyral.event.codec import row_json
from gyral.event.schema import EVENT, MAX_NAME_CHARS
from gyral.event.wire import NAMES, REQUIRED, Bad, Malformed, WireEvent, check_json
from gyral.http import Refused

ARROW_TYPES = (b"application/vnd.apache.arrow.stream", b"application/vnd.apache.arrow.file")
MEDIA = "application/json, application/x-ndjson or application/vnd.apache.arrow.stream"


class Taken(NamedTuple):
    """What is in a body: events as objects or as columns, and what is bad; bytes of the body once decompressed."""

    events: list[WireEvent]
    columns: pa.RecordBatch | None
    bad: list[Bad]
    size_bytes: int = 0

    @property
    def num_events(self) -> int:
        """How many are good."""
        return len(self.events) if self.columns is None else int(self.columns.num_rows)


def take(body: bytes, media: bytes, encoding: bytes, max_bytes: int, max_events: int, ingest_us: int) -> Taken:
    """Unpack and check one body.

    Parameters
    ----------
    media, encoding : its `content-type` and `content-encoding`.
    max_bytes, max_events : most bytes after decompression, most events.

    Raises
    ------
    Refused : nothing of it can be used, or it is too large.
    """
    body = _unpacked(body, encoding.strip().lower(), max_bytes)
    media = media.partition(b";")[0].strip().lower()
    try:
        if media in ARROW_TYPES:
            taken = _take_arrow(body, ingest_us)
        else:
            checked = check_json(body)
            taken = Taken(checked.events, None, checked.bad)
    except Malformed as error:
        raise Refused(400, "the body holds no events", why=str(error), hint=f"send {MEDIA}") from None
    if taken.num_events + len(taken.bad) > max_events:
        raise Refused(413, f"the body has more than {max_events:,} events", hint="send them in several requests")
    return taken._replace(size_bytes=len(body))


def _unpacked(body: bytes, encoding: bytes, max_bytes: int) -> bytes:
    if encoding in (b"", b"identity"):
        return body
    if encoding not in (b"gzip", b"zstd"):
        raise Refused(415, "the body's encoding is not known", why=encoding.decode("latin-1")[:100], hint="use gzip or zstd")
    try:
        with pa.input_stream(pa.BufferReader(body), compression=encoding.decode()) as stream:
            plain: bytes = stream.read(max_bytes + 1)
    except (OSError, pa.ArrowException) as error:
        raise Refused(400, "the body cannot be decompressed", why=str(error).splitlines()[0]) from None
    if len(plain) > max_bytes:
        raise Refused(413, f"the body has more than {max_bytes:,} bytes once decompressed", hint="send several requests")
    return plain


def _take_arrow(body: bytes, ingest_us: int) -> Taken:
    try:
        for message in pa.ipc.MessageReader.open_stream(pa.BufferReader(body)):
            if _is_compressed(message.metadata.to_pybytes()):
                raise Malformed("its buffers are compressed: compress the body instead (`content-encoding: zstd`)")
        with pa.ipc.open_stream(body) as reader:
            rows = reader.read_all()
        rows.validate(full=True)
        return _checked(rows.combine_chunks(), ingest_us)
    except Malformed:
        raise
    except (pa.ArrowException, struct.error, OSError, LookupError, ValueError, TypeError, MemoryError) as error:
        raise Malformed(f"{error}.".splitlines()[0][:300]) from None


def _checked(rows: pa.Table, ingest_us: int) -> Taken:
    unknown = [name for name in rows.column_names if name not in NAMES]
    missing = [name for name in REQUIRED if name not in rows.column_names]
    if unknown or missing or len(set(rows.column_names)) < rows.num_columns:
        raise Malformed(f"columns missing: {missing}, not known: {unknown}; events have {', '.join(NAMES)}")
    reasons: pa.Array = pa.nulls(rows.num_rows, pa.string())

    def reject(mask: pa.Array, reason: str) -> None:
        nonlocal reasons
        reasons = pc.if_else(pc.and_(pc.fill_null(mask, False), pc.is_null(reasons)), reason, reasons)

    columns: dict[str, pa.Array] = {"ingest_time": pa.repeat(pa.scalar(ingest_us, pa.int64()), rows.num_rows).cast(TIMESTAMP)}
    for name in rows.column_names:
        values = rows[name].combine_chunks()
        short = "time" if name == "event_time" else name
        if name == "event_time":
            columns[name] = parse_times(values)
        elif name == "props":
            columns[name] = _json_texts(values)
        else:
            if pa.types.is_nested(values.type) or pa.types.is_binary(values.type):
                raise Malformed(f"the column `{name}` is of the type {values.type}, not text")
            columns[name] = values.cast(pa.string())
            reject(pc.greater(pc.utf8_length(columns[name]), MAX_NAME_CHARS), f"too_long:{name}")
        if name in REQUIRED:
            reject(pc.is_null(values), f"missing_{short}")
            if short != "time":
                reject(pc.equal(columns[name], ""), f"missing_{short}")
        reject(pc.and_(pc.is_valid(values), pc.is_null(columns[name])), f"bad_{short}")
    good = pc.is_null(reasons)
    arrays = [columns.get(field.name, pa.nulls(rows.num_rows, field.type)).filter(good) for field in EVENT]
    broken = rows.append_column("reason", reasons).filter(pc.invert(good)).to_pylist()
    bad = [Bad(reason=row.pop("reason"), raw=row_json(row)) for row in broken]
    return Taken([], pa.RecordBatch.from_arrays(arrays, schema=EVENT), bad)


def _json_texts(values: pa.Array) -> pa.Array:
    """Props as JSON objects: texts are checked, structs and maps encoded; null where there is neither."""
    if pa.types.is_struct(values.type):
        rows = values.to_pylist()
        return pa.array([None if each is None else row_json(each).decode() for each in rows], pa.string())
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        return pa.nulls(len(values), pa.string())
    decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
    texts: list[str | None] = values.to_pylist()
    for place, text in enumerate(texts):
        try:
            if text is not None:
                decoder.decode(text)
        except (ValueError, RecursionError):
            texts[place] = None
    return pa.array(texts, pa.string())


def _is_compressed(metadata: bytes) -> bool:
    """Whether an IPC message says its buffers are compressed, read from the flatbuffer that Arrow has verified.

    Source: Arrow columnar format, `Message.fbs`: Message.header is its field 2 (1: its type), RecordBatch.compression field 3,
    DictionaryBatch.data field 1.
    """

    def field(table: int, number: int) -> int:
        """Place of a field of a table, 0 when it is not there."""
        vtable = table - int(struct.unpack_from("<i", metadata, table)[0])
        at = 4 + 2 * number
        offset = struct.unpack_from("<H", metadata, vtable + at)[0] if at < struct.unpack_from("<H", metadata, vtable)[0] else 0
        return table + int(offset) if offset else 0

    def follow(place: int) -> int:
        return place + int(struct.unpack_from("<I", metadata, place)[0])

    message = follow(0)
    kind, header = field(message, 1), field(message, 2)
    if not kind or not header or metadata[kind] not in (2, 3):
        return False
    batch = follow(header)
    if metadata[kind] == 2:
        data = field(batch, 1)
        if not data:
            return False
        batch = follow(data)
    return field(batch, 3) != 0
