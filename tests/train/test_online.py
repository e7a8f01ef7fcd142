"""A learner over a real log: each event once, whoever dies where."""

import errno
import gc
import importlib.util
import json
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from gyral.errors import InputError
from gyral.event.codec import encode_payload
from gyral.event.schema import EVENT
from gyral.log.sqlite import SqliteLog
from gyral.model.live import journal
from gyral.model.live import tables as t
from gyral.model.live.journal import JOURNAL, Step
from gyral.train.online import Met, Online, RecentIds
from gyral.train.online_visits import Limits, Visits

from .. import verbs

CUTTING = Path(__file__).with_name("cutting.py")
_spec = importlib.util.spec_from_file_location("stand_in", Path(__file__).parents[1] / "live" / "stand_in.py")
stand_in = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(stand_in)


def events(first, rows):
    """A batch of (subject, object, second); ids count on from `first`."""
    columns = {name: pa.nulls(len(rows), EVENT.field(name).type) for name in EVENT.names}
    columns["event_id"] = pa.array([f"e{first + at}" for at in range(len(rows))])
    columns["kind"] = pa.array(["purchase"] * len(rows))
    columns["subject"] = pa.array([who for who, _, _ in rows])
    columns["object"] = pa.array([what for _, what, _ in rows])
    for name in ("event_time", "ingest_time"):
        columns[name] = pa.array([when * 1_000_000 for _, _, when in rows], pa.int64()).cast(EVENT.field(name).type)
    return pa.RecordBatch.from_arrays([columns[name] for name in EVENT.names], schema=EVENT)


def all_kept(batch):
    times = batch.column("event_time").cast(pa.int64()).to_numpy() // 1_000_000
    names = batch.column("object").to_pylist()
    return Met(batch.column("subject").to_pylist(), names, [f"title {n}" for n in names], times, Counter())


@pytest.fixture
def log(tmp_path):
    with SqliteLog(tmp_path / "log") as opened:
        yield opened
    while OPEN:
        OPEN.pop().close()


OPEN = []


def filled(log, batches, seed=0):
    rng, total, partition = np.random.default_rng(seed), 0, log.free_partition("events")
    for at in range(batches):
        rows = [(f"s{rng.integers(9)}", f"o{rng.integers(30)}", 1_000_000 + 500 * at) for _ in range(rng.integers(1, 12))]
        log.append(partition, f"b{seed}-{at}", encode_payload(events(10_000 * seed + total, rows)), len(rows))
        total += len(rows)
    return total


def counted(tables):
    return sum(row[0] for row in tables.rows[t.SEEN].values())


def opened(log, folder, tables, **limits):
    OPEN.append(Online(log, folder, all_kept, Visits(tables, Limits(**limits)), step_s=0.001))
    return OPEN[-1]


def drain(online):
    steps = 0
    while online.step() is not None:
        steps += 1
    return steps


def test_every_event_is_learned_once(log, tmp_path):
    total, tables = filled(log, 20), stand_in.StandIn()
    online = opened(log, tmp_path, tables)
    assert drain(online) >= 1 and online.events == total == counted(tables)
    assert drain(online) == 0


@pytest.mark.parametrize("kept_after", [0, 1, 3])
def test_a_learner_that_dies_does_the_same_steps_again(log, tmp_path, kept_after):
    tables, total, online = stand_in.StandIn(), 0, None
    online = opened(log, tmp_path, tables)
    for seed in range(4):
        total += filled(log, 5, seed)
        drain(online)
        if seed == kept_after:
            tables.keep()
    whole = {name: {k: v.copy() for k, v in rows.items()} for name, rows in tables.rows.items()}
    online.close()
    tables.crash()  # the tables' process died too; the disk has the pushes up to `kept_after`
    again = opened(log, tmp_path, tables)
    assert again.recover() == 3 - kept_after
    assert drain(again) == 0 and counted(tables) == total
    for name, rows in whole.items():
        assert rows.keys() == tables.rows[name].keys()
        for key, row in rows.items():
            assert np.array_equal(row, tables.rows[name][key]), name
    total += filled(log, 3, 9)
    drain(again)
    assert counted(tables) == total


def test_only_the_learner_died_and_the_tables_skip_what_they_have(log, tmp_path):
    tables = stand_in.StandIn()
    total = filled(log, 10)
    online = opened(log, tmp_path, tables)
    drain(online)
    online.close()  # the tables live on; nothing of it was told to be on the disk
    again = opened(log, tmp_path, tables)
    again.recover()
    assert tables.pushes == [1, 1] and counted(tables) == total


