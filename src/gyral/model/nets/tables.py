"""Embedding tables of recommenders: vectors by id, a bag of ids at once.

`rows` is the one method that reads the table, so that a table spread over ranks replaces it alone. A network that multiplies
with the whole table (scores of all items) must give it another role than `table`: it is not read by id.

Shapes: B bags, L ids of each, D width.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

NO_ID = -1
"""Fills bags that are shorter than others."""

Pooling = Literal["sum", "mean", "none"]


class Table(nn.Module):
    """A vector for each id.

    Parameters
    ----------
    num, width : ids, and how long their vectors are.
    pooling : what a bag gives: the sum or mean of its vectors, or each of them.
    """

    def __init__(self, num: int, width: int, pooling: Pooling = "sum") -> None:
        super().__init__()
        self.pooling = pooling
        self.weight = nn.Parameter(nn.init.normal_(nn.Linear(width, num, bias=False).weight.detach(), std=width**-0.5))

    def forward(self, ids_BL: Tensor) -> Tensor:
        """Vectors of bags, [B, D], or [B, L, D] without pooling; `NO_ID` counts for nothing."""
        is_id = (ids_BL != NO_ID).unsqueeze(-1)
        x_BLD = self.rows(ids_BL.clamp(min=0)) * is_id
        if self.pooling == "none":
            return x_BLD
        x_BD = x_BLD.sum(dim=1)
        return x_BD / is_id.sum(dim=1).clamp(min=1) if self.pooling == "mean" else x_BD

    def rows(self, ids: Tensor) -> Tensor:
        """Vectors of ids of any shape, [..., D]."""
        return F.embedding(ids, self.weight)
