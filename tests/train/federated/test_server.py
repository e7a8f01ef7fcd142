"""The server's optimizers, against torch's and against the algorithm as it is printed."""

import numpy as np
import pytest
import torch

from gyral.train.federated.server import BETA2, TAU, Server


def updates(count=12, size=50):
    return torch.randn(count, size, generator=torch.Generator().manual_seed(1)) * 0.01


NONE = torch.zeros(50, dtype=torch.bool)


def test_plain_averaging_goes_to_the_mean():
    server = Server("average", torch.zeros(50), momentum=0.0)
    for moved in updates():
        server.step(moved, NONE)
    assert torch.allclose(server.common, updates().sum(0), atol=1e-6)


def test_adagrad_is_that_of_torch():
    server = Server("adagrad", torch.ones(50), rate=0.3, momentum=0.0)
    param = torch.nn.Parameter(torch.ones(50))
    peer = torch.optim.Adagrad([param], lr=0.3, eps=TAU, initial_accumulator_value=TAU**2)
    for moved in updates():
        server.step(moved, NONE)
        param.grad = -moved
        peer.step()
    assert torch.allclose(server.common, param.detach(), atol=1e-6)


@pytest.mark.parametrize("kind", ["adam", "yogi"])
def test_adam_and_yogi_are_as_printed(kind):
    """Reddi et al. 2021, algorithm 2, in float64."""
    server = Server(kind, torch.ones(50), rate=0.1, momentum=0.9)
    x, m, v = np.ones(50), np.zeros(50), np.full(50, TAU**2)
    for moved in updates():
        server.step(moved, NONE)
        delta = moved.double().numpy()
        m = 0.9 * m + 0.1 * delta
        v = BETA2 * v + (1 - BETA2) * delta**2 if kind == "adam" else v - (1 - BETA2) * delta**2 * np.sign(v - delta**2)
        x = x + 0.1 * m / (np.sqrt(v) + TAU)
    assert np.allclose(server.common.numpy(), x, atol=1e-5)


def test_only_matrices_decay():
    is_matrix = torch.arange(50) < 20
    server = Server("average", torch.ones(50), decay=0.1)
    server.step(torch.zeros(50), is_matrix, 0.5)
    assert torch.allclose(server.common, torch.where(is_matrix, 0.95, 1.0))
