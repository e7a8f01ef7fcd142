"""The family `lm`: each token is foretold from those before it in its document; quality is bits per byte of text kept aside.

A row of a batch holds `inputs`, `targets` (−100: no loss) and `positions`, each [B, T]. Positions begin anew with each
document.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gyral.model.nets.llama import ROLES, Llama, Shape
from gyral.model.task import BaseTask, Batch, Gather, Sums, seeded

IGNORED = -100
EVALUATED_ROWS = 16
"""At once."""


class Sequences(Protocol):
    """Tokens that training or evaluation reads: `gyral.lake.tokens.TokenShards`, or `Text`."""

    def num_sequences(self, length: int) -> int: ...

    def sequences(self, positions: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]: ...


class NextToken(BaseTask):
    """Next-token prediction.

    Parameters
    ----------
    bytes_per_token : of the text kept aside, to tell bits per byte.
    """

    name = "next_token"
    sequence: tuple[str, ...] = ("inputs", "targets", "positions")
    roles = ROLES
    unit = "tokens"

    def __init__(
        self, shape: Shape, length: int, trained: Sequences, held_out: Sequences | None = None, bytes_per_token: float = 1.0
    ) -> None:
        self.shape, self.length = shape, length
        self.num_rows = trained.num_sequences(length)
        self.unit_per_row = length
        self._trained, self._held_out, self._bytes_per_token = trained, held_out, bytes_per_token

    def build(self, seed: int) -> nn.Module:
        """A Llama of this shape."""
        return seeded(seed, lambda: Llama(self.shape))

    def batch(self, examples: np.ndarray, step: int) -> Batch:
        """Sequences at these places."""
        return rows_of(*self._trained.sequences(examples, self.length))

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """Tokens and their positions."""
        return batch["inputs"], batch["positions"]

    def sums(self, outputs: Tensor, batch: Batch, gather: Gather) -> Sums:
        """Cross-entropy in nats, summed over targets."""
        targets = batch["targets"].reshape(-1)
        loss = F.cross_entropy(outputs.reshape(-1, outputs.shape[-1]).float(), targets, ignore_index=IGNORED, reduction="sum")
        return Sums(loss, (targets != IGNORED).sum().float())

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """Bits per byte and loss a token of the text kept aside."""
        held_out = self._held_out
        if held_out is None or (rows := held_out.num_sequences(self.length)) == 0:
            return {}
        total, weight = 0.0, 0.0
        for start in range(0, rows, EVALUATED_ROWS):
            batch = rows_of(*held_out.sequences(np.arange(start, min(start + EVALUATED_ROWS, rows)), self.length))
            sums = self.loss(model, batch, lambda tensor: tensor)
            total, weight = total + float(sums.loss), weight + float(sums.weight)
        loss = total / max(weight, 1.0)
        return {"loss": loss, "bits_per_byte": loss / math.log(2) / self._bytes_per_token}

    def flops(self, model: nn.Module) -> float:
        """Six a multiplied parameter and a token; attention adds 6 D T a token and block, half of 12 because it is causal."""
        attention = 6 * self.shape.depth * self.shape.heads * self.shape.head_width * self.length
        num = self.roles.num_multiplied(model)
        return self.length * float(6 * num + attention)

    def settings(self) -> dict[str, Any]:
        """The shape."""
        return {"shape": asdict(self.shape), "length": self.length, "tokens": "bytes"}


class Text:
    """Texts as bytes, one document after the other, each ended by `END`; held in memory."""

    END = 256
    VOCAB = 257

    def __init__(self, texts: list[bytes]) -> None:
        sizes = np.array([len(text) + 1 for text in texts], np.int64)
        self._ends = np.cumsum(sizes)
        self._tokens = np.full(int(sizes.sum()), self.END, np.uint16)
        for text, end in zip(texts, self._ends.tolist(), strict=True):
            self._tokens[end - 1 - len(text) : end - 1] = np.frombuffer(text, np.uint8)

    def num_sequences(self, length: int) -> int:
        """How many of this length there are."""
        return max(0, (len(self._tokens) - 1) // length)

    def sequences(self, positions: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """As `TokenShards.sequences`."""
        at = positions[:, None] * length + np.arange(length + 1)
        return self._tokens[at].astype(np.uint32), np.searchsorted(self._ends, at, side="right")


def rows_of(tokens: np.ndarray, documents: np.ndarray) -> Batch:
    """Inputs, targets and positions of sequences [B, T + 1]."""
    length = tokens.shape[1] - 1
    inside = documents[:, :-1]
    begins = np.ones(inside.shape, bool)
    begins[:, 1:] = inside[:, 1:] != inside[:, :-1]
    at = np.arange(length)
    positions = at - np.maximum.accumulate(np.where(begins, at, 0), axis=1)
    targets = tokens[:, 1:].astype(np.int64)
    targets[(documents[:, 1:] < 0) | (documents[:, 1:] != inside)] = IGNORED
    return {
        "inputs": torch.from_numpy(tokens[:, :-1].astype(np.int64)),
        "targets": torch.from_numpy(targets),
        "positions": torch.from_numpy(positions),
    }
