"""A pass of a Llama by OpenVINO in place of `forward`: the same call over the same pages, for its matrix products.

The graph is built from the net once: a token's row, and in each layer OpenVINO's own paged attention, which writes keys and
values into the arrays of `Pages` and reads them there. Pages, the tree of beginnings, drawing and guessing ahead stay ours.
Matrices of the net that are int8 stay int8 (a scale a row; rows of activations are rounded as they come), dense ones float32.
What lies in a page is OpenVINO's, [32, E] for keys too: pages of one engine are never read by the other.

On one thread of an AMD processor with AVX-512 a token costs .54 of `forward`'s time in float32 and 1.11 in int8, a prompt of
512 tokens .42 and .78 (`benchmarks/serve/decode_openvino.py`).

Weights are held twice, by the net and as OpenVINO lays them out. Rejected: int8 pages (OpenVINO keeps their scales between the
values, another size than ours) and bfloat16 inside (other tokens than the float32 model's).

Letters: N rows, T = 1, D width, H heads, K heads of keys and values, E width of a head, P pages, V vocabulary, r rows wanted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from gyral.errors import MissingExtra, UsageError
from gyral.model.decoding.forward import Span
from gyral.model.decoding.pages import Pages
from gyral.model.nets.llama import Block, FeedForward, Llama, rotation_of
from gyral.model.quant.kernels import PLAIN
from gyral.model.quant.linear import QuantEmbedding, QuantLinear

PAGE = 32
"""Positions of a page, as OpenVINO has them on processors."""

Node = Any
"""Of a graph; the package has no types for them."""


class OpenVinoForward:
    """A decoder, compiled for passes over pages; called as `forward.Forward` is, and called from one thread.

    Parameters
    ----------
    net : on the processor; its matrices dense or int8.
    length : positions of a sequence at most.

    Raises
    ------
    MissingExtra : OpenVINO is not installed.
    UsageError : not of the Llama layout, or a part of it is of a kind that is not built here.
    """

    page = PAGE

    def __init__(self, net: nn.Module, length: int) -> None:
        openvino = _package()
        if not isinstance(net, Llama) or net.embed is None or net.norm is None or net.logits is None:
            why = f"it is a {type(net).__name__}, and whole nets of the Llama layout are known"
            raise UsageError("the model cannot be decoded by OpenVINO", why=why)
        self.shape, self.length = net.shape, length
        settings = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # other threads of the server are on the same cores
            "INFERENCE_PRECISION_HINT": "f32",
            "KV_CACHE_PRECISION": "f32",
        }
        model = _Graph(net, length).model()
        self._request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
        self._pages: Pages | None = None

    def __call__(self, tokens: Sequence[int], spans: Sequence[Span], wanted: Sequence[int], pages: Pages) -> np.ndarray:
        """Keys and values of the spans are put into their pages; logits of the wanted rows, float32 [r, V].

        Parameters
        ----------
        tokens : of all spans, one span after the other.
        wanted : rows whose logits are wanted.

        Raises
        ------
        UsageError : pages in int8.
        """
        if pages is not self._pages:
            self._bind(pages)
        begins = [span.begins for span in spans]
        tables = [span.table[: -(-(span.begins + span.num) // PAGE)] for span in spans]
        told = {
            "tokens": np.array(tokens, np.int64),
            "positions": np.concatenate([np.arange(span.begins, span.begins + span.num) for span in spans]),
            "wanted": np.array(wanted, np.int64),
            "past_lens": np.array(begins, np.int32),
            "subsequence_begins": _ends([span.num for span in spans]),
            "block_indices": np.concatenate([np.array(table, np.int32) for table in tables]),
            "block_indices_begins": _ends([len(table) for table in tables]),
            "max_context_len": np.array(max(span.begins + span.num for span in spans), np.int32),
        }
        found = self._request.infer(told, share_inputs=True, share_outputs=True)
        logits: np.ndarray = found[0].copy()  # the next pass writes over it
        return logits

    def _bind(self, pages: Pages) -> None:
        """Its memory is read and written where it lies."""
        from openvino import Tensor

        for number, layer in enumerate(pages.layers):
            if layer.keys.dtype != np.float32:
                raise UsageError("OpenVINO cannot decode over these pages", why="they are int8", hint="make them float32")
            heads, width = layer.values.shape[1], layer.values.shape[3]
            for name, array in (("key", layer.keys), ("value", layer.values)):
                view = array.reshape(pages.num, heads, PAGE, width)
                self._request.set_tensor(f"{name}_cache.{number}", Tensor(view, shared_memory=True))
        self._pages = pages


def _package() -> Any:
    """OpenVINO, without the part that tells its maker of each import: it is imported as if that were not installed."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError:
        raise MissingExtra("openvino", "openvino", "decoding by OpenVINO") from None
    return openvino


