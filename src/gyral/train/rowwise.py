"""Rowwise Adagrad: one number a row is kept, and only rows whose gradient is not zero are updated.

    s(r) ← s(r) + mean of the squares of r's gradient        w(r) ← (1 − rate · decay) w(r) − rate · g(r) / (√s(r) + eps)

AdamW keeps two numbers a cell: 512 MB for a million rows of 64; this keeps 4 MB. AdamW also moves rows that nobody met, by
decay and by what is left of their momentum: that is what a step of it costs on a table. Here a row decays when it is met, so
rare ids keep what little they know. A row that was looked up but whose gradient is zero (its examples have no weight) counts as
not met, so it is the same whether gradients are those of touched rows (`gyral.train.parallel.touched`) or of a whole table.

A row whose columns lie on several ranks has one s: their squares are added over the ranks.

Shapes: V rows of a table, R of them touched, D width.

Source: Naumov et al., arXiv 1906.00091 (DLRM), and Khudia et al., arXiv 2101.05615 (FBGEMM): exact rowwise Adagrad; Duchi,
Hazan and Singer, JMLR 2011.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from gyral.train import layout
from gyral.train.parallel import touched
from gyral.train.parallel.local import is_spread, local


class RowwiseAdagrad(torch.optim.Optimizer):
    """For parameters [V, D], with gradients of all rows or of touched ones. State: `sum` [V], spread as the rows are."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {"lr": 1e-2, "eps": 1e-8, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update."""
        for group in self.param_groups:
            for param in group["params"]:
                gradient = touched.gradient_of(param)
                if gradient is None:
                    continue
                state = self.state[param]
                if "sum" not in state:
                    state["sum"] = layout.slot_like(param, "sum", (param.shape[0],), torch.float32)
                found = touched.of(param)
                rows_R = found.joined()[0] if found is not None and param.grad is None else None  # type: ignore[index]
                squares = torch.linalg.vector_norm(local(gradient), dim=1).square_()
                if (columns := columns_of(param)) is not None:
                    dist.all_reduce(squares, group=columns)
                update(local(param), local(state["sum"]), local(gradient), squares, param.shape[1], rows_R, group)


def update(
    weight_VD: Tensor, sums_V: Tensor, gradient_RD: Tensor, squares_R: Tensor, width: int, rows_R: Tensor | None,
    group: dict[str, Any],
) -> None:  # fmt: skip
    """One table, in place.

    Parameters
    ----------
    squares_R : the sum of squares of each row's whole gradient, `width` numbers.
    rows_R : which rows these are; None: all.
    """
    sums_R = sums_V if rows_R is None else sums_V.index_select(0, rows_R)
    sums_R += squares_R / width
    by_R1 = (-group["lr"] / (sums_R.sqrt() + group["eps"]))[:, None]
    weight_RD = weight_VD if rows_R is None else weight_VD.index_select(0, rows_R)
    if group["weight_decay"]:
        weight_RD *= (1 - group["lr"] * group["weight_decay"] * (squares_R > 0))[:, None]
    weight_RD.addcmul_(gradient_RD, by_R1)
    if rows_R is not None:
        sums_V.index_copy_(0, rows_R, sums_R)
        weight_VD.index_copy_(0, rows_R, weight_RD)


def columns_of(param: Tensor) -> dist.ProcessGroup | None:
    """The ranks that have other columns of the same rows."""
    if is_spread(param):
        for number, how in enumerate(param.placements):
            if how.is_shard(1):
                return param.device_mesh.get_group(number)
    return None
