"""Known ids against a Python set."""

import itertools
import json
import threading

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gyral.event.codec import encode_payload
from gyral.event.wire import check_json, to_columns
from gyral.ingest import collector, dedup
from gyral.ingest.dedup import Runs, hash64, hashed, repeated
from gyral.ingest.drain import Drain
from gyral.lake.table import Lake
from gyral.log.sqlite import SqliteLog

IDS = st.text(st.characters(blacklist_categories=("Cs",)), max_size=20)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(IDS, max_size=12), max_size=12), st.lists(IDS, max_size=12), st.integers(0, 3))
def test_what_is_held_is_found_and_nothing_else(batches, asked, bits):
    """With `bits` of the first half left, most ids collide there, and still only the same id is known."""
    real = dedup.hash64
    weak = {dedup.KEYS[0]: np.uint64(2**bits if bits < 3 else 2**63), dedup.KEYS[1]: np.uint64(2**63)}
    dedup.hash64 = lambda ids, key: real(ids, key) % weak[key]
    try:
        held, known = Runs(), set()
        for batch in batches:
            held.add(hashed(pa.array(batch, pa.string())))
            known.update(batch)
            every = [*asked, *batch, *(each + "x" for each in batch)]
            run = hashed(pa.array(every, pa.string()))
            assert held.has(run).tolist() == [each in known for each in every]
            assert repeated(run).tolist() == [each in every[:place] for place, each in enumerate(every)]
    finally:
        dedup.hash64 = real


def test_both_halves_of_a_hash_are_different_and_depend_on_the_key():
    ids = pa.array([f"{number:036d}" for number in range(1000)])
    one, two = (hash64(ids, key) for key in dedup.KEYS)
    assert not np.any(one == two) and not np.any(one == hash64(ids))
    spread = np.unpackbits((one ^ two).view(np.uint8)).mean()
    assert 0.49 < spread < 0.51


@settings(max_examples=100, deadline=None)
@given(st.lists(IDS, min_size=1, max_size=20), st.integers(0, 5))
def test_a_hash_depends_on_the_string_alone(ids, cut):
    whole = hash64(pa.array(ids, pa.string()))
    assert [int(hash64(pa.array([each], pa.string()))[0]) for each in ids] == whole.tolist()
    assert hash64(pa.array(ids, pa.string())[cut:]).tolist() == whole[cut:].tolist()
    by_hash = dict(zip(whole.tolist(), ids, strict=True))
    assert all(by_hash[value] == each for value, each in zip(whole.tolist(), ids, strict=True))


@pytest.mark.parametrize("width", [1, 7, 8, 9, 32, 36])
def test_hashes_of_many_ids_are_all_different(width):
    ids = [f"{number:0{width}d}"[-width:] for number in range(min(10**width, 100_000))]
    assert len(np.unique(hash64(pa.array(ids)))) == len(set(ids))


def test_a_look_up_costs_the_logarithm_of_what_is_held():
    """Counted, not timed: runs stay few and each element is merged a logarithm of times."""
    held = Runs()
    for number in range(300):
        held.add(hashed(pa.array([f"{number:06d}-{each:06d}" for each in range(50)])))
    sizes = [len(run.first) for run in held._held[0]]
    assert sum(sizes) == 15_000 and len(sizes) <= 10
    assert all(one >= 2 * two for one, two in itertools.pairwise(sizes))


def test_whoever_asks_while_ids_are_added_hears_of_all_that_were_there_before():
    held, added, errors, stopping = Runs(), [0], [], threading.Event()
    every = [hashed(pa.array([f"{number:04d}-{each:03d}" for each in range(40)])) for number in range(400)]

    def ask():
        while not stopping.is_set():
            sure = added[0]
            for number in (0, sure // 2, sure - 1):
                if sure and not held.has(every[number]).all():
                    errors.append((number, sure))
            if held.has(hashed(pa.array(["nobody"]))).any():
                errors.append("nobody")

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number, run in enumerate(every):
        held.add(run)
        added[0] = number + 1
    stopping.set()
    for thread in threads:
        thread.join()
    assert errors == [] and len(held) == 16_000


@pytest.mark.parametrize("away", [40, 400, -40, -2], ids=lambda days: f"{days:+} days")
def test_a_clock_that_jumps_for_a_moment_forgets_no_id_of_today(tmp_path, monkeypatch, away):
    today = 20_000 * dedup.DAY_US
    clock = [today - dedup.DAY_US]
    monkeypatch.setattr(dedup, "now_us", lambda: clock[0])

    def drained(drain, names):
        rows = [{"event_id": each, "event_time": 1_700_000_000_000, "kind": "k", "subject": "u"} for each in names]
        columns = to_columns(check_json(json.dumps(rows).encode()).events, clock[0])
        log.append("a", f"{next(numbers)}", encode_payload(columns), len(names))
        return drain.run().accepted

    lake, numbers = Lake(tmp_path), itertools.count()
    with SqliteLog(lake.log_folder) as log:
        drain = Drain(lake, log, 100, dedup_days=1)
        assert drained(drain, ["old"]) == 1
        clock[0] = today
        assert drained(drain, ["a", "b"]) == 2
        clock[0] = today + away * dedup.DAY_US
        assert drained(drain, ["c", "a"]) == 1
        if away > 0:  # one that starts meanwhile
            assert drained(Drain(lake, log, 100, dedup_days=1), ["b", "c"]) == 0
        clock[0] = today
        assert drained(drain, ["a", "b", "c", "d"]) == 1
        assert drained(Drain(lake, log, 100, dedup_days=1), ["a", "b", "d"]) == 0
        clock[0] = today + 3 * dedup.DAY_US
        assert drained(drain, ["e"]) == 1 and drained(drain, ["e", "old"]) == 1, "but the days do pass"


def test_a_collector_that_is_told_nothing_of_the_lake_holds_ids_for_as_many_days_as_a_drain(tmp_path, monkeypatch):
    """As while a learner reads its log: without an end it held all ids since its start."""
    day = 20_000
    monkeypatch.setattr(collector, "now_us", lambda: day * dedup.DAY_US)

    def known(held, name):
        return held.has(hashed(pa.array([name])))[0]

    bounded, always = collector._Recent(2), collector._Recent()
    for number, today in enumerate((20_000, 20_001, 20_002, 20_040, 20_002, 20_003)):
        day = today
        for held in (bounded, always):
            held.add(hashed(pa.array([f"e{number}"])), number)
    assert [known(bounded, f"e{number}") for number in range(6)] == [False, False, True, True, True, True]
    assert all(known(always, f"e{number}") for number in range(6))
    bounded.forget(5)  # and a drain that says how far the lake is still counts
    assert [known(bounded, f"e{number}") for number in range(6)] == [False] * 5 + [True]
