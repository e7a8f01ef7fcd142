"""What the server makes of a round: the mean of what devices moved is a gradient, taken up by an optimizer of its own.

`average` is FedAvg (with momentum: FedAvgM); `adagrad`, `adam` and `yogi` divide by the root of what they have seen of each
parameter, so that rare objects and those everybody buys are learned at once.

Shapes: P parameters.

Source: Reddi et al., Adaptive federated optimization, ICLR 2021, algorithm 2; Hsu, Qi and Brown 2019 (FedAvgM).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

BETA2 = 0.99
TAU = 1e-3
"""Added to the root: a parameter that hardly ever moves is not blown up."""
RATES = {"average": 1.0, "adagrad": 0.1, "adam": 0.03, "yogi": 0.03}
"""Of each kind where nothing is said; `average` wants a `local_rate` ten times that of the others."""

Kind = Literal["average", "adagrad", "adam", "yogi"]


class Server:
    """The model everybody begins a round with, and the state of its optimizer.

    Attributes
    ----------
    common : [P]; changed in place by `step`.
    """

    def __init__(self, kind: Kind, common: Tensor, rate: float = 0.0, momentum: float = 0.9, decay: float = 0.0) -> None:
        self.kind, self.common = kind, common
        self.rate, self.momentum, self.decay = rate or RATES[kind], momentum, decay
        self._mean = torch.zeros_like(common)
        self._square = torch.full_like(common, TAU**2)

    def step(self, moved_P: Tensor, is_matrix_P: Tensor, share: float = 1.0) -> None:
        """Go the mean of what devices moved.

        Parameters
        ----------
        share : of the rate, by the schedule.
        """
        rate = share * self.rate
        if self.kind == "average":
            self._mean.mul_(self.momentum).add_(moved_P)
            going = self._mean * (1 - self.momentum)
        else:
            self._mean.lerp_(moved_P, 1 - self.momentum)
            square = moved_P.square()
            if self.kind == "adagrad":
                self._square.add_(square)
            elif self.kind == "adam":
                self._square.lerp_(square, 1 - BETA2)
            else:
                self._square.sub_((1 - BETA2) * square * torch.sign(self._square - square))
            going = self._mean / (self._square.sqrt() + TAU)
        if self.decay:
            self.common.mul_(1 - share * self.decay * is_matrix_P)
        self.common.add_(going, alpha=rate)
