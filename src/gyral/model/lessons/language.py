"""`lm/next_token`: at each token the student gives the distribution that its teacher gives.

Teacher and student read the same tokens; their layouts, widths and depths are their own. What is said is 4 V bytes a token:
1 kB of bytes, 128 kB of a vocabulary of 32,000.

Measured on small students of 1.5 kB of text, two seeds, 300 steps: .41 bits per byte alone, .31 at weight .5 and temperature 1,
.33 at 2; 120 steps are too few for a teacher to help, and weight .9 or temperature 2 then hurt.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gyral.errors import InputError
from gyral.model import decoder
from gyral.model.task import Batch, Gather
from gyral.model.tasks.next_token import NextToken
from gyral.model.teaching import SAID, WHERE, Teacher, divergence, refuse_other

SAME = "the student must read what the teacher reads: the same dataset and tokenizer, or both bytes"


class NextTokenLesson:
    """A decoder's logits [B, T, V].

    Parameters
    ----------
    net : called as the task's own model; it is not trained.
    """

    def __init__(self, task: NextToken, net: nn.Module, temperature: float = 1.0) -> None:
        self._task, self._temperature = task, temperature
        self._net = net.eval().requires_grad_(False)
        self.flops = task.flops(net) / 3

    @torch.no_grad()
    def said(self, batch: Batch) -> Batch:
        """The teacher's logits."""
        return {SAID: self._net(*self._task.inputs(batch))}

    def distance(self, outputs: Tensor, batch: Batch, gather: Gather) -> Tensor:
        """Divergence over the targets."""
        where = self._task.is_target(batch)
        return divergence(outputs[where], batch[SAID][where], self._temperature)


def next_token(task: NextToken, teacher: Teacher, temperature: float) -> NextTokenLesson:
    """A lesson by a model of this project.

    Raises
    ------
    InputError : it reads other tokens, or fewer at once.
    """
    own = task.settings()
    refuse_other(teacher, own, {"tokens": SAME, "end": SAME})
    if teacher.settings.get("layout") == "gpt2" and teacher.settings.get("length", 0) < own.get("length", 0):
        what = f"`{teacher.name}` sees {teacher.settings['length']} tokens only"
        raise InputError(what, where=WHERE, hint="lower `lm.length`")
    return NextTokenLesson(task, decoder.of_weights(teacher.weights).build(), temperature)
