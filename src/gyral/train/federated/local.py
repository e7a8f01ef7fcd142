"""What some devices learn from their own data, all at once: a model each, their gradients by one vectorized pass.

A device takes a few steps of plain gradient descent over all of its history. Thousands are simulated by few tensor operations
(`torch.func.vmap` over models *and* data): 64 shop customers with 120,755 parameters each take 44 ms a step on one core, and
gradients equal those of one model alone to the last bit. A process a device would take a second to start.

Shapes: C devices, P parameters of the model, flat.

Source: McMahan et al., Communication-efficient learning of deep networks from decentralized data, AISTATS 2017.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from gyral.model.task import alone
from gyral.model.tasks.history import NextBasket

TINY = 1e-12


class Learned(NamedTuple):
    """What some devices have to say: how far their models `moved`, float32 [C, P], and their `loss` before, [C]."""

    moved: Tensor
    loss: Tensor


class Layout:
    """Parameters of a model as one flat vector, and how fast each of them is learned on a device."""

    def __init__(self, model: nn.Module) -> None:
        rates = getattr(model, "rates", {})
        self.names, self.shapes, parts = [], [], []
        for name, param in model.named_parameters():
            self.names.append(name)
            self.shapes.append(param.shape)
            parts.append(torch.full((param.numel(),), float(rates.get(name, 1.0))))
        self.rates_P = torch.cat(parts)
        self.is_matrix_P = torch.cat([torch.full((shape.numel(),), len(shape) > 1) for shape in self.shapes])

    @property
    def size(self) -> int:
        """Parameters in all."""
        return len(self.rates_P)

    def flat(self, model: nn.Module) -> Tensor:
        """A copy, [P]."""
        return torch.cat([param.detach().reshape(-1) for param in model.parameters()])

    def named(self, flat: Tensor) -> dict[str, Tensor]:
        """Views of [P] or [C, P] by name."""
        sizes = [shape.numel() for shape in self.shapes]
        parts = torch.split(flat, sizes, dim=-1)
        return {
            name: part.view(*flat.shape[:-1], *shape) for name, shape, part in zip(self.names, self.shapes, parts, strict=True)
        }


def learn(
    task: NextBasket, model: nn.Module, layout: Layout, common_P: Tensor, examples: np.ndarray, steps: int, rate: float
) -> Learned:
    """Let some devices begin from the server's model and go on alone.

    Parameters
    ----------
    model : gives the form only; its own values do not count, and it is not changed.
    examples : of the task, one a device, int64 [C].
    """
    batch = task.batch(examples, 0)
    inputs, weights = task.inputs(batch), batch["weights"]

    def loss_of(own: dict[str, Tensor], items: Tensor, weight: Tensor, again: Tensor, targets: Tensor) -> Tensor:
        one = {"items": items[None], "weights": targets[None]}
        sums = task.sums(functional_call(model, own, (items[None], weight[None], again[None])), one, alone)
        return torch.div(sums.loss, sums.weight.clamp(min=TINY))

    many: Callable[..., Any] = vmap(grad_and_value(loss_of))
    own_CP = common_P.expand(len(examples), -1).clone()
    first: Tensor | None = None
    for _ in range(steps):
        grads, loss_C = many(layout.named(own_CP), *inputs, weights)
        first = loss_C if first is None else first
        moved = torch.cat([grads[name].reshape(len(examples), -1) for name in layout.names], dim=1)
        own_CP.addcmul_(moved, layout.rates_P, value=-rate)
    return Learned(own_CP - common_P, first if first is not None else torch.zeros(len(examples)))