def test_a_torn_line_was_never_pushed(log, tmp_path):
    tables, total = stand_in.StandIn(), filled(log, 4)
    online = opened(log, tmp_path, tables)
    drain(online)
    online.close()
    with open(tmp_path / JOURNAL, "ab") as file:
        file.write(b'{"seq":2,"taken":{"ev')
    again = opened(log, tmp_path, tables)
    again.recover()
    total += filled(log, 2, 5)
    drain(again)
    assert counted(tables) == total and [step.seq for step in journal.read(tmp_path / JOURNAL).steps] == [1, 2]


def test_a_journal_with_a_hole_is_refused(log, tmp_path):
    tables = stand_in.StandIn()
    online = opened(log, tmp_path, tables)
    for seed in range(3):
        filled(log, 1, seed)
        drain(online)
    online.close()
    lines = (tmp_path / JOURNAL).read_bytes().splitlines(keepends=True)
    (tmp_path / JOURNAL).write_bytes(lines[0] + lines[2])
    with pytest.raises(InputError, match="step 2 is not in the journal"):
        opened(log, tmp_path, tables)


def test_what_is_sent_twice_is_learned_once(log, tmp_path):
    tables, partition = stand_in.StandIn(), log.free_partition("events")
    for name in ("a", "b"):
        log.append(partition, name, encode_payload(events(0, [("s", "o", 5), ("s", "p", 5)])), 2)
    online = opened(log, tmp_path, tables)
    drain(online)
    assert counted(tables) == 2 and online.dropped == {"known": 2}


def test_a_robot_is_heard_until_the_limit(log, tmp_path):
    tables, partition = stand_in.StandIn(), log.free_partition("events")
    rows = [("robot", f"o{at % 7}", 3_600 * 5 + at) for at in range(100)] + [("ann", "o1", 3_600 * 5)]
    log.append(partition, "a", encode_payload(events(0, rows[:60])), 60)
    log.append(partition, "b", encode_payload(events(60, rows[60:])), 41)
    online = opened(log, tmp_path, tables, events_per_hour=50)
    drain(online)
    model = online._model
    assert counted(tables) == 51 and model.dropped["robot"] == 50 and model.learned == 51


def test_a_flood_of_new_objects_gets_no_codes(log, tmp_path):
    tables, partition = stand_in.StandIn(), log.free_partition("events")
    rows = [(f"s{at}", f"flood{at}", 100) for at in range(300)] + [("a", "tea", 100), ("b", "tea", 100), ("c", "tea", 101)]
    log.append(partition, "a", encode_payload(events(0, rows)), len(rows))
    online = opened(log, tmp_path, tables, admit_count=2)
    drain(online)
    model = online._model
    assert model.names == ["tea"] and model.titles == ["title tea"] and model.dropped["not_admitted"] == 300
    capped = opened(log, tmp_path / "log", stand_in.StandIn(), max_objects=5)
    drain(capped)
    assert len(capped._model.names) == 5


def test_a_learner_holds_no_steps(log, tmp_path):
    tables, online, partition = stand_in.StandIn(), None, log.free_partition("events")
    online = opened(log, tmp_path, tables)
    for at in range(30):
        log.append(partition, f"b{at}", encode_payload(events(at, [("s1", "o1", 1_000_000 + at)])), 1)
        assert online.step().seq == at + 1
    tables.keep()
    online.close()
    again = opened(log, tmp_path, tables)
    assert again.recover() == 0 and again.journal.last == 30
    gc.collect()
    assert sum(type(each) is Step for each in gc.get_objects()) <= 1


def test_recent_ids_are_known_in_eight_bytes_each():
    rng, size = np.random.default_rng(0), 300
    recent, new, old = RecentIds(size), set(), set()
    for _ in range(60):
        batches = [[f"e{number}" for number in rng.integers(2_000, size=rng.integers(12)).tolist()] for _ in range(3)]
        expected = []
        for names in batches:
            expected.append([not (name in new or name in old or new.add(name)) for name in names])
        told = recent.is_new([pa.record_batch({"event_id": pa.array(names, pa.string())}) for names in batches])
        assert [mask.tolist() for mask in told] == expected
        assert recent.is_full == (len(new) >= size)
        if recent.is_full:
            recent.turn()
            new, old = set(), new
        assert sum(run.nbytes for run in (*recent._new, *recent._old)) == 8 * (len(new) + len(old))
    assert recent.is_new([]) == []


def test_steps_are_done_again_in_one_reading_of_the_log(log, tmp_path, monkeypatch):
    """A reading takes a broker three answers, and a learner of an hour has tens of thousands of steps."""
    tables, total, reads = stand_in.StandIn(), 0, []
    online = opened(log, tmp_path, tables)
    for seed in range(12):
        total += filled(log, 2, seed)
        drain(online)
    tables.keep()
    online.close()
    monkeypatch.setattr(log, "read", lambda *given, read=log.read: reads.append(given) or read(*given))
    again = opened(log, tmp_path, tables)
    again.recover()
    assert again.seen == total and again.offsets == online.offsets and len(reads) == len(again.offsets) == 1
    assert drain(again) == 0 and counted(tables) == total


