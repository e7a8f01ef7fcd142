"""A teacher beside the targets: the student learns what the data says and what a trained model says of it.

The task says what it can be taught by (`Taught`): logits, by the divergence of the teacher's distribution from the student's,
or embeddings, by the angle between them. The teacher's signal is part of the *batch*, computed where the batch is made: so it
is a pure function of the step like everything else, and every strategy, pipelines included, trains on it without knowing. It
costs the teacher's forward pass, a third of a training step of its size, and room for its signal (257 logits a byte: 1 kB).

    loss = (1 − weight) · task's + weight · temperature² · KL(teacher ‖ student)     over the same targets, as sums

Measured on small students of 1.5 kB of text, two seeds, 300 steps: .41 bits per byte alone, .31 at weight .5 and temperature 1,
.33 at 2; 120 steps are too few for a teacher to help, and weight .9 or temperature 2 then hurt.

Source: Hinton, Vinyals and Dean 2015, section 2 (temperature, and its square that keeps gradients as large).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gyral import plugins
from gyral.config import Config
from gyral.errors import InputError, UsageError
from gyral.model import card as cards
from gyral.model.task import BaseTask, Batch, Gather, Sums, Task

TEACHER = "teacher"


class Taught(Task, Protocol):
    """A task that a teacher can help with.

    Attributes
    ----------
    signal : `logits` [B, …, V] or `embeddings` [B, …, D].
    """

    signal: Literal["logits", "embeddings"]

    def signal_of(self, outputs: Any, batch: Batch) -> Tensor:
        """What is compared, of what `model(*inputs(batch))` gives; its first dim is the batch's rows."""

    def taught(self, batch: Batch) -> Tensor:
        """Where it is compared: bool, of the signal's shape without its last dim."""


class Distilled(BaseTask):
    """A task with a teacher.

    Parameters
    ----------
    teacher : answers as the task's own model does; it is not trained.
    weight : the teacher's share of the loss.
    temperature : both logits are divided by it.
    """

    def __init__(self, task: Taught, teacher: nn.Module, weight: float = 0.5, temperature: float = 1.0) -> None:
        self.task, self.weight, self.temperature = task, weight, temperature
        self._teacher = teacher.eval().requires_grad_(False)
        self.name, self.num_rows, self.cross_sample = task.name, task.num_rows, task.cross_sample
        self.begins_itself = task.begins_itself
        self.roles, self.unit, self.unit_per_row = task.roles, task.unit, task.unit_per_row
        self.sequence = (*task.sequence, TEACHER) if task.sequence else ()

    def __getattr__(self, name: str) -> Any:
        if name == "task":
            raise AttributeError(name)
        return getattr(self.task, name)

    def build(self, seed: int) -> nn.Module:
        """The student."""
        return self.task.build(seed)

    @torch.no_grad()
    def batch(self, examples: np.ndarray, step: int) -> Batch:
        """The task's, and what the teacher says of it."""
        batch = self.task.batch(examples, step)
        outputs = self._teacher(*self.task.inputs(batch))
        return {**batch, TEACHER: self.task.signal_of(outputs, batch)}

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """The task's."""
        return self.task.inputs(batch)

    def sums(self, outputs: Any, batch: Batch, gather: Gather) -> Sums:
        """The task's sums and the teacher's; metrics tell both apart."""
        own = self.task.sums(outputs, batch, gather)
        return self._joined(own, self.task.signal_of(outputs, batch), batch)

    def loss(self, model: nn.Module, batch: Batch, gather: Gather) -> Sums:
        """One pass where the task needs one; a task of several passes is asked for its signal by one more."""
        if getattr(type(self.task), "loss", None) is BaseTask.loss:
            return self.sums(model(*self.inputs(batch)), batch, gather)
        own = self.task.loss(model, batch, gather)
        return self._joined(own, self.task.signal_of(model(*self.inputs(batch)), batch), batch)

    def after_step(self, model: nn.Module, step: int) -> None:
        """The task's."""
        self.task.after_step(model, step)

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """The task's: quality has no teacher."""
        return self.task.evaluate(model)

    def flops(self, model: nn.Module) -> float:
        """The task's, and a forward pass of the teacher."""
        return self.task.flops(model) + self.task.flops(self._teacher) / 3

    def settings(self) -> dict[str, Any]:
        """The task's."""
        return self.task.settings()

    def files(self) -> dict[str, bytes]:
        """The task's."""
        return self.task.files()

    def _joined(self, own: Sums, student: Tensor, batch: Batch) -> Sums:
        is_taught = self.task.taught(batch)
        pair = student[is_taught].float(), batch[TEACHER][is_taught].float()
        said = _divergence(*pair, self.temperature) if self.task.signal == "logits" else _angle(*pair)
        loss = (1 - self.weight) * own.loss + self.weight * said
        return Sums(loss, own.weight, {**own.metrics, "task_loss": own.loss, "teacher_loss": said})


def taught_by(root: Path, task: Task, config: Config) -> Task:
    """A task with the teacher that the configuration names.

    Raises
    ------
    NotFound : there is no such model.
    UsageError : the task cannot be taught.
    InputError : the teacher is of another family, or gives something else.
    """
    if not hasattr(task, "signal_of"):
        raise UsageError(f"the task `{task.name}` cannot be taught by a model", where="train.distill")
    folder = cards.find(root, config.train.distill)
    card = cards.read_card(folder)
    if card.family != config.train.family:
        raise InputError(f"`{card.model}` is a {card.family} and cannot teach a {config.train.family}", where="train.distill")
    found = plugins.find("family", card.family).load(folder)
    teacher: nn.Module | None = getattr(found, "model", None)
    if not isinstance(teacher, nn.Module):
        raise InputError(f"`{card.model}` was not learned by gradients and cannot teach", where="train.distill")
    _check(card.model, cards.read_weights(folder).settings, task.settings())
    return Distilled(task, teacher, config.train.distill_weight, config.train.distill_temperature)  # type: ignore[arg-type]


def _check(name: str, teacher: Mapping[str, Any], student: Mapping[str, Any]) -> None:
    """Refuse a teacher that speaks of other tokens, or of fewer of them."""
    for key in ("tokens", "end"):
        if teacher.get(key) != student.get(key):
            hint = "the student must read what the teacher reads: the same dataset and tokenizer, or both bytes"
            raise InputError(f"`{name}` has other {key} than the student", where="train.distill", hint=hint)
    if teacher.get("layout") == "gpt2" and teacher.get("length", 0) < student.get("length", 0):
        raise InputError(f"`{name}` sees {teacher['length']} tokens only", where="train.distill", hint="lower `lm.length`")


def _divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL(teacher ‖ student) in nats at a temperature, times its square, summed over rows [n, V]."""
    wanted = F.log_softmax(teacher / temperature, dim=-1)
    given = F.log_softmax(student / temperature, dim=-1)
    return F.kl_div(given, wanted, reduction="sum", log_target=True) * temperature**2


def _angle(student: Tensor, teacher: Tensor) -> Tensor:
    """One minus the cosine, summed over rows [n, D]."""
    return (1 - F.cosine_similarity(student, teacher, dim=-1)).sum()
