"""Devices at once learn what each learns alone by torch's own optimizer."""

import numpy as np
import torch

from gyral.model.nets.history import Shape
from gyral.model.recommender import Interactions
from gyral.model.sequences import Sequences
from gyral.model.task import alone
from gyral.model.tasks.history import NextBasket
from gyral.train.federated.local import Layout, learn

NUM_SUBJECTS, NUM_OBJECTS = 20, 15


def task():
    rng = np.random.default_rng(0)
    time = np.sort(rng.integers(0, 60, 300)) * 86_400_000_000
    codes = [rng.integers(0, high, 300).astype(np.int32) for high in (NUM_SUBJECTS, NUM_OBJECTS)]
    data = Interactions(*codes, time, np.full(300, -1, np.int32), NUM_SUBJECTS, NUM_OBJECTS, 0)
    return NextBasket(Shape(NUM_OBJECTS, 4, 10), Sequences.of(data, 10), 0, 30.0)


def test_each_device_does_what_it_would_alone():
    of, steps, rate = task(), 3, 0.5
    model = of.build(0)
    layout = Layout(model)
    devices = np.arange(of.num_rows)
    told = learn(of, model, layout, layout.flat(model), devices, steps, rate)
    for device in devices.tolist():
        own = of.build(0)
        slow = [param for name, param in own.named_parameters() if name in own.rates]
        rest = [param for name, param in own.named_parameters() if name not in own.rates]
        peer = torch.optim.SGD([{"params": slow, "lr": 0.1 * rate}, {"params": rest, "lr": rate}])
        batch = of.batch(np.array([device]), 0)
        for step in range(steps):
            sums = of.loss(own, batch, alone)
            loss = sums.loss / sums.weight
            if step == 0:
                assert abs(float(loss.detach()) - float(told.loss[device])) < 1e-5
            peer.zero_grad()
            loss.backward()
            peer.step()
        assert torch.allclose(told.moved[device], layout.flat(own) - layout.flat(model), atol=1e-6)


def test_flat_and_named_are_the_same_values():
    model = task().build(3)
    layout = Layout(model)
    flat = layout.flat(model)
    assert layout.size == sum(param.numel() for param in model.parameters()) == len(flat)
    assert all(torch.equal(value, model.get_parameter(name)) for name, value in layout.named(flat).items())
    many = layout.named(torch.stack([flat, 2 * flat]))
    assert all(torch.equal(value[1], 2 * model.get_parameter(name)) for name, value in many.items())
    assert int(layout.is_matrix_P.sum()) == 2 * NUM_OBJECTS * 4
