import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gyral.params.chain import Folder, numbers
from gyral.params.deltas import Deltas, compact
from gyral.params.follow import Follower
from gyral.params.keep import Part
from gyral.params.records import Changes
from gyral.params.replica import Replica, Writer
from gyral.params.segment import Bucket, Damaged, File
from gyral.params.spec import BUCKETS, Optimizer, TableSpec

from .. import verbs
from . import plain

ITEMS = TableSpec("items", 3, optimizer=Optimizer("rowwise_adagrad"), expire_s=50)
KEYS = 40


class Shard:
    """A table that is cut into a folder."""

    def __init__(self, folder, owner=0):
        self.table, self.folder, self.owner, self.time = plain.Plain(ITEMS), folder, owner, 0
        self.deltas, self.versions = Deltas(folder, [ITEMS]), np.zeros(BUCKETS, np.uint64)

    def learn(self, seed, expire=False):
        rng = np.random.default_rng(seed)
        self.time += 10
        self.table.push(rng.integers(0, KEYS, 12), rng.normal(size=(12, 3)).astype(np.float32), self.time)
        if expire:
            self.table.expire(self.time + 30)

    def cut(self, first=0, last=BUCKETS):
        self.write(self.table.cut(first, last), first, last)

    def write(self, changes, first=0, last=BUCKETS, more=1):
        self.versions[changes.buckets] += np.uint64(more)
        none, nobody = np.zeros(0, np.int64), np.zeros((last - first, 0), np.uint64)
        versions, rows = self.versions[changes.buckets], self.table.num_rows(changes.buckets)
        self.deltas.write(Part("items", first, last, changes, versions, none, nobody, b"", 3, time.time(), self.owner, rows))

    def bucket(self, _table, number):
        return Bucket("items", number, int(self.versions[number]), self.owner, *self.table.export(number))


class Way:
    """A folder whose files are harmed on their way: `harm(name, bytes)` gives what arrives, None: nothing does."""

    def __init__(self, folder, harm):
        self.folder, self.harm = Path(folder), harm

    def names(self):
        return [name for name in os.listdir(self.folder) if self.harm(name, (self.folder / name).read_bytes()) is not None]

    def open(self, name):
        data = memoryview(self.harm(name, (self.folder / name).read_bytes()))

        def read_into(buffer, at):
            buffer[:] = data[at : at + len(buffer)]

        return File(name, len(data), read_into, lambda: None)


@pytest.fixture
def writer(tmp_path):
    with Writer(tmp_path / "replica" / "items", ITEMS) as writer:
        yield writer


def assert_same(writer, table):
    reader = Replica(writer._map.path)
    asked = np.arange(KEYS)
    (rows, held), (expected, expected_held) = reader.lookup(asked), table.pull(asked)
    assert (held == expected_held).all() and (rows == expected).all() and len(reader) == len(table)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["cut", "part", "expire", "compact", "clean", "restart"]), st.integers(0, 2**31)), max_size=20
    )
)
def test_a_follower_has_what_the_log_has_at_every_version(tmp_path_factory, doings):
    folder = tmp_path_factory.mktemp("follow")
    shard, shown = Shard(folder / "log"), plain.Plain(ITEMS)
    writer = Writer(folder / "items", ITEMS, max_rows=1000)
    follower = Follower(Folder(folder / "log"), {"items": writer})
    try:
        for what, seed in doings:
            shard.learn(seed, what == "expire")
            first, last = (seed % 4000, BUCKETS) if what == "part" else (0, BUCKETS)
            shard.cut(first, last)
            for key in [key for key in shown.rows if first <= plain.bucket_of(key, ITEMS.salt) < last]:
                del shown.rows[key]
            shown.rows |= {k: row for k, row in shard.table.rows.items() if first <= plain.bucket_of(k, ITEMS.salt) < last}
            if what in ("compact", "clean"):
                compact(folder / "log", keep_s=0 if what == "clean" else 100)
            if what == "restart":
                writer.close()
                writer = Writer(folder / "items", ITEMS, max_rows=1000)
                follower = Follower(Folder(folder / "log"), {"items": writer})
            if seed % 3:  # otherwise it is slow, and several come at once or are gone
                follower.poll()
                assert_same(writer, shown)
        follower.poll()
        assert_same(writer, shown)
        assert not follower.broken and not follower.found.damaged and not follower.found.fenced
    finally:
        writer.close()


def flipped(data, at, bit=1):
    out = bytearray(data)
    out[at] ^= bit
    return bytes(out)


