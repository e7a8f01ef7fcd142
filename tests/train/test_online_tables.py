"""Steps behind a real shard and its folder: what is published, what a follower sees, what a roll-back leaves."""

import threading
import time
from collections import Counter
from functools import partial

import numpy as np
import pyarrow as pa
import pytest

from gyral.config import Config
from gyral.errors import ConflictError
from gyral.event.schema import EVENT
from gyral.ingest.tombstones import Tombstones
from gyral.live.behaviour import Behaviour
from gyral.model.live import journal, places
from gyral.model.live import tables as t
from gyral.model.live import visits as v
from gyral.model.live.erased import erase
from gyral.model.live.following import Follower
from gyral.model.live.journal import Journal, Step
from gyral.model.live.known import Known
from gyral.params import client
from gyral.params.shard import Settings
from gyral.train.gate import LEAST, Gate
from gyral.train.online import Met
from gyral.train.online_tables import Server
from gyral.train.online_visits import Visits

DIM = 8
START = partial(client.open, "local://1", settings=Settings(sync="async", workers=1, cut_s=0.02))


class World:
    """A learner without a log: steps are made of rows given."""

    def __init__(self, folder):
        self.folder = folder
        self.server = Server(START, list(t.specs(DIM).values()), folder)
        self.journal = Journal(folder)
        self.model = self._model()
        self.seen = []

    def _model(self):
        model = Visits(self.server)
        model.quiet = places.quiet_steps(self.folder)
        return model

    def step(self, rows, seq=None, hour=None):
        names, times = [row[1] for row in rows], np.array([row[2] for row in rows], np.int64)
        met = Met([row[0] for row in rows], names, [""] * len(rows), times, Counter())
        if seq is None:
            objects, titles = self.model.admit(met)
            now = time.time_ns() // 1000
            step = Step(self.journal.last + 1, {}, objects, titles, [(now, len(rows))], int(times.max(initial=0)) // 3600)
            self.journal.add(step)
            self.seen.append((step, met))
        else:
            step, met = self.seen[seq - 1]
        self.model.name(step.objects, step.titles)
        self.model.learn(step, met)

    def publish(self):
        until = time.monotonic() + 20
        while (newest := self.server.newest()) is None or newest.step < self.journal.last:
            assert time.monotonic() < until
            time.sleep(0.005)
        newest.hour = self.seen[-1][0].hour
        self.server.publish(newest)
        return newest

    def go_back(self):
        first, last = self.server.published.step + 1, self.journal.last
        places.add_quiet(self.folder, first, last)
        self.server.go_back()
        self.model = self._model()
        for step, _ in self.seen[: first - 1]:
            self.model.name(step.objects, step.titles)
        for seq in range(first, last + 1):
            self.step([], seq)

    def subjects(self):
        return sorted({key for _, met in self.seen for key in t.keys_of(met.subject).tolist()})

    def rows(self, table):
        keys = np.arange(len(self.model.names)) if table in t.OF_OBJECTS else np.array(self.subjects(), np.int64)
        return self.server.pull(table, np.zeros(1, np.int64) if table == t.SMALL else keys)

    def close(self):
        self.journal.close()
        self.server.close()


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    made.close()


def some(seed, visits=4, people=6, objects=20, hour=10):
    g = np.random.default_rng(seed)
    rows = []
    for _ in range(visits):
        who = f"s{g.integers(people)}"
        rows += [(who, f"o{code}", hour * 3600) for code in np.unique(g.integers(0, objects, 5))]
    return rows


def followed(world):
    known, seen = Known(DIM), []
    return known, Follower(world.folder, known, lambda *event: seen.append(event)), seen


def same(world, known):
    for name in t.OF_OBJECTS:
        got = known.arrays()[name]
        assert np.array_equal(got, world.rows(name)[: len(got)]), name
    assert np.array_equal(known.view.small_S, world.rows(t.SMALL)[0])
    for key, row in zip(world.subjects(), world.rows(t.PAST), strict=True):
        assert np.array_equal(v.unpacked(known.pasts[key]), row) and known.pasts[key].nbytes == 16 + 12 * row[0]


def test_a_follower_sees_what_is_published_and_nothing_else(world):
    known, follower, seen = followed(world)
    assert not follower.poll()
    for seed in range(6):
        world.step(some(seed, hour=10 + seed))
        world.publish()
        assert follower.poll()
        same(world, known)
    assert len(seen) == 6 and all(0 <= seconds < 20 for seconds, _ in seen)
    before = known.arrays()
    world.step(some(99, objects=40))
    time.sleep(0.1)
    world.server.newest()  # it is on the disk, but nobody said that it may be read
    assert not follower.poll() and all(np.array_equal(known.arrays()[name], array) for name, array in before.items())
    late, other, _ = followed(world)
    assert other.poll() and all(np.array_equal(late.arrays()[name], array) for name, array in before.items())


def test_who_loads_a_model_and_who_follows_it_look_one_at_a_time(world, monkeypatch):
    """Both read one journal from one place: at once, either ended with a mutated deque, or named objects twice."""
    world.step(some(1))
    world.publish()
    known, follower, seen = followed(world)
    inside, most = [], []

    def name(last, before=follower._name):
        inside.append(last)
        time.sleep(0.02)
        most.append(len(inside))
        is_named = before(last)
        inside.pop()
        return is_named

    monkeypatch.setattr(follower, "_name", name)
    threads = [threading.Thread(target=follower.poll) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert most == [1] and len(seen) == 1
    same(world, known)


def test_a_step_with_nothing_to_learn_is_published_too(world):
    """Or its events would wait for the next ones: nine seconds over Christmas, at 100,000x."""
    world.step(some(1))
    world.publish()
    world.step([])
    assert world.publish().step == 2
    _, follower, seen = followed(world)
    assert follower.poll() and len(seen) == 2


def test_followers_of_any_age_name_the_same_after_a_cut(world, monkeypatch):
    monkeypatch.setattr(journal, "KEPT", 2)
    monkeypatch.setattr(journal, "LEAST_BYTES", 0)
    since = [(0, {}), (0, {})]
    known, follower, seen = followed(world)
    for seed in range(3):
        world.step(some(seed, objects=30))
    world.publish()
    assert follower.poll()
    before = places.read_published(world.folder)
    for seed in range(3, 9):
        world.step(some(seed, objects=60))
    world.publish()
    assert world.journal.can_cut(9)
    world.journal.cut(9, since)
    assert world.journal.cut_at == 7 and [step.seq for step in journal.read(world.journal.path).steps] == [8, 9]
    late, new, late_seen = followed(world)
    asked, plain = [], places.read_published

    def older_first(folder):  # it was read before the journal was cut
        asked.append(folder)
        return before if len(asked) == 1 else plain(folder)

    with monkeypatch.context() as patch:
        patch.setattr(places, "read_published", older_first)
        assert new.poll() and new.published.step == 9
    assert follower.poll() and len(seen) == 5 and len(late_seen) == 2
    for each in (known, late):
        same(world, each)
        assert each.names == world.model.names
    for seed in range(9, 20):  # as long as before, and another file
        world.step(some(seed, objects=90))
        world.publish()
        if world.journal.can_cut(world.server.published.step):
            world.journal.cut(world.server.published.step, since)
        if seed % 3:
            assert follower.poll()
    new.poll(), follower.poll()
    for each in (known, late):
        same(world, each)
        assert each.names == world.model.names
    assert not follower.trouble and not new.trouble and world.journal.cut_at > 7


def test_a_log_that_is_silent_is_told_and_counts_as_no_freshness(world):
    _, follower, seen = followed(world)
    assert follower.told()["silent_s"] is None
    world.step(some(1))
    world.publish()
    assert follower.poll()
    first = follower.told()["silent_s"]
    time.sleep(0.3)
    assert not follower.poll() and len(seen) == 1
    assert 0.25 < follower.told()["silent_s"] - first < 20


def test_a_follower_that_lacks_a_cut_reads_the_bucket_again(world):
    known, follower, _ = followed(world)
    for seed in range(4):
        world.step(some(seed))
        world.publish()
        if seed == 1:
            assert follower.poll()
            follower._cuts["shard0"] -= 1  # as if it had counted wrong: the next cut was seen already
    assert follower.poll() and follower.repairs == 1
    same(world, known)


def test_going_back_leaves_facts_and_takes_back_weights(world):
    for seed in range(4):
        world.step(some(seed))
    world.publish()
    good = {name: world.rows(name) for name in (t.ITEM, t.BIAS, t.MET, t.SMALL)}
    counts = world.rows(t.SEEN)[:, 0].sum()
    poison = [("robot", f"o{at % 20}", 36_000 + at) for at in range(60)]
    for _ in range(3):
        world.step(poison)
    assert not np.array_equal(world.rows(t.ITEM), good[t.ITEM])
    cuts = places.newest_cuts(world.folder)
    world.go_back()
    for name, rows in good.items():
        assert np.array_equal(world.rows(name), rows), name
    assert world.rows(t.SEEN)[:, 0].sum() == counts + 180
    world.step(some(7))
    published = world.publish()
    assert published.version == 2 and published.step == 8 and cuts
    known, follower, _ = followed(world)
    assert follower.poll()
    same(world, known)


def test_a_server_that_starts_again_is_at_what_was_published(world):
    for seed in range(3):
        world.step(some(seed))
    world.publish()
    good = world.rows(t.ITEM)
    world.step(some(5))
    world.server.close()
    world.server = Server(START, list(t.specs(DIM).values()), world.folder)
    world.model.tables = world.server
    assert np.array_equal(world.rows(t.ITEM)[: len(good)], good) and world.server.durable == 3
    with pytest.raises(ConflictError, match="step 6 is not the next one"):
        world.server.push(6, {}, 0)
    world.step([], 4)
    assert world.publish().step == 4


def test_the_gate_refuses_poison_and_asks_to_go_back_after_its_patience(world):
    gate = Gate(limit=0.2, patience=2)

    def learn(rows):
        world.step(rows)
        gate.saw(world.model.last_visits)
        return gate.check(world.model, 10)

    # everybody takes the same five things again and again: what they will take is easy to foretell
    for turn in range(40):
        rows = [(f"s{turn % 8}", f"o{5 * (turn % 2) + at}", 36_000) for at in range(5)]
        assert learn(rows).passes
    assert len(gate._window) >= LEAST
    verdicts = []
    for turn in range(30):
        poison = [(f"r{turn}-{at}", f"o{10 + code}", 36_000) for at in range(6) for code in range(10)]
        verdicts.append(learn(poison))
        if verdicts[-1].goes_back:
            break
    assert verdicts[-1].goes_back and gate.in_a_row == 2 and gate.refused >= 2
    assert verdicts[-1].candidate > verdicts[-1].published + 0.2
    gate.went_back()
    assert gate.check(world.model, 10).passes  # too few visits to judge by


def test_objects_that_came_between_two_versions_are_no_harm(world):
    """A catalogue that grows sevenfold costs every older object probability; the gate asks about those that both know."""
    gate = Gate(limit=0.2, patience=2)

    def learn(rows):
        world.step(rows)
        gate.saw(world.model.last_visits)
        return gate.check(world.model, 10)

    for turn in range(40):
        learn([(f"s{turn % 8}", f"o{5 * (turn % 2) + at}", 36_000) for at in range(5)])
    grown = []
    for turn in range(6):  # each of 60 new objects is met by 6 people
        rows = [(f"n{turn}-{who}", f"new{turn}-{at}", 36_000) for at in range(10) for who in range(6)]
        grown.append(learn(rows))
    assert all(each.passes for each in grown) and gate.refused == 0


def test_weights_of_a_new_object_that_are_no_numbers_are_refused(world):
    gate = Gate(limit=0.2)
    for turn in range(40):
        world.step([(f"s{turn % 8}", f"o{5 * (turn % 2) + at}", 36_000) for at in range(5)])
        gate.saw(world.model.last_visits)
        assert gate.check(world.model, 10).passes
    world.step([("n", "new", 36_000)])
    objects = world.model.objects

    def broken(codes, hour):
        made = objects(codes, hour)
        return made._replace(b_V=np.where(np.asarray(codes) == len(world.model.names) - 1, np.nan, made.b_V))

    world.model.objects = broken
    assert not gate.check(world.model, 10).passes


def test_what_is_over_the_mass_is_pushed_and_the_rest_is_not(world):
    world.step([("a", f"o{at}", 36_000) for at in range(3)])
    before = world.model.rows
    world.step([("b", "o1", 36_000)])
    assert world.model.rows - before <= 3 + 3 + 1 + 1 + 1 + 1 and v.LEAST_MASS < 0.1


def test_somebody_who_was_erased_is_in_no_file_and_known_to_nobody(world):
    """Also while a learner holds the tables: it is fenced, and goes on from what was published."""
    known, follower, _ = followed(world)
    for seed in range(3):
        world.step(some(seed))
    world.publish()
    assert follower.poll()
    who, others = t.key_of("s1"), {key: row.copy() for key, row in known.pasts.items() if key != t.key_of("s1")}
    items = known.arrays()[t.ITEM].copy()
    assert who in known.pasts and who in known.subjects and len(others) > 2
    needle = int(who).to_bytes(8, "little", signed=True)
    files = [path for path in world.folder.rglob("*") if path.is_file()]
    assert any(needle in path.read_bytes() for path in files)
    assert erase(world.folder, "s1")
    assert not any(needle in path.read_bytes() for path in world.folder.rglob("*") if path.is_file())
    assert follower.poll() and who not in known.pasts and who not in known.subjects
    assert set(known.pasts) == set(others) and all(np.array_equal(known.pasts[key], row) for key, row in others.items())
    assert np.array_equal(known.arrays()[t.ITEM], items)
    fresh, late, _ = followed(world)
    assert late.poll() and set(fresh.pasts) == set(others) and not erase(world.folder, "s1")
    assert not erase(world.folder, "nobody")
    world.server.go_back()
    world.step([("s2", "o1", 36_000)])
    assert world.publish().step == 4 and late.poll() and who not in fresh.pasts


def test_a_subject_that_was_erased_is_not_learned(world):
    schema = pa.schema([*EVENT])
    row = {"event_id": "e", "event_time": 1, "ingest_time": 1, "kind": "purchase", "subject": "s1", "object": "o1"}
    rows = pa.RecordBatch.from_pylist([row, {**row, "subject": "s2"}], schema)

    class Erased(Tombstones):
        def __len__(self):
            return 1

        def has(self, subjects):
            return np.array([name == "s1" for name in subjects.to_pylist()])

    met = Behaviour(Config(), erased=Erased())(rows)
    assert met.subject == ["s2"] and met.dropped == {"erased": 1}
