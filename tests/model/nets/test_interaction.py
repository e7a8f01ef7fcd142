import numpy as np
import pytest
import torch

from gyral.model.nets.asked import Asked
from gyral.model.nets.interaction import Interaction, Shape


def net(kind):
    torch.manual_seed(0)
    return Interaction(Shape(5, 2, 7, 5, 4, 8, 6, 0.0, 2, kind)).double().eval()


def linear(layer, x):
    return layer.weight.detach().numpy() @ x + layer.bias.detach().numpy()


def deep(part, x):
    return np.maximum(linear(part.down, np.maximum(linear(part.up, x), 0)), 0)


@pytest.mark.parametrize("kind", ["dcn", "dlrm"])
def test_a_logit_is_its_formula(kind):
    model, numbers = net(kind), np.random.default_rng(0).normal(size=5)
    vectors = [
        table.weight[code].detach().numpy() for table, code in ((model.subjects, 4), (model.countries, 0), (model.objects, 6))
    ]
    if kind == "dcn":
        first = np.concatenate([*vectors, numbers])
        x = first
        for cross in model.crosses:
            x = first * linear(cross, x) + x
        wanted = linear(model.out, np.concatenate([x, deep(model.deep, first)]))
    else:
        bottom = deep(model.bottom, numbers)
        every = [bottom, *vectors]
        dots = [every[i] @ every[j] for i in range(4) for j in range(i + 1, 4)]
        wanted = linear(model.out, deep(model.deep, np.concatenate([bottom, dots])))
    one = torch.tensor([3]), torch.tensor([-1]), torch.tensor([6]), torch.from_numpy(numbers)[None]
    assert np.allclose(model(*one).detach().numpy(), wanted, atol=1e-12)
    nothing = torch.zeros(1, 1, dtype=torch.int64)
    counted = torch.zeros(1, 7, 5, dtype=torch.float64)
    counted[0, 6] = one[3][0]
    scores = model.score(Asked(one[0], one[1], nothing, nothing, nothing[0], counted))
    assert scores.shape == (1, 7) and np.allclose(scores[0, 6].detach().numpy(), wanted, atol=1e-12)