@pytest.mark.parametrize("harm", ["missing", "torn", "foot", "segment", "repeated", "early"])
@pytest.mark.parametrize("by", ["base", "shard"])
def test_what_is_harmed_on_its_way_is_found_and_only_that_bucket_read_again(tmp_path, writer, harm, by):
    shard, asked = Shard(tmp_path / "log"), []
    kept = {}
    for seed in range(3):
        shard.learn(seed)
        shard.cut()

    def arrives(name, data):
        if name.startswith("cut") and numbers([name], "cut") == [3] and not kept.get("healed"):
            return {
                "missing": None, "torn": data[: len(data) // 2 & ~7], "foot": flipped(data, len(data) - 40), "repeated": data,
                "segment": flipped(data, 20), "early": (tmp_path / "log" / name.replace("3.", "4.")).read_bytes(),
            }[harm]  # fmt: skip
        if harm == "repeated" and name.startswith("cut") and numbers([name], "cut") == [4]:
            return kept.setdefault("third", (tmp_path / "log" / name.replace("4.", "3.")).read_bytes())
        return data

    def export(table, number):
        asked.append(number)
        return shard.bucket(table, number)

    source = Way(tmp_path / "log", arrives)
    follower = Follower(source, {"items": writer}, export if by == "shard" else None)
    follower.poll()
    shard.learn(9)
    shard.cut()
    follower.poll()
    found = follower.found
    assert found.damaged >= (harm not in ("missing",)) and (harm != "missing" or found.gaps)
    if by == "base":
        assert follower.broken or harm == "repeated"
        before = Replica(writer._map.path).lookup(np.arange(KEYS))[1]
        assert before.any()
        compact(tmp_path / "log", keep_s=100)  # it reads the folder itself
        shard.learn(10)
        shard.cut()
        follower._again_s = 0.0
        follower.poll()
    assert not follower.broken and found.repaired
    assert_same(writer, shard.table)
    if by == "shard":
        assert 0 < len(set(asked)) == found.repaired < len(shard.table)


def test_an_old_owner_changes_nothing_and_a_moved_bucket_goes_on(tmp_path, writer):
    old, new = Shard(tmp_path / "old", owner=1), Shard(tmp_path / "new", owner=2)
    sources = [Follower(Folder(tmp_path / name), {"items": writer}) for name in ("old", "new")]
    old.learn(0)
    old.cut()
    [each.poll() for each in sources]
    moved = plain.bucket_of(next(iter(old.table.rows)), ITEMS.salt)
    new.table.load(moved, *old.table.export(moved))
    new.versions[moved] = old.versions[moved]
    records, counters = new.table.export(moved)
    none = np.zeros(0, np.int64)
    old.learn(0)  # it has not heard, and its follower not either
    old.cut()
    sources[0].poll()
    whole = Changes(
        np.array([moved], np.uint16), records, np.array([0, len(records)]), none, np.zeros(2, np.int64), counters[None]
    )
    new.write(whole, moved, moved + 1)
    key = next(iter(new.table.rows))
    new.table.push(np.array([key]), np.ones((1, 3), np.float32))
    new.cut()
    for _ in range(3):
        old.learn(0)
        old.cut()
    [each.poll() for each in reversed(sources)]
    reader = Replica(writer._map.path)
    assert (reader.lookup(np.array([key]))[0] == new.table.pull(np.array([key]))[0]).all()
    others = np.array([other for other in old.table.rows if other not in new.table.rows])
    assert (reader.lookup(others)[0] == old.table.pull(others)[0]).all()
    assert sources[0].found.fenced and not sources[0].broken and not sources[1].broken


def test_a_tombstone_that_was_forgotten_is_noticed_by_the_count_of_rows(tmp_path, writer):
    shard = Shard(tmp_path / "log")
    follower = Follower(Folder(tmp_path / "log"), {"items": writer}, shard.bucket)
    shard.learn(0)
    shard.cut()
    follower.poll()
    shard.time += 1000
    shard.learn(1, expire=True)
    changes = shard.table.cut()
    assert len(changes.gone_keys)
    shard.write(changes._replace(gone_keys=changes.gone_keys[:0], gone_starts=np.zeros_like(changes.gone_starts)))
    follower.poll()
    assert follower.found.repaired == np.count_nonzero(np.diff(changes.gone_starts)) and not follower.broken
    assert_same(writer, shard.table)
    with pytest.raises(Damaged) as told:
        compact(tmp_path / "log")
    assert "rows and not" in told.value.why


def test_freshness_comes_from_when_pushes_were_acknowledged(tmp_path, writer):
    shard = Shard(tmp_path / "log")
    follower = Follower(Folder(tmp_path / "log"), {"items": writer}, clock=lambda: time.time() + 5)
    for seed in range(5):
        shard.learn(seed)
        shard.cut()
        follower.poll()
    fresh = Replica(writer._map.path).freshness()
    assert fresh.parts == 5 and 0 < fresh.now < 2 and 4.5 < fresh.p50 < 7.5


FOLLOWS = """
import sys, threading
from pathlib import Path
from gyral.params.chain import Folder
from gyral.params.follow import Follower
from gyral.params.records import Changes
from gyral.params.replica import Writer
from gyral.params.spec import Optimizer, TableSpec
spec = TableSpec("items", 3, optimizer=Optimizer("rowwise_adagrad"), expire_s=50)
with Writer(Path(sys.argv[1]) / "replica" / "items", spec) as writer:
    follower = Follower(Folder(Path(sys.argv[1]) / "log"), {"items": writer})
    print("up", flush=True)
    follower.run(threading.Event())
"""


def test_a_follower_that_is_killed_again_and_again_ends_where_the_log_does(tmp_path):
    shard = Shard(tmp_path / "log")

    def begun():
        process = verbs.popen([sys.executable, "-c", FOLLOWS, tmp_path], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "up\n"
        return process

    process = begun()
    try:
        for seed in range(40):
            shard.learn(seed, expire=seed % 5 == 0)
            shard.cut()
            if seed % 12 == 11:
                process.send_signal(signal.SIGKILL)
                process.wait(10)
                process.stdout.close()
                compact(tmp_path / "log", keep_s=0)
                process = begun()
        reader, end = Replica(tmp_path / "replica" / "items"), time.monotonic() + 20
        while (reader.versions != shard.versions).any():
            assert time.monotonic() < end, "the follower did not come to the end of the log"
            time.sleep(0.02)
        rows, held = reader.lookup(np.arange(KEYS))
        expected, expected_held = shard.table.pull(np.arange(KEYS))
        assert (held == expected_held).all() and (rows == expected).all()
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()
