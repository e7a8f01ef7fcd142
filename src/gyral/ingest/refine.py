"""What a drain adds to events: where in the log they came from, the time to go by, and their promoted columns.

A device's clock is believed unless it cannot be right: ahead of the moment the event came in by more than its class may be, or
further behind than its class can have kept the event. Then the moment it came in is the time to go by, in a column of its
own; what the device said stays. How far a class may be off is configuration (`[devices.NAME]`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gyral.config.sections import Device
from gyral.event.clock import TIMESTAMP, parse_times
from gyral.event.schema import TABLES
from gyral.lake.registry import Field, Registry

SECOND_US = 1_000_000
FOREVER_US = 1 << 62


def placed(batch: pa.RecordBatch, partition: str, offset: int, name: str) -> pa.RecordBatch:
    """Add where in the log each row of a batch for the table `name` came from; what else the table has is null."""
    count = batch.num_rows
    columns = [
        *batch.columns,
        pa.repeat(partition, count),
        pa.repeat(pa.scalar(offset, pa.int64()), count),
        pa.array(np.arange(count, dtype=np.int32)),
    ]
    schema = TABLES[name]
    columns += [pa.nulls(count, field.type) for field in list(schema)[len(columns) :]]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def adjusted(rows: pa.Table, devices: Mapping[str, Device]) -> pa.Table:
    """Fill `event_time_adjusted` of events whose device's clock cannot be right."""
    happened, came = (np.asarray(rows[name].cast(pa.int64())) for name in ("event_time", "ingest_time"))
    default = devices.get("default", Device())
    ahead_us, behind_us = _limits(default)
    if set(devices) - {"default"}:
        coded = pc.fill_null(rows["device_class"].combine_chunks(), "").dictionary_encode()
        limits = np.array([_limits(devices.get(name, default)) for name in coded.dictionary.to_pylist()], np.int64)
        ahead_us, behind_us = limits.reshape(-1, 2)[np.asarray(coded.indices)].T
    wrong = (happened > came + ahead_us) | (came - happened > behind_us)
    if not wrong.any():
        return rows
    times = pa.array(came, mask=~wrong).cast(TIMESTAMP)
    return rows.set_column(rows.column_names.index("event_time_adjusted"), "event_time_adjusted", times)


def promoted(rows: pa.Table, registry: Registry) -> pa.Table:
    """Fill the promoted columns that the schemas of these events name, and how many fields of its schema each row has so."""
    names = [each for each in rows["schema_id"].unique().to_pylist() if each in registry.by_schema]
    if not names:
        return rows
    parts: dict[str, list[tuple[np.ndarray, pa.Array]]] = {}
    fields_had = np.zeros(rows.num_rows, np.int32)
    for name in names:
        fields = registry.by_schema[name]
        at = np.flatnonzero(pc.fill_null(pc.equal(rows["schema_id"], name), False).to_numpy())
        fields_had[at] = len(fields)
        for column, values in _typed(rows["props"].take(pa.array(at)).to_pylist(), fields).items():
            parts.setdefault(column, []).append((at, values))
    rows = rows.set_column(rows.column_names.index("promoted"), "promoted", pa.array(fields_had, mask=fields_had == 0))
    for column, found in parts.items():
        places = np.full(rows.num_rows, -1)
        places[np.concatenate([at for at, _ in found])] = np.arange(sum(len(at) for at, _ in found))
        values = pa.concat_arrays([each for _, each in found]).take(pa.array(places, mask=places < 0))
        rows = rows.append_column(column, values)
    return rows


def _limits(device: Device) -> tuple[int, int]:
    behind_us = round(device.offline_s * SECOND_US) if device.offline_s else FOREVER_US
    return round(device.skew_s * SECOND_US), behind_us


def _typed(props: Sequence[str | None], fields: Sequence[Field]) -> dict[str, pa.Array]:
    """Columns of the named fields; null where a row has none, or one of another type."""
    members = [(f"f{number}", Any, msgspec.field(default=None, name=each.field)) for number, each in enumerate(fields)]
    decode = msgspec.json.Decoder(msgspec.defstruct("Props", members)).decode

    def read(text: str | None) -> object:
        try:
            return decode(text or "{}")
        except (ValueError, RecursionError):
            return None

    rows = [read(text) for text in props]
    columns: dict[str, pa.Array] = {}
    for number, field in enumerate(fields):
        values = _AS[field.type]([getattr(row, f"f{number}", None) for row in rows])
        other = columns.get(field.column)  # two fields of a schema may fill one column: the first that is there
        columns[field.column] = values if other is None else pc.coalesce(other, values)
    return columns


def _number(value: Any) -> float | None:
    try:
        return float(value) if type(value) in (int, float) else None
    except OverflowError:
        return None


def _text(value: Any) -> str | None:
    return value if value is None or type(value) is str else msgspec.json.encode(value).decode()


def _times(values: list[Any]) -> pa.Array:
    numbers = parse_times(pa.array([_number(value) for value in values], pa.float64()))
    return pc.coalesce(parse_times(pa.array([each if type(each) is str else None for each in values], pa.string())), numbers)


_AS = {
    "text": lambda values: pa.array([_text(value) for value in values], pa.string()),
    "number": lambda values: pa.array([_number(value) for value in values], pa.float64()),
    "boolean": lambda values: pa.array([value if type(value) is bool else None for value in values], pa.bool_()),
    "time": _times,
}
