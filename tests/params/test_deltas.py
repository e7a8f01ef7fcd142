import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gyral.errors import ConflictError, InputError
from gyral.params import chain as chains
from gyral.params.chain import Chain, Folder
from gyral.params.deltas import Deltas, LogFull, compact
from gyral.params.keep import Part
from gyral.params.records import Changes
from gyral.params.segment import Damaged
from gyral.params.spec import BUCKETS, Optimizer, TableSpec
from gyral.params.table import Table

from .. import verbs
from . import plain

ITEMS = TableSpec("items", 3, optimizer=Optimizer("rowwise_adagrad"), expire_s=50)
USERS = TableSpec("users", 2, optimizer=Optimizer("sgd"))


class Shard:
    """Tables and the versions of their buckets, as a shard has them."""

    def __init__(self, deltas, *tables):
        self.deltas, self.tables, self.owner = deltas, tables, 0
        self.versions = {table.spec.name: deltas.versions[table.spec.name].copy() for table in tables}

    def part(self, table, first=0, last=BUCKETS, workers=(), applied=None, at=0.0):
        changes = table.cut(first, last)
        versions = self.versions[table.spec.name]
        versions[changes.buckets] += np.uint64(1)
        held = np.zeros((last - first, len(workers)), np.uint64) if applied is None else applied
        return Part(
            table.spec.name, first, last, changes, versions[changes.buckets], np.array(workers, np.int64), held, b"n", 3, at,
            self.owner, table.num_rows(changes.buckets),
        )  # fmt: skip

    def cut(self, *range_, **more):
        for table in self.tables:
            self.deltas.write(self.part(table, *range_, **more))


def rows_of(table):
    return {key: (row[0], row[1].tobytes(), row[2].tobytes()) for key, row in table.rows.items()}


def recovered(deltas, specs):
    tables = {spec.name: plain.Plain(spec) for spec in specs}
    for spec in specs:
        for kept in deltas.recover(spec):
            tables[spec.name].load(kept.bucket, kept.records, kept.counters)
    return tables


def pushed(table, rng, count=20, keys=40, at=0):
    chosen = rng.integers(0, keys, count) * 2654435761 - 7
    table.push(chosen, rng.normal(size=(count, table.spec.dim)).astype(np.float32), at)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("push"), st.integers(0, 2**31)), st.tuples(st.just("expire"), st.integers(0, 200)),
            st.tuples(st.just("cut"), st.sampled_from([(0, 4096), (0, 1000), (1000, 4096), (512, 2048), (7, 8)])),
            st.tuples(st.just("compact"), st.booleans()), st.tuples(st.just("open"), st.none()),
        ),
        max_size=25,
    ),
)  # fmt: skip
def test_the_log_amounts_to_the_table_at_every_version(tmp_path_factory, doings):
    folder = tmp_path_factory.mktemp("log")
    table, other, deltas = plain.Plain(ITEMS), plain.Plain(USERS), Deltas(folder, [ITEMS, USERS])
    shard = Shard(deltas, table, other)
    logged = {"items": {}, "users": {}}
    for number, (what, how) in enumerate(doings):
        if what == "push":
            pushed(table, np.random.default_rng(how), at=number * 10)
            pushed(other, np.random.default_rng(how + 1), count=3)
        elif what == "expire":
            table.expire(how)
        elif what == "cut":
            shard.cut(*how)
            for each in (table, other):
                kept = logged[each.spec.name]
                salt = each.spec.salt
                for key in [key for key in kept if how[0] <= plain.bucket_of(key, salt) < how[1]]:
                    del kept[key]
                kept |= {k: row for k, row in rows_of(each).items() if how[0] <= plain.bucket_of(k, salt) < how[1]}
        elif what == "compact":
            compact(folder, keep_s=0 if how else 100)
        else:
            before = deltas.epoch
            shard.deltas = deltas = Deltas(folder, [ITEMS, USERS])
            assert deltas.epoch == before + 1
            assert all((deltas.versions[name] == shard.versions[name]).all() for name in logged)
        assert {name: rows_of(each) for name, each in recovered(shard.deltas, [ITEMS, USERS]).items()} == logged
    shutil.rmtree(folder)


