"""The seam between the loop and how one step is computed, by one process or many.

    settle(step)              who takes part, and so which part of the global batch is ours; fixed before data is chosen
    forward_backward(batches) gradients of our part, *summed* over its targets, and the sums
    reduce(sums)              sums over everybody; gradients become those of the global mean. None: somebody was lost, and the
                              same step is done again by whoever is there
    clip(limit)               norm of the whole gradient, and the gradient scaled down to the limit
    commit(step)              after the update: what strategies do between steps (outer steps, healing a member that came back)
    state() / load(state)     what such a strategy must keep over a restart

`place` shards the plain model before the optimizer is made. A strategy never knows a family: it asks the roles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from gyral.config.training import Optim
from gyral.model.roles import Roles
from gyral.model.task import Batch, Gather, Sums, Task, alone, moved
from gyral.train.device import device
from gyral.train.loader import Part
from gyral.train.parallel import touched

Autocast = Callable[[], AbstractContextManager[object]]
"""Makes what a forward pass runs under: nothing, or matrix products in bf16."""


class Totals(NamedTuple):
    """Sums of a step over everybody, as plain numbers; `loss` and `metrics` are means over `weight` targets."""

    loss: float
    weight: float
    metrics: dict[str, float]


class Strategy(Protocol):
    """How one step is computed.

    Attributes
    ----------
    is_first : whether this process is the one that writes and tells: checkpoints, metrics, evaluation.
    num_ranks : processes that train together.
    evaluates : whether this process takes part when the model is evaluated; results of the first one count.
    """

    is_first: bool
    num_ranks: int
    evaluates: bool

    def place(self, task: Task, model: nn.Module) -> nn.Module: ...

    def optimizer(self, model: nn.Module, config: Optim, steps: int, roles: Roles) -> Any: ...

    def told(self) -> dict[str, Any]: ...

    def follow(self, optimizer: Any, position: Any, parts: Mapping[str, Any] = {}) -> None: ...

    def settle(self, step: int) -> Part: ...

    def forward_backward(self, batches: Sequence[Batch]) -> Sums: ...

    def reduce(self, sums: Sums) -> Totals | None: ...

    def clip(self, limit: float) -> float: ...

    def commit(self, step: int) -> None: ...

    def state(self) -> dict[str, Any]: ...

    def load(self, state: dict[str, Any]) -> None: ...

    def weights(self) -> dict[str, Tensor]: ...

    def to_evaluate(self) -> AbstractContextManager[nn.Module | None]: ...

    def close(self) -> None: ...


class Alone:
    """One process, no communication; the base of strategies that differ in a few of the steps."""

    is_first = True
    num_ranks = 1
    evaluates = True
    autocast: Autocast = nullcontext
    follows_rows = False
    """Tables have gradients of the rows that a step touches, and of no others (`touched`)."""

    def place(self, task: Task, model: nn.Module) -> nn.Module:
        """Move the model to this rank's device."""
        self.task, self.model = task, model.to(device())
        if self.follows_rows:
            touched.watch(self.model, task.roles)
        return self.model

    def optimizer(self, model: nn.Module, config: Optim, steps: int, roles: Roles) -> Any:
        """What turns gradients into updates of the placed model."""
        from gyral.train.optim import Optimizer

        return Optimizer(model, config, steps, roles)

    def told(self) -> dict[str, Any]:
        """What the summary of a run says of it."""
        return {}

    def follow(self, optimizer: Any, position: Any, parts: Mapping[str, Any] = {}) -> None:
        """Told once, before the first step, what a member that is healed gets beside weights: parts have a state. Nobody is."""

    def settle(self, step: int) -> Part:
        """All of it is ours."""
        return Part(0, 1)

    def forward_backward(self, batches: Sequence[Batch]) -> Sums:
        """One micro-batch after the other; gradients add up in `.grad`."""
        return accumulate(self.task, self.model, batches, autocast=self.autocast)

    def reduce(self, sums: Sums) -> Totals | None:
        """Divide by the weight."""
        return divided(self.model, sums)

    def clip(self, limit: float) -> float:
        """As torch does it, but gradients within the limit are not multiplied by one."""
        grads = grads_of(self.model)
        norm = float(nn.utils.get_total_norm(grads, foreach=True))
        if limit and not norm <= limit:
            torch._foreach_mul_(grads, limit / (norm + 1e-6))
        return norm

    def commit(self, step: int) -> None:
        """Nothing happens between steps."""

    def state(self) -> dict[str, Any]:
        """Nothing is kept."""
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """Nothing was kept."""

    def weights(self) -> dict[str, Tensor]:
        """All tensors of the whole model by name; every rank calls it together with the others."""
        return dict(self.model.state_dict())

    def to_evaluate(self) -> AbstractContextManager[nn.Module | None]:
        """The model that this process evaluates, or None where others do; every rank enters together with the others."""
        return nullcontext(self.model if self.evaluates else None)

    def close(self) -> None:
        """Nothing is open."""


