import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from gyral.errors import ConflictError, GyralError, NotFound
from gyral.params.records import Changes, Records, weights_of
from gyral.params.replica import Replica, Writer
from gyral.params.segment import Bucket
from gyral.params.spec import BUCKETS, Optimizer, TableSpec

from .. import verbs
from . import plain

ITEMS = TableSpec("items", 5, expire_s=50)


@pytest.fixture
def opened():
    with contextlib.ExitStack() as stack:
        yield lambda *args, **more: stack.enter_context(Writer(*args, **more))


def changes_of(spec, keys, bodies, gone=()):
    """Changes in the order of buckets, from keys as they come."""
    buckets = np.array([plain.bucket_of(key, spec.salt) for key in keys.tolist()], np.uint16)
    gone_buckets = np.array([plain.bucket_of(key, spec.salt) for key in gone], np.uint16)
    numbers = np.union1d(buckets, gone_buckets).astype(np.uint16)
    order, gone_order = np.argsort(buckets, kind="stable"), np.argsort(gone_buckets, kind="stable")
    records = Records(keys[order], np.zeros(len(keys), np.uint32), bodies[order])
    starts, gone_starts = (
        np.append(np.searchsorted(np.sort(of), numbers), len(of)).astype(np.int64) for of in (buckets, gone_buckets)
    )
    return Changes(
        numbers, records, starts, np.array(gone, np.int64)[gone_order], gone_starts, np.zeros((len(numbers), 0), np.uint8)
    )


def test_a_replica_reads_as_the_table(tmp_path, opened):
    writer, table, rng = opened(tmp_path / "items", ITEMS), plain.Plain(ITEMS), np.random.default_rng(0)
    reader = Replica(tmp_path / "items")
    asked = np.concatenate([np.arange(-5, 3100), [2**63 - 1, -(2**63)]])
    for number in range(6):
        keys = rng.integers(0, 3000, 2000)
        keys[:2] = [2**63 - 1, -(2**63)]
        table.push(keys, rng.normal(size=(2000, 5)).astype(np.float32), number * 20)
        table.expire(number * 20)
        before = reader.version
        changes = table.cut()
        for _ in range(2):  # twice is as once
            writer.patch(changes, np.full(len(changes.buckets), number + 1), 3)
        assert (reader.versions[changes.buckets] == number + 1).all() and reader.version == before + 2
        rows, held = reader.lookup(asked)
        expected, expected_held = table.pull(asked)
        assert (rows == expected).all() and (held == expected_held).all() and 0 < held.sum() < len(held)
        everything = reader.all()
        assert sorted(everything.keys.tolist()) == sorted(table.rows) and len(reader) == len(table)
        assert (everything.rows == table.pull(everything.keys)[0]).all()


