"""The family `lm`: each token is foretold from those before it in its document; quality is bits per byte of text kept aside.

A row of a batch holds `inputs`, `targets` (−100: no loss) and `positions`, each [B, T], and `documents` where a row holds
several, which then do not see each other (see `gyral.model.stream`). Bits per byte are exact: every token of every text that
is kept aside is foretold once, its end too, and the nats are divided by ln 2 and the bytes of the text, whatever the tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gyral.model.nets import gpt2, llama
from gyral.model.nets.llama import Shape
from gyral.model.stream import IGNORED, Sequences, Stream, Text, rows_of
from gyral.model.task import BaseTask, Batch, Gather, Sums, seeded

__all__ = ["IGNORED", "Layout", "NextToken", "Sequences", "Text", "bits_of", "build_net", "rows_of"]

Layout = Literal["llama", "gpt2"]
EVALUATED_LOGITS = 1 << 22
"""Numbers that are held at once when text is measured."""


class NextToken(BaseTask):
    """Next-token prediction.

    Parameters
    ----------
    held_out : what quality is measured on; None: nothing is.
    is_masked : documents of a row do not see each other; False: positions begin anew and no more.
    settings : what is stored with the shape: which tokens these are.
    files : of the model's folder, a tokenizer.
    """

    name = "next_token"
    begins_itself = True
    unit = "tokens"
    signal = "logits"
    """What a teacher is asked for (`gyral.train.distill`)."""

    def __init__(
        self,
        shape: Shape,
        length: int,
        trained: Sequences,
        held_out: Stream | None = None,
        *,
        layout: Layout = "llama",
        is_masked: bool = True,
        settings: Mapping[str, Any] | None = None,
        files: Mapping[str, bytes] | None = None,
        start: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.shape, self.length, self.layout, self.is_masked = shape, length, layout, is_masked
        self.num_rows = trained.num_sequences(length)
        self.unit_per_row = length
        self.roles = gpt2.ROLES if layout == "gpt2" else llama.ROLES
        self.sequence = ("inputs", "targets", "positions", "documents")
        self._trained, self._held_out, self._start = trained, held_out, start
        self._settings, self._files = dict(settings or {"tokens": "bytes"}), dict(files or {})

    def build(self, seed: int) -> nn.Module:
        """A decoder of this shape, or the one to start from."""
        model = seeded(seed, lambda: build_net(self.layout, self.shape, self.length))
        if self._start is not None:
            model.load_state_dict(dict(self._start), strict=False)  # a tied matrix is there once; `hf.read` has looked at all
        return model

    def batch(self, examples: np.ndarray, step: int) -> Batch:
        """Sequences at these places."""
        return rows_of(*self._trained.sequences(examples, self.length), self.is_masked)

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """Tokens, their positions, and their documents where a row holds several."""
        return inputs_of(batch)

    def sums(self, outputs: Tensor, batch: Batch, gather: Gather) -> Sums:
        """Cross-entropy in nats, summed over targets."""
        targets = batch["targets"].reshape(-1)
        loss = F.cross_entropy(outputs.reshape(-1, outputs.shape[-1]).float(), targets, ignore_index=IGNORED, reduction="sum")
        return Sums(loss, (targets != IGNORED).sum().float())

    def is_target(self, batch: Batch) -> Tensor:
        """Positions that have a target, bool [B, T]."""
        return batch["targets"] != IGNORED

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """Bits per byte and loss a token of the text kept aside."""
        held_out = self._held_out
        if held_out is None or not len(held_out):
            return {}
        bits = float(bits_of(model, held_out, self.length, self.shape.vocab, is_masked=self.is_masked).sum())
        return {"loss": bits * math.log(2) / len(held_out), "bits_per_byte": bits / max(held_out.num_bytes, 1)}

    def flops(self, model: nn.Module) -> float:
        """Six a multiplied parameter and a token; attention adds 6 D T a token and block, half of 12 because it is causal."""
        attention = 6 * self.shape.depth * self.shape.heads * self.shape.head_width * self.length
        num = self.roles.num_multiplied(model)
        return self.length * float(6 * num + attention)

    def settings(self) -> dict[str, Any]:
        """The shape, and which tokens."""
        return {"shape": asdict(self.shape), "length": self.length, "layout": self.layout, **self._settings}

    def files(self) -> dict[str, bytes]:
        """The tokenizer, where there is one."""
        return self._files


def build_net(layout: str, shape: Shape, length: int) -> nn.Module:
    """A decoder with random values; `length` bounds the positions of a `gpt2`."""
    return gpt2.Gpt2(shape, length) if layout == "gpt2" else llama.Llama(shape)


def inputs_of(batch: Batch) -> tuple[Tensor, ...]:
    """What a decoder is called with."""
    named = (batch["inputs"], batch["positions"])
    return (*named, batch["documents"]) if "documents" in batch else named


@torch.no_grad()
def bits_of(
    model: nn.Module, stream: Stream, length: int, vocab: int, *, stride: int = 0, is_masked: bool = True
) -> np.ndarray:
    """Bits that each document takes, its end included, float64 [n]. A window is no longer than what there is.

    Parameters
    ----------
    stride : see `Stream.windows`; 0: the length, so each target is computed once.
    """
    bits = np.zeros(len(stream.ends))
    if len(stream) <= length:
        length, stride = len(stream), 0
    rows = max(1, EVALUATED_LOGITS // max(length * vocab, 1))
    for tokens, documents, counted in stream.windows(length, stride or length, rows):
        batch = rows_of(tokens, documents, is_masked)
        nats = _nats_of(model, batch, max(1, EVALUATED_LOGITS // (len(tokens) * vocab)))
        np.add.at(bits, documents[:, 1:][counted], nats.double().numpy()[counted])
    return bits / math.log(2)


def _nats_of(model: nn.Module, batch: Batch, places: int) -> Tensor:
    """Of each target, [B, T]; of a decoder that nobody has divided, the logits of so many places at once."""
    inputs, targets = inputs_of(batch), batch["targets"]
    if places >= targets.shape[1] or type(model) not in (llama.Llama, gpt2.Gpt2):
        return F.cross_entropy(model(*inputs).float().transpose(1, 2), targets, ignore_index=IGNORED, reduction="none")
    decoder: Any = model
    x_BTD = decoder.norm(decoder.stream(*inputs))
    found = [
        F.cross_entropy(decoder.logits(x).float().transpose(1, 2), target, ignore_index=IGNORED, reduction="none")
        for x, target in zip(x_BTD.split(places, 1), targets.split(places, 1), strict=True)
    ]
    return torch.cat(found, 1)
