"""Clients of Flower: what they answer with is the mean of their devices, and without flwr the error says what to do."""

import sys

import numpy as np
import pytest
import torch

from gyral.config.training import Federated
from gyral.errors import UsageError
from gyral.model.nets.history import Shape
from gyral.model.recommender import Interactions
from gyral.model.sequences import Sequences
from gyral.model.tasks.history import NextBasket
from gyral.train.federated.flower import Devices, client_of
from gyral.train.federated.local import Layout, learn


def devices(examples, **told):
    rng = np.random.default_rng(0)
    time = np.sort(rng.integers(0, 60, 300)) * 86_400_000_000
    codes = [rng.integers(0, high, 300).astype(np.int32) for high in (20, 15)]
    data = Interactions(*codes, time, np.full(300, -1, np.int32), 20, 15, 0)
    task = NextBasket(Shape(15, 4, 10), Sequences.of(data, 10), 0, 30.0)
    return task, Devices(task, task.build(0), Federated(**told), np.asarray(examples))


def test_two_clients_weighted_by_devices_are_the_mean_of_all():
    task, first = devices([0, 1, 2, 3, 4], local_rate=2.0)
    _, second = devices([5, 6], local_rate=2.0)
    begin = first.parameters()
    (one, many, told), (other, few, _) = first.answer(begin), second.answer(begin)
    assert (many, few) == (5, 2) and told["loss"] > 0
    together = np.concatenate([((5 * a + 2 * b) / 7).ravel() for a, b in zip(one, other, strict=True)])
    model = task.build(0)
    layout = Layout(model)
    alone = learn(task, model, layout, layout.flat(model), np.arange(7), 2, 2.0)
    assert np.allclose(together, (layout.flat(model) + alone.moved.mean(0)).numpy(), atol=1e-6)
    assert torch.equal(layout.flat(model), torch.from_numpy(np.concatenate([each.ravel() for each in begin])))


def test_without_flwr_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "flwr.client", None)
    with pytest.raises(UsageError, match="flwr") as error:
        client_of(devices([0])[1])
    assert "environment of its own" in error.value.hint
