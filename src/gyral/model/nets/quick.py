"""Parts of decoders whose own gradients cost less than those torch derives: projections, turning by positions, SwiGLU, RMSNorm.

On a processor all but matrix products is limited by how often memory is walked. Derived gradients walk it 11 times for a turn,
some 15 for a norm and 10 for a SwiGLU; kernels (`walk_kernel`) do each in one walk forward and one back. They are used while
gradients are wanted, in float32 or bfloat16, on a processor, of whole tensors; otherwise the plain formulas are, whose results
are those of the library transformers to the last bit (the kernels round differently: some 1e-7 of a value).

Shapes: B rows, T positions, n of both, E width of a head, D width of the stream, W inside a feed-forward part.

Source: Su et al. 2021 (rotary embedding); Zhang and Sennrich 2019 (RMSNorm); Shazeer 2020 (SwiGLU).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gyral.model.nets import walk_kernel

_KNOWN = (torch.float32, torch.bfloat16)
_WORTH_THREADS = 1 << 18
"""Values below which handing rows to other threads costs more than it saves."""


def is_quick(x: Tensor, *params: Tensor) -> bool:
    """Whether the kernels can do it: gradients are wanted, plain tensors on a processor, and nobody traces."""
    return (
        torch.is_grad_enabled()
        and type(x) is Tensor
        and x.device.type == "cpu"
        and x.dtype in _KNOWN
        and all(type(param) is nn.Parameter and param.dtype in _KNOWN for param in params)
        and not torch.compiler.is_compiling()
    )


def beside(x: Tensor, *layers: nn.Linear) -> Tensor | None:
    """What layers without biases give for the same input, side by side, by one product; None where that is not quick."""
    if any(type(layer) is not nn.Linear or layer.bias is not None for layer in layers):
        return None
    if not is_quick(x, *(layer.weight for layer in layers)):
        return None
    return F.linear(x, torch.cat([layer.weight for layer in layers]))


def heads_of(
    x_BTD: Tensor, layers: tuple[nn.Linear, nn.Linear, nn.Linear], width: int, rotation: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Heads of queries, keys and values, [B, heads, T, E] each; queries and keys turned where there is a rotation."""
    joined = None if rotation is None else beside(x_BTD, *layers)
    if joined is not None:
        found: tuple[Tensor, Tensor, Tensor] = _Heads.apply(joined, rotation, width, *(layer.out_features for layer in layers))
        return found
    query, key, value = (layer(x_BTD).unflatten(-1, (-1, width)).transpose(1, 2) for layer in layers)
    return (query, key, value) if rotation is None else (turned(query, rotation), turned(key, rotation), value)