def test_applied_is_written_where_it_changed_and_comes_back(tmp_path):
    deltas = Deltas(tmp_path, [ITEMS, USERS])
    shard, other = Shard(deltas, plain.Plain(ITEMS)), Shard(deltas, plain.Plain(USERS))
    seqs = np.zeros((BUCKETS, 2), np.uint64)
    seqs[[3, 900]] = [[1, 0], [5, 6]]
    shard.cut(workers=[0, 1], applied=seqs)
    seqs[3, 1] = 2**63 + 1
    shard.cut(0, 10, workers=[0, 1], applied=seqs[:10])
    with Chain(Folder(tmp_path)) as chain:
        assert sum(len(part.applied) for part in chain.parts) == 3
    later = np.zeros((BUCKETS, 1), np.uint64)
    later[4000] = 9
    other.cut(workers=[7], applied=later)
    for _ in range(2):
        deltas = Deltas(tmp_path, [ITEMS, USERS])
        assert deltas.notes() == b"n"
        items, users = ({kept.bucket: kept for kept in deltas.recover(spec)} for spec in (ITEMS, USERS))
        assert {at: kept.applied.tolist() for at, kept in items.items()} == {3: [1, 2**63 + 1, 0], 900: [5, 6, 0]}
        assert {at: (kept.workers.tolist(), kept.applied.tolist()) for at, kept in users.items()} == {
            4000: ([0, 1, 7], [0, 0, 9])
        }
        compact(tmp_path, keep_s=0)


def test_a_bucket_goes_to_another_shard_and_comes_back(tmp_path):
    deltas = Deltas(tmp_path, [ITEMS])
    table = plain.Plain(ITEMS)
    shard, rng = Shard(deltas, table), np.random.default_rng(0)
    pushed(table, rng, count=200, keys=100)
    shard.cut()
    bucket = plain.bucket_of(next(iter(table.rows)), ITEMS.salt)
    elsewhere = plain.Plain(ITEMS)  # which changed it, and gave it back
    elsewhere.load(bucket, *table.export(bucket))
    gone, key = next(iter(elsewhere.rows)), next(key for key in range(10**6) if plain.bucket_of(key, ITEMS.salt) == bucket)
    del elsewhere.rows[gone]
    elsewhere.push(np.array([key]), np.ones((1, 3), np.float32))
    records, counters = elsewhere.export(bucket)
    table.load(bucket, records, counters)
    none = np.zeros(0, np.int64)
    changes = Changes(
        np.array([bucket], np.uint16), records, np.array([0, len(records)]), none, np.zeros(2, np.int64), counters[None]
    )
    version = shard.versions["items"][[bucket]] + np.uint64(3)
    shard.versions["items"][bucket] = version[0]
    deltas.write(Part("items", bucket, bucket + 1, changes, version, none, np.zeros((1, 0), np.uint64), owner_epoch=4))
    shard.owner = 3
    with pytest.raises(ConflictError, match="another owner") as told:
        shard.cut()
    assert told.value.why == "epoch 3 comes after 4"
    shard.owner = 4
    for _ in range(2):
        pushed(table, rng)
        shard.cut()
        deltas = shard.deltas = Deltas(tmp_path, [ITEMS])
        assert rows_of(recovered(deltas, [ITEMS])["items"]) == rows_of(table) and gone not in table.rows
        compact(tmp_path, keep_s=0)


@pytest.mark.parametrize("dtype", ["f32", "bf16", "int8"])
def test_a_real_table_comes_back_bit_for_bit_with_what_admission_counted(tmp_path, dtype):
    spec = TableSpec("items", 3, dtype=dtype, optimizer=Optimizer("adam"), admit_count=2, admit_window_s=40, expire_s=60)
    table, rng = Table(spec), np.random.default_rng(0)
    shard = Shard(Deltas(tmp_path, [spec]), table)
    for number in range(6):
        table.push(rng.integers(0, 60, 90), rng.normal(size=(90, 3)).astype(np.float32), 100 + number * 20)
        table.expire(100 + number * 20)
        shard.cut(0, 2048), shard.cut(2048, BUCKETS)
        if number == 2:
            compact(tmp_path, keep_s=0)
    again = Table(spec)
    for kept in Deltas(tmp_path, [spec]).recover(spec):
        again.load(kept.bucket, kept.records, kept.counters)
    for bucket in range(BUCKETS):
        (mine, counted), (theirs, counted_there) = table.export(bucket), again.export(bucket)
        order, order_there = np.argsort(mine.keys), np.argsort(theirs.keys)
        assert all(np.array_equal(a[order], b[order_there]) for a, b in zip(mine, theirs, strict=True))
        assert (counted == counted_there).all()
    assert len(again) == len(table) > 0


