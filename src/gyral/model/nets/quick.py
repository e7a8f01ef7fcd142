"""Two parts of a Llama whose own gradients cost less than those torch derives: turning by positions, and RMSNorm.

On a processor both are limited by how often memory is walked. Derived gradients walk it 11 times for a turn and some 15 for a
norm; these 4 and 8 times. Only while gradients are wanted: otherwise the plain formulas are used, whose results are those of
the library transformers to the last bit (here products are fused with sums, which rounds once instead of twice).

Shapes: E width of a head, D width of the stream.

Source: Su et al. 2021 (rotary embedding); Zhang and Sennrich 2019 (RMSNorm).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def turned(x_BHTE: Tensor, rotation: Tensor) -> Tensor:
    """Each pair (i, i + E/2) turned by its angle; `rotation` is cosine and sine, [2, B, 1, T, E]."""
    cos, sin = rotation.to(x_BHTE.dtype)
    if torch.is_grad_enabled() and x_BHTE.requires_grad and type(x_BHTE) is Tensor and not torch.compiler.is_compiling():
        found: Tensor = _Turned.apply(x_BHTE, cos, sin)
        return found
    first, second = x_BHTE.chunk(2, dim=-1)
    return x_BHTE * cos + torch.cat([-second, first], dim=-1) * sin


class RMSNorm(nn.RMSNorm):
    """Divided by the root of the mean square of the last dim, times a gain."""

    def forward(self, x: Tensor) -> Tensor:
        gain, eps = self.weight, self.eps
        is_plain = type(x) is Tensor and type(gain) is nn.Parameter and x.dtype == gain.dtype and eps is not None
        if is_plain and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            found: Tensor = _Normed.apply(x, gain, eps)
            return found
        return super().forward(x)


class _Turned(torch.autograd.Function):
    """The gradient of a turn is the turn back."""

    @staticmethod
    def forward(context, x, cos, sin):  # type: ignore[no-untyped-def]
        context.save_for_backward(cos, sin)
        return _turn(x, cos, sin, 1.0)

    @staticmethod
    def backward(context, gradient):  # type: ignore[no-untyped-def]
        cos, sin = context.saved_tensors
        return _turn(gradient, cos, sin, -1.0), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    half = x.shape[-1] // 2
    out = x * cos
    out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-sign)
    out[..., half:].addcmul_(x[..., :half], sin[..., half:], value=sign)
    return out


class _Normed(torch.autograd.Function):
    """With y = x r g and r = (mean(x²) + eps)^-1/2: dx = r dy g − x r³ sum(dy g x) / D, dg = sum over rows of dy x r."""

    @staticmethod
    def forward(context, x, gain, eps):  # type: ignore[no-untyped-def]
        r = (torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps)).rsqrt_()
        context.save_for_backward(x, gain, r)
        return (x * r).mul_(gain)

    @staticmethod
    def backward(context, gradient):  # type: ignore[no-untyped-def]
        x, gain, r = context.saved_tensors
        product = gradient * x
        width = x.shape[-1]
        d_gain = torch.mv(product.reshape(-1, width).t(), r.reshape(-1))
        share = torch.mv(product.reshape(-1, width), gain).view_as(r).mul_(r.pow(3)).div_(-width)
        return (gradient * gain).mul_(r).addcmul_(x, share), d_gain, None