def swiglu(x: Tensor, gate: nn.Linear, up: nn.Linear) -> Tensor:
    """silu(gate(x)) · up(x)."""
    joined = beside(x, gate, up)
    if joined is not None:
        found: Tensor = _SwiGLU.apply(joined)
        return found
    return F.silu(gate(x)) * up(x)


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
        if eps is not None and is_quick(x, gain):
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
    """By kernels."""

    @staticmethod
    def forward(context, x, gain, eps):  # type: ignore[no-untyped-def]
        x = x.contiguous()
        out, scales = torch.empty_like(x), torch.empty(x.numel() // x.shape[-1])
        rows = _rows(x)
        _walk(walk_kernel.normed, len(rows), x.numel(), rows, _own(gain), eps, _rows(out), scales.numpy())
        context.save_for_backward(x, gain, scales)
        return out

    @staticmethod
    def backward(context, gradient):  # type: ignore[no-untyped-def]
        x, gain, scales = context.saved_tensors
        gradient, d_x = gradient.contiguous(), torch.empty_like(x)
        d_gains = torch.zeros(torch.get_num_threads(), len(gain))
        arrays = (_rows(gradient), _rows(x), _own(gain), scales.numpy(), _rows(d_x), d_gains.numpy())
        _walk(walk_kernel.normed_back, len(scales), x.numel(), *arrays, is_counted=True)
        return d_x, d_gains.sum(0).to(gain.dtype), None


class _SwiGLU(torch.autograd.Function):
    """By kernels."""

    @staticmethod
    def forward(context, gate_up):  # type: ignore[no-untyped-def]
        gate_up = gate_up.contiguous()
        out = gate_up.new_empty(*gate_up.shape[:-1], gate_up.shape[-1] // 2)
        rows = _rows(out)
        _walk(walk_kernel.gated, len(rows), gate_up.numel(), _rows(gate_up), rows)
        context.save_for_backward(gate_up)
        return out

    @staticmethod
    def backward(context, gradient):  # type: ignore[no-untyped-def]
        (gate_up,) = context.saved_tensors
        rows, found = _rows(gradient.contiguous()), torch.empty_like(gate_up)
        _walk(walk_kernel.gated_back, len(rows), gate_up.numel(), rows, _rows(gate_up), _rows(found))
        return found


class _Heads(torch.autograd.Function):
    """Queries, keys and values side by side, [B, T, (H + 2K) E] → heads of each, the first two turned.

    They are turned where they are: nobody needs the product itself again, its own gradient neither.
    """

    @staticmethod
    def forward(context, joined, rotation, width, *sizes):  # type: ignore[no-untyped-def]
        rows, length = joined.shape[:2]
        num = [size // width for size in sizes]
        pairs = _array(joined.view(rows * length, -1, 2, width // 2))
        cos, sin = rotation.reshape(2, rows * length, width).float().numpy()
        _walk(walk_kernel.turn, rows * length, joined.numel(), pairs, num[0] + num[1], cos, sin)
        context.save_for_backward(rotation)
        return joined.view(rows, length, -1, width).transpose(1, 2).split(num, dim=1)

    @staticmethod
    def backward(context, *gradients):  # type: ignore[no-untyped-def]
        (rotation,) = context.saved_tensors
        parts = [part.transpose(1, 2).contiguous() for part in gradients]
        rows, length, _, width = parts[0].shape
        num = [part.shape[2] for part in parts]
        out = parts[0].new_empty(rows * length, sum(num), 2, width // 2)
        cos, sin = rotation.reshape(2, rows * length, width).float().numpy()
        for part, to in ((parts[0], 0), (parts[1], num[0])):
            pairs = _array(part.view(rows * length, -1, 2, width // 2))
            _walk(walk_kernel.turned_back, rows * length, part.numel(), pairs, cos, sin, _array(out), to)
        out.view(rows, length, -1, width)[:, :, num[0] + num[1] :] = parts[2]
        return out.view(rows, length, -1), *[None] * 5


def _array(x: Tensor) -> Any:
    """The array of a contiguous tensor; bfloat16 as uint16."""
    return (x.detach().view(torch.uint16) if x.dtype == torch.bfloat16 else x.detach()).numpy()


def _rows(x: Tensor) -> Any:
    """The same, a row a position."""
    return _array(x.view(-1, x.shape[-1]))


def _own(gain: Tensor) -> Any:
    """A copy: memory that numpy has seen can no longer be freed by who shards parameters."""
    return gain.detach().to(torch.float32, copy=True).numpy()


def _walk(kernel: Callable[..., None], num: int, size: int, *arrays: Any, is_counted: bool = False) -> None:
    """Let a kernel do `num` rows, by as many threads as torch has where they hold enough values."""
    threads = torch.get_num_threads() if size >= _WORTH_THREADS else 1
    each = -(-num // threads)

    def work(part: int) -> None:
        given = (*arrays[:-1], arrays[-1][part]) if is_counted else arrays
        kernel(*given, part * each, min((part + 1) * each, num))

    if threads == 1:
        work(0)
    else:
        list(_pool(threads).map(work, range(threads)))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="gyral-walk")
