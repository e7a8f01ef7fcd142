"""Full softmax over a table whose rows lie on several ranks: each scores its own rows, and the sums of exponentials are added.

Ranks have other rows of the batch, so states travel: every rank is given all states [G, D], multiplies them with its own V / W
rows, and of the logits only three numbers a state are reduced: the largest, the sum of exponentials, the target's own. A rank's
matrix of logits is as large as without spreading ([N, V] there, [W N, V / W] here); the table and its gradient are 1 / W.

What one rank sends a step, over W ranks, each times (W − 1) / W: 3 G D numbers for states and their gradients (a gather, and an
all-reduce of what each says of all states), and 2 · 4 G for the reductions. Fetching the table instead would be 3 V D.

Shapes: N states of this rank, G of all ranks, D width, V rows of this rank, W ranks.

Source: Shoeybi et al. 2019 (Megatron-LM), section 3: parallel cross-entropy.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from gyral.train.parallel.data import gathered

Rows = Callable[[], tuple[Tensor, Tensor]]
"""This rank's rows of the table [V, D] and of the bias [V]."""


def nats_over(group: dist.ProcessGroup, first: int, rows: Rows) -> Callable[[Tensor, Tensor], Tensor]:
    """The cross-entropy of states [N, D] with targets [N] (ids of the whole table), in nats, [N].

    Parameters
    ----------
    first : id of this rank's first row.
    """

    def nats(x_ND: Tensor, targets_N: Tensor) -> Tensor:
        rank = torch.full_like(targets_N, dist.get_rank(group))
        told_G2 = gathered(torch.stack([targets_N, rank], dim=1), group)
        weight_VD, bias_V = rows()
        logits_GV = F.linear(gathered(x_ND, group), weight_VD, bias_V).float()
        found: Tensor = _Nats.apply(logits_GV, told_G2[:, 0] - first, told_G2[:, 1] == dist.get_rank(group), group)
        return found

    return nats


class _Nats(torch.autograd.Function):
    """Parts of logits → nats of our own states; backward, every rank learns what all losses say of its part."""

    @staticmethod
    def forward(context, logits_GV, own_G, is_mine_G, group):  # type: ignore[no-untyped-def]
        num = logits_GV.shape[1]
        most_G = logits_GV.amax(1) if num else logits_GV.new_full((len(logits_GV),), float("-inf"))
        dist.all_reduce(most_G, dist.ReduceOp.MAX, group=group)
        share_GV = (logits_GV - most_G[:, None]).exp_()
        at = torch.nonzero((own_G >= 0) & (own_G < num)).squeeze(1)
        sums_2G = torch.stack([share_GV.sum(1), torch.zeros_like(most_G)])
        sums_2G[1, at] = logits_GV[at, own_G[at]]
        dist.all_reduce(sums_2G, group=group)
        share_GV /= sums_2G[0, :, None]
        context.save_for_backward(share_GV, own_G, at, is_mine_G)
        context.group = group
        return (sums_2G[0].log() + most_G - sums_2G[1])[is_mine_G]

    @staticmethod
    def backward(context, gradient_N):  # type: ignore[no-untyped-def]
        share_GV, own_G, at, is_mine_G = context.saved_tensors
        gradient_G = gradient_N.new_zeros(len(own_G))
        gradient_G[is_mine_G] = gradient_N
        dist.all_reduce(gradient_G, group=context.group)
        found_GV = share_GV * gradient_G[:, None]
        found_GV[at, own_G[at]] -= gradient_G[at]
        return found_GV, None, None, None
