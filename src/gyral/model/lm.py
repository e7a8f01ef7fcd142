"""The family `lm`: how a language model is stored, loaded and asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import torch

from gyral.lake.dataset import Dataset
from gyral.model import card as cards
from gyral.model.nets.llama import Llama, Shape
from gyral.model.tasks.next_token import NextToken, Text


class ServableLm:
    """A language model over bytes."""

    def __init__(self, folder: Path) -> None:
        card = cards.read_card(folder)
        self.name = card.model
        self.card: dict[str, Any] = msgspec.to_builtins(card)
        weights = cards.read_weights(folder)
        self.shape, self.length = Shape(**weights.settings["shape"]), int(weights.settings["length"])
        self.model = Llama(self.shape)
        self.model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.arrays.items()})
        self.model.eval()

    @torch.inference_mode()
    def bits_per_byte(self, texts: list[str]) -> float:
        """How well it foretells texts."""
        task = NextToken(self.shape, self.length, Text([]), Text([text.encode() for text in texts]))
        return task.evaluate(self.model)["bits_per_byte"]

    def warm(self) -> None:
        """Run once."""
        with torch.inference_mode():
            zeros = torch.zeros(1, 2, dtype=torch.int64)
            self.model(zeros, zeros)


class LmFamily:
    """What comes next in a text."""

    name = "lm"
    metric = "bits_per_byte"
    matrices: tuple[str, ...] = ()

    def load(self, folder: Path) -> ServableLm:
        """Read a model folder."""
        return ServableLm(folder)

    def twin(self, data: Dataset, weights: cards.Weights, seed: int) -> Any:
        """Not yet."""
        raise NotImplementedError

    def erase(self, folder: Path, subject: str) -> bool:
        """It holds nobody's name."""
        return False


LM = LmFamily()
