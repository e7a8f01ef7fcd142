"""Between bytes and Arrow: log payloads, JSON props, ids.

A payload is one msgpack map with up to two Arrow IPC streams (lz4): good events and quarantined rows travel in one batch and
therefore become durable together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gyral.errors import InputError
from gyral.event.clock import now_us
from gyral.event.scan import Part, read
from gyral.event.schema import QUARANTINE, TABLES
from gyral.event.wire import Bad, bad_rows

FORMAT = 2
COMPRESSED_BYTES = 1 << 16
"""Smaller batches are stored as they are: starting the compressor for each column takes 0.3 ms, as long as all the rest."""
_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_HEX = np.frombuffer(b"".join(b"%02x" % value for value in range(256)), dtype=np.uint16)


class Payload(msgspec.Struct, frozen=True, omit_defaults=True):
    """One batch in the log: Arrow IPC streams of the tables it feeds. `format` grows when old readers would misread it."""

    events: bytes = b""
    quarantine: bytes = b""
    schemas: bytes = b""
    erasures: bytes = b""
    format: int = 1

    @property
    def tables(self) -> dict[str, bytes]:
        return {name: getattr(self, name) for name in TABLES}


def encode_payload(events: pa.RecordBatch | None, quarantine: pa.RecordBatch | None = None, **others: pa.RecordBatch) -> bytes:
    """Pack a batch for the log: rows of `events` and of other tables, as they are before a drain adds their place."""
    streams = {name: _to_ipc(rows) for name, rows in {"events": events, "quarantine": quarantine, **others}.items()}
    return msgspec.msgpack.encode(Payload(**streams, format=2 if others else 1))


def decode_payload(data: bytes, only: str = "", name: str = "") -> dict[str, pa.RecordBatch]:
    """Unpack a batch: table name → rows; tables without rows are left out.

    Where others write too, JSON is a batch: an event, lines of them, or an array.

    Parameters
    ----------
    name : of the batch, where others write; ids of what is bad in JSON are made of it.
    only : name of the one table whose rows are wanted; empty: all.

    Raises
    ------
    InputError : it is no batch.
    """
    if name and not _is_payload(data):
        tables = _from_json(data, name)
        return {table: rows for table, rows in tables.items() if rows.num_rows and only in ("", table)}
    try:
        payload = msgspec.msgpack.decode(data, type=Payload)
        if payload.format > FORMAT:
            raise ValueError(f"it is of format {payload.format}, and {FORMAT} is known")
        bodies = payload.tables
        wanted = [only] if only else list(bodies)
        return {name: _from_ipc(bodies[name]) for name in wanted if bodies[name]}
    except (ValueError, OSError, pa.ArrowException, StopIteration) as error:  # the last: a stream of no batch
        raise InputError("a log batch cannot be decoded", why=str(error)) from None


def json_objects(columns: dict[str, pa.Array]) -> pa.Array:
    """Encode columns as one JSON object a row; null fields are left out.

    Each column's *distinct* values are encoded once and gathered, which costs 0.1 µs a cell on repetitive data where
    encoding row by row costs 0.6 µs.
    """
    if not columns:
        raise ValueError("json_objects needs a column")
    parts = []
    for name, values in columns.items():
        key = "," + msgspec.json.encode(name).decode() + ":"
        if pa.types.is_nested(values.type):  # Arrow has no dictionary of these
            parts.append(pa.array(_json_texts(values, key), pa.string()))
            continue
        encoded = values.dictionary_encode() if not pa.types.is_dictionary(values.type) else values
        parts.append(pa.array(_json_texts(encoded.dictionary, key), pa.string()).take(encoded.indices))
    joined = pc.binary_join_element_wise(*parts, "", null_handling="replace", null_replacement="")
    return pc.binary_join_element_wise("{", pc.utf8_slice_codeunits(joined, 1), "}", "")


def row_json(row: Mapping[str, object]) -> bytes:
    """A row as one JSON object, nulls left out: what the quarantine keeps of it."""
    return msgspec.json.encode({name: value for name, value in row.items() if value is not None}, enc_hook=str)


def numbers(values: pa.Array) -> pa.Array:
    """Numbers of a column that may hold them as text (CSV does), float64; null where there is none."""
    kind = values.type
    if pa.types.is_dictionary(kind):
        return numbers(values.cast(kind.value_type))
    if pa.types.is_string(kind):
        texts = pc.utf8_trim_whitespace(values)
        is_number = pc.match_substring_regex(texts, _NUMBER)
        return pc.if_else(is_number, texts, pa.scalar(None, pa.string())).cast(pa.float64())
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_boolean(kind):
        return values.cast(pa.float64(), safe=False)
    return pa.nulls(len(values), pa.float64())


def _json_texts(values: pa.Array, key: str) -> list[str | None]:
    try:
        plain = values.to_pylist()
    except (ValueError, OverflowError):  # times that Python has no object for
        plain = [str(value) if value.is_valid else None for value in values]
    return [None if value is None else key + msgspec.json.encode(value, enc_hook=_any_text).decode() for value in plain]


def _any_text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def row_ids(digest: str, first_row: int, num_rows: int) -> pa.Array:
    """Ids of rows that brought none: 32 hex digits made of the source's digest and the row number.

    The same file gives the same ids, so reading it again adds nothing. Two rounds of a 64-bit mixer (splitmix64) over
    digest and row number; each half is a bijection of the row number, so ids never collide inside one source.
    Source: Steele, Lea, Flood, Fast splittable pseudorandom number generators, OOPSLA 2014.
    """
    seed = hashlib.sha256(digest.encode()).digest()
    row = np.arange(first_row, first_row + num_rows, dtype=np.uint64)
    halves = np.empty((num_rows, 2), dtype=">u8")
    for half in range(2):
        key = np.uint64(int.from_bytes(seed[8 * half : 8 * half + 8], "little"))
        halves[:, half] = mix64(row + key)
    text = _HEX[halves.view(np.uint8).reshape(num_rows, 16)]
    offsets = np.arange(num_rows + 1, dtype=np.int32) * 32
    return pa.StringArray.from_buffers(num_rows, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(text)))


def mix64(values: np.ndarray) -> np.ndarray:
    """Scatter 64-bit numbers so that near ones end far apart; a bijection (the finalizer of splitmix64)."""
    values = values ^ (values >> np.uint64(30))
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


def _is_payload(data: bytes) -> bool:
    """Whether these are bytes of gyral: a small msgpack map, whose first byte no UTF-8 text begins with."""
    return data[:1] != b"" and 0x80 <= data[0] <= 0x8F


def _from_json(data: bytes, name: str) -> dict[str, pa.RecordBatch]:
    now = now_us()
    events, (part,) = read([data], now)
    whole = [Bad(data, "bad_json")] if data.strip() else []
    bad = part.bad if isinstance(part, Part) else whole
    rows = bad_rows(bad, hashlib.blake2b(name.encode(), digest_size=16), name.rpartition(":")[0], now)
    return {"events": events, "quarantine": pa.RecordBatch.from_pylist(rows, schema=QUARANTINE)}


def _to_ipc(batch: pa.RecordBatch | None) -> bytes:
    if batch is None or batch.num_rows == 0:
        return b""
    sink = pa.BufferOutputStream()
    compression = "lz4" if batch.nbytes >= COMPRESSED_BYTES else None
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_batch(batch)
    body: bytes = sink.getvalue().to_pybytes()
    return body


def _from_ipc(body: bytes) -> pa.RecordBatch:
    with pa.ipc.open_stream(body) as reader:
        return reader.read_next_batch()
