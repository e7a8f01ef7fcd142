"""Event time and ingest time, both UTC microseconds, and how times are read from data.

RFC 3339 strings, or epoch numbers whose unit is told by magnitude: seconds stay below 1e11 until the year 5138, milliseconds
start above it (1973), then micro- and nanoseconds. Parsing is vectorised; one bad value costs a second pass over the distinct
values, never the batch.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

TIMESTAMP = pa.timestamp("us", tz="UTC")
DAY_US = 86_400_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_TEXT = r"^[+-]?[0-9]{9,}(\.[0-9]*)?$"
"""Epoch before ISO: `1721040941937` is of 2024, though its first eight digits are a date of 1721 to an ISO parser."""
_MAX_US = 253_402_300_799_000_000  # the end of the year 9999


def now_us() -> int:
    """Wall clock in microseconds since the epoch."""
    return time.time_ns() // 1_000


def now_text() -> str:
    """Wall clock to the second, as RFC 3339 has it."""
    return rfc3339(datetime.now(UTC).replace(microsecond=0))


def rfc3339(moment: datetime) -> str:
    """A time in UTC as text: `2026-11-25T08:30:00Z`."""
    return moment.isoformat().replace("+00:00", "Z")


def parse_times(values: pa.Array, time_format: str = "") -> pa.Array:
    """Read a column as UTC timestamps in microseconds; what cannot be read becomes null.

    Parameters
    ----------
    values : strings, numbers, dates or timestamps; naive timestamps are taken as UTC.
    time_format : strptime format for strings that are neither RFC 3339 nor a number.
    """
    kind = values.type
    if pa.types.is_timestamp(kind):
        ticks = values.cast(pa.int64())
        if kind.unit == "ns":
            return _in_range(pc.divide(ticks, 1_000))
        factor = {"s": 1_000_000, "ms": 1_000, "us": 1}[kind.unit]
        limit = _MAX_US // factor  # beyond it the product would not fit
        return _in_range(pc.multiply(pc.if_else(pc.less(pc.abs(ticks), limit), ticks, pa.scalar(None, pa.int64())), factor))
    if pa.types.is_date(kind):
        return _from_days(values)
    if pa.types.is_duration(kind) or pa.types.is_time(kind) or pa.types.is_nested(kind) or pa.types.is_boolean(kind):
        return pa.nulls(len(values), TIMESTAMP)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _from_epoch(values.cast(pa.float64(), safe=False))
    return _from_strings(values.cast(pa.string()), time_format)


def _from_days(values: pa.Array) -> pa.Array:
    days = values.cast(pa.date32(), safe=False).cast(pa.int32()).cast(pa.int64())
    return _in_range(pc.multiply(days, 86_400_000_000))


def _from_epoch(values: pa.Array) -> pa.Array:
    number = values.to_numpy(zero_copy_only=False)
    size = np.abs(number)
    with np.errstate(invalid="ignore"):
        scale = np.select([size < 1e11, size < 1e14, size < 1e17], [1e6, 1e3, 1.0], 1e-3)
        micros = np.rint(number * scale)
        valid = np.isfinite(number) & (np.abs(micros) < _MAX_US)
    return _in_range(pa.array(np.where(valid, micros, 0).astype(np.int64), mask=~valid))


def _from_strings(values: pa.Array, time_format: str) -> pa.Array:
    if time_format:
        return _in_range(pc.strptime(values, format=time_format, unit="us", error_is_null=True).cast(pa.int64()))
    try:
        return _in_range(pc.cast(values, pa.timestamp("us")).cast(pa.int64()))
    except pa.ArrowInvalid:
        pass
    encoded = values.dictionary_encode()
    texts = pc.utf8_trim_whitespace(encoded.dictionary)
    is_epoch = pc.match_substring_regex(texts, _EPOCH_TEXT)
    numbers = pc.if_else(is_epoch, texts, pa.scalar(None, pa.string())).cast(pa.float64())
    micros = _from_epoch(numbers).cast(pa.int64())
    rest = np.flatnonzero(pc.and_(pc.invert(is_epoch), texts.is_valid()).to_numpy(zero_copy_only=False))
    if len(rest):
        parsed = pa.array([_parse_one(text) for text in texts.take(pa.array(rest)).to_pylist()], pa.int64())
        places = np.full(len(texts), -1)
        places[rest] = np.arange(len(rest))
        micros = pc.if_else(pc.fill_null(is_epoch, False), micros, parsed.take(pa.array(places, mask=places < 0)))
    return _in_range(micros.take(encoded.indices))


def _parse_one(text: str) -> int | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        try:
            number = float(text)
        except ValueError:
            return None
        value: int | None = _from_epoch(pa.array([number])).cast(pa.int64())[0].as_py()
        return value
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _in_range(micros: pa.Array) -> pa.Array:
    """Null what lies outside the years 1–9999, then make it a timestamp."""
    inside = pc.and_(pc.less(micros, _MAX_US), pc.greater(micros, -62_135_596_800_000_000))
    return pc.if_else(inside, micros, pa.scalar(None, pa.int64())).cast(TIMESTAMP)
