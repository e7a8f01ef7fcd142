"""Masked autoencoding against numpy."""

import numpy as np
import pytest
import torch

from gyral.model.augment import Recipe
from gyral.model.nets.masked import DecoderShape
from gyral.model.nets.vit import Shape
from gyral.model.pictures import Pictures
from gyral.model.task import alone
from gyral.model.tasks.masked import Masked

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 12, 12, 1), dtype=np.uint8)
PICTURES = Pictures(PIXELS, [str(number) for number in range(6)], np.arange(6))
TASK = Masked(
    Shape(12, 3, 16, 2, 2, 32, channels=1), DecoderShape(16, 1, 2), 0.75, PICTURES, PICTURES, Recipe((1.0, 1.0), 1.0), 0
)


@torch.no_grad()
def test_the_loss_is_the_error_of_hidden_patches():
    model, batch = TASK.build(0), TASK.batch(np.arange(4), 3)
    assert batch["kept"].shape == (4, 4) and all(len(set(row)) == 4 for row in batch["kept"].tolist())
    outputs = model(*TASK.inputs(batch)).detach().numpy()
    told = 0.0
    for row in range(4):
        for patch in set(range(16)) - set(batch["kept"][row].tolist()):
            y, x = divmod(patch, 4)
            target = batch["pixels"][row, 0, 3 * y : 3 * y + 3, 3 * x : 3 * x + 3].numpy().ravel().astype(np.float64)
            target = (target - target.mean()) / np.sqrt(target.var(ddof=1) + 1e-6)
            told += np.mean((outputs[row, patch] - target) ** 2)
    sums = TASK.loss(model, batch, alone)
    assert float(sums.loss) == pytest.approx(told, rel=1e-5) and float(sums.weight) == 4 * 12


def test_what_is_hidden_is_not_seen():
    model, batch = TASK.build(0), TASK.batch(np.arange(4), 3)
    changed = batch["pixels"].clone()
    hidden = next(patch for patch in range(16) if patch not in batch["kept"][0].tolist())
    y, x = divmod(hidden, 4)
    changed[0, :, 3 * y : 3 * y + 3, 3 * x : 3 * x + 3] = 5.0
    assert torch.equal(model(changed, batch["kept"]), model(batch["pixels"], batch["kept"]))
    kept = int(batch["kept"][0, 0])
    y, x = divmod(kept, 4)
    changed[0, :, 3 * y : 3 * y + 3, 3 * x : 3 * x + 3] = 5.0
    assert not torch.equal(model(changed, batch["kept"]), model(batch["pixels"], batch["kept"]))


@torch.no_grad()
def test_views_of_a_picture_find_each_other_by_a_model_and_not_by_chance():
    found = TASK.evaluate(TASK.build(0))
    assert found == TASK.evaluate(TASK.build(0)) and found["chance"] == pytest.approx(1 / 6)
    assert 0 < found["loss"] < 5 and 0 <= found["r_at_1"] <= 1
