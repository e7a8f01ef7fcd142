"""A feed-forward part of several experts, of which a router chooses a few for each token.

No token is dropped and no expert has a capacity: rows are sorted by expert, and each expert computes what came. That keeps the
result of a token apart from what else is in its batch, so any split of a batch adds up.

The balance of the load is a *sum* too. What is common elsewhere, share of tokens times mean probability over the batch, is a
product of two means and changes with the micro-batch. Here it is taken over each row (a sequence) alone and weighs the row's
tokens, so rows add up. Its gradient is added where the router is (`_Also`) and not in the task: a task knows of no experts, and
a stage of a pipeline has no other way to the loss. The loss that is told is that of the task.

Experts are modules by number; a rank that holds some of them has the same module with others deleted, so names stay.

Shapes: B rows, T positions, D width, N = B T tokens, E experts, K chosen for each token, S = N K pairs of token and expert.

Source: Shazeer et al. 2017; Jiang et al. 2024 (Mixtral): the weights of those chosen are made to add up to one; DeepSeek-AI
2024 (DeepSeek-V3), equations 17-20: the balance of a sequence.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

BALANCE = 0.01
"""Weight of the balance beside a token's loss."""


class Experts(nn.Module):
    """Router and experts.

    Parameters
    ----------
    num, used : experts, and how many each token goes to.
    expert : makes one, [S, D] → [S, D].
    balance : weight of the balance of the load; 0: none.
    """

    def __init__(self, width: int, num: int, used: int, expert: Callable[[], nn.Module], balance: float = BALANCE) -> None:
        super().__init__()
        self.num, self.used, self.balance = num, used, balance
        self.router = nn.Linear(width, num, bias=False)
        self.experts = nn.ModuleDict({str(number): expert() for number in range(num)})
        for module in self.experts.modules():
            module.share_used = used / num  # type: ignore[assignment]

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Each token's sum over its experts, by the router's weights."""
        x_ND = x_BTD.reshape(-1, x_BTD.shape[-1])
        probability_NE = self.router(x_ND).float().softmax(dim=-1)
        weight_NK, chosen_NK = probability_NE.topk(self.used, dim=-1)
        weight_NK = weight_NK / weight_NK.sum(dim=-1, keepdim=True)
        if self.balance and torch.is_grad_enabled():
            weight_NK = _Also.apply(weight_NK, self._balance(probability_NE, chosen_NK, x_BTD.shape[0]))
        chosen_S = chosen_NK.reshape(-1)
        order_S = chosen_S.argsort(stable=True)
        token_S = order_S // self.used
        y_SD = self.exchange(x_ND[token_S], chosen_S.bincount(minlength=self.num))
        y_SD = y_SD * weight_NK.reshape(-1)[order_S, None].to(y_SD.dtype)
        return torch.zeros_like(x_ND).index_add(0, token_S, y_SD.to(x_ND.dtype)).view_as(x_BTD)

    def exchange(self, x_SD: Tensor, num_E: Tensor) -> Tensor:
        """What the experts make of rows in the order of experts, in the same order; `num_E` rows are each one's."""
        return self.compute(x_SD, num_E.tolist())

    def compute(self, x_SD: Tensor, counts: list[int]) -> Tensor:
        """Rows through the experts that are here; one without rows computes too, so that it has a gradient."""
        parts = x_SD.split(counts)
        return torch.cat([expert(part) for expert, part in zip(self.experts.values(), parts, strict=True)])

    def whole_rows(self, num_BE: Tensor, length: int) -> tuple[Tensor, int]:
        """Tokens of each row by expert and the row's length, where the rows that are here are whole."""
        return num_BE, length

    def _balance(self, probability_NE: Tensor, chosen_NK: Tensor, num_rows: int) -> Tensor:
        """Of each row E / (K T) Σ_e (tokens of e) Σ_t (probability of e), [B]: one a token if all is even."""
        probability_BTE = probability_NE.view(num_rows, -1, self.num)
        chosen_BS = chosen_NK.view(num_rows, -1)
        num_BE = torch.zeros(num_rows, self.num, device=chosen_NK.device)
        num_BE = num_BE.scatter_add(1, chosen_BS, torch.ones_like(chosen_BS, dtype=num_BE.dtype))
        num_BE, length = self.whole_rows(num_BE, probability_BTE.shape[1])
        return self.balance * self.num / (self.used * length) * (num_BE[:, None] * probability_BTE).sum(dim=(1, 2))


class _Also(torch.autograd.Function):
    """A tensor as it is; backward, each row's further loss has the gradient one, as every summed loss has.

    A row that nobody learns from (it fills up a micro-batch, or has no target) has none.
    """

    @staticmethod
    def forward(context, tensor, loss_B):  # type: ignore[no-untyped-def]
        context.num_rows = len(loss_B)
        return tensor.view_as(tensor)

    @staticmethod
    def backward(context, gradient):  # type: ignore[no-untyped-def]
        return gradient, gradient.view(context.num_rows, -1).ne(0).any(dim=1).to(gradient.dtype)
