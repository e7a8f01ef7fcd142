"""Patches: what is made of a file by one is the other file, whatever both are; what is damaged makes nothing."""

import json
import lzma
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from gyral.serve.bundles.difference import difference, layout
from gyral.serve.bundles.patch import MAGIC, Damaged, apply, digest, from_planes, planes

RNG = np.random.default_rng(0)


@settings(max_examples=60)
@given(
    st.binary(max_size=400), st.lists(st.tuples(st.integers(0, 399), st.integers(0, 60), st.binary(max_size=60)), max_size=4)
)
def test_edited_bytes_come_out_as_they_are(old, edits):
    old *= 3
    new = old
    for at, cut, fresh in edits:
        new = new[:at] + fresh + new[at + cut :]
    assert apply(old, difference(old, new)) == new


DTYPES = [np.float32, np.float16, np.int8, np.int64, np.uint16]


@settings(max_examples=40)
@given(st.data())
def test_edited_tensors_come_out_as_they_are(data):
    def tensors():
        return {
            name: np.array(data.draw(st.lists(st.integers(0, 3), min_size=size, max_size=size)), dtype).reshape(shape)
            for name in data.draw(st.sets(st.sampled_from("abc"), max_size=3))
            for dtype in [data.draw(st.sampled_from(DTYPES))]
            for shape in [data.draw(st.sampled_from([(6,), (3, 4), (5, 4), (4, 4), (2, 2, 3), (0, 4), ()]))]
            for size in [int(np.prod(shape))]
        }

    old, new = save(tensors()), save(tensors())
    assert apply(old, difference(old, new)) == new


def test_of_a_table_only_changed_rows_are_sent_wherever_they_are():
    old = RNG.integers(0, 256, (20_000, 64)).astype(np.uint8).view(np.float32)
    new = old.copy()
    changed = RNG.choice(20_000, 100, replace=False)
    new[changed] = RNG.integers(0, 256, (100, 64)).astype(np.uint8).view(np.float32)
    changed_bytes = 100 * 64
    for table, more in ((new, 0), (np.insert(new, [7, 9_000], 1.0, axis=0), 0), (np.delete(new, [5], axis=0), 0)):
        before, after = save({"other": old[:9], "table": old}), save({"other": old[:9], "table": table})
        patch = difference(before, after)
        assert apply(before, patch) == after
        assert changed_bytes < len(patch) < 1.2 * changed_bytes + 1_200 + more


def test_a_row_that_changed_a_little_is_held_against_the_one_it_was_wherever_it_is_now():
    old = RNG.normal(0, 0.02, (2_000, 32)).astype(np.float32)
    new = old.copy()
    new[500:1_500] *= np.float32(1 + 2e-6)
    before, after = save({"w": old}), save({"w": np.insert(new, [3, 9, 800], 1.0, axis=0)})
    patch = difference(before, after)
    assert apply(before, patch) == after and len(patch) < 0.45 * old[500:1_500].nbytes


def test_values_that_changed_a_little_take_a_part_of_what_they_are():
    old = RNG.normal(0, 0.02, (300, 256)).astype(np.float32)
    new = (old * (1 + RNG.normal(0, 1e-5, old.shape))).astype(np.float32)
    patch = difference(save({"w": old}), save({"w": new}))
    assert np.array_equal(load(bytes(apply(save({"w": old}), patch)))["w"], new)
    assert len(patch) < 0.5 * old.nbytes < 0.6 * len(lzma.compress(new.tobytes()))


def test_names_that_came_in_between_take_little():
    names = sorted(f"{RNG.integers(10_000, 99_999)}{chr(65 + RNG.integers(26))}" for _ in range(8_000))
    fewer = [name for number, name in enumerate(names) if number % 80]
    old, new = json.dumps(fewer).encode(), json.dumps(names).encode()
    patch = difference(old, new)
    assert apply(old, patch) == new and len(patch) < 0.03 * len(new)


def test_a_patch_is_for_one_file_only():
    patch = difference(b"a" * 100, b"b" * 50)
    with pytest.raises(Damaged, match="another file"):
        apply(b"a" * 99, patch)
    with pytest.raises(Damaged, match="another file"):
        apply(b"a" * 99 + b"c", patch)