@pytest.mark.parametrize("dtype", ["f32", "bf16", "int8"])
@pytest.mark.parametrize("dim", [1, 6, 33])
def test_rows_rest_as_the_table_has_them_or_smaller(tmp_path, opened, dtype, dim):
    spec, rng = TableSpec("items", dim, dtype=dtype, optimizer=Optimizer("adam")), np.random.default_rng(dim)
    keys, bodies = np.arange(50), rng.integers(0, 120, (50, spec.body_bytes), dtype=np.uint8)
    if dtype == "f32":
        bodies = rng.normal(size=(50, spec.body_bytes // 4)).astype(np.float32).view(np.uint8)
    for kept in sorted({"f32", dtype, "int8"}):
        opened(tmp_path / kept, spec, kept).patch(changes_of(spec, keys, bodies), 1, 0)
        rows, _ = Replica(tmp_path / kept).lookup(keys)
        expected = weights_of(spec, bodies)
        if kept == "int8" != dtype:
            assert (np.abs(rows - expected) <= np.abs(expected).max(axis=1, keepdims=True) / 127 * 0.51).all()
        else:
            assert (rows == expected).all()


def test_a_bucket_is_replaced_whole(tmp_path, opened):
    writer, table = opened(tmp_path / "items", ITEMS), plain.Plain(ITEMS)
    keys = np.array([key for key in range(200_000) if plain.bucket_of(key, ITEMS.salt) == 7])
    assert len(keys) > 30
    table.push(keys[:20], np.ones((20, 5), np.float32))
    table.push(np.array([1]), np.ones((1, 5), np.float32))
    changes = table.cut()
    writer.patch(changes, 1, 0)
    other = plain.Plain(ITEMS)
    other.push(keys[10:], np.full((len(keys) - 10, 5), 3, np.float32))
    writer.replace(Bucket("items", 7, 9, 2, *other.export(7)))
    reader = Replica(tmp_path / "items")
    rows, held = reader.lookup(keys)
    assert (held == other.pull(keys)[1]).all() and (rows == other.pull(keys)[0]).all() and reader.lookup(np.array([1]))[1].all()
    assert (writer.versions[7], writer.owners[7], writer.counts[7]) == (9, 2, len(keys) - 10)


def test_what_was_removed_is_used_again(tmp_path, opened):
    writer, bodies = opened(tmp_path / "items", ITEMS), np.zeros((40_000, ITEMS.body_bytes), np.uint8)
    writer.patch(changes_of(ITEMS, np.arange(40_000), bodies), 1, 0)
    size = writer.nbytes
    for number in range(1, 4):
        keys = np.arange(number * 40_000, (number + 1) * 40_000)
        writer.patch(changes_of(ITEMS, keys[:0], bodies[:0], gone=(keys - 40_000).tolist()), 2 * number, 0)
        assert len(writer) == 0
        writer.patch(changes_of(ITEMS, keys, bodies), 2 * number + 1, 0)
        assert len(writer) == 40_000 and writer.nbytes <= size + (4 << 20)
    assert Replica(tmp_path / "items").lookup(keys)[1].all()


def test_a_shard_whose_clock_was_ahead_does_not_hide_that_nothing_comes(tmp_path, opened):
    writer, reader = opened(tmp_path / "items", ITEMS), Replica(tmp_path / "items")
    writer.mark(1_000.0 + 172_800, 0.0, 1_000.1)
    writer.mark(1_001.0, 0.0, 1_001.1)
    assert reader.freshness(1_061.0).now == pytest.approx(60)


def test_freshness_is_measured_and_kept(tmp_path, opened):
    writer, reader = opened(tmp_path / "items", ITEMS), Replica(tmp_path / "items")
    for number in range(200):
        writer.mark(1000.0 + number, 5.0, 1000.0 + number + (0.2 if number < 190 else 3.0))
    got = reader.freshness(1210.0)
    assert got.now == pytest.approx(11.0) and got.parts == 200
    assert got.p50 == pytest.approx(0.2, rel=0.09) and got.p99 == pytest.approx(3.0, rel=0.09)


def test_there_is_one_writer_and_a_limit_and_a_name(tmp_path, opened):
    writer = opened(tmp_path / "items", ITEMS, max_rows=100)
    with pytest.raises(ConflictError, match="another process writes the replica `items`"):
        opened(tmp_path / "items", ITEMS)
    with pytest.raises(NotFound, match="there is no replica `users`"):
        Replica(tmp_path / "users")
    bodies = np.zeros((120, ITEMS.body_bytes), np.uint8)
    with pytest.raises(GyralError, match="is full") as told:
        writer.patch(changes_of(ITEMS, np.arange(120), bodies), 1, 0)
    assert told.value.why == "it may hold 100 rows"
    reader = Replica(tmp_path / "items")
    assert reader.lookup(np.arange(120))[1].sum() == 101 and (reader.versions == 0).all()
    writer.close()
    opened(tmp_path / "items", ITEMS, max_rows=200).patch(changes_of(ITEMS, np.arange(120), bodies), 1, 0)
    assert reader.lookup(np.arange(120))[1].all()  # it looked for the new file


WRITES = """
import sys, numpy as np
from pathlib import Path
from gyral.params import hashing_kernel
from gyral.params.records import Changes, Records
from gyral.params.replica import Replica, Writer
from gyral.params.spec import TableSpec
spec = TableSpec("items", 33)
path = Path(sys.argv[1])
writer = Writer(path, spec, max_rows=200_000)
start = int(Replica(path).lookup(np.arange(300))[0].max()) if len(writer) else 1
words = spec.body_bytes // 4
print("up", flush=True)
for number in range(max(1, start), 10**7):
    some = np.arange(1000 + number * 97 % 20_000, 1000 + number * 97 % 20_000 + 400)  # come and go: regions grow
    gone = some[200:] - 300
    keys = np.concatenate([np.arange(300), some])
    buckets = np.empty(len(keys), np.uint16)
    hashing_kernel.buckets_of(keys, np.uint64(spec.salt), buckets)
    keys = keys[np.argsort(buckets)]
    bodies = np.full((len(keys), words), number, np.float32).view(np.uint8)
    none, records = np.zeros(0, np.int64), Records(keys, np.zeros(0, np.uint32), bodies)
    writer.patch(Changes(np.zeros(0, np.uint16), records, none, gone, none, np.zeros((0, 0), np.uint8)), 0, 0)
"""
READS = """
import sys, time, numpy as np
from pathlib import Path
from gyral.params.replica import Replica
reader, rng, seen, again = Replica(Path(sys.argv[1])), np.random.default_rng(int(sys.argv[2])), np.zeros(300), 0
rows, changed, end = 0, 0, time.monotonic() + float(sys.argv[3])
while time.monotonic() < end:
    keys = rng.integers(0, 300, 256)
    got, held = reader.lookup(keys)
    assert held.all(), "a row that is always there was not"
    assert (got == got[:, :1]).all(), "a row was torn"
    assert (got[:, 0] >= seen[keys]).all(), "a row went back"
    changed += int((got[:, 0] > seen[keys]).sum())
    seen[keys] = got[:, 0]
    more, held = reader.lookup(rng.integers(1000, 22_000, 64))
    assert (more[held] == more[held][:, :1]).all(), "a row that comes and goes was torn"
    if rng.random() < 0.02:
        everything = reader.all()
        assert len(np.unique(everything.keys)) == len(everything.keys) and (everything.keys < 300).sum() == 300
        assert (everything.rows == everything.rows[:, :1]).all(), "a row was torn in all"
    rows += 320
print(rows, changed)
"""


def test_rows_are_never_torn_and_outlive_their_writer(tmp_path):
    path, environment = tmp_path / "items", {**os.environ, "OMP_NUM_THREADS": "1"}

    def writer():
        begun = verbs.popen([sys.executable, "-c", WRITES, path], stdout=subprocess.PIPE, text=True, env=environment)
        assert begun.stdout.readline() == "up\n"
        return begun

    writing, chance = writer(), random.Random(0)
    while not path.exists() or len(Replica(path)) < 600:
        time.sleep(0.05)
    code = [sys.executable, "-c", READS, path]
    readers = [
        verbs.popen([*code, str(seed), "4"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        for seed in (1, 2)
    ]
    try:
        while readers[0].poll() is None:
            time.sleep(0.3 + chance.random() / 4)
            writing.send_signal(signal.SIGKILL)
            writing.wait(10)
            writing.stdout.close()
            time.sleep(chance.random() / 10)
            writing = writer()
        for reading in readers:
            out, err = reading.communicate(timeout=30)
            assert reading.returncode == 0, err
            rows, changed = map(int, out.split())
            assert rows > 10_000 and changed > 1_000
    finally:
        for each in (writing, *readers):
            each.kill()
            each.wait(10)
        writing.stdout.close()
    assert Replica(path).lookup(np.arange(300))[1].all()


def test_a_thread_of_this_process_reads_while_regions_grow(tmp_path, opened):
    spec = TableSpec("items", 2, optimizer=Optimizer("sgd"))
    writer, keys = opened(tmp_path / "items", spec), np.arange(100_000)
    writer.patch(changes_of(spec, keys[:50], np.zeros((50, 8), np.uint8)), 1, 0)
    reader, done, trouble = Replica(tmp_path / "items"), threading.Event(), []

    def read():
        while not done.is_set():
            if not reader.lookup(keys[:50])[1].all():
                trouble.append("a row was missed")

    thread = threading.Thread(target=read)
    thread.start()
    changes = changes_of(spec, keys, np.zeros((100_000, 8), np.uint8))
    gone = changes_of(spec, keys[:0], np.zeros((0, 8), np.uint8), gone=keys[50:].tolist())
    for number in range(20):
        writer.patch(changes, number, 0)
        writer.patch(gone, number, 0)
    done.set()
    thread.join(10)
    assert not trouble and len(reader) == 50 and BUCKETS == 4096


def test_a_full_disk_is_an_error_and_what_was_there_stays(tmp_path, opened):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=9m", "tmpfs", disk]
    if os.geteuid() or shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        writer, keys = opened(disk / "items", ITEMS), np.arange(200_000)
        writer.patch(changes_of(ITEMS, keys[:100], np.zeros((100, ITEMS.body_bytes), np.uint8)), 1, 0)
        changes = changes_of(ITEMS, keys, np.ones((200_000, ITEMS.body_bytes), np.uint8))
        with pytest.raises(GyralError, match="cannot grow") as told:
            writer.patch(changes, 2, 0)
        assert told.value.why == "No space left on device"
        reader = Replica(disk / "items")
        rows, held = reader.lookup(keys[:100])
        assert held.all() and np.isfinite(rows).all() and set(reader.versions.tolist()) <= {0, 1}
        subprocess.run(["mount", "-o", "remount,size=90m", disk], check=True)
        writer.patch(changes, 2, 0)
        assert reader.lookup(keys)[1].all() and len(reader) == 200_000
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
