import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gyral.errors import InputError
from gyral.params.records import Changes, Records, weights_of
from gyral.params.spec import OPTIMIZERS, Optimizer, TableSpec
from gyral.params.table import Table

from . import plain

KEYS = st.one_of(st.integers(0, 40), st.sampled_from([-1, -(2**63), 2**63 - 1]), st.integers(-(2**63), 2**63 - 1))
DTYPES = ["f32", "bf16", "int8"]


def array(*keys):
    return np.array(keys, dtype=np.int64)


def in_order(records: Records) -> tuple[list, list, bytes]:
    order = np.argsort(records.keys)
    return records.keys[order].tolist(), records.stamps[order].tolist(), records.bodies[order].tobytes()


def parts(changes: Changes) -> list:
    found = []
    for at, bucket in enumerate(changes.buckets.tolist()):
        some = slice(*changes.upsert_starts[at : at + 2])
        gone = sorted(changes.gone_keys[slice(*changes.gone_starts[at : at + 2])].tolist())
        rows = in_order(Records(*(part[some] for part in changes.upserts)))
        found.append((bucket, rows, gone, changes.counters[at].tobytes()))
    return found


def whole(table) -> list:
    """All that a table holds, bucket by bucket."""
    used = np.flatnonzero((table.held.rows > 0) | table.held.counters.any(1)).tolist()
    exported = ((bucket, *table.export(bucket)) for bucket in used)
    return [(bucket, in_order(rows), counters.tobytes()) for bucket, rows, counters in exported]


