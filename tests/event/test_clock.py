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


@given(st.datetimes(min_value=datetime(1975, 1, 1), max_value=datetime(2100, 1, 1)), st.sampled_from(["s", "ms", "us", "ns"]))
def test_epoch_text_means_what_the_number_means(moment, unit):
    """`1721040941937` begins like a date of the year 1721."""
    scale = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    ticks = int(moment.replace(tzinfo=UTC).timestamp()) * scale + (0 if unit == "s" else 937)
    expected = datetime.fromtimestamp(ticks // scale, UTC)
    for values in ([str(ticks), "bad", None, "2020-01-01"], [f" {ticks} ", "2020-01-01T00:00:00Z"]):
        found = parse_times(pa.array(values))[0].as_py()
        assert abs((found - expected).total_seconds()) < 1


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_timestamps_of_every_unit_and_far_away_ones(unit):
    scale = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    ticks = pa.array([1_600_000_000 * scale + (1 if unit == "ns" else 0), 2**63 - 1, None]).cast(
        pa.timestamp(unit, tz="Asia/Tokyo")
    )
    found = parse_times(ticks).to_pylist()
    assert found[0] == datetime.fromtimestamp(1_600_000_000, UTC) and found[2] is None
    assert (found[1] is None) == (unit != "ns")


@pytest.mark.parametrize("values", [pa.array([[1]]), pa.array([{"a": 1}]), pa.array([True]), pa.array([5], pa.duration("s"))])
def test_what_is_no_time_at_all_is_null(values):
    assert parse_times(values).to_pylist() == [None]
