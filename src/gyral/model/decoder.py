"""A language model as it lies in a folder: shape, values, which tokens; read for training, for answers, for other tools."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import torch
from torch import Tensor, nn

from gyral.errors import InputError
from gyral.model import card as cards
from gyral.model.nets.llama import Shape
from gyral.model.quant import low_rank
from gyral.model.quant.linear import fill, installed
from gyral.model.quant.packing import Packed, divided
from gyral.model.stream import Text
from gyral.model.tasks.next_token import Layout, build_net
from gyral.model.tokenizer import FILE

MAX_LENGTH = 1 << 21
"""Of a sequence: tables of its positions are made before the first token."""
MAX_SPARED = 16


class Decoder(NamedTuple):
    """A decoder with all that belongs to it.

    Attributes
    ----------
    length : tokens of a sequence that it was trained on.
    state : parameters by name, each once: a tied output matrix is the embedding.
    tokens : `bytes`, or the fingerprint of `tokenizer`.
    tokenizer : a `tokenizer.json`; empty for bytes.
    end : the token that ends a document.
    packed : matrices in few bits, by the same names; they are not in `state`.
    ranks : linears that are two thin ones, with the rank of each (`gyral.model.quant.low_rank`).
    """

    shape: Shape
    length: int
    layout: Layout
    state: dict[str, Tensor]
    tokens: str
    tokenizer: bytes
    end: int
    packed: dict[str, Packed] = {}
    ranks: dict[str, int] = {}

    def build(self) -> nn.Module:
        """The module, ready to answer.

        Raises
        ------
        InputError : the values are not those of this shape.
        """
        sizes = [each.numel() for each in self.state.values()] + [each.values.size for each in self.packed.values()]
        check(self.layout, self.shape, self.length, sizes)
        if not self.packed:
            model = low_rank.make_room(build_net(self.layout, self.shape, self.length), self.ranks)
            fill(model, self.state)
            return model.eval()
        with torch.device("meta"):  # the dense matrices are never made
            model = low_rank.make_room(build_net(self.layout, self.shape, self.length), self.ranks)
        left = installed(model, self.packed, {name: tensor.numpy() for name, tensor in self.state.items()})
        fill(model, {name: torch.from_numpy(array) for name, array in left.items()}, assign=True)
        return model.eval()

    def dense(self) -> Decoder:
        """The same in float32, to train on and for other tools."""
        unpacked = {name: each.dense() for name, each in self.packed.items()}
        plain = {name: tensor.numpy() for name, tensor in self.state.items()} | unpacked
        whole = low_rank.merged(plain, self.ranks)
        return self._replace(state={name: torch.from_numpy(each) for name, each in whole.items()}, packed={}, ranks={})


def read(folder: Path) -> Decoder:
    """Read a model folder of the family `lm`.

    Raises
    ------
    InputError : it is of another family, or its weights cannot be read.
    """
    card = cards.read_card(folder)
    if card.family != "lm":
        hint = "nets of other families are written by `gyral compress MODEL --to onnx`, or `torch`"
        raise InputError(f"`{card.model}` is a {card.family}, not a language model", where=str(folder), hint=hint)
    weights = cards.read_weights(folder)
    return of_weights(weights, tokenizer_of(folder), str(folder))


def of_weights(weights: cards.Weights, tokenizer: bytes = b"", where: str = "") -> Decoder:
    """Arrays and settings as a decoder.

    Raises
    ------
    InputError : the settings are none of a language model, or not those of the arrays.
    """
    arrays, packed = divided(weights)
    try:
        told = msgspec.convert(weights.settings, _Settings)
        state = {name: torch.from_numpy(array) for name, array in arrays.items()}
    except (ValueError, TypeError) as error:  # msgspec's, and torch's of a type that it has not
        raise InputError("the weights are not those of a language model", why=str(error), where=where) from None
    return Decoder(told.shape, told.length, told.layout, state, told.tokens, tokenizer, told.end, packed, told.rank)


class _Settings(msgspec.Struct):
    """What the weights of a language model say of themselves."""

    shape: Shape
    length: int
    layout: Layout = "llama"
    tokens: str = "bytes"
    end: int = Text.END
    rank: dict[str, int] = msgspec.field(default_factory=dict, name=low_rank.SETTING)


def check(layout: Layout, shape: Shape, length: int, sizes: Sequence[int], where: str = "") -> None:
    """Refuse a shape that weights of these sizes cannot be of: a net is built before it is filled, however large it is.

    Parameters
    ----------
    sizes : numbers in each tensor. Factored ones have fewer than their product, so `MAX_SPARED` times as many are believed.

    Raises
    ------
    InputError : the shape is none, or larger than the weights.
    """
    whole = (shape.vocab, shape.width, shape.depth, shape.heads, shape.kv_heads, shape.hidden, length)
    numbers = (*whole, shape.experts, shape.experts_used, shape.head)
    size = 0
    is_one = all(type(each) is int for each in numbers) and all(
        isinstance(each, int | float) for each in (shape.theta, shape.eps)
    )
    if is_one and min(whole) > 0 and min(numbers) >= 0 and not shape.heads % shape.kv_heads and shape.head_width:
        block = 2 * shape.head_width * (shape.heads + shape.kv_heads) + 3 * shape.hidden * max(shape.experts, 1)
        size = shape.width * (shape.vocab + shape.depth * block + (length if layout == "gpt2" else 0))
    if not 0 < size <= MAX_SPARED * sum(sizes) + (1 << 20) or shape.depth > len(sizes) or length > MAX_LENGTH:
        why = f"{sum(sizes):,} numbers in {len(sizes):,} tensors are not of {shape}, {length} tokens long"
        raise InputError("the weights do not fit the model's shape", why=why, where=where)


def tokenizer_of(folder: Path) -> bytes:
    """The `tokenizer.json` of a model folder; empty where the model reads bytes."""
    return (folder / FILE).read_bytes() if (folder / FILE).exists() else b""
