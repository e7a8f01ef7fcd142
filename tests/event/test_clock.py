from datetime import UTC, datetime

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gyral.event.clock import parse_times


def texts(values, **options):
    return [None if each is None else each.isoformat() for each in parse_times(pa.array(values), **options).to_pylist()]


@pytest.mark.parametrize(
    "value",
    ["2010-12-01T08:26:00Z", "2010-12-01 08:26:00", "2010-12-01T09:26:00+01:00", "1291191960", 1291191960, 1291191960000,
     1291191960000000, 1291191960000000000, 1291191960.0],
)  # fmt: skip
def test_one_moment_in_all_its_forms(value):
    assert texts([value]) == ["2010-12-01T08:26:00+00:00"]


def test_one_bad_value_costs_only_itself():
    assert texts(["2010-12-01 08:26:00", "yesterday", None, "2011-02-30"]) == [
        "2010-12-01T08:26:00+00:00",
        None,
        None,
        None,
    ]


def test_a_format_reads_what_is_neither_rfc_3339_nor_epoch():
    assert texts(["12/1/2010 8:26", "13/13/2010 8:26"], time_format="%m/%d/%Y %H:%M") == [
        "2010-12-01T08:26:00+00:00",
        None,
    ]


def test_nonsense_numbers_are_null():
    assert texts([float("nan"), float("inf"), -1e300]) == [None, None, None]


def test_naive_timestamps_and_dates_are_utc():
    assert texts([datetime(2011, 1, 1)]) == ["2011-01-01T00:00:00+00:00"]
    assert texts(pa.array(["2011-01-01"]).cast(pa.date32()).to_pylist()) == ["2011-01-01T00:00:00+00:00"]


@given(st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(9998, 1, 1)))
def test_any_time_survives_as_text(moment):
    mixed = parse_times(pa.array([moment.isoformat(), "bad"]))  # the bad one forces the slow path
    assert mixed[0].as_py() == moment.replace(tzinfo=UTC)
    assert parse_times(pa.array([moment.isoformat()]))[0].as_py() == moment.replace(tzinfo=UTC)
