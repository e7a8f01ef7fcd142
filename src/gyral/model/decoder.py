"""A language model as it lies in a folder: shape, values, which tokens; read for training, for answers, for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gyral.errors import InputError
from gyral.model import card as cards
from gyral.model.nets.llama import Shape
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
    """

    shape: Shape
    length: int
    layout: Layout
    state: dict[str, Tensor]
    tokens: str
    tokenizer: bytes
    end: int

    def build(self) -> nn.Module:
        """The module, ready to answer.

        Raises
        ------
        InputError : the values are not those of this shape.
        """
        model = build_net(self.layout, self.shape, self.length)
        fill(model, self.state)
        return model.eval()


def fill(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Put values into a module; of tied parameters one is enough.

    Raises
    ------
    InputError : one is missing, unknown or of another shape.
    """
    try:
        missing, unknown = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise InputError("the weights do not fit the model's shape", why=str(error).splitlines()[-1].strip()) from None
    there = {name for name, _ in model.named_parameters()}  # a tied parameter has one name here
    wrong = [name for name in missing if name in there] + list(unknown)
    if wrong:
        raise InputError("the weights are not those of this model", why=f"`{wrong[0]}` is missing or unknown")


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
    return of_weights(weights, (folder / FILE).read_bytes() if (folder / FILE).exists() else b"")


def of_weights(weights: cards.Weights, tokenizer: bytes = b"") -> Decoder:
    """Arrays and settings as a decoder."""
    settings: dict[str, Any] = weights.settings
    state = {name: torch.from_numpy(array) for name, array in weights.arrays.items()}
    return Decoder(
        Shape(**settings["shape"]),
        int(settings["length"]),
        settings.get("layout", "llama"),
        state,
        settings.get("tokens", "bytes"),
        tokenizer,
        int(settings.get("end", Text.END)),
    )