class _Graph:
    """Builds what a pass computes."""

    def __init__(self, net: Llama, length: int) -> None:
        from openvino import opset13

        self._net, self._length, self._shape, self._ops = net, length, net.shape, opset13
        self._inputs: list[Node] = []

    def model(self) -> Node:
        """Tokens, places and pages → logits."""
        from openvino import Model

        op, net, shape, axis = self._ops, self._net, self._shape, self._const(np.int64(0))
        tokens, positions, wanted = (self._input(name, np.int64, [-1]) for name in ("tokens", "positions", "wanted"))
        told = ("past_lens", "subsequence_begins", "block_indices", "block_indices_begins")
        where = [self._input(name, np.int32, [-1]) for name in told]
        longest = self._input("max_context_len", np.int32, [])
        x_ND = op.gather(self._const(_dense(net.embed)), tokens, axis)
        turns: list[Node] = []
        for table in rotation_of(torch.arange(self._length)[None], shape.head_width, shape.theta)[:, 0, 0]:
            row_NE = op.gather(self._const(table.numpy()), positions, axis)
            turns.append(op.unsqueeze(row_NE, self._const(np.array([1, 2]))))
        for number, block in enumerate(net.blocks.values()):
            feed = block.feed if isinstance(block, Block) else None
            if not isinstance(block, Block) or not isinstance(feed, FeedForward):
                raise UsageError("the model cannot be decoded by OpenVINO", why=f"block {number} is no plain one of Llama")
            x_ND = op.add(x_ND, self._attended(x_ND, number, block, turns, where, longest))
            both = self._product(self._normed(x_ND, block.before_feed), feed.gate, feed.up)
            gate, up = self._split(both, [shape.hidden, shape.hidden])
            x_ND = op.add(x_ND, self._product(op.multiply(op.swish(gate), up), feed.down))
        logits = self._product(self._normed(op.gather(x_ND, wanted, axis), net.norm), net.logits)
        return Model([op.result(logits)], self._inputs, "llama")

    def _attended(self, x_ND: Node, number: int, block: Block, turns: list[Node], where: list[Node], longest: Node) -> Node:
        """What a block's attention adds.

        The operator's inputs behind `longest` are parts of it that are not used: nothing is scored, turned or thrown out.
        """
        from openvino.op import _PagedAttentionExtension

        shape, attention = self._shape, block.attention
        width, heads, kv_heads = shape.head_width, shape.heads, shape.kv_heads
        joined = self._product(self._normed(x_ND, block.before_attention), attention.query, attention.key, attention.value)
        query, key, value = self._split(joined, [heads * width, kv_heads * width, kv_heads * width])
        rows = [self._turned(query, heads, turns), self._turned(key, kv_heads, turns), value]
        form = [-1, kv_heads, PAGE, width]
        caches = [self._input(f"{part}_cache.{number}", np.float32, form) for part in ("key", "value")]
        zero, none = self._const(np.int32(0)), self._const(np.zeros(0, np.int32))
        nothing, sinks = self._const(np.zeros(0, np.float32)), self._const(np.zeros((0, 0, 0, 0), np.float32))
        how = [self._const(np.float32(width**-0.5)), zero, nothing, longest, none, none, none, nothing, nothing]
        how += [zero, zero, sinks, zero, none, none, none, none, self._const(np.zeros(0, np.uint8)), none]
        inputs = [*rows, *caches, *where, *how]
        node = _PagedAttentionExtension([each.output(0) if hasattr(each, "output") else each for each in inputs])
        for part in ("k", "v"):
            node.rt_info[f"num_{part}_heads"] = kv_heads
            node.rt_info[f"{part}_head_size"] = width
        return self._product(node.output(0), attention.out)

    def _turned(self, x: Node, heads: int, turns: list[Node]) -> Node:
        """Rotary positions, in the form that the compiler knows as one operator."""
        op, width, swap = self._ops, self._shape.head_width, self._const(np.array([0, 2, 1, 3]))
        x_NHTE = op.transpose(op.reshape(x, self._const(np.array([-1, 1, heads, width])), special_zero=False), swap)
        low, high = self._cut(x_NHTE, 0, width // 2), self._cut(x_NHTE, width // 2, width)
        back = op.concat([op.multiply(high, self._const(np.float32(-1))), low], -1)
        turned = op.add(op.multiply(x_NHTE, turns[0]), op.multiply(back, turns[1]))
        return op.reshape(op.transpose(turned, swap), self._const(np.array([-1, heads * width])), special_zero=False)

    def _cut(self, x: Node, begin: int, end: int) -> Node:
        begin_end = (self._const(np.array([each])) for each in (begin, end, 1, 3))
        return self._ops.slice(x, *begin_end)

    def _split(self, x: Node, widths: list[int]) -> list[Node]:
        found: list[Node] = self._ops.variadic_split(x, self._const(np.int64(1)), self._const(np.array(widths))).outputs()
        return found

    def _normed(self, x: Node, norm: nn.Module | None) -> Node:
        op, gain = self._ops, _dense(norm)[None]
        mean = op.reduce_mean(op.power(x, self._const(np.float32(2))), self._const(np.array([-1])), keep_dims=True)
        root = op.sqrt(op.add(mean, self._const(np.float32(self._shape.eps))))
        return op.multiply(self._const(gain), op.multiply(x, op.divide(self._const(np.float32(1)), root)))

    def _product(self, x: Node, *layers: nn.Module | None) -> Node:
        return self._ops.matmul(x, self._weight(layers), False, True)

    def _weight(self, layers: Sequence[nn.Module | None]) -> Node:
        """Layers of the same input as one: int8 with a scale a row where all are, else float32."""
        op, packed = self._ops, [each.packed() for each in layers if isinstance(each, QuantLinear)]
        known = [each for each in packed if each is not None and each.kind == "int8"]
        if len(known) == len(layers):
            values, scale = (np.concatenate([getattr(each, part) for each in known]) for part in ("values", "scale"))
            return op.multiply(op.convert(self._const(values), np.float32), self._const(scale[:, None]))
        return self._const(np.concatenate([_dense(each) for each in layers]))

    def _const(self, array: Any) -> Node:
        return self._ops.constant(np.asarray(array))

    def _input(self, name: str, kind: Any, shape: list[int]) -> Node:
        found = self._ops.parameter(shape, np.dtype(kind), name)
        found.output(0).set_names({name})
        self._inputs.append(found)
        return found


def _dense(layer: nn.Module | None) -> np.ndarray:
    """The weights of a layer, float32."""
    if isinstance(layer, QuantEmbedding):
        found: np.ndarray = layer(torch.arange(layer.num_embeddings)).numpy()
        return found
    if isinstance(layer, QuantLinear) and layer.kernel is PLAIN and layer.bias is None:
        dense: np.ndarray = layer(torch.eye(layer.in_features)).numpy().T
        return dense
    if layer is None or isinstance(layer, QuantLinear) or getattr(layer, "bias", None) is not None:
        why = f"a matrix is {layer.bits} by {layer.kernel.name}" if isinstance(layer, QuantLinear) else "a layer has a bias"
        hint = "dense ones and int8 are known; serve the model itself, or what `gyral compress --to int8` makes of it"
        raise UsageError("the model cannot be decoded by OpenVINO", why=why, hint=hint)
    return layer.get_parameter("weight").detach().float().numpy()


def _ends(counts: Sequence[int]) -> np.ndarray:
    """Where parts of these sizes begin, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
