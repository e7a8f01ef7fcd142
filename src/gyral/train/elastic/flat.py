"""Gradients as one vector from the start: what backward writes is what is sent, without a copy in between.

The vector is float32, or float64 where any parameter is. Parameters of its type have views of it as gradients. Those of
another type (bf16) have room of their own, which is widened into the vector once a leaf is done: leaves and members are added
in the wide type, and only the mean is rounded to the parameter's. Sums over 8 leaves kept in bf16 would lose 3 of its 8 bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gyral.errors import ConfigError


class Layout:
    """Where each parameter's gradient lies.

    Raises
    ------
    ConfigError : a parameter is not on the CPU, or not of real floats.
    """

    def __init__(self, params: Sequence[Tensor]) -> None:
        self.params = list(params)
        for param in self.params:
            if param.device.type != "cpu" or not param.dtype.is_floating_point:
                raise ConfigError(
                    "`elastic` adds floats on the CPU",
                    why=f"a weight is {str(param.dtype).removeprefix('torch.')} on {param.device.type}",
                    where="train.parallel",
                    hint="set GYRAL_DEVICE=cpu, or use another mesh",
                )
        self.dtype = torch.float64 if any(param.dtype == torch.float64 for param in self.params) else torch.float32
        self.size = sum(param.numel() for param in self.params)


class Flat:
    """The gradients of one leaf, or of all.

    Attributes
    ----------
    vector : [P] of the layout's type.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.vector = torch.zeros(layout.size, dtype=layout.dtype)
        self._grads: list[Tensor] = []
        self._narrow: list[tuple[Tensor, Tensor]] = []
        start = 0
        for param in layout.params:
            view = self.vector[start : start + param.numel()].view_as(param)
            start += param.numel()
            if param.dtype == layout.dtype:
                self._grads.append(view)
            else:
                self._grads.append(torch.zeros_like(param))
                self._narrow.append((self._grads[-1], view))

    def begin(self) -> None:
        """Zeros, which backward adds to from now on."""
        self.vector.zero_()
        for grad, _ in self._narrow:
            grad.zero_()
        self.point()

    def point(self) -> None:
        """Make these the gradients of the parameters."""
        for param, grad in zip(self.layout.params, self._grads, strict=True):
            param.grad = grad

    def widen(self) -> None:
        """Backward is done: have all of it in the vector."""
        for grad, view in self._narrow:
            view.copy_(grad)

    def give(self) -> None:
        """The vector is done: have all of it in the gradients, and those in the parameters."""
        for grad, view in self._narrow:
            grad.copy_(view)
        self.point()
