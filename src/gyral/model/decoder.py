"""A language model as it lies in a folder: shape, values, which tokens; read for training, for answers, for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

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
        raise InputError(f"`{card.model}` is a {card.family}, not a language model", where=str(folder))
    weights = cards.read_weights(folder)
    return of_weights(weights, tokenizer_of(folder))


def of_weights(weights: cards.Weights, tokenizer: bytes = b"") -> Decoder:
    """Arrays and settings as a decoder."""
    settings: dict[str, Any] = weights.settings
    arrays, packed = divided(weights)
    state = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return Decoder(
        Shape(**settings["shape"]),
        int(settings["length"]),
        settings.get("layout", "llama"),
        state,
        settings.get("tokens", "bytes"),
        tokenizer,
        int(settings.get("end", Text.END)),
        packed,
        settings.get(low_rank.SETTING, {}),
    )


def tokenizer_of(folder: Path) -> bytes:
    """The `tokenizer.json` of a model folder; empty where the model reads bytes."""
    return (folder / FILE).read_bytes() if (folder / FILE).exists() else b""
