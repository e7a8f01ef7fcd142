"""Packed matrices mean what they say: against a plain loop in float64, and against other libraries' bf16."""

import numpy as np
import pytest
import torch

from gyral.errors import InputError
from gyral.model.card import Weights
from gyral.model.quant import packing
from gyral.model.quant.packing import chosen, divided, stored_bytes, to_bf16, to_int4, to_int8, with_packed

SHAPES = [(1, 1), (3, 5), (16, 32), (7, 33), (48, 96), (5, 64)]


def matrix(shape, seed=0):
    return (np.random.default_rng(seed).standard_normal(shape) ** 3).astype(np.float32)


def loop_int4(w, group):
    """Each weight on its own, by the definition."""
    out = np.zeros(w.shape)
    for row in range(w.shape[0]):
        for first in range(0, w.shape[1], group):
            part = [float(each) for each in w[row, first : first + group]]
            low, high = min(0.0, *part), max(0.0, *part)
            scale = float(torch.tensor((high - low) / 15).bfloat16()) or 1.0
            zero = min(15, max(0, round(-low / scale)))
            offset = float(torch.tensor((8 - zero) * scale).bfloat16())
            levels = [offset + (level - 8) * scale for level in range(16)]
            for at, each in enumerate(part):
                out[row, first + at] = min(levels, key=lambda level: abs(level - each))
    return out


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("group", [32, 8])
def test_int4_takes_the_nearest_level_of_its_group(shape, group):
    w = matrix(shape)
    dense, expected = to_int4(w, group).dense(), loop_int4(w, group)
    step = np.abs(w).max() * 2 / 15
    np.testing.assert_allclose(np.abs(dense - w), np.abs(expected - w), atol=1e-3 * step)  # of two as near, either
    assert np.abs(dense - w).max() <= 0.55 * step


@pytest.mark.parametrize("shape", SHAPES)
def test_int8_is_within_half_a_step_of_its_row(shape):
    w = matrix(shape)
    packed = to_int8(w)
    assert packed.values.dtype == np.int8 and np.abs(packed.values.astype(int)).max() == 127
    for row, found in zip(w.astype(np.float64), packed.dense(), strict=True):
        assert np.abs(row - found).max() <= np.abs(row).max() / 127 / 2 * 1.001


def test_bf16_is_torchs():
    w = np.concatenate([matrix((40, 50)), np.float32([[1.00390625, 1.01171875, -0.0, 1e-40, 3e38] * 10])])
    assert (to_bf16(w).dense() == torch.from_numpy(w).bfloat16().float().numpy()).all()


@pytest.mark.parametrize("make", [to_int8, to_int4, to_bf16])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_file_gives_back_the_same(make, shape, tmp_path):
    from gyral.model import card as cards

    packed, other = make(matrix(shape)), matrix((2, 2), 1)
    weights = with_packed(Weights({"a.weight": matrix(shape), "b": other}, {"shape": 1}), {"a.weight": packed})
    cards.write_weights(tmp_path, weights)
    read = cards.read_weights(tmp_path)
    arrays, found = divided(read)
    assert list(arrays) == ["b"] and (arrays["b"] == other).all() and read.settings["shape"] == 1
    assert found["a.weight"].kind == packed.kind and (found["a.weight"].dense() == packed.dense()).all()
    assert sum(array.nbytes for name, array in read.arrays.items() if name != "b") == packed.size_bytes
    rows = np.array([0, shape[0] - 1])
    assert (packed.dense(rows) == packed.dense()[rows]).all()


@pytest.mark.parametrize("shape", [(256, 512), (3, 1), (5, 33), (130, 131), (16, 65)])
def test_bytes_by_shape_are_those_of_a_file(shape):
    w = matrix(shape)
    for make, kind in ((to_int8, "int8"), (to_int4, "int4"), (to_bf16, "bf16")):
        assert make(w).size_bytes == stored_bytes(kind, shape)
    assert to_int4(w, 8).size_bytes == stored_bytes("int4", shape, 8)


def test_four_bits_are_4_625_where_groups_are_whole():
    assert stored_bytes("int4", (256, 512)) == 256 * 512 * 4.625 / 8


@pytest.mark.parametrize("make", [to_int8, to_int4, to_bf16])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused(make, bad):
    w = matrix((4, 8))
    w[2, 3] = bad
    with pytest.raises(InputError, match="1 of 32 weights"):
        make(w)


def test_zeros_stay_zeros():
    for make in (to_int8, to_int4, to_bf16):
        assert (make(np.zeros((3, 40), np.float32)).dense() == 0).all()


def test_settings_that_lie_are_refused():
    weights = with_packed(Weights({}, {}), {"w": to_int4(matrix((4, 64)))})
    for told in (["int4", 128, 32], ["int4", 64, 16], ["int8", 64, 0], ["bf16", 64, 0], ["int3", 64, 32], ["int4", 64, 0]):
        with pytest.raises(InputError, match="not packed as"):
            divided(Weights(weights.arrays, {"packed": {"w": told}}))
    with pytest.raises(InputError):
        divided(Weights({}, weights.settings))


def test_int8_of_the_family_recommender_is_known_without_settings():
    packed = to_int8(matrix((4, 6)))
    arrays, found = divided(Weights({"w": packed.values, "w_scale": packed.scale, "k": np.zeros((2, 2), np.int8)}, {}))
    assert list(arrays) == ["k"] and (found["w"].dense() == packed.dense()).all()


def test_names_are_chosen_by_pattern():
    arrays = {
        "blocks.0.feed.up.weight": matrix((2, 2)),
        "norm.weight": np.ones(2, np.float32),
        "up.weight": np.ones((2, 2), int),
    }
    assert chosen(Weights(arrays, {}), ["*.up.weight", "norm*", "up.weight"]) == ["blocks.0.feed.up.weight"]


def test_halves_hold_odd_numbers_of_columns():
    levels = np.random.default_rng(1).integers(0, 16, (3, 7)).astype(np.uint8)
    assert packing.halves(levels).shape == (3, 4)
    assert (packing.unhalved(packing.halves(levels), 7) == levels).all()
