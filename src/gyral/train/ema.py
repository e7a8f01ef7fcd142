"""A moving average of the weights, which is what is evaluated and published: smoother than the last weights, at a quarter more
memory beside AdamW's two moments.

Every rank averages the parameters it holds, all by the same steps, so nothing is sent. Steps that were left out do not count.

Source: Polyak and Juditsky 1992; the slow start min(decay, (1 + n) / (10 + n)) is that of TensorFlow's moving average.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class Ema:
    """The average of the parameters of one placed model.

    Attributes
    ----------
    num : updates that it has seen.
    shadow : the average, by the parameters' names.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.num = decay, 0
        named = dict(model.named_parameters())
        self._params: list[Tensor] = list(named.values())
        self.shadow: dict[str, Tensor] = {name: param.detach().clone() for name, param in named.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are now."""
        decay = min(self.decay, (1 + self.num) / (10 + self.num))
        torch._foreach_lerp_(list(self.shadow.values()), self._params, 1 - decay)
        self.num += 1

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"num": self.num, "shadow": self.shadow}

    def load(self, state: dict[str, Any]) -> None:
        """The way back; tensors have been filled where they lie."""
        self.num = int(state["num"])

    @contextmanager
    @torch.no_grad()
    def in_place(self) -> Iterator[None]:
        """Within the block the model has the average; after it, its own weights again, the same bytes."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange average and weights."""
        for param, shadow in zip(self._params, self.shadow.values(), strict=True):
            kept = param.clone()
            param.copy_(shadow)
            shadow.copy_(kept)