def test_an_owner_that_was_replaced_is_refused(tmp_path):
    old, table = Deltas(tmp_path, [ITEMS]), plain.Plain(ITEMS)
    pushed(table, np.random.default_rng(0))
    shard = Shard(old, table)
    shard.cut()
    new = Deltas(tmp_path, [ITEMS])
    before = rows_of(recovered(new, [ITEMS])["items"])
    pushed(table, np.random.default_rng(1))
    with pytest.raises(ConflictError, match="another process owns") as told:
        shard.cut()
    assert "made cut 3 first" in told.value.why
    assert rows_of(recovered(new, [ITEMS])["items"]) == before
    with pytest.raises(ConflictError, match="epoch 2 may not write"):
        Deltas(tmp_path, [ITEMS], epoch=2)
    assert Deltas(tmp_path, [ITEMS], epoch=9).epoch == 9


def test_a_cut_of_an_owner_that_was_replaced_is_not_read(tmp_path):
    """As a disk would have it on which a link does replace."""
    table, rng = plain.Plain(ITEMS), np.random.default_rng(0)
    shard = Shard(Deltas(tmp_path / "log", [ITEMS]), table)
    shutil.copytree(tmp_path / "log", tmp_path / "other")
    for number in range(3):
        pushed(table, rng)
        shard.cut()
        if number < 2:
            Deltas(tmp_path / "other", [ITEMS])  # claims 2 and 3, with epochs 2 and 3
    name = "cut-0000000000000004.delta"
    shutil.copy(tmp_path / "log" / name, tmp_path / "other" / name)
    with pytest.raises(Damaged) as told:
        Deltas(tmp_path / "other", [ITEMS])
    assert told.value.why == "its owner, epoch 1, had been replaced by epoch 3"
    with Chain(Folder(tmp_path / "other"), strict=False) as chain:
        assert chain.number == 3 and not list(chain.buckets())


def test_another_table_of_the_same_name_is_refused(tmp_path):
    Deltas(tmp_path, [ITEMS])
    with pytest.raises(InputError, match="another table `items`") as told:
        Deltas(tmp_path, [TableSpec("items", 4, expire_s=50)])
    assert told.value.why == "`dim` is 3 in the log and 4 here"


@pytest.fixture
def log(tmp_path):
    table, rng = plain.Plain(ITEMS), np.random.default_rng(0)
    shard = Shard(Deltas(tmp_path, [ITEMS]), table)
    for _ in range(4):
        pushed(table, rng, count=40)
        shard.cut()
    return tmp_path


def test_a_cut_that_is_missing_or_under_another_name_is_named(log):
    third, fourth = sorted(log.glob("cut-*"))[2:4]
    data = fourth.read_bytes()
    fourth.write_bytes(third.read_bytes())
    with pytest.raises(Damaged, match="number 3 under another name"):
        Deltas(log, [ITEMS])
    fourth.write_bytes(data)
    third.unlink()
    with pytest.raises(Damaged, match="the file is missing") as told:
        Deltas(log, [ITEMS])
    assert "cut-0000000000000003" in str(told.value)


def test_a_flipped_bit_in_a_row_names_file_and_bucket_and_no_base_is_made(log):
    with Chain(Folder(log)) as chain:
        part = chain.parts[2]
    entry = part.entries[5]
    path = Path(part.name)
    data = bytearray(path.read_bytes())
    data[int(entry["offset"]) + 3] ^= 4
    path.write_bytes(data)
    before = sorted(log.iterdir())
    for doing in (lambda: compact(log, keep_s=0), lambda: list(Deltas(log, [ITEMS]).recover(ITEMS))):
        with pytest.raises(Damaged) as told:
            doing()
        assert (told.value.table, told.value.bucket) == ("items", entry["bucket"]) and path.name in str(told.value)
        assert set(before) <= set(log.iterdir())


def test_a_damaged_base_is_passed_over_only_while_the_cuts_are_there(log):
    expected = rows_of(recovered(Deltas(log, [ITEMS]), [ITEMS])["items"])
    compact(log)
    base = next(log.glob("base-*"))
    data = bytearray(base.read_bytes())
    data[-50] ^= 1
    base.write_bytes(data)
    assert rows_of(recovered(Deltas(log, [ITEMS]), [ITEMS])["items"]) == expected
    for cut in log.glob("cut-*"):
        cut.unlink()
    with pytest.raises(Damaged, match="damaged"):
        Deltas(log, [ITEMS])


def test_cuts_stay_as_long_as_was_asked(log):
    sizes = [path.stat().st_size for path in sorted(log.glob("cut-*"))]
    compact(log, keep_s=100, keep_bytes=sum(sizes[-2:]))
    assert [path.stat().st_size for path in sorted(log.glob("cut-*"))] == sizes[-2:]
    assert compact(log, keep_s=0) == 5 and len(list(log.glob("base-*"))) == 1


