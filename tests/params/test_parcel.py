"""Buckets as bytes: what comes out is what went in, and one bit that is another is seen."""

import numpy as np
import pytest

from gyral.errors import InputError
from gyral.params import parcel
from gyral.params.held import Entry, Held
from gyral.params.spec import BUCKETS, Optimizer, TableSpec
from gyral.params.table import Table

SPECS = [
    TableSpec("wide", 8, Optimizer(name="adam"), dtype="bf16"),
    TableSpec("shy", 4, Optimizer(), admit_count=2),
]


def filled(spec):
    rng = np.random.default_rng(3)
    held = Held(Table(spec), np.ones(BUCKETS, np.uint8))
    for seq in range(1, 4):
        for worker in (5, 6):
            keys = rng.integers(-(2**62), 2**62, 400)
            keys[:200] = np.arange(200)
            held.push(Entry(0, worker, seq, seq, keys, rng.normal(size=(400, spec.dim)).astype(np.float32)), 1.0)
    held.part(0, BUCKETS, b"", 0)
    return held


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_buckets_come_out_as_they_went_in(spec):
    held = filled(spec)
    numbers = sorted([*np.flatnonzero(held.versions)[:5].tolist(), int(np.flatnonzero(held.versions == 0)[0])])
    assert held.give(numbers[-1:])[0].version == 1
    about = parcel.Parcel("t", 3, 0, 1, np.array(numbers, np.uint16).tobytes(), {5: 2}, [parcel.packed(held.give(numbers))])
    back = parcel.opened(parcel.sealed(about))
    assert back == about and back.numbers.tolist() == numbers
    other = Held(Table(spec), np.ones(BUCKETS, np.uint8))
    for kept in parcel.unpacked(back.tables[0], spec):
        other.put(kept)
    for bucket in numbers:
        for one, two in zip(held.give([bucket]), other.give([bucket]), strict=True):
            order, back_order = np.argsort(one.records.keys), np.argsort(two.records.keys)
            for name in ("keys", "stamps", "bodies"):
                assert np.array_equal(getattr(one.records, name)[order], getattr(two.records, name)[back_order])
            assert np.array_equal(one.counters, two.counters) and one.version == two.version
            assert dict(zip(one.workers, one.applied, strict=True)) == dict(zip(two.workers, two.applied, strict=True))


def test_a_bit_that_is_another_is_seen():
    held = filled(SPECS[0])
    data = parcel.sealed(parcel.Parcel("t", 1, 0, 1, b"\0\0", {}, [parcel.packed(held.give([0, 1]))]))
    for at in np.random.default_rng(1).integers(0, len(data), 50).tolist():
        damaged = bytearray(data)
        damaged[at] ^= 4
        with pytest.raises(InputError, match="damaged"):
            parcel.opened(bytes(damaged))
    with pytest.raises(InputError, match="damaged"):
        parcel.opened(data[:-1])