def spec_of(optimizer="rowwise_adagrad", dim=5, **options) -> TableSpec:
    return TableSpec("items", dim, optimizer=Optimizer(name=optimizer, rate=0.1, l1=0.01, l2=0.1), scale=0.05, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("dim", [1, 7, 8, 33, 256])
def test_steps_are_those_of_the_words(optimizer, dim, dtype):
    spec, rng = spec_of(optimizer, dim, dtype=dtype), np.random.default_rng(dim)
    table, oracle = Table(spec), plain.Plain(spec)
    for at in range(6):
        keys, grads = rng.integers(-9, 9, 30), rng.normal(size=(30, dim)).astype(np.float32)
        table.push(keys, grads, at)
        oracle.push(keys, grads, at)
    keys = np.arange(-10, 10)
    for got, wanted in zip(table.pull(keys), oracle.pull(keys), strict=True):
        assert got.tobytes() == wanted.tobytes()
    assert parts(table.cut()) == parts(oracle.cut())


DENSE = {
    "sgd": lambda weight: torch.optim.SGD([weight], lr=0.1),
    "momentum": lambda weight: torch.optim.SGD([weight], lr=0.1, momentum=0.9),
    "adagrad": lambda weight: torch.optim.Adagrad([weight], lr=0.1, eps=1e-8),
    "adam": lambda weight: torch.optim.Adam([weight], lr=0.1, eps=1e-8),
}


@pytest.mark.parametrize("optimizer", DENSE)
def test_steps_are_those_of_dense_optimizers_when_every_row_is_touched(optimizer):
    spec, rng = spec_of(optimizer, 12), np.random.default_rng(0)
    table, keys = Table(spec), np.arange(50)
    weight = torch.nn.Parameter(torch.from_numpy(table.pull(keys)[0]))
    dense = DENSE[optimizer](weight)
    for _ in range(30):
        grads = rng.normal(size=(50, 12)).astype(np.float32)
        table.push(keys, grads)
        weight.grad = torch.from_numpy(grads)
        dense.step()
    assert np.allclose(table.pull(keys)[0], weight.detach().numpy(), atol=1e-6)


def test_compensation_brings_a_late_gradient_nearer_to_the_one_of_now():
    """Of a quadratic loss whose curvature is g² at the base: exactly the gradient of now, with compensation 1."""
    spec = TableSpec("items", 1, optimizer=Optimizer(name="sgd", rate=0.5, compensation=1.0), init="zero")
    table, oracle = Table(spec), plain.Plain(spec)
    for one in (table, oracle):
        one.push(array(1), np.array([[-1.0]], np.float32), 0, np.zeros((1, 1), np.float32))  # w = .5
        one.push(array(1), np.array([[-1.0]], np.float32), 0, np.zeros((1, 1), np.float32))  # g = −1 + 1 · .5
    assert table.pull(array(1))[0].item() == oracle.pull(array(1))[0].item() == 0.75


def test_nothing_is_fine():
    table = Table(spec_of())
    table.push(array(), np.zeros((0, 5), np.float32))
    assert table.pull(array())[0].shape == (0, 5) and len(table) == 0 and len(table.cut().buckets) == 0


def test_pulls_insert_nothing_and_tell_what_is_held():
    table = Table(spec_of())
    first, held = table.pull(array(3, 4, 3))
    assert not held.any() and len(table) == 0 and first[0].any() and (first[0] == first[2]).all()
    table.push(array(3), np.zeros((1, 5), np.float32))
    assert table.pull(array(3, 4))[1].tolist() == [True, False] and (table.pull(array(3))[0] == first[0]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("keys", [array(1, 2, 3), array(1, 3, 3), array(3, 3, 3)])
def test_gradients_that_are_no_numbers_change_nothing(bad, keys):
    table = Table(spec_of())
    table.push(array(1, 2), np.ones((2, 5), np.float32), 7)
    before = whole(table), len(table)
    grads = np.ones((3, 5), np.float32)
    grads[2, 4] = bad
    with pytest.raises(InputError, match="key 3: NaN"):
        table.push(keys, grads, 9)
    assert (whole(table), len(table)) == before


def test_a_sum_that_is_no_number_changes_nothing():
    table = Table(spec_of())
    with pytest.raises(InputError, match="the sum"):
        table.push(array(1, 1), np.full((2, 5), 1e17, np.float32))
    assert len(table) == 0


def test_wrong_shapes_and_times_are_refused():
    table = Table(spec_of())
    for keys, grads, at in [
        (array(1), np.ones((1, 4), np.float32), 0),
        (array(1), np.ones((2, 5), np.float32), 0),
        (np.array([[1]]), np.ones((1, 5), np.float32), 0),
        (np.array([1.0]), np.ones((1, 5), np.float32), 0),
        (array(1), np.ones((1, 5), np.float32), -1),
        (array(1), np.ones((1, 5), np.float32), 2**32),
    ]:
        with pytest.raises(InputError):
            table.push(keys, grads, at)
    assert len(table) == 0


def test_records_of_other_tables_are_refused():
    table, other = Table(spec_of()), Table(spec_of(dim=6))
    other.push(array(1, 2, 3), np.ones((3, 6), np.float32))
    bucket = int(other.cut().buckets[0])
    with pytest.raises(InputError, match="not this table's"):
        table.load(bucket, *other.export(bucket))
    rows, counters = other.export(bucket)
    with pytest.raises(InputError, match="not of one bucket"):
        other.load(bucket + 1, rows, counters)
    with pytest.raises(InputError, match="not of one bucket"):
        other.load(bucket, Records(*(np.repeat(part, 2, axis=0) for part in rows)), counters)


@pytest.mark.parametrize("dtype", ["f32", "int8"])
def test_buckets_are_loaded_as_they_were_exported(dtype):
    spec = spec_of(dtype=dtype, admit_count=2, admit_window_s=9)
    table, rng = Table(spec), np.random.default_rng(1)
    table.push(rng.integers(0, 500, 900), rng.normal(size=(900, 5)).astype(np.float32), 100)
    loaded = whole(table)
    exported = [(bucket, *table.export(bucket)) for bucket, _, _ in loaded]
    one = Table(spec)
    for each in exported:
        one.load(*each)
    assert whole(one) == loaded and not len(one.cut().upserts)
    held = np.concatenate([records.keys for _, records, _ in exported])
    one.push(held, np.ones((len(held), 5), np.float32), 101)
    for each in exported:  # what was there goes
        one.load(*each)
    assert whole(one) == loaded
    bucket, records, counters = next(each for each in exported if len(each[1]))
    twice = Records(*(np.repeat(part, 2, axis=0) for part in records))
    for wrong in [(bucket ^ 1, records, counters), (bucket, records, np.zeros(3, np.uint8)), (bucket, twice, counters)]:
        other = Table(spec)
        with pytest.raises(InputError):
            other.load(*wrong)
        assert len(other) == 0 and not other.pull(records.keys)[1].any()
        with pytest.raises(InputError):
            one.load(*wrong)
        assert whole(one) == loaded  # what was there stays


def test_many_rows_grow_and_go():
    """300,000 keys in and most of them out again, against sets."""
    spec, rng = TableSpec("many", 2, optimizer=Optimizer("sgd"), expire_s=10), np.random.default_rng(0)
    table, stamps = Table(spec), {}
    for at in range(1, 31):
        keys = rng.integers(0, 10**6, 20_000) * 7919
        table.push(keys, np.ones((len(keys), 2), np.float32), at)
        stamps.update(dict.fromkeys(keys.tolist(), at))
    assert len(table) == len(stamps)
    old = [key for key, at in stamps.items() if at + 10 < 31]
    assert table.expire(31) == len(old) and len(table) == len(stamps) - len(old)
    held = table.pull(np.array(list(stamps)))[1]
    assert held.tolist() == [at + 10 >= 31 for at in stamps.values()]
    assert sorted(table.cut().gone_keys.tolist()) == sorted(old)
    size = table.nbytes
    table.push(np.array(old), np.ones((len(old), 2), np.float32), 31)
    assert len(table) == len(stamps) and table.nbytes < 1.1 * size


def test_a_row_that_went_and_comes_back_is_new():
    spec = spec_of("adam", expire_s=5)
    table = Table(spec)
    first = table.pull(array(9))[0]
    table.push(array(9), np.ones((1, 5), np.float32), 1)
    once = table.pull(array(9))[0]
    table.push(array(9), np.ones((1, 5), np.float32), 2)
    assert table.expire(8) == 1 and (table.pull(array(9))[0] == first).all()
    table.push(array(9), np.ones((1, 5), np.float32), 9)
    assert (table.pull(array(9))[0] == once).all() and table.cut().gone_keys.tolist() == []


def test_a_row_in_the_place_of_a_removed_one_is_not_in_the_cut():
    table, spec = Table(spec_of(expire_s=1)), spec_of()
    other = Table(spec)
    for one, key in ((table, 1), (other, 2)):
        one.push(array(key), np.ones((1, 5), np.float32), 1)
    assert table.expire(9) == 1
    bucket = int(other.cut().buckets[0])
    table.load(bucket, *other.export(bucket))
    assert len(table) == 1 and len(table.cut().upserts) == 0


class Machine(RuleBasedStateMachine):
    """Anything that may happen to a table, in three tables that share the buckets and in one dict."""

    shards: list[Table]

    @initialize(
        dim=st.integers(1, 9), optimizer=st.sampled_from(OPTIMIZERS), dtype=st.sampled_from(DTYPES), count=st.integers(1, 3),
        chance=st.sampled_from([1.0, 0.5]), window_s=st.sampled_from([0, 3]), most=st.sampled_from([0, 0, 6000]),
    )  # fmt: skip
    def begin(self, dim, optimizer, dtype, count, chance, window_s, most):
        options = {"admit_count": count, "admit_probability": chance, "admit_window_s": window_s, "max_rows": most}
        self.spec = spec_of(optimizer, dim, dtype=dtype, expire_s=4, **options)
        self.oracle, self.shards = plain.Plain(self.spec), [Table(self.spec) for _ in range(3)]
        self.owner = np.arange(4096) % 3
        self.now = 10
        self.folded: dict[int, tuple] = {}

    def of(self, keys):
        return self.owner[[plain.bucket_of(int(key), self.spec.salt) for key in keys]] if len(keys) else np.zeros(0)

    @rule(keys=st.lists(KEYS, max_size=12), seed=st.integers(0, 99), late=st.integers(0, 9))
    def push(self, keys, seed, late):
        keys, at = array(*keys), max(0, self.now - late)
        grads = np.random.default_rng(seed).normal(size=(len(keys), self.spec.dim)).astype(np.float32)
        self.oracle.push(keys, grads, at)
        for number, shard in enumerate(self.shards):
            mine = self.of(keys) == number
            shard.push(keys[mine], grads[mine], at)

    @rule(keys=st.lists(KEYS, max_size=12))
    def pull(self, keys):
        keys, wanted = array(*keys), self.oracle.pull(array(*keys))
        for number, shard in enumerate(self.shards):
            mine = self.of(keys) == number
            for got, all_ in zip(shard.pull(keys[mine]), wanted, strict=True):
                assert got.tobytes() == all_[mine].tobytes()

    @rule(seconds=st.integers(1, 5))
    def expire(self, seconds):
        self.now += seconds
        assert self.oracle.expire(self.now) == sum(shard.expire(self.now) for shard in self.shards)

    @rule(bucket=st.integers(0, 40), to=st.integers(0, 2))
    def move(self, bucket, to):
        """With all that is to be cut, as an owner does before it lets go."""
        some = sorted({*self.buckets(), 0})
        bucket = some[bucket % len(some)]
        was = self.owner[bucket]
        if was != to:
            self.fold(bucket, bucket + 1)
            self.shards[to].load(bucket, *self.shards[was].export(bucket))
            self.shards[was].drop(bucket)
            self.owner[bucket] = to

    @rule(edge=st.integers(0, 4096))
    def cut(self, edge):
        self.fold(0, edge)
        self.fold(edge, 4096)

    def buckets(self):
        return {plain.bucket_of(key, self.spec.salt) for key in self.oracle.rows}

    def fold(self, first, last):
        cuts = [shard.cut(first, last) for shard in self.shards]
        found = sorted(part for changes in cuts for part in parts(changes))
        assert found == parts(self.oracle.cut(first, last))
        for bucket, (keys, stamps, bodies), gone, counters in found:
            rows = dict(self.folded.get(bucket, ({}, b""))[0])
            width = self.spec.body_bytes
            rows.update({key: (stamps[at], bodies[width * at : width * (at + 1)]) for at, key in enumerate(keys)})
            for key in gone:
                rows.pop(key, None)  # gone before it was ever cut
            self.folded[bucket] = rows, counters

    @invariant()
    def sizes_agree(self):
        if hasattr(self, "oracle"):
            assert len(self.oracle) == sum(len(shard) for shard in self.shards)

    def teardown(self):
        if not hasattr(self, "oracle"):
            return
        self.fold(0, 4096)
        for bucket in {*self.buckets(), *self.folded}:
            records, counters = self.shards[self.owner[bucket]].export(bucket)
            rows, counted = self.folded.get(bucket, ({}, bytes(len(counters))))
            keys, stamps, bodies = in_order(records)
            assert keys == sorted(rows) and stamps == [rows[key][0] for key in keys]
            assert bodies == b"".join(rows[key][1] for key in keys) and counters.tobytes() == counted


Machine.TestCase.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
test_anything_that_may_happen = Machine.TestCase


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**20))
def test_shards_make_no_difference(dtype, seed):
    """1, 2 and 7 tables: the same bits, admission and all."""
    spec = spec_of(
        "adagrad", 3, dtype=dtype, admit_count=2, admit_window_s=4, admit_probability=0.7, max_rows=20_000, expire_s=9
    )
    rng, ends = np.random.default_rng(seed), []
    stream = [(rng.zipf(1.3, 400).astype(np.int64), rng.normal(size=(400, 3)).astype(np.float32), at) for at in range(8)]
    for num in (1, 2, 7):
        tables = [Table(spec) for _ in range(num)]
        for keys, grads, at in stream:
            owner = np.array([plain.bucket_of(key, spec.salt) for key in keys.tolist()]) % num
            for number, table in enumerate(tables):
                table.push(keys[owner == number], grads[owner == number], at)
                table.expire(at)
        ends.append(sorted(part for table in tables for part in whole(table)))
    assert ends[0] == ends[1] == ends[2]


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_rounded_rows_keep_what_small_steps_add_up_to(dtype):
    """1,000 steps of a thousandth of a weight: to the nearest number they would all be lost."""
    spec = TableSpec("items", 32, optimizer=Optimizer(name="sgd", rate=1e-3), dtype=dtype, init="zero")
    table, keys = Table(spec), np.arange(200)
    table.push(keys, np.full((200, 32), -1000.0, np.float32))  # all at 1
    for _ in range(1000):
        table.push(keys, np.full((200, 32), -1.0, np.float32))
    rows = table.pull(keys)[0]
    assert rows.mean() == pytest.approx(2, abs=0.01) and abs(rows - 2).max() < 0.6
    body = table.export(int(table.cut().buckets[0]))[0]
    assert (weights_of(spec, body.bodies) == table.pull(body.keys)[0]).all()