def test_thousands_of_cuts_need_few_open_files(tmp_path, monkeypatch):
    table, rng = plain.Plain(ITEMS), np.random.default_rng(0)
    shard = Shard(Deltas(tmp_path, [ITEMS]), table)
    for _ in range(60):
        pushed(table, rng, count=3)
        shard.cut()
    monkeypatch.setattr(chains, "OPEN_FILES", 5)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 25, hard))
    try:
        deltas = Deltas(tmp_path, [ITEMS])
        monkeypatch.setattr(chains, "CHUNK_BYTES", 100)
        found = deltas.recover(ITEMS)
        first = next(found)
        compact(tmp_path, keep_s=0)  # and what is read is folded meanwhile
        again = plain.Plain(ITEMS)
        for kept in [first, *found]:
            again.load(kept.bucket, kept.records, kept.counters)
        assert rows_of(again) == rows_of(table)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


KILLED = """
import sys, numpy as np
from pathlib import Path
sys.path.insert(0, {tests!r})
import plain
from gyral.params.deltas import Deltas, compact
from gyral.params.keep import Part
from gyral.params.spec import Optimizer, TableSpec
spec = TableSpec("items", 3, optimizer=Optimizer("rowwise_adagrad"), expire_s=50)
folder = Path(sys.argv[1])
deltas, table = Deltas(folder, [spec]), plain.Plain(spec)
seqs, versions = np.zeros((4096, 1), np.uint64), np.zeros(4096, np.uint64)
for seq in range(1, 7):
    rng = np.random.default_rng(seq)
    keys = rng.integers(0, 40, 30)
    table.push(keys, rng.normal(size=(30, 3)).astype(np.float32), seq)
    seqs[[plain.bucket_of(key, spec.salt) for key in keys.tolist()]] = seq
    changes = table.cut()
    versions[changes.buckets] += np.uint64(1)
    deltas.write(Part("items", 0, 4096, changes, versions[changes.buckets], np.array([0]), seqs))
    print(seq, flush=True)
    if seq % 2 == 0:
        compact(folder, keep_s=0)
"""
POINTS = [f"params.{kind}.{step}" for kind in ("cut", "base") for step in ("written", "synced", "named", "durable")]


@pytest.mark.parametrize(
    "point", [*(f"{point}:{n}" for point in POINTS for n in (1, 2)), "params.cut.removed:1", "params.base.removed:1"]
)
def test_a_killed_writer_leaves_the_state_before_or_after(tmp_path, point):
    code = KILLED.format(tests=str(Path(__file__).parent))
    environment = {**os.environ, "GYRAL_FAULT": point, "OMP_NUM_THREADS": "1"}
    done = verbs.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == -signal.SIGKILL, done.stderr
    told = max(map(int, done.stdout.split()), default=0)  # these were durable
    deltas = Deltas(tmp_path, [ITEMS])
    found = max((int(kept.applied.max(initial=0)) for kept in deltas.recover(ITEMS)), default=0)
    assert told <= found <= told + 1
    expected = plain.Plain(ITEMS)
    for seq in range(1, found + 1):
        rng = np.random.default_rng(seq)
        expected.push(rng.integers(0, 40, 30), rng.normal(size=(30, 3)).astype(np.float32), seq)
    assert rows_of(recovered(deltas, [ITEMS])["items"]) == rows_of(expected)
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_full_disk_loses_nothing_and_says_so(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk]
    if os.geteuid() or shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        table, rng = plain.Plain(ITEMS), np.random.default_rng(0)
        shard = Shard(Deltas(disk, [ITEMS]), table)
        pushed(table, rng)
        shard.cut()
        before = rows_of(table)
        filler = disk / "filler"
        with open(filler, "wb", buffering=0) as file, pytest.raises(OSError):
            while file.write(b"x" * 4096):
                pass
        pushed(table, rng)
        part = shard.part(table)
        for _ in range(2):
            with pytest.raises(LogFull, match="cut 3 could not be stored") as told:
                shard.deltas.write(part)
            assert told.value.why == "No space left on device"
        with pytest.raises(LogFull, match="base 2 could not be stored"):
            compact(disk, keep_s=0)
        filler.unlink()
        shutil.copytree(disk, tmp_path / "killed")
        assert rows_of(recovered(Deltas(tmp_path / "killed", [ITEMS]), [ITEMS])["items"]) == before
        shard.deltas.write(part)
        pushed(table, rng)
        shard.cut()
        assert rows_of(recovered(Deltas(disk, [ITEMS]), [ITEMS])["items"]) == rows_of(table)
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
