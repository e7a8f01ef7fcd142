"""How a trained model teaches another: what it says of a batch, and how far a student is from it.

A *lesson* is made for one task and one teacher, and knows both: that they speak of the same things is looked at when it is
made. What the teacher says is part of the batch, so it is a function of the step like all else and travels with the rows
however they are split; how far the student is from it is a sum, of the same unit as the task's own loss.

Where both give distributions over the same things (tokens, objects, prototypes, the captions of a batch) the distance is their
divergence: sizes of teacher and student are free. Shapes: N rows, V things.

Source: Hinton, Vinyals and Dean 2015, section 2 (temperature, and its square that keeps gradients as large).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from gyral.errors import InputError
from gyral.model.card import Weights
from gyral.model.task import Batch, Gather

SAID = "teacher"
"""Name of what a teacher says, in a batch; further ones begin with it."""
WHERE = "train.distill"
FLOOR = -1e4
"""For a logit of −inf, by which no difference can be taken."""


class Teacher(NamedTuple):
    """A model of the project that is to teach."""

    name: str
    folder: Path
    weights: Weights

    @property
    def settings(self) -> dict[str, Any]:
        return self.weights.settings


class Lesson(Protocol):
    """One teacher for one task.

    Attributes
    ----------
    flops : of what the teacher computes, a row.
    """

    flops: float

    def said(self, batch: Batch) -> Batch:
        """What the teacher says of a batch: tensors, rows first, whose names begin with `teacher`; without gradient."""

    def distance(self, outputs: Any, batch: Batch, gather: Gather) -> Tensor:
        """How far outputs of the student are from what was said, summed as the task's loss is; a scalar."""


def divergence(student_NV: Tensor, teacher_NV: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(teacher ‖ student) in nats at a temperature, times its square, summed over rows.

    Both are finite: see `finite`. A third of the time that torch's own takes, which makes the teacher's shares anew backward.
    """
    with torch.no_grad():
        wanted = F.log_softmax(at(temperature, teacher_NV.float()), dim=-1)
        share = wanted.exp()
    given = F.log_softmax(at(temperature, student_NV.float()), dim=-1)
    return (share * (wanted - given)).sum() * temperature**2


def at(temperature: float, logits: Tensor) -> Tensor:
    """Logits at a temperature."""
    return logits if temperature == 1 else logits / temperature


def finite(logits: Tensor) -> Tensor:
    """Logits of which none is −inf, so that differences can be taken: what one excludes, the other excludes too."""
    return logits.clamp(min=FLOOR)


def divergence_of_two(student_N: Tensor, teacher_N: Tensor, temperature: float = 1.0) -> Tensor:
    """The same of yes and no, of which the logit is that of yes."""
    given, wanted = (torch.stack([each, torch.zeros_like(each)], dim=-1) for each in (student_N, teacher_N))
    return divergence(given, wanted, temperature)


def refuse_other(teacher: Teacher, own: Mapping[str, Any], names: Mapping[str, str]) -> None:
    """Refuse a teacher whose settings differ from the student's where they must not.

    Parameters
    ----------
    names : of settings, each with what the student may do.

    Raises
    ------
    InputError : the first that differs.
    """
    for name, hint in names.items():
        theirs, mine = teacher.settings.get(name), own.get(name)
        if theirs != mine:
            what = f"`{teacher.name}` has {name} {theirs!r}, the student {mine!r}"
            raise InputError(what, where=WHERE, hint=hint)
