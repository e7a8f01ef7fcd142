"""As-of join: each row with what was known at its own time, never later, and every row comes out exactly once.

It is bitemporal. A feature counts for an example when it had *happened* by the example's event time and had *come in* by the
moment the example was known; so a value that arrived late is not used for a decision that could not have seen it. Of those that
count the latest wins: by event time, then by ingest time, then by position. A join on event time alone leaks late arrivals.

One sort of the features by (key, event time, ingest time), then for each example a binary search and steps back over what came
in too late; the smallest ingest time so far ends the steps where nothing earlier can count.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gyral.errors import InputError, MissingExtra

EVENT_TIME, INGEST_TIME, KNOWN_TIME = "event_time", "ingest_time", "known_time"


def asof_join(examples: pa.Table, features: pa.Table, on: str = "subject") -> pa.Table:
    """Join to each example the latest feature row that was known.

    Parameters
    ----------
    examples : rows with `on`, `event_time` and, when it was another, the moment they were known: `known_time`.
    features : rows with `on`, `event_time`, `ingest_time` and the columns to bring.
    on : the key column; rows whose key is null match nothing.

    Returns
    -------
    The examples in their order, with the features' other columns; null where nothing was known. Times are in microseconds.

    Raises
    ------
    InputError : a column is missing, or both tables have one of the same name.
    """
    for table, name, needed in (
        (examples, "examples", (on, EVENT_TIME)),
        (features, "features", (on, EVENT_TIME, INGEST_TIME)),
    ):
        for column in needed:
            if column not in table.column_names:
                raise InputError(f"the {name} have no column `{column}`", hint=f"they need {', '.join(needed)}")
    brought = [name for name in features.column_names if name not in (on, EVENT_TIME, INGEST_TIME)]
    if double := set(brought) & set(examples.column_names):
        raise InputError(f"examples and features both have `{min(double)}`", hint="rename one of them")
    places = asof_places(examples, features, on)
    indices = pa.array(places, mask=places < 0)
    for name in brought:
        examples = examples.append_column(name, features[name].take(indices))
    return examples


def asof_places(examples: pa.Table, features: pa.Table, on: str = "subject") -> np.ndarray:
    """Row of the features for each example, -1 where nothing was known; shape (examples,)."""
    keys, wanted = _codes(features[on], examples[on])
    happened, arrived = _micros(features[EVENT_TIME]), _micros(features[INGEST_TIME])
    at = _micros(examples[EVENT_TIME])
    known = _micros(examples[KNOWN_TIME]) if KNOWN_TIME in examples.column_names else at
    order = _order(keys, happened, arrived)
    keys, happened, arrived = keys[order], happened[order], arrived[order]
    starts = np.searchsorted(keys, np.arange(int(keys.max(initial=-1)) + 2))
    found: np.ndarray = _kernel()(starts, happened, arrived, wanted, at, known)
    return np.where(found >= 0, order[np.maximum(found, 0)] if len(order) else -1, -1)


def _order(keys: np.ndarray, happened: np.ndarray, arrived: np.ndarray) -> np.ndarray:
    """Rows by key, event time and ingest time: by one number where key and time fit into it, five times as fast as by three."""
    if len(keys):
        first, last, highest = int(happened.min()), int(happened.max()), int(keys.max())
        if (highest + 2) * (last - first + 1) < 1 << 62:
            joint = (keys + 1) * (last - first + 1) + (happened - first)
            order = np.argsort(joint)
            joint = joint[order]
            if not np.any(joint[1:] == joint[:-1]):
                return order
    return np.lexsort((arrived, happened, keys))


@cache
def _kernel() -> Any:
    try:
        import numba
    except ImportError:
        raise MissingExtra("numba", "curate", "as-of joins") from None

    @numba.njit(cache=True, nogil=True)
    def search(
        starts: np.ndarray, happened: np.ndarray, arrived: np.ndarray, wanted: np.ndarray, at: np.ndarray, known: np.ndarray
    ) -> np.ndarray:
        earliest = arrived.copy()  # the smallest ingest time of a key up to and with each row
        for key in range(len(starts) - 1):
            for row in range(starts[key] + 1, starts[key + 1]):
                earliest[row] = min(earliest[row], earliest[row - 1])
        found = np.full(len(wanted), -1, np.int64)
        for example in range(len(wanted)):
            key = wanted[example]
            if key < 0 or key >= len(starts) - 1:
                continue
            low, high = starts[key], starts[key + 1]
            while low < high:
                middle = (low + high) // 2
                if happened[middle] <= at[example]:
                    low = middle + 1
                else:
                    high = middle
            row = low - 1
            while row >= starts[key] and earliest[row] <= known[example]:
                if arrived[row] <= known[example]:
                    found[example] = row
                    break
                row -= 1
        return found

    return search


def _codes(features: pa.ChunkedArray, examples: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers for the keys of both; -1 for a null, and for a key that no feature has."""
    encoded = features.combine_chunks().dictionary_encode()
    codes = pc.fill_null(encoded.indices.cast(pa.int64()), -1)
    wanted = pc.fill_null(pc.index_in(examples.cast(features.type), value_set=encoded.dictionary).cast(pa.int64()), -1)
    nulls = pc.is_null(examples)
    return np.asarray(codes), np.where(np.asarray(nulls), -1, np.asarray(wanted))


def _micros(times: pa.ChunkedArray) -> np.ndarray:
    if pa.types.is_timestamp(times.type):
        times = times.cast(pa.timestamp("us", tz=times.type.tz), safe=False)
    return np.asarray(times.cast(pa.int64()))
