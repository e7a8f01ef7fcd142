"""A table in numbers, counted on in each commit, so nobody scans a table to show it.

How late devices send is counted by device class: an event is as late as its ingest time is behind its event time. A clock that
cannot be right does not move the watermark: its events are counted as `ahead` or `behind` and no more. What comes in is counted
by the day too, so that a change of what is sent shows.
"""

from __future__ import annotations

from collections import Counter
from datetime import date, timedelta

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gyral.event.clock import DAY_US

COUNTED = ("kind", "app", "country", "language", "device_class", "schema_id", "reason")
DAILY = ("kind", "language", "device_class", "reason")
FACTS_COLUMNS = (*COUNTED, "event_time", "ingest_time", "event_time_adjusted")
"""All that counting needs."""
MAX_VALUES = 500
MAX_DAILY_VALUES = 50
OTHER = "…"
"""A column with more values than this counts the further ones together under `OTHER`."""
UNKNOWN = "unknown"
KEEP_DAYS = 30
DRIFT_DAYS = 7
LATENESS_US = (60_000_000, 3_600_000_000, DAY_US, 7 * DAY_US)
LATENESS = ("1 min", "1 h", "1 day", "7 days", "later")
"""Names of the counts: within a minute, … , later than seven days."""
_FIRST_DAY = date(1970, 1, 1)

Counts = dict[str, int]


class Device(msgspec.Struct, omit_defaults=True):
    """What one class of devices sent: how late, how many with a wrong clock, and the newest event time trusted (µs)."""

    late: list[int] = msgspec.field(default_factory=lambda: [0] * len(LATENESS))
    ahead: int = 0
    behind: int = 0
    newest_us: int | None = None


class Facts(msgspec.Struct, omit_defaults=True):
    """A version in numbers: rows, how often each value of the counted columns is in it, first and last event time (µs).

    `days` has what came in on each of the last 30 days on which anything did: day → column → value → rows.
    """

    rows: int = 0
    counts: dict[str, Counts] = {}
    first_us: int | None = None
    last_us: int | None = None
    devices: dict[str, Device] = {}
    days: dict[str, dict[str, Counts]] = {}


def counted(facts: Facts, rows: pa.Table) -> Facts:
    """The facts of a version that has these rows too."""
    counts = {column: dict(values) for column, values in facts.counts.items()}
    for column in COUNTED:
        if column in rows.column_names:
            counts[column] = merged(counts.get(column, {}), of_values(rows[column]), MAX_VALUES)
    days = _by_day(facts.days, rows) if rows.num_rows and "ingest_time" in rows.column_names else facts.days
    first, last, devices = facts.first_us, facts.last_us, facts.devices
    if "event_time" in rows.column_names and rows.num_rows:
        span = pc.min_max(trusted_times(rows).cast(pa.int64())).as_py()
        first = span["min"] if first is None else min(first, span["min"])
        last = span["max"] if last is None else max(last, span["max"])
        devices = _by_device(devices, rows)
    return Facts(facts.rows + rows.num_rows, counts, first, last, devices, days)


def trusted_times(rows: pa.Table | pa.RecordBatch) -> pa.ChunkedArray | pa.Array:
    """When each event happened: as its device says, unless its clock cannot be right."""
    if "event_time_adjusted" not in rows.schema.names or "event_time" not in rows.schema.names:
        return rows["event_time"]
    return pc.coalesce(rows["event_time_adjusted"], rows["event_time"])


def watermark(device: Device) -> int | None:
    """The time (µs) before which 99 % of what such devices send has come in: their newest less how late they are.

    None where that cannot be said: nothing came, or more than 1 % came later than seven days.
    """
    total, sofar = sum(device.late), 0
    for count, limit_us in zip(device.late, LATENESS_US, strict=False):
        sofar += count
        if device.newest_us is not None and total and sofar >= 0.99 * total:
            return device.newest_us - limit_us
    return None