def test_memory_a_key():
    """132 bytes of numbers; what a row costs beside them is at most 15 %, wherever the index is between two growths."""
    table, rng = Table(spec_of(dim=32)), np.random.default_rng(0)
    for _ in range(30):
        table.push(rng.integers(-(2**63), 2**63 - 1, 20_000), np.zeros((20_000, 32), np.float32))
        if len(table) >= 300_000:
            assert table.nbytes / len(table) <= 1.15 * 132


def test_decay_and_a_factor_on_the_rate_are_those_of_adamw():
    optimizer = Optimizer(name="adam", rate=0.1, beta2=0.95, decay=0.3)
    spec, rng = TableSpec("items", 12, optimizer=optimizer), np.random.default_rng(0)
    table, oracle, keys = Table(spec), plain.Plain(spec), np.arange(50)
    weight = torch.nn.Parameter(torch.from_numpy(table.pull(keys)[0]))
    dense = torch.optim.AdamW([weight], lr=0.1, betas=(0.9, 0.95), weight_decay=0.3)
    for step in range(30):
        grads, factor = rng.normal(size=(50, 12)).astype(np.float32), 1 / (1 + step)
        table.push(keys, grads, factor=factor)
        oracle.push(keys, grads, factor=factor)
        weight.grad = torch.from_numpy(grads)
        dense.param_groups[0]["lr"] = 0.1 * factor
        dense.step()
    assert np.allclose(table.pull(keys)[0], weight.detach().numpy(), atol=1e-6)
    assert table.pull(keys)[0].tobytes() == oracle.pull(keys)[0].tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_that_are_pushed_first_are_first_values(dtype):
    spec = spec_of("adam", 9, dtype=dtype, init="pushed")
    table, oracle, rng = Table(spec), plain.Plain(spec), np.random.default_rng(1)
    given, more = rng.normal(size=(2, 20, 9)).astype(np.float32)
    for one in (table, oracle):
        one.push(np.arange(20), given)
    if dtype == "f32":
        assert (table.pull(np.arange(20))[0] == given).all()
    assert not table.pull(array(21))[0].any()
    for one in (table, oracle):
        one.push(np.arange(5, 25), more)  # a step of those that are there, values of those that are not
    assert table.pull(np.arange(30))[0].tobytes() == oracle.pull(np.arange(30))[0].tobytes()
    assert in_order(Records(*table.cut().upserts))[2] == in_order(Records(*oracle.cut().upserts))[2]
