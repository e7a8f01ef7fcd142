"""What a model is asked to learn, in a form that any split of a batch adds up to exactly.

A task gives *sums*, never means: the loss summed over a batch's targets, and how many they are. Whoever computes any part of
the global batch adds; the one division is by the global weight, after the reduction. So the number of ranks, micro-batches and
members changes nothing but the order of additions.

A batch is a pure function of (seed, step, examples): what is masked, cropped or drawn as a negative is drawn by a generator
made from those numbers, a row at a time, so a row is the same whoever computes it.

Shapes: B rows of a batch (first dim of every tensor of it), T positions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from gyral.model.card import Weights
from gyral.model.roles import Roles

Batch = dict[str, Tensor]
"""Tensors by name, rows first: a slice of each is a smaller batch."""
Gather = Callable[[Tensor], Tensor]
"""Rows of all ranks for those of this one, in the order of the global batch; gradients go back to where they came from."""


class Sums(NamedTuple):
    """What one part of a batch gives.

    Attributes
    ----------
    loss : summed over the targets, a scalar that `backward` may be called on.
    weight : how many targets they are, a scalar without gradient.
    metrics : further sums, without gradient; they are told divided by `weight`.
    """

    loss: Tensor
    weight: Tensor
    metrics: dict[str, Tensor] = {}


class Task(Protocol):
    """One objective of one family on one dataset.

    Attributes
    ----------
    name : `next_token`, `contrastive`, …; a model is trained by one task.
    num_rows : examples of one pass over the data.
    cross_sample : the loss compares rows with each other: it needs `gather`, and a batch is not cut into micro-batches.
    one_pass : the model is called once for a loss; only then it can be piped.
    sequence : names of the batch's tensors whose second dim is the sequence, which a context axis cuts; empty: it cannot.
    roles : what each parameter of the model is.
    begins_itself : `build` gives the weights of `train.start`; else they are put in afterwards.
    metric : of those that `evaluate` gives, the one that models are compared by; empty: the family's.
    unit, unit_per_row : what progress counts (`tokens`, `images`, `examples`), and how many a row has.
    """

    name: str
    num_rows: int
    cross_sample: bool
    one_pass: bool
    begins_itself: bool
    sequence: tuple[str, ...]
    roles: Roles
    metric: str
    unit: str
    unit_per_row: int

    def build(self, seed: int) -> nn.Module:
        """A new model with its initial values: the same for the same seed."""

    def batch(self, examples: np.ndarray, step: int) -> Batch:
        """Rows of some examples, int64 [B] in [0, num_rows), on the CPU; pure."""

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """What the model is called with."""

    def outputs(self, model: nn.Module, batch: Batch, gather: Gather) -> Any:
        """What the model gives for a loss, by one pass or by several."""

    def sums(self, outputs: Any, batch: Batch, gather: Gather) -> Sums:
        """The loss of what the model gave."""

    def loss(self, model: nn.Module, batch: Batch, gather: Gather) -> Sums:
        """Both at once: what every strategy but a pipeline calls."""

    def after_step(self, model: nn.Module, step: int) -> None:
        """Called after each update, for what follows the weights (a teacher by moving average)."""

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """Metrics on data that is never trained on; deterministic, by one rank, without gradients."""

    def flops(self, model: nn.Module) -> float:
        """FLOPs that forward and backward of one row take (multiply and add count as two)."""

    def settings(self) -> dict[str, Any]:
        """What the model is built anew from when it is loaded: stored in the header of its weights."""

    def files(self) -> dict[str, bytes]:
        """Further files of the model's folder, such as a tokenizer."""

    def finished(self, weights: Weights) -> Weights:
        """Weights as they are published, with what else the model answers from: vectors of all pictures, histories."""


class BaseTask:
    """What most tasks have in common."""

    name = ""
    cross_sample = False
    one_pass = True
    begins_itself = False
    sequence: tuple[str, ...] = ()
    roles = Roles()
    metric = ""
    unit = "examples"
    unit_per_row = 1
    num_rows = 0

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """The tensor `inputs`."""
        return (batch["inputs"],)

    def outputs(self, model: nn.Module, batch: Batch, gather: Gather) -> Any:
        """One forward pass."""
        return model(*self.inputs(batch))

    def sums(self, outputs: Any, batch: Batch, gather: Gather) -> Sums:
        """To be given."""
        raise NotImplementedError

    def loss(self, model: nn.Module, batch: Batch, gather: Gather) -> Sums:
        """One forward pass and its sums."""
        batch = moved(batch, model)
        return self.sums(self.outputs(model, batch, gather), batch, gather)

    def after_step(self, model: nn.Module, step: int) -> None:
        """Nothing follows the weights."""

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """Nothing is measured."""
        return {}

    def flops(self, model: nn.Module) -> float:
        """Six a parameter and a position (forward two, backward four), lookups of tables not counted."""
        return self.unit_per_row * 6.0 * self.roles.num_multiplied(model)

    def settings(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def files(self) -> dict[str, bytes]:
        """None."""
        return {}

    def finished(self, weights: Weights) -> Weights:
        """As they are."""
        return weights


def alone(tensor: Tensor) -> Tensor:
    """The `Gather` of one process."""
    return tensor


def moved(batch: Batch, model: nn.Module) -> Batch:
    """A batch on the device of a model; what is there already is not copied."""
    where = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    return {name: tensor.to(where, non_blocking=True) for name, tensor in batch.items()}


def row_generator(seed: int, step: int, example: int) -> np.random.Generator:
    """The generator of one row: equal for equal numbers, wherever the row is computed."""
    return np.random.Generator(np.random.Philox(key=(seed & 0xFFFFFFFFFFFFFFFF), counter=[0, 0, step, example]))


@torch.no_grad()
def seeded(seed: int, build: Callable[[], nn.Module]) -> nn.Module:
    """Build a module under a seed of its own, and leave torch's generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()
