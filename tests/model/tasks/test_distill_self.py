"""Self-distillation against the algorithm as the paper prints it."""

import numpy as np
import pytest
import torch

from gyral.model.augment import Recipe
from gyral.model.nets.vit import Shape
from gyral.model.pictures import Pictures
from gyral.model.task import alone
from gyral.model.tasks.distill_self import SelfDistilled, Teaching

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
PICTURES = Pictures(PIXELS, [str(number) for number in range(8)], np.arange(8) // 2)
TEACHING = Teaching(prototypes=16, hidden=16, narrow=8, parts=2, part_side=4, momentum=0.9)
TASK = SelfDistilled(
    Shape(8, 4, 16, 1, 2, 32), TEACHING, PICTURES, PICTURES, Recipe((0.6, 1.0), jitter=0.5), Recipe((0.2, 0.5)), 0
)


def moved(task):
    """A model whose teacher is not its student."""
    model = task.build(0)
    with torch.no_grad():
        for param in [*model.student.parameters(), *model.student_head.parameters()]:
            param.add_(0.1 * torch.randn(param.shape, generator=torch.Generator().manual_seed(1)))
        model.center.copy_(torch.linspace(-0.1, 0.1, 16))
    return model


@torch.no_grad()
def test_the_loss_is_algorithm_1():
    model, batch = moved(TASK), TASK.batch(np.array([2, 0, 1]), 5)
    assert batch["whole"].shape == (3, 2, 3, 8, 8) and batch["parts"].shape == (3, 2, 3, 4, 4)
    told = 0.0
    for row in range(3):
        views = [*batch["whole"][row], *batch["parts"][row]]
        said = [model.student_head(model.student(view[None])[:, 0])[0] for view in views]
        taught = [model.teacher_head(model.teacher(view[None])[:, 0])[0] for view in views[:2]]
        pairs = [
            -(torch.softmax((t - model.center) / 0.04, 0) * torch.log_softmax(s / 0.1, 0)).sum()
            for i, t in enumerate(taught)
            for j, s in enumerate(said)
            if i != j
        ]
        told += float(sum(pairs)) / len(pairs)
    sums = TASK.loss(model, batch, alone)
    assert float(sums.loss) == pytest.approx(told, rel=1e-5) and float(sums.weight) == 3
    assert 0 < float(sums.metrics["teacher_entropy"]) < 3 * np.log(16)


def test_the_center_is_that_of_everybody():
    model, batch = moved(TASK), TASK.batch(np.array([2, 0, 1, 3]), 5)
    TASK.loss(model, batch, alone)
    whole = model.seen.clone()
    everybody = model(*TASK.inputs(batch))[2]
    TASK.loss(model, {name: each[:2] for name, each in batch.items()}, lambda rows: everybody)
    assert torch.allclose(model.seen, whole)
    TASK.loss(model, {name: each[:2] for name, each in batch.items()}, alone)
    assert not torch.allclose(model.seen, whole)


def test_the_teacher_follows_and_is_never_trained():
    model, batch = moved(TASK), TASK.batch(np.array([2, 0, 1, 3]), 5)
    TASK.loss(model, batch, alone).loss.backward()
    assert all(param.grad is None for name, param in model.named_parameters() if name.startswith("teacher"))
    assert all(param.grad is not None for name, param in model.named_parameters() if name.startswith("student.blocks"))
    before = model.teacher.embed.patch.weight.clone()
    TASK.after_step(model, 1000)
    assert torch.allclose(model.teacher.embed.patch.weight, 0.9 * before + 0.1 * model.student.embed.patch.weight)
    assert torch.allclose(model.center, 0.9 * torch.linspace(-0.1, 0.1, 16) + 0.1 * model.seen)
    other = moved(TASK)
    TASK.after_step(other, 0)  # early on it follows at once
    assert torch.allclose(other.teacher.embed.patch.weight, 0.1 * before + 0.9 * other.student.embed.patch.weight)
    assert {"center", "teacher.embed.patch.weight"} <= set(model.state_dict())


def test_pictures_of_one_concept_are_views_of_each_other():
    steps = [TASK.batch(np.array([1]), step) for step in range(20)]
    means = {tuple(view.mean(dim=(1, 2)).round(decimals=1).tolist()) for batch in steps for view in batch["whole"][0]}
    assert len(means) > 2
    assert torch.equal(TASK.batch(np.array([0, 1]), 3)["parts"][1:], TASK.batch(np.array([1]), 3)["parts"])
