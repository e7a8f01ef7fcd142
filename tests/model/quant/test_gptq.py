"""GPTQ and its scales against slow float64 versions by other formulas."""

import numpy as np
import pytest
import torch

from gyral.model.quant.gptq import DAMPING, gptq_int4, searched_int4, searched_range
from gyral.model.quant.packing import int4_range, of_bf16, to_int4


def problem(rows=24, columns=64, seed=0, samples=400):
    """Weights, inputs whose columns depend on one another and differ in size, and X'X."""
    random = np.random.default_rng(seed)
    mixed = random.standard_normal((samples, columns // 2)) @ random.standard_normal((columns // 2, columns))
    inputs = (mixed + 0.3 * random.standard_normal((samples, columns))) * np.exp(random.standard_normal(columns))
    return random.standard_normal((rows, columns)).astype(np.float32), inputs, inputs.T @ inputs / samples


def lost(weights, packed, gram):
    difference = packed.dense().astype(np.float64) - weights
    return np.einsum("mn,nk,mk->", difference, gram, difference)


def by_elimination(weights, gram, scale, offset, order):
    """Optimal brain quantization as its paper has it: the Hessian's inverse, a column eliminated at each step, no Cholesky."""
    w = weights.astype(np.float64).copy()
    inverse = np.linalg.inv(gram + DAMPING * np.mean(np.diag(gram)) * np.eye(len(gram)))
    levels = np.zeros(w.shape)
    for at in order:
        levels[:, at] = np.clip(np.rint((w[:, at] - offset[:, at]) / scale[:, at]), -8, 7)
        error = (w[:, at] - (levels[:, at] * scale[:, at] + offset[:, at])) / inverse[at, at]
        w -= np.outer(error, inverse[at])
        inverse -= np.outer(inverse[:, at], inverse[at]) / inverse[at, at]
    return levels + 8


@pytest.mark.parametrize("is_ordered", [True, False])
@pytest.mark.parametrize("columns", [64, 160, 48])
def test_it_rounds_as_elimination_does(columns, is_ordered):
    weights, _, gram = problem(columns=columns)
    packed = gptq_int4(torch.from_numpy(weights), torch.from_numpy(gram).float(), is_ordered=is_ordered)
    scale, offset = (np.repeat(part, 32, axis=1)[:, :columns].astype(np.float64) for part in (packed.scale, packed.offset()))
    sizes = torch.from_numpy(gram).float().diagonal()
    order = torch.argsort(sizes, descending=True, stable=True).tolist() if is_ordered else range(columns)
    expected = by_elimination(weights, gram, scale, offset, order)
    assert (packed.values == expected).mean() > 0.99  # float32 decides ties otherwise, and a tie moves those after it
    assert lost(weights, packed, gram) < 1.02 * lost(weights, packed._replace(values=expected.astype(np.int8)), gram)


def test_outputs_lose_less_than_by_rounding():
    weights, _, gram = problem(rows=64, columns=128)
    tensor, seen = torch.from_numpy(weights), torch.from_numpy(gram).float()
    by_nearest, by_search, by_gptq = to_int4(weights), searched_int4(tensor, seen), gptq_int4(tensor, seen)
    losses = [lost(weights, each, gram) for each in (by_nearest, by_search, by_gptq)]
    assert losses[2] < 0.5 * losses[0] and losses[2] < losses[1] < losses[0]


def test_the_range_that_is_found_is_the_best_of_those_tried():
    weights, _, gram = problem(rows=5, columns=40)
    sizes = np.diag(gram).astype(np.float32)
    scale, zero = searched_range(weights, sizes, 32)
    whole, _ = int4_range(weights, 32)
    for row in range(5):
        for group, part in enumerate((slice(0, 32), slice(32, 40))):
            w, size = weights[row, part].astype(np.float64), sizes[part]

            def cost(step, level, w=w, size=size):
                offset = float(torch.tensor((8.0 - level) * step).bfloat16())
                nearest = np.clip(np.rint((w - offset) / step), -8, 7) * step + offset
                return (size * (nearest - w) ** 2).sum()

            tried = []
            for share in np.linspace(1, 0.7, 7):
                step = float(torch.tensor((max(w.max(), 0) - min(w.min(), 0)) * share / 15).bfloat16())
                tried.append(cost(step, np.clip(np.rint(-min(w.min(), 0) * share / step), 0, 15)))
            assert cost(float(scale[row, group]), float(zero[row, group])) <= min(tried) * 1.001
    assert (scale <= whole * 1.01).all()


@pytest.mark.parametrize("samples", [0, 1, 10])
def test_few_or_no_inputs_do_no_harm(samples):
    weights, inputs, _ = problem()
    gram = inputs[:samples].T @ inputs[:samples] / max(samples, 1)
    gram[:, 5] = gram[5] = 0
    packed = gptq_int4(torch.from_numpy(weights), torch.from_numpy(gram).float())
    assert np.isfinite(packed.dense()).all()
    assert np.abs(packed.dense() - weights).mean() < 1.0


def test_scales_are_bf16():
    weights, _, gram = problem()
    packed = gptq_int4(torch.from_numpy(weights), torch.from_numpy(gram).float())
    assert (of_bf16((packed.scale.view(np.uint32) >> 16).astype(np.uint16)) == packed.scale).all()