def accumulate(
    task: Task,
    model: nn.Module,
    batches: Sequence[Batch],
    gather: Gather = alone,
    autocast: Autocast = nullcontext,
    passes: int = 0,
    between: Sequence[Callable[[bool], None]] = (),
) -> Sums:
    """Forward and backward of micro-batches; their sums together, without graph.

    Parameters
    ----------
    passes : to be made, at least as many as there are batches: the last one is repeated without weight, for the company of
        ranks that have more.
    between : called before each pass with whether it is the last.
    """
    total: Sums | None = None
    passes = max(passes, len(batches))
    for number in range(passes):
        for each in between:
            each(number == passes - 1)
        batch = moved(batches[min(number, len(batches) - 1)], model)
        with autocast():
            sums = task.loss(model, batch, gather)
        if number < len(batches):
            sums.loss.backward()
            total = added(total, sums)
        else:
            (sums.loss * 0.0).backward()
    if total is None:  # fewer rows than ranks
        zero = torch.zeros(())
        return Sums(zero, zero)
    return total


def added(total: Sums | None, sums: Sums) -> Sums:
    """The sum of two, detached."""
    loss, weight = sums.loss.detach(), sums.weight.detach()
    metrics = {name: value.detach() for name, value in sums.metrics.items()}
    if total is None:
        return Sums(loss, weight, metrics)
    return Sums(
        total.loss + loss, total.weight + weight, {name: total.metrics[name] + value for name, value in metrics.items()}
    )


_params: WeakKeyDictionary[nn.Module, list[nn.Parameter]] = WeakKeyDictionary()


def grads_of(model: nn.Module) -> list[Tensor]:
    """Gradients of a placed model; its parameters are looked for once, which takes as long as a small step."""
    if model not in _params:
        _params[model] = list(model.parameters())
    return [grad for param in _params[model] if (grad := touched.gradient_of(param)) is not None]


def divided(model: nn.Module, sums: Sums) -> Totals:
    """Turn summed gradients into those of the mean, and sums into numbers."""
    weight = float(sums.weight)
    if weight > 0:
        torch._foreach_div_(grads_of(model), weight)
    return totals_of(sums)


def totals_of(sums: Sums) -> Totals:
    """Sums as numbers."""
    weight = float(sums.weight)
    by = weight or 1.0
    return Totals(float(sums.loss) / by, weight, {name: float(value) / by for name, value in sums.metrics.items()})


def flat_sums(sums: Sums) -> Tensor:
    """Sums as one vector of float64, to be reduced: loss, weight, metrics in order."""
    return torch.stack([each.detach().double().reshape(()) for each in (sums.loss, sums.weight, *sums.metrics.values())])


def from_flat(flat: Tensor, like: Sums) -> Sums:
    """The way back."""
    return Sums(flat[0], flat[1], dict(zip(like.metrics, flat[2:], strict=True)))
