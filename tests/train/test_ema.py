"""The moving average against numpy."""

import numpy as np
import torch
from torch import nn

from gyral.train.ema import Ema


def test_it_is_the_average_that_numpy_computes():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    ema, oracle = Ema(model, 0.9), model.weight.detach().numpy().copy()
    for number in range(150):
        with torch.no_grad():
            model.weight.add_(torch.randn(2, 3))
        ema.update()
        decay = min(0.9, (1 + number) / (10 + number))
        oracle = decay * oracle + (1 - decay) * model.weight.detach().numpy()
    np.testing.assert_allclose(ema.shadow["weight"].numpy(), oracle, atol=1e-4)


def test_inside_the_block_the_model_has_the_average_and_afterwards_its_own_bytes():
    model = nn.Linear(3, 2)
    ema = Ema(model, 0.5)
    with torch.no_grad():
        model.weight.add_(1.0)
    ema.update()
    own, average = model.weight.detach().clone(), ema.shadow["weight"].clone()
    with ema.in_place():
        assert torch.equal(model.weight, average) and not torch.equal(average, own)
    assert torch.equal(model.weight, own) and torch.equal(ema.shadow["weight"], average)


def test_one_tensor_under_two_names_is_averaged_once():
    model = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 2, bias=False)})
    model["b"].weight = model["a"].weight
    ema = Ema(model, 0.5)
    assert list(ema.shadow) == ["a.weight"]
