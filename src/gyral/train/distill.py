"""A teacher beside the targets: the student learns what the data says and what a trained model says of it.

    loss = (1 − weight) · task's + weight · distance to the teacher     over the same rows, as sums

What a teacher says of each task, and how far a student is from it, is a lesson of `gyral.model.lessons`, found behind the hook
`lesson`. What it says is computed where the batch is made and is part of it: so it is a pure function of the step like
everything else, and every strategy, pipelines included, trains on it without knowing. It costs the teacher's forward pass, a
third of a training step of its size, and room for what is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from gyral import plugins
from gyral.config import Config
from gyral.errors import InputError, UsageError
from gyral.model import card as cards
from gyral.model.card import Weights
from gyral.model.task import BaseTask, Batch, Gather, Sums, Task
from gyral.model.teaching import SAID, WHERE, Lesson, Teacher


class Distilled(BaseTask):
    """A task with a teacher.

    Parameters
    ----------
    weight : the teacher's share of the loss.
    """

    def __init__(self, task: Task, lesson: Lesson, weight: float = 0.5) -> None:
        self.task, self.lesson, self.weight = task, lesson, weight
        self.name, self.num_rows, self.cross_sample = task.name, task.num_rows, task.cross_sample
        self.one_pass, self.begins_itself = task.one_pass, task.begins_itself
        self.roles, self.metric, self.unit, self.unit_per_row = task.roles, task.metric, task.unit, task.unit_per_row
        self.sequence = (*task.sequence, SAID) if task.sequence else ()

    def __getattr__(self, name: str) -> Any:
        if name == "task":
            raise AttributeError(name)
        return getattr(self.task, name)

    def build(self, seed: int) -> nn.Module:
        """The student."""
        return self.task.build(seed)

    def batch(self, examples: np.ndarray, step: int) -> Batch:
        """The task's, and what the teacher says of it."""
        batch = self.task.batch(examples, step)
        return {**batch, **self.lesson.said(batch)}

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        """The task's."""
        return self.task.inputs(batch)

    def outputs(self, model: nn.Module, batch: Batch, gather: Gather) -> Any:
        """The task's."""
        return self.task.outputs(model, batch, gather)

    def sums(self, outputs: Any, batch: Batch, gather: Gather) -> Sums:
        """The task's and the teacher's together; metrics tell both apart."""
        own = self.task.sums(outputs, batch, gather)
        distance = self.lesson.distance(outputs, batch, gather)
        loss = (1 - self.weight) * own.loss + self.weight * distance
        return Sums(loss, own.weight, {**own.metrics, "task_loss": own.loss.detach(), "teacher_loss": distance.detach()})

    def after_step(self, model: nn.Module, step: int) -> None:
        """The task's."""
        self.task.after_step(model, step)

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """The task's: quality has no teacher."""
        return self.task.evaluate(model)

    def flops(self, model: nn.Module) -> float:
        """The task's, and a forward pass of the teacher."""
        return self.task.flops(model) + self.lesson.flops

    def settings(self) -> dict[str, Any]:
        """The task's."""
        return self.task.settings()

    def files(self) -> dict[str, bytes]:
        """The task's."""
        return self.task.files()

    def finished(self, weights: Weights) -> Weights:
        """As the task does it."""
        return self.task.finished(weights)


def taught_by(root: Path, task: Task, config: Config) -> Task:
    """A task with the teacher that the configuration names.

    Raises
    ------
    NotFound : there is no such model.
    UsageError : the task cannot be taught.
    InputError : the teacher is of another family, or speaks of something else than the student.
    """
    family = config.train.family
    if (name := f"{family}/{task.name}") not in plugins.names("lesson"):
        known = ", ".join(each for each in plugins.names("lesson") if each.startswith(f"{family}/"))
        raise UsageError(
            f"the task `{task.name}` cannot be taught by a model", where=WHERE, hint=f"these can: {known or 'none'}"
        )
    folder = cards.find(root, config.train.distill)
    card = cards.read_card(folder)
    if card.family != family:
        raise InputError(
            f"`{card.model}` is a {card.family} and cannot teach a {family}",
            where=WHERE,
            hint="name a model of the same family",
        )
    teacher = Teacher(card.model, folder, cards.read_weights(folder))
    lesson: Lesson = plugins.find("lesson", name)(task, teacher, config.train.distill_temperature)
    return Distilled(task, lesson, config.train.distill_weight)
