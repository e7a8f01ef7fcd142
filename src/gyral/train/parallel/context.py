"""The axis `context`: each rank has a part of every sequence; attention sees the keys and values of all.

A sequence of T is cut into 2 W pieces and rank r has pieces r and 2 W − 1 − r. A piece attends to what lies before its end and
no further, so every rank computes (2 W + 1) / 4 W of the square: 5/8 for W = 2, where a plain cut keeps the last rank busy
with all of it. Keys and values are gathered, and backward each rank is sent what the others say of its own: 4 N (W − 1) numbers
a block and rank, N those of its keys. torch's own experimental `context_parallel` has no sharding rule for attention on
processors. A model whose rows hold several documents says who sees whom by `mask_of`, which is replaced too.

Source: the two-ended cut is that of Dubey et al. 2024 (Llama 3), section 3.3.2; so is gathering keys and values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from gyral.errors import ConfigError
from gyral.model.nets.moe import Experts
from gyral.model.roles import pattern_of
from gyral.model.task import Batch

if TYPE_CHECKING:
    from gyral.train.parallel.meshed import Plan


def place(model: nn.Module, plan: Plan) -> None:
    """Let attention see the whole sequence, and the balance of experts count it.

    Raises
    ------
    ConfigError : the task has no sequence, or its model no attention.
    """
    task, mesh = plan.task, plan.mesh["context"]
    if not task.sequence or not task.roles.attention:
        raise ConfigError(f"the task {task.name} has no sequence that could be cut", where="train.parallel", hint="use `data`")
    pattern = pattern_of(task.roles.attention)
    for name, module in model.named_modules():
        if pattern.fullmatch(name):
            module.attend = _attend_over(mesh.get_group())
        if isinstance(module, Experts):
            module.whole_rows = _whole_rows_over(mesh.get_group())  # type: ignore[assignment, method-assign]
    if hasattr(model, "mask_of"):
        model.mask_of = _mask_over(mesh.get_group())  # type: ignore[assignment]
    plan.cuts.append(lambda batch: cut(batch, task.sequence, mesh.get_local_rank(), mesh.size()))


def cut(batch: Batch, names: tuple[str, ...], rank: int, size: int) -> Batch:
    """Our two pieces of each sequence; a batch without sequences of this name is left as it is.

    Raises
    ------
    ConfigError : the length is no multiple of 2 W.
    """
    found = dict(batch)
    for name in names:
        if name not in batch:
            continue
        length = batch[name].shape[1]
        if length % (2 * size):
            what = f"a sequence of {length} cannot be cut into {2 * size} equal pieces"
            raise ConfigError(what, where="train.parallel", hint=f"use a length that {2 * size} divides, or another mesh")
        pieces = batch[name].chunk(2 * size, dim=1)
        found[name] = torch.cat([pieces[rank], pieces[2 * size - 1 - rank]], dim=1)
    return found


def _attend_over(group: dist.ProcessGroup) -> Callable[..., Tensor]:
    """Causal attention of two pieces to the whole sequence; of it to what a mask [B, 1, T / W, T] says, where there is one."""
    size, rank = dist.get_world_size(group), dist.get_rank(group)

    def attend(query_BHTE: Tensor, key_BKTE: Tensor, value_BKTE: Tensor, mask: Tensor | None = None) -> Tensor:
        key, value = in_order(whole(torch.stack([key_BKTE, value_BKTE]), group), dim=3)
        is_grouped = query_BHTE.shape[1] != key.shape[1]
        length = query_BHTE.shape[2] // 2
        masks = (None, None) if mask is None else mask.chunk(2, dim=2)
        seen = []
        for piece, query, own in zip((rank, 2 * size - 1 - rank), query_BHTE.chunk(2, dim=2), masks, strict=True):
            end = (piece + 1) * length
            if own is None:
                sees = torch.ones(length, end, dtype=torch.bool, device=query.device).tril(end - length)
            else:
                sees = own[..., :end]
            seen.append(F.scaled_dot_product_attention(query, key[:, :, :end], value[:, :, :end], sees, enable_gqa=is_grouped))
        return torch.cat(seen, dim=2)

    return attend


def _mask_over(group: dist.ProcessGroup) -> Callable[[Tensor], Tensor]:
    """Which places of the whole sequence ours see, bool [B, 1, T / W, T]: those before, of the same document."""
    size, rank = dist.get_world_size(group), dist.get_rank(group)

    def mask_of(documents_BT: Tensor) -> Tensor:
        every_BT = in_order(whole(documents_BT, group), dim=1)
        at = torch.arange(every_BT.shape[1], device=every_BT.device)
        pieces = at.chunk(2 * size)
        own = torch.cat([pieces[rank], pieces[2 * size - 1 - rank]])
        return ((documents_BT[:, :, None] == every_BT[:, None, :]) & (own[:, None] >= at))[:, None]

    return mask_of


def _whole_rows_over(group: dist.ProcessGroup) -> Callable[[Tensor, int], tuple[Tensor, int]]:
    def whole_rows(num_BE: Tensor, length: int) -> tuple[Tensor, int]:
        dist.all_reduce(num_BE, group=group)
        return num_BE, length * dist.get_world_size(group)

    return whole_rows


def in_order(parts: Tensor, dim: int) -> Tensor:
    """Two pieces of each rank, [W, …], as one sequence; `dim` is that of a rank's tensor."""
    first, second = parts.chunk(2, dim=dim + 1)
    return torch.cat([*first.unbind(), *second.flip(0).unbind()], dim=dim)


def whole(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Every rank's tensor, [W, …]; the gradient of ours is the sum of what all say of it."""
    found: Tensor = _Whole.apply(x, group)
    return found


class _Whole(torch.autograd.Function):
    """All-gather; backward each rank adds what all say of its part (gloo's reduce-scatter sends twice that)."""

    @staticmethod
    def forward(context, x, group):  # type: ignore[no-untyped-def]
        context.group = group
        found = x.new_empty(dist.get_world_size(group) * x.shape[0], *x.shape[1:])
        dist.all_gather_single(found, x.contiguous(), group=group)
        return found.view(-1, *x.shape)

    @staticmethod
    def backward(context, gradient):  # type: ignore[no-untyped-def]
        said = torch.empty_like(gradient, memory_format=torch.contiguous_format)
        dist.all_to_all_single(said, gradient.contiguous(), group=context.group)
        return said.sum(dim=0), None
