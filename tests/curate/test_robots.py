import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gyral.curate import robots

HOUR = robots.HOUR_US
START = 1_600_000_000_000_000


def clock_entropy(times):
    """Plain Python: share of the largest entropy, of the hours of day over the clock hours with an event."""
    from collections import Counter
    from math import log

    hours = [hour % 24 for hour in {time // HOUR for time in times}]
    counts = Counter(hours)
    total = len(hours)
    nats = -sum(count / total * log(count / total) for count in counts.values()) + (len(counts) - 1) / (2 * total)
    return total, nats / log(24)


def person(rng, days, asleep):
    """Times of somebody who is awake at most hours of the day, at another time zone each."""
    zone = int(rng.integers(24))
    times = []
    for day in range(days):
        for hour in range(24 - asleep):
            if rng.random() < 0.7:
                times += [
                    START + ((day * 24 + (zone + hour) % 24) * HOUR) + int(at)
                    for at in rng.integers(0, HOUR, rng.integers(1, 6))
                ]
    return times


def test_only_who_never_sleeps_is_found_and_the_entropy_is_that_of_plain_python():
    rng = np.random.default_rng(0)
    bots = [[START + int(at) for at in rng.integers(0, 20 * 24 * HOUR, 900)] for _ in range(20)]
    people = [person(rng, 60, asleep) for asleep in (4, 5, 6, 7, 8) for _ in range(4)]
    few = [[START + int(at) for at in rng.integers(0, 5 * 24 * HOUR, 140)]]
    every = bots + people + few
    subjects = np.repeat(np.arange(len(every)), [len(times) for times in every])
    times = np.concatenate([np.array(each) for each in every])
    shuffled = rng.permutation(len(times))
    found = robots.round_the_clock(subjects[shuffled], times[shuffled], active_hours=168)
    expected = [total >= 168 and share >= 0.98 for total, share in map(clock_entropy, every)]
    assert np.array_equal(found, np.array(expected)[subjects[shuffled]])
    assert expected == [True] * 20 + [False] * 21
    assert not robots.round_the_clock(subjects, times, active_hours=0).any()
    assert len(robots.round_the_clock(np.zeros(0, np.int64), np.zeros(0, np.int64), active_hours=168)) == 0


def test_who_hammers_one_object_is_found_and_who_loves_it_is_not():
    rng = np.random.default_rng(1)
    rows = [(0, 3, at) for at in range(600)] + [(0, 4, 1_000)]  # hammers
    rows += [(1, 3 if at % 5 else int(rng.integers(20)), at) for at in range(2_000)]  # four of five times the same song
    rows += [(2, 5, 7)] * 900  # one basket at one moment
    rows += [(3, 3, at) for at in range(499)]  # not seen long enough
    rows += [(4, each, 0) for each in range(20)]
    subjects, objects, times = (np.array(column) for column in zip(*rows, strict=True))
    shuffled = rng.permutation(len(rows))
    found = robots.one_object(subjects[shuffled], objects[shuffled], times[shuffled], moments=500)
    assert set(subjects[shuffled][found].tolist()) == {0} and found.sum() == 601
    assert not robots.one_object(subjects, objects, times, moments=0).any()
    assert not robots.one_object(subjects, np.minimum(objects, 8), times, moments=500).any()  # there is little else to meet


def test_the_rate_is_counted_as_in_plain_python():
    from collections import Counter

    rng = np.random.default_rng(2)
    subjects, times = rng.integers(0, 50, 20_000), rng.integers(-3 * HOUR, 6 * HOUR, 20_000)
    counts = Counter(zip(subjects.tolist(), (times // HOUR).tolist(), strict=True))
    for limit in (40, 50, 60):
        expected = {who for (who, _), count in counts.items() if count > limit}
        found = robots.find(subjects, times, events_per_hour=limit, regular_events=10**9)
        assert set(subjects[found].tolist()) == expected


def planted(rng):
    """Robots among the customers of a shop: one that never sleeps, and one that keeps office hours for one object."""
    start = START // 10**6
    rows = [("clock", f"{22000 + int(rng.integers(500))}", start + int(at)) for at in rng.integers(0, 30 * 86_400, 1_500)]
    hours = rng.integers(0, 9, 800) * 86_400 + rng.integers(0, 8 * 3_600, 800)
    return rows + [("hammer", "22423" if n % 40 else "22138", start + int(at)) for n, at in enumerate(hours)]


def test_planted_robots_are_found_and_no_customer_of_the_bundled_shop(project, retail, tmp_path):
    table = pq.read_table(retail, columns=["CustomerID", "StockCode", "InvoiceDate"])
    table = table.filter(pa.compute.is_valid(table["CustomerID"]))
    seconds = table["InvoiceDate"].cast(pa.timestamp("s")).cast(pa.int64()).to_pylist()
    rows = list(zip(table["CustomerID"].cast(pa.string()).to_pylist(), table["StockCode"].to_pylist(), seconds, strict=True))
    rows += planted(np.random.default_rng(3))
    columns = dict(zip(("user", "item", "at"), map(list, zip(*rows, strict=True)), strict=True))
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    project.ingest(tmp_path / "x.parquet", ingest__map={"subject": "user", "object": "item", "time": "at"})
    dropped = project.curate().manifest.dropped
    dropped.pop("duplicate")
    assert dropped.keys() == {"robot_round_the_clock", "robot_one_object"}
    assert 1_490 < dropped["robot_round_the_clock"] <= 1_500 and 790 < dropped["robot_one_object"] <= 800  # but for duplicates


@pytest.mark.parametrize("setting", ["robot_active_hours", "robot_one_object_moments"])
def test_each_rule_can_be_left_out(project, tmp_path, setting):
    rows = planted(np.random.default_rng(4))
    columns = dict(zip(("user", "item", "at"), map(list, zip(*rows, strict=True)), strict=True))
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    project.ingest(tmp_path / "x.parquet", ingest__map={"subject": "user", "object": "item", "time": "at"})
    dropped = project.curate(**{f"curate__{setting}": 0}).manifest.dropped
    dropped.pop("duplicate", None)
    left = {"robot_active_hours": "robot_one_object", "robot_one_object_moments": "robot_round_the_clock"}
    assert list(dropped) == [left[setting]]
