"""The nets against their formulas written as loops, and against what a causal model must not see."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gyral.model.nets.dropout import row_keys
from gyral.model.nets.hstu import HstuBlock
from gyral.model.nets.sequence import Sequence, Shape

V, D, T = 11, 8, 6


def net(kind):
    torch.manual_seed(0)
    made = Sequence(Shape(V, D, 2, 2, T, 16, 0.0, kind))
    with torch.no_grad():
        for param in made.parameters():  # away from zeros and tiny values
            param.add_(0.3 * torch.randn_like(param))
    return made.eval()


def rows(seed=0, num=3):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, V, (num, T))), torch.from_numpy(np.sort(rng.integers(0, 10**7, (num, T)), axis=1))


@pytest.mark.parametrize("kind", ["sasrec", "hstu"])
def test_what_comes_later_is_not_seen(kind):
    model = net(kind)
    objects, times = rows()
    before = model.encode(objects, times, None)
    objects[:, 4:], times[:, 4:] = (objects[:, 4:] + 1) % V, times[:, 4:] + 999
    after = model.encode(objects, times, None)
    assert torch.equal(before[:, :4], after[:, :4]) and not torch.allclose(before[:, 4:], after[:, 4:])


def test_hstu_attention_is_its_formula():
    torch.manual_seed(1)
    block = HstuBlock(D, 2, T, 0.0, 0).double().eval()
    with torch.no_grad():
        for param in block.parameters():
            param.add_(torch.randn_like(param))
    _, times = rows(num=1)
    x = torch.randn(1, T, D, dtype=torch.float64)
    u, v, q, k = (each[0] for each in F.silu(block.mix(block.before(x))).chunk(4, dim=-1))
    seen = torch.zeros(T, D, dtype=torch.float64)
    for head in (slice(0, 4), slice(4, 8)):
        for i in range(T):
            for j in range(i + 1):
                bucket = min(int(math.log2(max(int(times[0, i] - times[0, j]), 1))), 31)
                weight = F.silu(q[i, head] @ k[j, head] + block.places[i - j] + block.ages[bucket]) / T
                seen[i, head] += weight * v[j, head]
    wanted = x[0] + block.out(block.after(seen) * u)
    assert torch.allclose(block(x, times, None)[0], wanted, atol=1e-12)


@pytest.mark.parametrize("kind", ["sasrec", "hstu"])
def test_logits_are_those_of_the_targets_and_all_objects_as_negatives_give_the_full_softmax(kind):
    model = net(kind)
    objects, times = rows(2)
    targets = torch.from_numpy(np.random.default_rng(3).integers(0, V, (3, T)))
    targets[1, 3:] = -1
    keys = row_keys(0, 0, np.arange(3))
    full = model(objects, times, keys, targets)
    assert full.shape == (15, V)
    everything = torch.arange(V).repeat(3, 1)
    sampled = model(objects, times, keys, targets, everything)
    wanted = F.cross_entropy(full, targets[targets >= 0], reduction="none")
    got = F.cross_entropy(sampled, torch.zeros(15, dtype=torch.int64), reduction="none")
    assert torch.allclose(got, wanted, atol=1e-5)
