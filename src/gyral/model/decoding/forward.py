"""One pass of a Llama over positions of any sequences: decoders with one position each and chunks of prompts, side by side.

Rows of all sequences are one matrix [N, D]: each matrix product is done once for all of them, whatever their lengths, and only
rows whose logits are wanted reach the output matrix. Products of the same input are one product (query, key and value; gate
and up).
The rest is kernels in one walk (`nets.walk_kernel`, `page_kernel`).

The matrices are `swap`'s: it gets a weight [out, in] and gives what multiplies by it, so int8, bf16 and others come from
outside. Layers of a net that are no plain linear ones any more are called as they are. The stream between them stays float32.

Attention: up to 8 positions of a sequence (decoding, checking guesses) go through `page_kernel.attend`; a longer chunk gathers
its pages and uses PyTorch's attention, whose matrix products are faster from there on.

Letters: N rows, D width, H heads, K heads of keys and values, E width of a head, S positions seen, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gyral.errors import UsageError
from gyral.model.decoding import page_kernel
from gyral.model.decoding.page_kernel import PAGE
from gyral.model.decoding.pages import Layer, Pages
from gyral.model.nets import walk_kernel
from gyral.model.nets.llama import Block, Llama, Shape, rotation_of
from gyral.model.quant.linear import beside

Product = Callable[[Tensor], Tensor]
Swap = Callable[[Tensor], Product]
"""A weight [out, in] to what multiplies float32 rows [N, in] by it, float32 [N, out]."""

FEW = 8
"""Positions of one sequence up to which attention goes row by row."""


class Span(NamedTuple):
    """Positions [begins, begins + num) of one sequence, whose keys and values lie in the pages of `table`."""

    begins: int
    num: int
    table: Sequence[int]


class Pass(Protocol):
    """What `engine` needs of a decoder: `Forward`, or another that computes the same.

    Attributes
    ----------
    length : positions of a sequence at most.
    page : positions of a page that it reads and writes.
    """

    shape: Shape
    length: int
    page: int

    def __call__(self, tokens: Sequence[int], spans: Sequence[Span], wanted: Sequence[int], pages: Pages) -> np.ndarray:
        """As `Forward` is called."""
        ...


def plain(weight: Tensor) -> Product:
    """The product in float32."""
    weight = weight.detach().float()
    return lambda x: F.linear(x, weight)


class _Layer(NamedTuple):
    before_attention: np.ndarray
    heads: Product
    out: Product
    before_feed: np.ndarray
    gate_up: Product | None
    down: Product


class Forward:
    """A decoder, ready for passes over pages.

    Parameters
    ----------
    net : on the processor. Matrices that are multiplied as one are held once: those of the net become parts of it.
    length : positions of a sequence at most.

    Raises
    ------
    UsageError : not of the Llama layout, or not on the processor.
    """

    page = PAGE

    def __init__(self, net: nn.Module, length: int, swap: Swap = plain) -> None:
        if not isinstance(net, Llama) or net.embed is None or net.norm is None or net.logits is None:
            why = f"it is a {type(net).__name__}, and whole nets of the Llama layout are known"
            raise UsageError("the model cannot be decoded over pages", why=why)
        device = next((each.device for each in net.parameters()), torch.device("cpu"))
        if device.type != "cpu":
            raise UsageError("pages are for a processor", why=f"the model is on `{device}`")
        self.shape, self.length = net.shape, length
        self._embed = net.embed
        self._layers = [_layer_of(block, swap) for block in net.blocks.values() if isinstance(block, Block)]
        self._gain, self._logits = _gain(net.norm), _product([net.logits], swap)
        cos, sin = rotation_of(torch.arange(length)[None], self.shape.head_width, self.shape.theta)[:, 0, 0]
        self._cos, self._sin = cos.numpy(), sin.numpy()

    @torch.inference_mode()
    def __call__(self, tokens: Sequence[int], spans: Sequence[Span], wanted: Sequence[int], pages: Pages) -> np.ndarray:
        """Keys and values of the spans are put into their pages; logits of the wanted rows, float32 [r, V].

        Parameters
        ----------
        tokens : of all spans, one span after the other.
        wanted : rows whose logits are wanted.
        """
        look = _Look(spans, self.shape.heads, pages)
        x_ND = self._embed(torch.tensor(tokens)).float()
        cos, sin = self._cos[look.positions], self._sin[look.positions]
        for layer, kept in zip(self._layers, pages.layers, strict=True):
            joined = layer.heads(self._normed(x_ND, layer.before_attention)).contiguous()
            heads = joined.numpy().reshape(len(tokens), -1, 2, self.shape.head_width // 2)
            walk_kernel.turn(heads, self.shape.heads + self.shape.kv_heads, cos, sin, 0, len(tokens))
            x_ND += layer.out(look(joined, kept, self.shape.kv_heads))
            x_ND += self._fed(layer, self._normed(x_ND, layer.before_feed))
        if not len(wanted):
            return np.empty((0, self.shape.vocab), np.float32)
        logits: np.ndarray = self._logits(self._normed(x_ND[list(wanted)], self._gain)).float().numpy()
        return logits

    def _normed(self, x_ND: Tensor, gain: np.ndarray) -> Tensor:
        out, scales = torch.empty_like(x_ND), np.empty(len(x_ND), np.float32)
        walk_kernel.normed(x_ND.numpy(), gain, self.shape.eps, out.numpy(), scales, 0, len(x_ND))
        return out

    def _fed(self, layer: _Layer, x_ND: Tensor) -> Tensor:
        if layer.gate_up is None:
            return layer.down(x_ND)
        both = layer.gate_up(x_ND).contiguous()
        out = both.new_empty(len(both), both.shape[1] // 2)
        walk_kernel.gated(both.numpy(), out.numpy(), 0, len(both))
        return layer.down(out)


class _Look:
    """What rows of some spans see, for all layers of a pass."""

    def __init__(self, spans: Sequence[Span], heads: int, pages: Pages) -> None:
        self._heads = heads
        self.positions = np.concatenate([np.arange(span.begins, span.begins + span.num) for span in spans])
        longest = max(len(span.table) for span in spans)
        self._tables = np.zeros((len(spans), longest), np.int32)
        lines = np.repeat(np.arange(len(spans)), [span.num for span in spans])
        self._few: list[int] = []
        self._chunks: list[tuple[int, int, Span]] = []
        row = 0
        for line, span in enumerate(spans):
            self._tables[line, : len(span.table)] = span.table
            if span.num <= FEW:
                self._few.extend(range(row, row + span.num))
            else:
                self._chunks.append((row, line, span))
            row += span.num
        self._rows = np.array(self._few, np.int64)
        self._of_row, self._seen = lines[self._rows], self.positions[self._rows] + 1
        self._slots = self._tables[lines, self.positions // PAGE].astype(np.int64) * PAGE + self.positions % PAGE
        self._shares = np.empty((heads, longest * PAGE), np.float32)
        self._masks = [_mask(span) for _, _, span in self._chunks]

    def __call__(self, joined: Tensor, kept: Layer, kv_heads: int) -> Tensor:
        """Keys and values are kept; what the queries see, [N, H E]."""
        keys, values, scales = kept
        array, width = joined.numpy(), keys.shape[2]
        page_kernel.write(array, self._slots, self._heads, keys, values, scales)
        out = joined.new_empty(len(joined), self._heads * width)
        if len(self._rows):
            where = (self._rows, self._of_row, self._tables, self._seen)
            page_kernel.attend(array, *where, keys, values, scales, self._shares, out.numpy())
        for (row, line, span), mask in zip(self._chunks, self._masks, strict=True):
            length = span.begins + span.num
            key_KSE, value_KSE = joined.new_empty(kv_heads, length, width), joined.new_empty(kv_heads, length, width)
            page_kernel.gather(self._tables[line], length, keys, values, scales, key_KSE.numpy(), value_KSE.numpy())
            query_HTE = joined[row : row + span.num, : self._heads * width].view(span.num, -1, width).transpose(0, 1)
            seen_HTE = F.scaled_dot_product_attention(
                query_HTE[None],
                key_KSE[None],
                value_KSE[None],
                mask,
                is_causal=mask is None,
                enable_gqa=self._heads != kv_heads,
            )[0]
            out[row : row + span.num] = seen_HTE.transpose(0, 1).flatten(1)
        return out


def _mask(span: Span) -> Tensor | None:
    """Who sees whom where a chunk is not the first, bool [T, S]."""
    if not span.begins:
        return None
    return torch.ones(span.num, span.begins + span.num, dtype=torch.bool).tril(span.begins)


def _layer_of(block: Block, swap: Swap) -> _Layer:
    attention = block.attention
    feed: nn.Module = block.feed
    heads = _product([attention.query, attention.key, attention.value], swap)
    norms = _gain(block.before_attention), _gain(block.before_feed)
    if not all(hasattr(feed, part) for part in ("gate", "up", "down")):  # experts

        def down(x_ND: Tensor) -> Tensor:
            found: Tensor = feed(x_ND[None])[0]
            return found

        return _Layer(norms[0], heads, _product([attention.out], swap), norms[1], None, down)
    gate_up, last = (
        _product([feed.get_submodule("gate"), feed.get_submodule("up")], swap),
        _product([feed.get_submodule("down")], swap),
    )
    return _Layer(norms[0], heads, _product([attention.out], swap), norms[1], gate_up, last)


def _product(layers: Sequence[nn.Module], swap: Swap) -> Product:
    """Layers with the same input as one product, where they can be joined; else each as it is."""
    weights = [layer.get_parameter("weight").detach() for layer in layers if type(layer) is nn.Linear and layer.bias is None]
    if len(weights) == len(layers):
        joined = torch.cat(weights) if len(weights) > 1 else weights[0]
        if swap is plain and joined.dtype == torch.float32:
            for layer, part in zip(layers, torch.split(joined, [len(each) for each in weights]), strict=True):
                layer.get_parameter("weight").data = part
        return swap(joined)
    if len(layers) == 1:
        return layers[0]
    joined_layer = beside(layers)
    if joined_layer is not None:
        return joined_layer
    return lambda x: torch.cat([layer(x) for layer in layers], dim=-1)


def _gain(norm: nn.Module) -> np.ndarray:
    gain: np.ndarray = norm.get_parameter("weight").detach().float().numpy().copy()
    return gain
