"""Rows → Events: pure, vectorised, and one bad row is one quarantined row.

An id that a row did not bring is made of the source's digest and the row number: reading the same file again makes the same
ids, while two equal lines of one file stay two events, which is for `curate` to judge.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gyral.event import codec
from gyral.event.clock import TIMESTAMP, now_us, parse_times
from gyral.event.codec import json_objects, row_ids, row_json
from gyral.event.layout import MAPPED, Layout
from gyral.event.schema import EVENT, MAX_NAME_CHARS, QUARANTINE
from gyral.ingest.sources import Rows


class Mapped(NamedTuple):
    """Events and quarantined rows of one batch; `event_rows` and `bad_rows` are their row numbers in the source."""

    events: pa.RecordBatch
    quarantine: pa.RecordBatch
    event_rows: np.ndarray
    bad_rows: np.ndarray


def to_events(rows: Rows, layout: Layout, digest: str, source: str) -> Mapped:
    """Map one batch of a source to the envelope.

    Parameters
    ----------
    rows : the batch as the source has it.
    layout : which column is which; columns it does not map become props.
    digest, source : what the ids are made of, and the name kept with quarantined rows.
    """
    now = now_us()
    batch = pa.RecordBatch.from_arrays([_simple(values) for values in rows.batch.columns], names=rows.batch.schema.names)
    rows = rows._replace(batch=batch)
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    used = set(layout.columns.values())
    ids = row_ids(digest, rows.first_row, batch.num_rows)
    if "event_id" in layout.columns and layout.columns["event_id"] in columns:
        text = _to_text(columns[layout.columns["event_id"]])
        ids = pc.if_else(pc.is_valid(text), text, ids)
    reasons = np.zeros(batch.num_rows, dtype=np.int16)
    names = ["ok"]

    def reject(mask: pa.Array, reason: str) -> None:
        bad = mask.to_numpy(zero_copy_only=False) & (reasons == 0)
        if bad.any():
            names.append(reason)
            reasons[bad] = len(names) - 1

    for each in rows.bad:
        if each.row is not None:
            names.append(each.reason)
            reasons[each.row - rows.first_row] = len(names) - 1
    time_column = columns.get(layout.columns["time"], pa.nulls(batch.num_rows, pa.string()))
    times = parse_times(time_column, layout.time_format)
    reject(pc.is_null(time_column), "missing_time")
    reject(pc.is_null(times), "bad_time")
    props: dict[str, pa.Array] = {}
    for name, values in columns.items():
        if name in layout.numbers:
            values, bad_numbers = _to_numbers(values)
            reject(bad_numbers, f"bad_number:{name}")
        if name not in used:
            props["title" if layout.name == MAPPED and name == layout.title else name] = values
    fields: dict[str, pa.Array] = {
        "event_id": ids,
        "event_time": times,
        "ingest_time": _constant(now, TIMESTAMP, batch.num_rows),
        "kind": pa.repeat(layout.kind, batch.num_rows),
        "app": pa.repeat(source, batch.num_rows),
        "schema_id": pa.repeat(layout.schema_id, batch.num_rows),
    }
    for field, column in layout.columns.items():
        if field not in ("time", "event_id") and column in columns:
            text = _to_text(columns[column])
            fields[field] = pc.fill_null(text, fields[field]) if field in fields else text
    for field, text in fields.items():
        if pa.types.is_string(text.type) and (pc.max(pc.binary_length(text)).as_py() or 0) > MAX_NAME_CHARS:
            too_long = pc.fill_null(pc.greater(pc.utf8_length(text), MAX_NAME_CHARS), False)
            reject(too_long, f"too_long:{field}")
    if props:
        fields["props"] = json_objects(props)
    arrays = [fields.get(field.name, pa.nulls(batch.num_rows, field.type)) for field in EVENT]
    arrays = [array.cast(field.type) for array, field in zip(arrays, EVENT, strict=True)]
    row_numbers = rows.first_row + np.arange(batch.num_rows)
    bad = reasons != 0
    if bad.any():
        keep = pa.array(~bad)
        arrays = [array.filter(keep) for array in arrays]
    events = pa.RecordBatch.from_arrays(arrays, schema=EVENT)
    quarantine = _quarantine(rows, ids, reasons, names, digest, source, now)
    num_unplaced = quarantine.num_rows - int(bad.sum())
    bad_rows = np.concatenate([row_numbers[bad], np.full(num_unplaced, rows.first_row)])
    return Mapped(events, quarantine, row_numbers[~bad], bad_rows)


def _quarantine(
    rows: Rows, ids: pa.Array, reasons: np.ndarray, names: list[str], digest: str, source: str, now: int
) -> pa.RecordBatch:
    places = np.flatnonzero(reasons)
    lines = {each.row: each.raw for each in rows.bad if each.row is not None}
    unplaced = [each for each in rows.bad if each.row is None]
    broken = rows.batch.take(pa.array(places)).to_pylist()
    raw = [lines.get(rows.first_row + int(place)) or row_json(row) for place, row in zip(places, broken, strict=True)]
    new_ids = row_ids(f"{digest}/unplaced", rows.first_bad, len(unplaced))
    count = len(places) + len(unplaced)
    return pa.RecordBatch.from_pydict(
        {
            "event_id": pa.concat_arrays([ids.take(pa.array(places)).cast(pa.string()), new_ids]),
            "ingest_time": _constant(now, TIMESTAMP, count),
            "reason": [names[reasons[place]] for place in places] + [each.reason for each in unplaced],
            "source": pa.repeat(source, count),
            "raw": raw + [each.raw for each in unplaced],
        },
        schema=QUARANTINE,
    )


def _simple(values: pa.Array) -> pa.Array:
    """The same values in a type that every kernel knows; bytes that are not text become text with marks."""
    kind = values.type
    if isinstance(values, pa.ExtensionArray):
        return _simple(values.storage)
    if pa.types.is_dictionary(kind) and not pa.types.is_string(kind.value_type):
        return _simple(values.cast(kind.value_type))
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return values.cast(pa.string())
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        values = values.cast(pa.binary())
        try:
            return values.cast(pa.string())
        except pa.ArrowInvalid:
            return pa.array([None if value is None else value.decode("utf-8", "replace") for value in values.to_pylist()])
    if (pa.types.is_duration(kind) or pa.types.is_time(kind)) and kind.unit == "ns":
        return values.cast(pa.duration("us") if pa.types.is_duration(kind) else pa.time64("us"), safe=False)
    return values


def _constant(value: int, kind: pa.DataType, count: int) -> pa.Array:
    return pa.repeat(pa.scalar(value, pa.int64()), count).cast(kind)


def _to_text(values: pa.Array) -> pa.Array:
    """Ids as text: whole floats lose their `.0` (a column with a missing value was stored as float), blanks become null."""
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if pa.types.is_floating(values.type):
        whole = values.to_numpy(zero_copy_only=False).astype(np.float64)
        with np.errstate(invalid="ignore"):
            is_whole = np.isnan(whole) | ((np.trunc(whole) == whole) & (np.abs(whole) < 2**63))
        if is_whole.all():
            values = pa.array(np.nan_to_num(whole).astype(np.int64), mask=np.isnan(whole))
    if pa.types.is_nested(values.type):
        values = pa.array(
            [None if value is None else msgspec.json.encode(value, enc_hook=str).decode() for value in values.to_pylist()],
            pa.string(),
        )
    text = values.cast(pa.string())
    encoded = text.dictionary_encode()
    cleaned = pc.replace_substring_regex(pc.utf8_trim_whitespace(encoded.dictionary), r"^(\d+)\.0$", r"\1")
    blank = pc.equal(cleaned, "")
    return pc.if_else(blank, pa.scalar(None, pa.string()), cleaned).take(encoded.indices)


def _to_numbers(values: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Numbers and the mask of those that are not; NaN is a missing value."""
    if pa.types.is_floating(values.type):
        number = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
        return number, pc.fill_null(pc.is_inf(number), False)
    if pa.types.is_integer(values.type) or pa.types.is_decimal(values.type):
        return values, pa.repeat(False, len(values))
    number = codec.numbers(values)
    number = pc.if_else(pc.is_finite(number), number, pa.scalar(None, pa.float64()))
    is_bad = pc.and_(pc.is_null(number), pc.is_valid(values))
    whole = pc.all(pc.and_(pc.equal(pc.floor(number), number), pc.less(pc.abs(number), 2.0**53))).as_py()
    return number.cast(pa.int64()) if whole else number, is_bad
