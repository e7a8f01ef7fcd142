"""What turns gradients into updates: parameter groups, the schedule of the rate, and the optimizer.

Matrices decay, vectors (norms, biases) do not. The rate of a step is a function of the step alone.

Source: AdamW is Loshchilov and Hutter 2019; the warm-up, stable, decay schedule is that of Hu et al. 2024 (MiniCPM), section 4.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from gyral.config.training import Optim


class Optimizer:
    """The optimizer of one model and its schedule.

    Parameters
    ----------
    model : placed: its parameters are those that this rank holds.
    steps : of the whole run; the schedule ends there.
    """

    def __init__(self, model: nn.Module, config: Optim, steps: int) -> None:
        self.config, self.steps = config, steps
        decayed = [param for param in model.parameters() if param.requires_grad and param.dim() >= 2]
        plain = [param for param in model.parameters() if param.requires_grad and param.dim() < 2]
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.inner = torch.optim.AdamW(
            [each for group in groups for each in by_mesh(group)], lr=config.rate, betas=(config.beta1, config.beta2),
            eps=config.eps, fused=True
        )  # fmt: skip

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        return self.config.rate * schedule(self.config, step, self.steps)

    def step(self, step: int) -> None:
        """Update with the rate of this step."""
        for group in self.inner.param_groups:
            group["lr"] = self.rate(step) * group.get("scale", 1.0)
        self.inner.step()

    def zero_grad(self) -> None:
        """Forget gradients."""
        self.inner.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return self.inner.state_dict()


def by_mesh(group: dict[str, Any]) -> list[dict[str, Any]]:
    """A group of parameters as one for each mesh they are spread over: plain tensors and DTensors are not updated together."""
    found: dict[Any, list[nn.Parameter]] = {}
    for param in group["params"]:
        found.setdefault(getattr(param, "device_mesh", None), []).append(param)
    return [{**group, "params": params} for params in found.values()]


def schedule(config: Optim, step: int, steps: int) -> float:
    """Factor on the rate: up over `warmup` steps, then `constant`, `cosine`, or `wsd` (down over the last `decay` share)."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "cosine":
        done = (step - config.warmup) / max(steps - config.warmup, 1)
        return config.final + (1 - config.final) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    left = (steps - step) / max(config.decay * steps, 1.0)
    return config.final + (1 - config.final) * min(left, 1.0)
