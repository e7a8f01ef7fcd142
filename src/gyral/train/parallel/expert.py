"""The axis `expert`: ranks have different rows and different experts; tokens go where their experts are and come back.

Whole experts lie on one rank each, so a step sends 4 N K D numbers a rank and mixture (there and back, forward and backward),
less the 1 / W that stays, and no gradient of an expert at all. Everything else of the model is as with `data`.
"""

from __future__ import annotations

from types import MethodType
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gyral.errors import ConfigError
from gyral.model.nets.moe import Experts
from gyral.train.parallel.exchange import exchanged, exchanged_counts

if TYPE_CHECKING:
    from gyral.train.parallel.meshed import Plan


def place(model: nn.Module, plan: Plan) -> None:
    """Keep our experts of each mixture, and reach the others by exchange.

    Raises
    ------
    ConfigError : there are none, or they cannot be spread evenly.
    """
    mesh = plan.mesh["expert"]
    group, size, rank = mesh.get_group(), mesh.size(), mesh.get_local_rank()
    mixtures = [(name, module) for name, module in model.named_modules() if isinstance(module, Experts)]
    if not mixtures:
        raise ConfigError("this model has no experts", where="train.parallel", hint="`--set lm.experts=8`, or no axis `expert`")
    for name, mixture in mixtures:
        if mixture.num % size:
            allowed = ", ".join(str(number) for number in range(1, mixture.num + 1) if mixture.num % number == 0)
            what = f"`train.parallel.expert = {size}` does not divide the model's {mixture.num} experts"
            raise ConfigError(what, where="train.parallel", hint=f"use one of {allowed}")
        share = mixture.num // size
        for number in range(mixture.num):
            if number // share != rank:
                del mixture.experts[str(number)]
        for parameter, _ in mixture.experts.named_parameters():
            plan.split[f"{name}.experts.{parameter}"] = ("expert",)
        mixture.exchange = MethodType(_exchange_over(group), mixture)  # type: ignore[method-assign]
    plan.together.add("expert")
    plan.missing.add("expert")


def _exchange_over(group: dist.ProcessGroup):  # type: ignore[no-untyped-def]
    """`Experts.exchange` where experts lie on the ranks of a group."""
    size = dist.get_world_size(group)

    def exchange(self: Experts, x_SD: Tensor, num_E: Tensor) -> Tensor:
        num_here = self.num // size
        send_WE = num_E.view(size, num_here)
        receive_WE = exchanged_counts(send_WE, group)
        send, receive = send_WE.sum(1).tolist(), receive_WE.sum(1).tolist()
        x_RD = exchanged(x_SD, send, receive, group)
        expert_R = torch.arange(num_here, device=x_SD.device).repeat(size).repeat_interleave(receive_WE.reshape(-1))
        order_R = expert_R.argsort(stable=True)
        y_RD = self.compute(x_RD[order_R], receive_WE.sum(0).tolist())
        return exchanged(y_RD[order_R.argsort()], receive, send, group)

    return exchange
