"""The as-of join against the definition in plain Python."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gyral.errors import InputError
from gyral.event.clock import TIMESTAMP
from gyral.lake.asof import asof_join

SMALL = st.integers(0, 6)
KEY = st.sampled_from(["a", "b", "c", None])
FEATURES = st.lists(st.tuples(KEY, SMALL, SMALL), max_size=25)
EXAMPLES = st.lists(st.tuples(KEY, SMALL, SMALL), max_size=12)


def tables(features, examples, kind=TIMESTAMP):
    names = ("subject", "event_time")
    left = pa.table({name: [row[n] for row in examples] for n, name in enumerate((*names, "known_time"))})
    right = pa.table({name: [row[n] for row in features] for n, name in enumerate((*names, "ingest_time"))})
    right = right.append_column("value", pa.array(range(len(features)), pa.int64()))
    return cast(left, kind), cast(right, kind)


def cast(table, kind):
    for place, name in enumerate(table.column_names):
        if name == "subject":
            table = table.set_column(place, name, table[name].cast(pa.string()))
        elif name.endswith("_time"):
            table = table.set_column(place, name, table[name].cast(pa.int64()).cast(kind))
    return table


def by_definition(features, examples):
    for key, at, known in examples:
        counts = [
            (f[1], f[2], n) for n, f in enumerate(features) if key is not None and f[0] == key and f[1] <= at and f[2] <= known
        ]
        yield max(counts)[2] if counts else None


@settings(max_examples=300, deadline=None)
@given(FEATURES, EXAMPLES)
def test_every_row_comes_out_once_with_the_latest_that_was_known(features, examples):
    left, right = tables(features, examples)
    joined = asof_join(left, right)
    assert joined.select(left.column_names).equals(left)
    assert joined["value"].to_pylist() == list(by_definition(features, examples))


def test_large_random_tables_agree_with_numpy():
    """Without late arrivals the answer is one search in a sorted array."""
    chance = np.random.default_rng(0)
    keys, times = chance.integers(0, 50, 20_000), chance.integers(0, 10**6, 20_000)
    right = pa.table({"subject": keys, "event_time": times, "ingest_time": times, "value": np.arange(20_000)})
    asked, at = chance.integers(0, 60, 5_000), chance.integers(0, 10**6, 5_000)
    got = asof_join(pa.table({"subject": asked, "event_time": at}), right)["value"].to_pylist()
    order = np.lexsort((times, keys))
    joint = keys[order] * 10**7 + times[order]
    place = np.searchsorted(joint, asked * 10**7 + at, side="right") - 1
    for row, value in enumerate(got):
        found = order[place[row]] if place[row] >= 0 and keys[order[place[row]]] == asked[row] else None
        assert (value is None) == (found is None) and (value is None or times[value] == times[found])


def test_what_came_in_late_does_not_leak():
    features = [("a", 1, 1), ("a", 3, 9)]
    left, right = tables(features, [("a", 5, 5), ("a", 5, 9), ("a", 0, 9)])
    assert asof_join(left, right)["value"].to_pylist() == [0, 1, None]
    assert asof_join(left.drop_columns("known_time"), right)["value"].to_pylist() == [0, 0, None]


def test_empty_tables_and_what_is_missing():
    left, right = tables([], [("a", 1, 1)])
    assert asof_join(left, right)["value"].to_pylist() == [None]
    left, right = tables([("a", 1, 1)], [])
    assert asof_join(left, right).num_rows == 0
    with pytest.raises(InputError, match="`ingest_time`"):
        asof_join(left, right.drop_columns("ingest_time"))
    with pytest.raises(InputError, match="both have `value`"):
        asof_join(left.append_column("value", pa.array([], pa.int64())), right)
