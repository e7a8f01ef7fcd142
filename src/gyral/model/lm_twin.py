"""A language model measured again, on the text that its training kept aside: it has not learned it, so it stands for itself.

Calibration takes `TOKENS` tokens of the text that was trained on, in rows of the model's length, at places drawn by the seed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import torch
from torch import nn

from gyral.config.training import Lm
from gyral.errors import InputError
from gyral.lake.arrivals import Arrivals
from gyral.lake.dataset import Dataset
from gyral.model import decoder, texts
from gyral.model.card import Weights
from gyral.model.nets import gpt2, llama
from gyral.model.quant.calibration import Calibration
from gyral.model.stream import rows_of
from gyral.model.task import Batch
from gyral.model.tasks.next_token import bits_of, inputs_of

TOKENS = 16_384
"""That layers are watched on; twice as many lowered the loss of int4 by less than the noise of the draw."""
LONGEST = 1_024
"""Tokens of a row, at most."""


class LmTwin:
    """Bits per byte of the text kept aside, of any variant of the weights."""

    def __init__(self, data: Dataset, weights: Weights, seed: int, tokenizer: bytes = b"") -> None:
        if isinstance(data, Arrivals):
            hint = "curate the documents into a dataset, and train from this model on it"
            raise InputError(f"`{data.name}` is a stream: there is no text kept aside to measure on", hint=hint)
        self.weights, self._seed, self._tokenizer = weights, seed, tokenizer
        share, size = weights.settings.get("held_out", (Lm().held_out, Lm().held_out_bytes))
        by = msgspec.structs.replace(Lm(), held_out=share, held_out_bytes=size)
        found = decoder.of_weights(weights, tokenizer)
        self._length, self._shape, self._layout = min(found.length, LONGEST), found.shape, found.layout
        self._opened = texts.opened(data, by, found)
        if not self._opened.held_out.num_bytes:
            raise InputError(f"`{data.name}` has no text that was kept aside", hint="curate more than one document")

    def measure(self, weights: Weights) -> float:
        """Bits per byte, by the net and the kernels that answer."""
        model = decoder.of_weights(weights, self._tokenizer).build()
        held_out = self._opened.held_out
        return float(bits_of(model, held_out, self._length, self._shape.vocab).sum()) / held_out.num_bytes

    def calibration(self) -> Calibration:
        """How to watch the net's layers on text that it learned from."""
        trained = self._opened.trained
        count = trained.num_sequences(self._length)
        if not count:
            raise InputError("there is less text to calibrate on than one sequence", hint="curate more text")
        rows = min(count, max(1, TOKENS // self._length))
        places = np.sort(np.random.default_rng(self._seed).choice(count, rows, replace=False))
        step = max(1, 4_096 // self._length)
        batches = [trained.sequences(places[at : at + step], self._length) for at in range(0, rows, step)]
        feeds = [feed_of(rows_of(*batch)) for batch in batches]
        roles = gpt2.ROLES if self._layout == "gpt2" else llama.ROLES
        return Calibration(self._build, feeds, (roles.blocks,))

    def _build(self, weights: Weights) -> nn.Module:
        """In float32, with values of its own: those of `weights` stay."""
        copied = Weights({name: array.copy() for name, array in weights.arrays.items()}, weights.settings)
        return decoder.of_weights(copied, self._tokenizer).build()


def feed_of(batch: Batch) -> Callable[[nn.Module], Any]:
    """Run a decoder on a batch."""

    def feed(model: nn.Module) -> Any:
        with torch.inference_mode():
            return model(*inputs_of(batch))

    return feed