def test_no_flipped_bit_and_no_cut_makes_another_file():
    old = save({"t": np.arange(120, dtype=np.float32).reshape(30, 4), "v": np.arange(99, dtype=np.int64)})
    new = save({"t": np.arange(0, 240, 2, dtype=np.float32).reshape(30, 4), "v": np.arange(100, dtype=np.int64)})
    patch = difference(old, new)
    flipped = [patch[:at] + bytes([patch[at] ^ bit]) + patch[at + 1 :] for at in range(len(patch)) for bit in (1, 128)]
    num_damaged = 0
    for broken in [*flipped, *(patch[:size] for size in range(0, len(patch), 7))]:
        try:
            assert apply(old, broken) == new  # what was hit was only packaging
        except Damaged:
            num_damaged += 1
    assert num_damaged > 0.9 * len(flipped)


def written(old, new_size, steps, body, **more):
    """A patch that says what it likes."""
    head = {"old": [len(old), digest(old)], "new": [new_size, "0" * 64], "steps": steps, "codec": "xz", "payload": len(body)}
    told = json.dumps({**head, **more}).encode()
    return MAGIC + struct.pack("<I", len(told)) + told + lzma.compress(body)


def runs(*triples):
    return planes(np.array(triples, np.uint64).T.reshape(-1)).tobytes()


OLD = b"x" * 64
HOSTILE = {
    "reads beyond the old file": written(OLD, 80, [["runs", 1]], runs((32, 48, 32)) + b"y" * 32),
    "reads far beyond it": written(OLD, 80, [["runs", 1]], runs((1 << 63, 16, 64)) + b"y" * 64),
    "writes beyond the new file": written(OLD, 8, [["runs", 1]], runs((0, 64, 0))),
    "more runs than there are": written(OLD, 8, [["runs", 1 << 40]], b""),
    "rows outside the old file": written(OLD, 64, [["rows", 32, 16, 4, 4, 16, 0]], bytes(16 * 4 + 2)),
    "a row outside its table": written(
        OLD, 4, [["rows", 0, 16, 4, 4, 1, 0]], planes(np.array([99], np.uint32)).tobytes() + b"\0"
    ),
    "rows that are no items": written(OLD, 9, [["rows", 0, 3, 3, 2, 3, 0]], bytes(13)),
    "negative": written(OLD, 8, [["rows", 0, -1, 4, 4, 2, 0]], bytes(9)),
    "unknown step": written(OLD, 8, [["exec", 1]], b""),
    "steps that are none": written(OLD, 8, "steps", b""),
    "a bomb": written(OLD, 8, [], bytes(10_000_000), payload=100),
    "an announced bomb": written(OLD, 8, [], bytes(10_000_000)),
    "a large promise": written(OLD, 1 << 50, [], b""),
    "a larger one": written(OLD, 8, [], b"", payload=1 << 60),
    "another result": written(OLD, 64, [["runs", 1]], runs((0, 64, 0))),
    "a long header": MAGIC + struct.pack("<I", 1 << 31) + b"{}",
    "no header": MAGIC + b"\1",
    "not even that": b"PK\3\4",
}


@pytest.mark.parametrize("patch", HOSTILE.values(), ids=list(HOSTILE))
def test_what_a_patch_says_is_not_believed(patch):
    with pytest.raises(Damaged):
        apply(OLD, patch, 1 << 20)


def test_planes_are_undone():
    values = RNG.integers(0, 1 << 60, 9, dtype=np.uint64)
    assert planes(values)[:9].tolist() == (values & 255).tolist()
    assert np.array_equal(from_planes(planes(values), 8), values)


def test_a_file_that_only_looks_like_weights_is_taken_as_bytes():
    assert layout(save({"a": np.zeros((2, 3), np.float32)}))["a"].width == 12
    broken = save({"a": np.zeros((2, 3), np.float32)}) + b"more"
    for data in (b"", b"{}", broken, struct.pack("<Q", 2) + b"[]", struct.pack("<Q", 9) + b'{"a":{}} '):
        assert layout(data) == {}
        assert apply(OLD, difference(OLD, data)) == data
