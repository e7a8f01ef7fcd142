"""Request bodies → columns of checked events: gzip or zstd around a JSON array, JSON lines, or an Arrow IPC stream.

What a client can make large is limited before it is: the decompressed size, the number of events, and Arrow streams with
compressed buffers are refused, because their sizes are only known once they are in memory.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from gyral.event.clock import TIMESTAMP, parse_times
from gyral.event.codec import row_json
from gyral.event.scan import Part, TooMany, read
from gyral.event.schema import EVENT, MAX_NAME_CHARS
from gyral.event.wire import NAMES, REQUIRED, Bad, Malformed
from gyral.http import Refused

ARROW_TYPES = (b"application/vnd.apache.arrow.stream", b"application/vnd.apache.arrow.file")
MEDIA = "application/json, application/x-ndjson or application/vnd.apache.arrow.stream"


class Body(NamedTuple):
    """A request's body, its `content-type` and its `content-encoding`."""

    data: bytes
    media: bytes
    encoding: bytes


class Limits(NamedTuple):
    """Most bytes of a body after decompression, most events of a body, most bytes of bodies that are read together."""

    max_bytes: int
    max_events: int
    together_bytes: int


class Taken(NamedTuple):
    """What is in several bodies: columns of the good events, and the part of each body, or why it has none."""

    events: pa.RecordBatch
    parts: list[Part | Refused]


def take(bodies: Sequence[Body], limits: Limits, ingest_us: int) -> Taken:
    """Unpack and check bodies that came in at one moment; whatever is in one of them, the others are taken.

    Refused is a body of which nothing can be used, or that is too large; with 429 one that no room is left for.
    """
    parts: list[Part | Refused] = [Part(slice(0, 0), []) for _ in bodies]
    texts: dict[int, bytes] = {}
    tables: dict[int, tuple[pa.RecordBatch, list[Bad]]] = {}
    size = 0
    for place, body in enumerate(bodies):
        try:
            if size > limits.together_bytes:
                raise not_now("too much came at once", 1)
            data = _unpacked(body.data, body.encoding.strip().lower(), limits.max_bytes)
            size += len(data)
            if body.media.partition(b";")[0].strip().lower() in ARROW_TYPES:
                tables[place] = _read_arrow(data, ingest_us, limits.max_events)
            else:
                texts[place] = data
        except Exception as error:
            parts[place] = _refusal(error)
    batches = [_read_texts(texts, parts, ingest_us, limits.max_events)]
    for place, (batch, bad) in tables.items():
        first = sum(each.num_rows for each in batches)
        parts[place] = Part(slice(first, first + batch.num_rows), bad)
        batches.append(batch)
    return Taken(pa.concat_batches(batches) if tables else batches[0], parts)


def not_now(what: str, retry_s: int) -> Refused:
    """A request that may be taken later."""
    headers = ((b"retry-after", b"%d" % retry_s),)
    return Refused(429, "not now", why=what, hint=f"send it again in {retry_s} s or later", headers=headers)


def _refusal(error: Exception) -> Refused:
    if isinstance(error, Refused):
        error.__context__ = None
        return error.with_traceback(None)  # which would hold what was unpacked, for as long as somebody waits to be told
    if isinstance(error, Malformed):
        return Refused(400, "the body holds no events", why=str(error), hint=f"send {MEDIA}")
    if isinstance(error, TooMany):
        return Refused(413, str(error), hint="send them in several requests")
    return Refused(400, "the body cannot be read", why=f"{type(error).__name__}: {error}"[:300])


def _read_texts(texts: dict[int, bytes], parts: list[Part | Refused], ingest_us: int, max_events: int) -> pa.RecordBatch:
    """Columns of all JSON, and the parts of its bodies.

    A body that no check found bad is taken out and its sender told, or the others would be refused with it again and again.
    """
    try:
        events, found = read(list(texts.values()), ingest_us, max_events)
    except Exception:
        for place, text in list(texts.items()):
            try:
                read([text], ingest_us, max_events)
            except Exception as error:
                parts[place] = _refusal(error)
                del texts[place]
        events, found = read(list(texts.values()), ingest_us, max_events)
    for place, part in zip(texts, found, strict=True):
        parts[place] = part if isinstance(part, Part) else _refusal(part)
    return events


def _unpacked(body: bytes, encoding: bytes, max_bytes: int) -> bytes:
    if encoding in (b"", b"identity"):
        if len(body) > max_bytes:
            raise Refused(413, f"the body has more than {max_bytes:,} bytes", hint="send several requests")
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


def _read_arrow(body: bytes, ingest_us: int, max_events: int) -> tuple[pa.RecordBatch, list[Bad]]:
    try:
        for message in pa.ipc.MessageReader.open_stream(pa.BufferReader(body)):
            if _is_compressed(message.metadata.to_pybytes()):
                raise Malformed("its buffers are compressed: compress the body instead (`content-encoding: zstd`)")
        with pa.ipc.open_stream(body) as reader:
            rows = reader.read_all()
        rows.validate(full=True)
        if rows.num_rows > max_events:
            raise TooMany(f"the body has more than {max_events:,} events")
        return _checked(rows.combine_chunks(), ingest_us)
    except (Malformed, TooMany):
        raise
    except (pa.ArrowException, struct.error, OSError, LookupError, ValueError, TypeError, MemoryError) as error:
        raise Malformed(f"{error}.".splitlines()[0][:300]) from None


def _checked(rows: pa.Table, ingest_us: int) -> tuple[pa.RecordBatch, list[Bad]]:
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
    return pa.RecordBatch.from_arrays(arrays, schema=EVENT), bad


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
