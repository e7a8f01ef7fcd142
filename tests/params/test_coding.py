"""Rows on the wire, against torch and against the average."""

import numpy as np
import pytest
import torch

from gyral.params import coding


@pytest.fixture
def rows():
    return (
        np.random.default_rng(0).normal(size=(300, 33)) * 10.0 ** np.random.default_rng(1).integers(-20, 20, (300, 1))
    ).astype(np.float32)


def test_bf16_is_torchs(rows):
    coded = coding.nearest("bf16", rows)
    expected = torch.from_numpy(rows).bfloat16()
    assert np.array_equal(coded, expected.view(torch.uint16).numpy())
    assert np.array_equal(coding.decoded("bf16", coded, 33), expected.float().numpy())


def test_int8_is_the_nearest_of_255_values_a_row(rows):
    decoded = coding.decoded("int8", coding.nearest("int8", rows), 33)
    scale = abs(rows).max(axis=1, keepdims=True) / np.float32(127)
    assert np.allclose(decoded, np.rint(rows / scale) * scale, rtol=1e-6, atol=0)
    zeros = np.zeros((4, 33), np.float32)
    assert (coding.decoded("int8", coding.nearest("int8", zeros), 33) == 0).all()


@pytest.mark.parametrize("name", ["bf16", "int8"])
def test_gradients_are_right_on_average_and_the_same_when_sent_again(name, rows):
    rows = rows[:20]
    keys = np.arange(20)
    every = [coding.decoded(name, coding.unbiased(name, rows, keys, seq), 33) for seq in range(1, 2001)]
    largest = abs(rows).max(axis=1, keepdims=True)
    error = abs(np.mean(every, axis=0, dtype=np.float64) - rows) / largest
    step = 2**-7 if name == "bf16" else 1 / 127
    assert error.max() < 5 * step / 2 / np.sqrt(2000)  # five deviations of the mean
    assert len({each.tobytes() for each in every}) > 1900
    assert np.array_equal(coding.unbiased(name, rows, keys, 7), coding.unbiased(name, rows, keys, 7))
    half = coding.decoded(name, coding.unbiased(name, rows[10:], keys[10:], 7), 33)
    assert np.array_equal(half, every[6][10:])  # split otherwise, as when a bucket has moved


def test_float32_is_not_touched(rows):
    assert coding.nearest("f32", rows) is rows and coding.unbiased("f32", rows, np.arange(300), 1) is rows
