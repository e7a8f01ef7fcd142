"""Two of four: any shape and type comes back from its halves, sizes are those of theory, and choosing by inputs pays."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gyral.errors import InputError, UsageError
from gyral.model.card import Weights
from gyral.model.quant import packing, sparse
from gyral.model.quant.sparse_fit import two_of_four


@settings(max_examples=60)
@given(
    rows=st.integers(1, 7), columns=st.integers(1, 41), seed=st.integers(0, 99), empty=st.floats(0, 1),
    kind=st.sampled_from([np.float32, np.int8, np.uint16, np.float16]),
)  # fmt: skip
def test_any_shape_and_type_comes_back(rows, columns, seed, empty, kind):
    random = np.random.default_rng(seed)
    matrix = random.integers(1, 100, (rows, columns)).astype(kind)
    matrix[random.random((rows, columns)) < empty] = 0
    kept = sparse.best_two(np.abs(matrix.astype(np.float64)))
    for row in range(rows):
        for first in range(0, columns - columns % 4, 4):
            four = [abs(float(each)) for each in matrix[row, first : first + 4]]
            best = sorted(range(4), key=lambda at: (-four[at], at))[:2]
            assert sorted(np.flatnonzero(kept[row, first : first + 4])) == sorted(best)
    assert kept[:, columns - columns % 4 :].all()
    pruned = np.where(kept, matrix, 0).astype(kind)
    values, places = sparse.halved(pruned, columns)
    back = sparse.filled(values, places, columns)
    assert back.dtype == kind and (back == pruned).all()
    assert values.nbytes + places.nbytes == sparse.stored_bytes(pruned.shape, pruned.itemsize)


def test_sizes_are_those_of_theory_and_what_is_not_two_of_four_is_refused():
    matrix = np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32)
    pruned = np.where(sparse.best_two(np.abs(matrix)), matrix, 0).astype(np.float32)
    stored = sparse.stored(sparse.marked(Weights({"a.weight": matrix}, {"x": 1}), {"a.weight": pruned}))
    assert (
        sum(each.nbytes for each in stored.arrays.values()) == sparse.stored_bytes(matrix.shape, 4) == 0.53125 * matrix.nbytes
    )
    arrays, packed = packing.divided(stored)
    assert not packed and (arrays["a.weight"] == pruned).all() and sparse.stored(stored).arrays.keys() == stored.arrays.keys()
    with pytest.raises(UsageError, match="filled"):
        sparse.stored(sparse.marked(Weights({}, {}), {"a": matrix}))
    with pytest.raises(UsageError, match="no zero"):
        sparse.halved(pruned[:, :128], 256, "a")
    broken = Weights({**stored.arrays, "a.weight_places": stored.arrays["a.weight_places"] | 15}, stored.settings)
    with pytest.raises(InputError, match="packed as their settings say"):
        packing.divided(broken)


def test_choosing_by_inputs_costs_less_and_making_up_for_it_least():
    random = torch.Generator().manual_seed(0)
    mixing = torch.randn(32, 32, generator=random)
    x = torch.randn(512, 32, generator=random) @ mixing * torch.linspace(0.1, 3, 32)[torch.randperm(32, generator=random)]
    weight = torch.randn(16, 32, generator=random)
    lost = {}
    for method in ("magnitude", "wanda", "sparsegpt"):
        found = two_of_four(weight, x.t() @ x / len(x), method)
        assert int((found != 0).sum()) == weight.numel() // 2
        lost[method] = float(((weight - found) @ x.t()).square().mean())
    assert lost["sparsegpt"] < 0.8 * lost["wanda"] < 0.8 * lost["magnitude"]
    whole = two_of_four(weight[:, :30], torch.eye(30), "sparsegpt")  # nothing to make up with: the two largest stay as they are
    kept = sparse.best_two(weight[:, :30].abs().numpy())
    np.testing.assert_allclose(whole.numpy(), np.where(kept, weight[:, :30], 0), atol=1e-5)
