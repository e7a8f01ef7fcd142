"""Masked autoencoding against numpy."""

import numpy as np
import pytest
import torch

from gyral.model.augment import Recipe
from gyral.model.embedder import Embedder
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
    outputs = model(*TASK.inputs(batch))[0].detach().numpy()
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
    assert torch.equal(model(changed, batch["kept"])[0], model(batch["pixels"], batch["kept"])[0])
    kept = int(batch["kept"][0, 0])
    y, x = divmod(kept, 4)
    changed[0, :, 3 * y : 3 * y + 3, 3 * x : 3 * x + 3] = 5.0
    assert not torch.equal(model(changed, batch["kept"])[0], model(batch["pixels"], batch["kept"])[0])


@torch.no_grad()
def test_without_labels_the_loss_counts_and_with_two_pictures_of_a_concept_they_are_sought():
    model = TASK.build(0)
    found = TASK.evaluate(model)
    assert found == TASK.evaluate(model) and TASK.metric == "loss"
    assert (
        set(found) == {"loss", "effective_rank", "feature_spread"}
        and 0 < found["loss"] < 5
        and 1 < found["effective_rank"] <= 5
    )
    twice = np.concatenate([PIXELS, PIXELS // 2 + 64])
    both = Pictures(twice, [f"{number}.png" for number in range(12)], np.arange(12) % 6)
    task = Masked(TASK.shape, TASK.decoder, 0.75, both, both, TASK.recipe, 0)
    found = task.evaluate(model)
    assert task.metric == "r_at_1" and found["chance"] == pytest.approx(1 / 6) and 0 <= found["r_at_1"] <= 1
    vectors = Embedder(model).pictures(twice)
    nearest = (vectors[:6] @ vectors[6:].T).argmax(axis=1)
    assert found["r_at_1"] == np.mean(nearest == np.arange(6))
    folders = Pictures(np.repeat(PIXELS, 8, axis=0), [f"{'ab'[at % 2]}/{at}.png" for at in range(48)], np.arange(48))
    task = Masked(TASK.shape, TASK.decoder, 0.75, folders, folders, TASK.recipe, 0)
    assert task.metric == "probe_accuracy" and 0 <= task.evaluate(model)["probe_accuracy"] <= 1
