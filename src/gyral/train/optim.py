"""What turns gradients into updates: parameter groups by role, the schedule of the rate, and the optimizer.

Matrices decay, vectors (norms, biases) do not. The rate of a step is a function of the step alone. There is one optimizer
whatever is chosen, so a checkpoint knows one state: groups marked `muon` or `rows` are updated otherwise than by AdamW.

With `base_width` the rate chosen at a small width holds at a larger one. With r = base_width / width:

| parameters | initial values | rate |
|---|---|---|
| matrices inside the network (`column`, `row`, `expert`) | times √r | times r (Muon: times √r) |
| gain before the output (the last norm), or an untied output matrix where there is none | times r | times r |
| embeddings, tables, other vectors | as they are | as it is |

Scaling that gain is the same as µP's multiplier on the logits, because Adam's update does not depend on the size of a gradient;
but the trained weights are those of a plain model, so whoever serves or exports them need not know. Decay is divided by the
factor on the rate: what a step takes off a weight stays the same.

Source: AdamW is Loshchilov and Hutter 2019; the warm-up, stable, decay schedule is that of Hu et al. 2024 (MiniCPM), section
4; Muon is Jordan et al. 2024, with the rate of Liu et al. 2025 (Moonlight), section 2.2, that makes its updates as large as
Adam's; width scaling is Yang et al. 2022 (Tensor Programs V), table 3, with the decay of Wang and Aitchison 2024.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gyral.config.training import Optim
from gyral.errors import ConfigError
from gyral.model.roles import Role, Roles, own
from gyral.train.muon import Muon
from gyral.train.parallel import touched
from gyral.train.rowwise import RowwiseAdagrad

HIDDEN: tuple[Role, ...] = ("column", "row", "expert")
"""Roles of matrices inside the network: both of their sides grow with the width."""


class Optimizer:
    """The optimizer of one model and its schedule.

    Parameters
    ----------
    model : placed: its parameters are those that this rank holds.
    steps : of the whole run; the schedule ends there.
    roles : of the model; without them every matrix is treated alike.
    has_rows : whether tables that are updated by row are this one's.
    """

    def __init__(self, model: nn.Module, config: Optim, steps: int, roles: Roles | None = None, has_rows: bool = True) -> None:
        self.config, self.steps = config, steps
        groups = [group for group in groups_of(model, config, roles or Roles()) if has_rows or group["by"] != "rows"]
        is_plain = all(group["by"] == "adamw" for group in groups)
        self.inner: torch.optim.Optimizer = torch.optim.AdamW(groups, fused=True) if is_plain else Several(groups)

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        return self.config.rate * schedule(self.config, step, self.steps)

    def step(self, step: int) -> None:
        """Update with the rate of this step."""
        rate = self.rate(step)
        for group in self.inner.param_groups:
            group["lr"] = rate * group["scale"]
        self.inner.step()

    def zero_grad(self) -> None:
        """Forget gradients."""
        for group in self.inner.param_groups:
            for param in group["params"]:
                touched.forget(param)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return self.inner.state_dict()

    def load(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.inner.load_state_dict(state)


class Several(torch.optim.Optimizer):
    """Muon for groups marked `muon`, rowwise Adagrad for `rows`, fused AdamW for `adamw`; state and groups are those of one.

    Matrices of Muon must be whole: a rank that holds some rows of one would make those orthogonal and not the matrix.
    """

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {"lr": 1e-3})
        self._parts: list[tuple[str, torch.optim.Optimizer]] = []
        for by, make in MAKERS.items():
            if own_groups := [group for group in self.param_groups if group["by"] == by]:
                self._parts.append((by, make(own_groups)))
        self.param_groups = [group for _, part in self._parts for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update; whoever loads a state replaces groups and state of this object, so the parts get them anew."""
        for by, part in self._parts:
            part.param_groups = [group for group in self.param_groups if group["by"] == by]
            part.state = self.state
            part.step()


