"""A table in numbers, counted on in each commit, so nobody scans a table to show it.

How late devices send is counted by device class: an event is as late as its ingest time is behind its event time. A clock
that is ahead does not move the watermark: events more than five minutes in the future are counted as `ahead` and no more.
"""

from __future__ import annotations

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

COUNTED = ("kind", "app", "country", "language", "device_class", "schema_id", "reason")
MAX_VALUES = 500
OTHER = "…"
"""A column with more values than this counts the further ones together under `OTHER`."""
UNKNOWN = "unknown"
SKEW_US = 300_000_000
LATENESS_US = (60_000_000, 3_600_000_000, 86_400_000_000, 7 * 86_400_000_000)
LATENESS = ("1 min", "1 h", "1 day", "7 days", "later")
"""Names of the counts: within a minute, … , later than seven days."""


class Device(msgspec.Struct, omit_defaults=True):
    """What one class of devices sent: how late, how many with a clock that is ahead, and the newest event time trusted (µs)."""

    late: list[int] = msgspec.field(default_factory=lambda: [0] * len(LATENESS))
    ahead: int = 0
    newest_us: int | None = None


class Facts(msgspec.Struct, omit_defaults=True):
    """A version in numbers: rows, how often each value of the counted columns is in it, first and last event time (µs)."""

    rows: int = 0
    counts: dict[str, dict[str, int]] = {}
    first_us: int | None = None
    last_us: int | None = None
    devices: dict[str, Device] = {}


def counted(facts: Facts, rows: pa.Table) -> Facts:
    """The facts of a version that has these rows too."""
    counts = {column: dict(values) for column, values in facts.counts.items()}
    for column in COUNTED:
        for pair in rows[column].value_counts().to_pylist() if column in rows.column_names else ():
            value, known = pair["values"], counts.setdefault(column, {})
            if value is not None:
                key = value if value in known or len(known) < MAX_VALUES else OTHER
                known[key] = known.get(key, 0) + pair["counts"]
    first, last, devices = facts.first_us, facts.last_us, facts.devices
    if "event_time" in rows.column_names and rows.num_rows:
        span = pc.min_max(rows["event_time"].cast(pa.int64())).as_py()
        first = span["min"] if first is None else min(first, span["min"])
        last = span["max"] if last is None else max(last, span["max"])
        devices = _by_device(devices, rows)
    return Facts(facts.rows + rows.num_rows, counts, first, last, devices)


def _by_device(known: dict[str, Device], rows: pa.Table) -> dict[str, Device]:
    happened = np.asarray(rows["event_time"].cast(pa.int64()))
    delay = np.asarray(rows["ingest_time"].cast(pa.int64())) - happened
    coded = pc.fill_null(rows["device_class"], UNKNOWN).combine_chunks().dictionary_encode()
    device, ahead = np.asarray(coded.indices), delay < -SKEW_US
    bucket = np.searchsorted(LATENESS_US, delay, side="left")
    late = np.bincount(device[~ahead] * len(LATENESS) + bucket[~ahead], minlength=len(coded.dictionary) * len(LATENESS))
    future = np.bincount(device[ahead], minlength=len(coded.dictionary))
    newest = np.full(len(coded.dictionary), np.iinfo(np.int64).min)
    np.maximum.at(newest, device[~ahead], happened[~ahead])
    told = dict(known)
    for code, name in enumerate(coded.dictionary.to_pylist()):
        name = name if name in told or len(told) < MAX_VALUES else OTHER
        old = told.get(name, Device())
        mine = late[code * len(LATENESS) : (code + 1) * len(LATENESS)]
        top = [value for value in (old.newest_us, int(newest[code]) if mine.sum() else None) if value is not None]
        added = [one + int(two) for one, two in zip(old.late, mine, strict=True)]
        told[name] = Device(added, old.ahead + int(future[code]), max(top, default=None))
    return told
