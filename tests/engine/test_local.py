import operator
import threading
import time

import pytest

from gyral.engine.base import connect
from gyral.errors import UsageError
from gyral.lake import dataset as datasets


@pytest.mark.parametrize("on", ["local", "local://threads=1", "local://threads=4", "local://processes=2"])
def test_results_come_in_the_order_of_the_items(on):
    engine = connect(on)
    try:
        assert list(engine.map(operator.neg, range(50))) == [-number for number in range(50)]
    finally:
        engine.close()
        engine.close()


def test_no_more_than_twice_the_workers_are_in_flight():
    engine = connect("local://threads=2")
    taken = []

    def items():
        for number in range(40):
            taken.append(number)
            yield number

    results = engine.map(lambda number: number, items())
    next(results)
    assert len(taken) <= 5
    results.close()
    engine.close()


def test_the_first_error_is_raised_after_the_results_before_it():
    engine = connect("local://threads=3")
    results = engine.map(lambda number: 1 // (number - 3), range(9))
    assert [next(results) for _ in range(3)] == [-1, -1, -1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    engine.close()


def test_threads_really_run_beside_each_other():
    engine = connect("local://threads=2")
    barrier = threading.Barrier(2, timeout=5)
    start = time.monotonic()
    list(engine.map(lambda _: barrier.wait(), range(2)))
    assert time.monotonic() - start < 5
    engine.close()


@pytest.mark.parametrize("on", ["locall", "local://threads=2,processes=2", "local://cores=2", "local://threads=x"])
def test_an_engine_that_does_not_exist_is_refused(on):
    with pytest.raises(UsageError):
        connect(on)


@pytest.mark.parametrize("on", ["local://threads=4", "local://processes=2"])
def test_the_verbs_make_the_same_bytes_on_every_engine(made, project, small_shop, on):
    flags = {"ingest__batch_rows": 10_000, "on": on}
    assert project.ingest(small_shop, **flags)["accepted"] == 60_000
    data = project.curate(**flags)
    assert [shard.sha256 for shard in data.manifest.shards] == [
        shard.sha256 for shard in datasets.find(made.root, "shop").manifest.shards
    ]
    assert project.events(["event_id"]) == made.events(["event_id"])