MAKERS: dict[str, Callable[[list[dict[str, Any]]], torch.optim.Optimizer]] = {
    "muon": Muon,
    "rows": RowwiseAdagrad,
    "adamw": lambda groups: torch.optim.AdamW(groups, fused=True),
}
"""What updates groups of a mark."""


def groups_of(model: nn.Module, config: Optim, roles: Roles) -> list[dict[str, Any]]:
    """Parameters that share rate and decay, in the order of the model.

    Raises
    ------
    ConfigError : `base_width` is given, but no matrix tells the width of the model; or Muon is to update parts of matrices.
    """
    ratio = ratio_of(model, roles, config.base_width)
    if config.name == "muon" and any(hasattr(param, "device_mesh") for param in model.parameters()):  # a DTensor
        why, hint = "a part of a matrix would be made orthogonal by itself", "use `adamw`, or only `data` and `pipeline` axes"
        raise ConfigError("Muon needs whole matrices", why=why, where="train.optim.name", hint=hint)
    followed = [module for _, module in roles.named(model, "table")] if config.tables == "rowwise_adagrad" else []
    rows = {id(param) for module in followed for param in own(module)}
    groups: dict[tuple[str, float, bool, Any], list[Tensor]] = {}
    for _, param, kind in kinds(model, roles):
        if not param.requires_grad:
            continue
        by = "muon" if config.name == "muon" and kind == "hidden" and param.dim() == 2 else "adamw"
        scale = 1.0 if kind == "plain" else math.sqrt(ratio) if by == "muon" else ratio
        if id(param) in rows:
            by, scale = "rows", (config.table_rate or config.rate) / config.rate
        spread = getattr(param, "device_mesh", None)  # plain tensors and DTensors are not updated together
        groups.setdefault((by, scale, param.dim() >= 2, spread), []).append(param)
    return [
        {
            "params": params,
            "lr": config.rate * scale,
            "weight_decay": config.weight_decay / scale if decays else 0.0,
            "scale": scale,
            "by": by,
            **({} if by == "muon" else {"betas": (config.beta1, config.beta2), "eps": config.eps}),
        }
        for (by, scale, decays, _), params in groups.items()
    ]


@torch.no_grad()
def scale_initial(model: nn.Module, config: Optim, roles: Roles) -> None:
    """Make a new model's initial values those of its width; before it is placed. Without `base_width` they stay."""
    ratio = ratio_of(model, roles, config.base_width)
    if ratio == 1.0:
        return
    for _, param, kind in kinds(model, roles):
        if kind != "plain":
            param.mul_(math.sqrt(ratio) if kind == "hidden" else ratio)


def kinds(model: nn.Module, roles: Roles) -> Iterator[tuple[str, Tensor, str]]:
    """Each parameter once, with its name and how it grows with the width: `hidden`, `output` or `plain`."""
    logits = {id(param) for _, module in roles.named(model, "logits") for param in own(module)}
    inputs = {id(param) for _, module in roles.named(model, "vocabulary", "table") for param in own(module)}
    gains = {
        id(param)
        for name, module, role in roles.modules(model)
        if name in roles.last and role == "replicate"
        for param in own(module)
        if param.dim() == 1
    }
    outputs = gains or logits - inputs
    seen: set[int] = set()
    for name, module, role in roles.modules(model):
        for part, param in module.named_parameters(recurse=False):
            if id(param) in seen:
                continue
            seen.add(id(param))
            is_hidden = role in HIDDEN and param.dim() >= 2
            yield f"{name}.{part}", param, "hidden" if is_hidden else "output" if id(param) in outputs else "plain"


def ratio_of(model: nn.Module, roles: Roles, base_width: int) -> float:
    """Base width over the model's, which is the number of inputs of its first `column`; 1 without a base."""
    if not base_width:
        return 1.0
    found = roles.named(model, "column")
    if not found:
        raise ConfigError(
            "the width of this model is not known",
            where="train.optim.base_width",
            hint="set it to 0, or give a module the role `column`",
        )
    return base_width / int(next(own(found[0][1])).shape[-1])


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