@pytest.fixture
def short(monkeypatch):
    """A journal is cut behind its last four steps."""
    monkeypatch.setattr(journal, "KEPT", 4)
    monkeypatch.setattr(journal, "LEAST_BYTES", 0)


def step_by_step(log, online, tables, num, seed=0):
    """So many steps of one entry each, published at once."""
    total = 0
    for at in range(num):
        total += filled(log, 1, 1_000 * seed + at)
        drain(online)
        tables.keep()
        online.cut(tables.durable)
    return total


def test_a_journal_that_was_cut_says_the_same(log, tmp_path, short):
    tables = stand_in.StandIn()
    online = opened(log, tmp_path, tables)
    total = step_by_step(log, online, tables, 16)
    names, titles = list(online._model.names), list(online._model.titles)
    base, steps, *_ = journal.read(tmp_path / JOURNAL)
    assert base.seq == online.journal.cut_at >= 8 and [step.seq for step in steps] == [*range(base.seq + 1, 17)]
    online.close()
    tables.crash()
    again = opened(log, tmp_path, tables)
    assert again.recover() == 0 and again.journal.last == 16
    assert (again._model.names, again._model.titles) == (names, titles)
    assert (again.offsets, again.seen, again.hour) == (online.offsets, online.seen, online.hour) and again.seen == total
    assert drain(again) == 0
    total += step_by_step(log, again, tables, 10, seed=1)
    assert counted(tables) == total and journal.read(tmp_path / JOURNAL).base.seq > base.seq


def test_steps_behind_what_is_published_are_done_again_after_a_cut(log, tmp_path, short):
    tables = stand_in.StandIn()
    online = opened(log, tmp_path, tables)
    total = step_by_step(log, online, tables, 10)
    for seed in range(3):
        total += filled(log, 1, 90 + seed)
        drain(online)
    online.cut(tables.durable)
    assert online.journal.cut_at <= tables.durable == 10
    online.close()
    tables.crash()
    again = opened(log, tmp_path, tables)
    assert again.recover() == 3 and counted(tables) == total


def test_the_same_ids_are_known_after_a_cut_and_no_more_of_the_log_is_read(log, tmp_path, short):
    tables, partition = stand_in.StandIn(), log.free_partition("events")

    def learner():
        made = opened(log, tmp_path, tables)
        made._ids = RecentIds(100)
        made.recover()
        return made

    def ids(online):
        return [np.sort(np.concatenate([*runs, []])).tolist() for runs in (online._ids._old, online._ids._new)]

    online = learner()
    for at in range(20):
        log.append(partition, f"b{at}", encode_payload(events(40 * at, [(f"s{at}", "o", 3_600 * 400 + at)] * 40)), 40)
        drain(online)
        tables.keep()
        online.cut(tables.durable)
    online.close()
    reads, plain = [], log.read
    log.read = lambda name, first: reads.append(first) or plain(name, first)
    again = learner()
    older = journal.read(tmp_path / JOURNAL).base.since[0][partition]
    assert min(reads) == older >= 5 and ids(again) == ids(online) and len(ids(online)[0]) >= 100


def test_a_disk_that_is_full_leaves_the_journal_as_it_is(log, tmp_path, short, monkeypatch):
    tables = stand_in.StandIn()
    online = opened(log, tmp_path, tables)
    total = step_by_step(log, online, tables, 6)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(journal, "write_atomic", full)
        total += step_by_step(log, online, tables, 10, seed=1)
    assert online.journal.cut_at == 0 and len(journal.read(tmp_path / JOURNAL).steps) == 16
    total += step_by_step(log, online, tables, 2, seed=2)
    assert online.journal.cut_at and counted(tables) == total
    online.close()
    again = opened(log, tmp_path, tables)
    again.recover()
    assert again.seen == total


def test_who_is_killed_while_a_journal_is_cut_learns_everything_once(tmp_path):
    counts = Counter()
    with SqliteLog(tmp_path / "log") as log:
        partition = log.free_partition("events")
        for at in range(60):
            rows = [(f"s{at % 7}", f"o{(at * at) % 11}", 3_600 * 400 + at)] * (1 + at % 3)
            log.append(partition, f"b{at}", encode_payload(events(10 * at, rows)), len(rows))
            counts[rows[0][1]] += len(rows)
    words = (CUTTING, tmp_path / "log", tmp_path / "live")
    for point in ("live.cutting:2", "live.cut:1", "live.cut:2"):
        died = verbs.python(*words, GYRAL_FAULT=point)
        assert died.returncode == -signal.SIGKILL, died.stderr
    done = verbs.python(*words)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["counts"] == counts and told["steps"] == 60 and told["seen"] == sum(counts.values()) and told["cut_at"] > 40
