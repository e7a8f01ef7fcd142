import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gyral.params import hashing_kernel as kernel
from gyral.params.records import weights_of
from gyral.params.spec import TableSpec

from . import plain

KEYS = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(KEYS, max_size=20), st.integers(0, 2**31))
def test_buckets_are_those_of_the_words(keys, seed):
    spec = TableSpec("items", 1, seed=seed)
    found = np.zeros(len(keys), dtype=np.uint16)
    kernel.buckets_of(np.array(keys, dtype=np.int64), np.uint64(spec.salt), found)
    assert found.tolist() == [plain.bucket_of(key, spec.salt) for key in keys]


@given(st.lists(KEYS, min_size=1, max_size=5), st.sampled_from(["uniform", "normal", "zero"]), st.integers(1, 40))
def test_first_values_are_those_of_the_words(keys, init, dim):
    spec = TableSpec("items", dim, init=init, scale=0.05)
    out = np.empty((len(keys), dim), dtype=np.float32)
    kernel.first_values(np.array(keys, dtype=np.int64), np.uint64(spec.salt), kernel.INITS[init], np.float32(0.05), out)
    assert np.array_equal(out, np.stack([plain.first(key, spec) for key in keys]))


@pytest.mark.parametrize("init", ["uniform", "normal"])
def test_first_values_are_spread_as_they_should_be(init):
    out = np.empty((20_000, 8), dtype=np.float32)
    kernel.first_values(np.arange(20_000, dtype=np.int64), np.uint64(7), kernel.INITS[init], np.float32(2), out)
    deviation = 2.0 if init == "normal" else 2 / np.sqrt(3)
    assert abs(out.mean()) < 0.02 and out.std() == pytest.approx(deviation, rel=0.01)
    assert abs(np.corrcoef(out.T) - np.eye(8)).max() < 0.03 and np.abs(np.corrcoef(out[:-1, 0], out[1:, 0])[0, 1]) < 0.03


def test_buckets_are_even():
    found = np.zeros(1_000_000, dtype=np.uint16)
    kernel.buckets_of(np.arange(1_000_000, dtype=np.int64), np.uint64(3), found)
    counts = np.bincount(found, minlength=4096)
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 4096 + 4 * np.sqrt(2 * 4096)


@pytest.mark.parametrize("dtype", ["f32", "bf16", "int8"])
@pytest.mark.parametrize("dim", [1, 3, 32])
def test_weights_come_out_of_bodies(dtype, dim):
    spec = TableSpec("items", dim, dtype=dtype)
    rng = np.random.default_rng(0)
    bodies = rng.integers(0, 100, (5, spec.body_bytes), dtype=np.uint8)
    got = weights_of(spec, bodies)
    assert got.shape == (5, dim) and got.dtype == np.float32
    raw = bodies[3].tobytes()[4:]
    if dtype == "f32":
        assert got[3].tobytes() == raw
    if dtype == "bf16":
        assert got[3].tobytes() == b"".join(b"\0\0" + raw[2 * at : 2 * at + 2] for at in range(dim))
    if dtype == "int8":
        scale = np.frombuffer(raw[:4], np.float32)[0]
        assert got[3].tolist() == [np.float32(raw[4 + at]) * scale for at in range(dim)]
