"""Tables answer from their bytes what their dense rows would, whatever the shape, and take what theory says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gyral.compress import rows as compressors
from gyral.errors import InputError, UsageError
from gyral.model import card as cards
from gyral.model.card import Weights
from gyral.model.tables import Coded, Hashed, Int4, Plain, places, table_of

KINDS = {
    "rows-int8": (compressors.rows_int8, Plain),
    "rows-int4": (compressors.rows_int4, Int4),
    "rows-pq3": (compressors.rows_pq("3"), Coded),
    "rows-pq8": (compressors.rows_pq("8"), Coded),
    "rows-hash-2": (compressors.rows_hash("2"), Hashed),
}


def table(shape, seed=0):
    matrix = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return Weights({"item_item": matrix, "item_item_scale": np.ones(shape[0], np.float32), "other": matrix[:1]}, {"x": 1})


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12)
@given(num=st.integers(1, 40), columns=st.integers(1, 37), seed=st.integers(0, 9))
def test_sums_of_stored_rows_are_those_of_dense_ones(kind, num, columns, seed):
    make, expected = KINDS[kind]
    weights = table((num, columns), seed)
    small = make(weights, ["item_item"])
    found = table_of(small.arrays, small.settings, "item_item")
    assert isinstance(found, expected) and found.shape == (num, columns) and small.arrays["other"] is weights.arrays["other"]
    random = np.random.default_rng(seed)
    asked, by = random.integers(-1, num, 5).astype(np.int32), random.standard_normal(5).astype(np.float32)
    head = random.permutation(columns + 3)[:columns].astype(np.int32)
    out = np.ones(columns + 3, np.float32)
    found.add(out, head, asked, by)
    dense, oracle = found.dense(), np.ones(columns + 3)
    for row, factor in zip(asked, by, strict=True):
        if row >= 0:
            oracle[head] += factor * dense[row].astype(np.float64)
    np.testing.assert_allclose(out, oracle, atol=2e-4)
    assert (found.dense(np.array([num - 1, 0])) == dense[[num - 1, 0]]).all()
    whole = weights.arrays["item_item"]
    if kind in ("rows-int8", "rows-int4"):
        step = np.abs(whole).max() * (1 / 127 if kind == "rows-int8" else 2 / 15)
        assert np.abs(dense - whole).max() <= 0.55 * step
    if kind.startswith("rows-pq"):  # as many words as rows: each has its own
        np.testing.assert_allclose(dense, whole, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_files_are_of_the_size_that_theory_says(kind, tmp_path):
    small = KINDS[kind][0](table((512, 96)), ["item_item"])
    cards.write_weights(tmp_path, small)
    read = cards.read_weights(tmp_path)
    size = sum(array.nbytes for name, array in read.arrays.items() if name != "other")
    theory = {
        "rows-int8": 512 * (96 + 4),
        "rows-int4": 512 * (96 / 2 + 2.5),
        "rows-pq3": 512 * 32 + 2 * 256 * 96,
        "rows-pq8": 512 * 12 + 2 * 256 * 96,
        "rows-hash-2": 512 * 96 * 2 / 2,
    }
    assert abs(size / theory[kind] - 1) < 0.05
    again = table_of(read.arrays, read.settings, "item_item").dense()
    assert (again == table_of(small.arrays, small.settings, "item_item").dense()).all()


def test_rows_that_are_sums_of_shared_ones_are_found_again():
    random = np.random.default_rng(0)
    one, two = places(np.arange(400), 50)
    assert len(set(zip(one.tolist(), two.tolist(), strict=True))) > 360 and two.max() < 50 and len(set(two.tolist())) == 50
    matrix = (random.standard_normal((50, 8))[one] + random.standard_normal((50, 8))[two]).astype(np.float32)
    found = compressors.hashed(matrix, 4, rounds=200)
    assert np.abs(found.dense() - matrix).max() < 0.02


def test_what_is_stored_otherwise_is_said():
    small = KINDS["rows-pq8"][0](table((9, 16)), ["item_item"])
    for arrays in ({**small.arrays, "item_item_book": small.arrays["item_item_book"][:1]}, {"item_item": np.zeros((9, 2))}):
        with pytest.raises(InputError, match="stored as the settings say"):
            table_of(arrays, small.settings, "item_item")
    for wrong in ("0", "x", "65"):
        with pytest.raises(UsageError, match="rows-pq"):
            compressors.rows_pq(wrong)
    with pytest.raises(UsageError, match="no tables"):
        compressors.rows_int4(table((2, 2)), ["blocks.0.feed.up.weight"])