def drift(facts: Facts) -> dict[str, dict[str, float | str]]:
    """How much the newest day differs from the week before it, by column: the share of rows that would have to change.

    Returns
    -------
    column → `distance` (total variation, 0 to 1) and the `value` whose share changed most; empty with less than two days.
    """
    if len(facts.days) < 2:
        return {}
    *before, newest = sorted(facts.days)
    told: dict[str, dict[str, float | str]] = {}
    for column in DAILY:
        now = Counter(facts.days[newest].get(column, {}))
        then: Counter[str] = Counter()
        for day in before[-DRIFT_DAYS:]:
            then.update(facts.days[day].get(column, {}))
        if now.total() and then.total():
            change = {value: now[value] / now.total() - then[value] / then.total() for value in now | then}
            largest = max(change, key=lambda value: abs(change[value]))
            told[column] = {"distance": round(sum(map(abs, change.values())) / 2, 4), "value": largest}
    return told


def merged(known: Counts, more: Counts, most: int) -> Counts:
    """Both together: values beyond the first so many are counted under `OTHER`."""
    told = dict(known)
    for value, count in more.items():
        key = value if value in told or len(told) < most else OTHER
        told[key] = told.get(key, 0) + count
    return told


def of_values(values: pa.ChunkedArray) -> Counts:
    """How often each is there, nulls left out."""
    return {pair["values"]: pair["counts"] for pair in values.value_counts().to_pylist() if pair["values"] is not None}


def _by_day(days: dict[str, dict[str, Counts]], rows: pa.Table) -> dict[str, dict[str, Counts]]:
    told = {day: {column: dict(counts) for column, counts in columns.items()} for day, columns in days.items()}
    came = np.asarray(rows["ingest_time"].cast(pa.int64())) // DAY_US
    for number in np.unique(came):
        part = rows if (came == number).all() else rows.filter(pa.array(came == number))
        day = told.setdefault(_day_name(int(number)), {})
        for column in DAILY:
            if column in rows.column_names and part[column].null_count < part.num_rows:
                day[column] = merged(day.get(column, {}), of_values(part[column]), MAX_DAILY_VALUES)
    return {day: told[day] for day in sorted(told)[-KEEP_DAYS:]}


def _day_name(number: int) -> str:
    try:
        return (_FIRST_DAY + timedelta(days=number)).isoformat()
    except OverflowError:
        return OTHER


def _by_device(known: dict[str, Device], rows: pa.Table) -> dict[str, Device]:
    happened, trusted = (np.asarray(times.cast(pa.int64())) for times in (rows["event_time"], trusted_times(rows)))
    delay = np.asarray(rows["ingest_time"].cast(pa.int64())) - trusted
    is_wrong = trusted != happened
    coded = pc.fill_null(rows["device_class"], UNKNOWN).combine_chunks().dictionary_encode()
    device, size = np.asarray(coded.indices), len(coded.dictionary)
    bucket = np.searchsorted(LATENESS_US, delay, side="left")
    late = np.bincount((device * len(LATENESS) + bucket)[~is_wrong], minlength=size * len(LATENESS))
    ahead, behind = (np.bincount(device[mask], minlength=size) for mask in (happened > trusted, happened < trusted))
    newest = np.full(size, np.iinfo(np.int64).min)
    np.maximum.at(newest, device[~is_wrong], happened[~is_wrong])
    told = dict(known)
    for code, name in enumerate(coded.dictionary.to_pylist()):
        name = name if name in told or len(told) < MAX_VALUES else OTHER
        old = told.get(name, Device())
        mine = late[code * len(LATENESS) : (code + 1) * len(LATENESS)]
        top = [value for value in (old.newest_us, int(newest[code]) if mine.sum() else None) if value is not None]
        added = [one + int(two) for one, two in zip(old.late, mine, strict=True)]
        told[name] = Device(added, old.ahead + int(ahead[code]), old.behind + int(behind[code]), max(top, default=None))
    return told
