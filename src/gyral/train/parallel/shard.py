"""The axis `shard`: each rank keeps a part of every weight, gradient and optimizer state (FSDP2, a unit a block).

`train.sharding` chooses what is paid. Bytes that the ranks send a step, all together, over W ranks, with P the model's bytes, R
those outside the blocks and m micro-batches:

    weights   m (3 P − R) (W − 1)   a block's weights are fetched forward and again backward, its gradients are added after each
                                    pass; a rank holds 1/W of all and one block: the least memory
    states    2 P (W − 1)           weights are fetched once and kept until the last backward pass, gradients are added once:
                                    what `data` sends; a rank holds 1/W of the optimizer's state, the rest whole

Gradients are summed, never averaged: the one division is by the step's weight. gloo's reduce-scatter sends twice what it needs
(measured: it is an all-reduce), so on processors an all-to-all does it.

Source: Rajbhandari et al. 2020 (ZeRO), sections 5.2 and 5.3; torch's `fully_shard`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.fsdp._fully_shard._fsdp_api import ReduceScatter
from torch.distributed.tensor import Replicate, distribute_tensor

from gyral.train import device
from gyral.train.parallel.local import local, on_local

if TYPE_CHECKING:
    from gyral.train.parallel.meshed import Plan


def place(model: nn.Module, plan: Plan) -> None:
    """Shard each block, and the rest as one unit."""
    mesh = plan.mesh["shard"]
    keeps_weights = plan.train.sharding == "states"
    policy = MixedPrecisionPolicy()
    if device.is_bf16(plan.train.precision):
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    scalars = keep_scalars(model, plan) | plan.apart
    for _, block in plan.task.roles.units(model):
        fully_shard(block, mesh=mesh, reshard_after_forward=not keeps_weights, mp_policy=policy, ignored_params=scalars)
    fully_shard(model, mesh=mesh, reshard_after_forward=False, mp_policy=policy, ignored_params=scalars)
    units = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for unit in units:
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)
        if device.kind() == "cpu":
            unit.set_custom_reduce_scatter(AllToAll())
    if keeps_weights:
        plan.between.append(lambda is_last: settle(units, is_last))


def keep_scalars(model: nn.Module, plan: Plan) -> set[nn.Parameter]:
    """Numbers cannot be cut: each rank keeps them, as DTensors of the mesh that the other parameters will be on."""
    axes = tuple(axis for axis in plan.axes if axis in ("shard", "tensor"))
    kept = set()
    for module in model.modules():
        own = [(name, param) for name, param in module.named_parameters(recurse=False) if param.dim() == 0]
        for name, param in own:
            data = distribute_tensor(local(param.detach()), plan.mesh[axes], [Replicate()] * len(axes), src_data_rank=None)
            setattr(module, name, placed := nn.Parameter(data, requires_grad=param.requires_grad))
            kept.add(placed)
        if own and "tensor" not in axes:
            module.forward = on_local(module)
    return kept


def settle(units: Sequence[FSDPModule], is_last: bool) -> None:
    """Before the last pass of a step, tell the units to add gradients over ranks and let go of weights after it."""
    for unit in units:
        unit.set_requires_gradient_sync(is_last, recurse=False)
        unit.set_reshard_after_backward(is_last, recurse=False)


@contextmanager
def fetched(model: nn.Module) -> Iterator[nn.Module]:
    """A sharded model with the weights outside its blocks, for an evaluation that calls its parts, and has no backward pass."""
    cast(FSDPModule, model).unshard()
    try:
        yield model
    finally:
        release(model)


def release(model: nn.Module) -> None:
    """Let go of weights that were fetched; afterwards the model's parameters are the rank's parts."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


class AllToAll(ReduceScatter):
    """Reduce-scatter as an all-to-all and a sum: each rank sends its P (W − 1) / W once."""

    def allocate(self, size: Sequence[Any], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """A new tensor."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, op: Any, async_op: bool = False
    ) -> dist.Work | None:
        """Sum into `output_tensor` the parts that are ours."""
        parts = torch.empty_like(input_tensor)
        dist.all_to_all_single(parts, input_tensor, group=group)
        torch.sum(parts.view(group.size(), -1), dim=0, out=output_tensor.view(-1))
        return None
