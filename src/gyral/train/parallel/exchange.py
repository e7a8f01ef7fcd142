"""Rows from every rank to every rank, differentiable: what experts and sharded tables are reached by.

One call a direction. gloo has `all_to_all_single` with unequal parts; gradients take the way back.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor


def exchanged(x: Tensor, send: Sequence[int], receive: Sequence[int], group: dist.ProcessGroup | None) -> Tensor:
    """Rows for us from all ranks in their order.

    Parameters
    ----------
    x : [sum of send, …], those for rank 0 first.
    send, receive : how many rows go to and come from each rank.
    """
    rows: Tensor = _Exchanged.apply(x, list(send), list(receive), group)
    return rows


def exchanged_counts(counts: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """What every rank says of us: row r of an int64 [W, …] goes to rank r."""
    got = torch.empty_like(counts)
    dist.all_to_all_single(got, counts.contiguous(), group=group)
    return got


class _Exchanged(torch.autograd.Function):
    """Forward by `send` and `receive`, backward by the two swapped."""

    @staticmethod
    def forward(context, x, send, receive, group):  # type: ignore[no-untyped-def]
        context.send, context.receive, context.group = send, receive, group
        return _exchange(x, send, receive, group)

    @staticmethod
    def backward(context, gradient):  # type: ignore[no-untyped-def]
        return _exchange(gradient, context.receive, context.send, context.group), None, None, None


def _exchange(x: Tensor, send: list[int], receive: list[int], group: dist.ProcessGroup | None) -> Tensor:
    got = x.new_empty(sum(receive), *x.shape[1:])
    dist.all_to_all_single(got, x.contiguous(), receive, send, group=group)
    return got
