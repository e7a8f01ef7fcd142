"""What the recommenders' tasks have in common: what a published model answers from besides its weights, and who judges it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from torch import nn

from gyral.model.card import Weights
from gyral.model.task import BaseTask

Judge = Callable[[nn.Module], Mapping[str, float]]
"""Metrics of a net on what it never learned."""


@dataclass(frozen=True)
class Kept:
    """Histories and counts, settings of the closed form beside the net, and files such as the vocabulary."""

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)


class Recommending(BaseTask):
    """A net that answers through `gyral.model.neural_recommender`.

    Parameters
    ----------
    shape : a dataclass of sizes.
    judge : called by `evaluate`.
    """

    def __init__(self, shape: Any, seed: int, judge: Judge | None, kept: Kept) -> None:
        self.shape, self.seed = shape, seed
        self._judge, self._kept = judge, kept

    @property
    def num_events(self) -> int:
        """That a published model answers from, those kept aside included."""
        return len(self._kept.arrays.get("sequence", ()))

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """NDCG, recall and hit rate at 10 of held-out events, every object ranked."""
        return self._judge(model) if self._judge is not None else {}

    def settings(self) -> dict[str, Any]:
        """The net, its shape, and what it answers from."""
        return {**self._kept.settings, "net": self.name, "shape": asdict(self.shape)}

    def finished(self, weights: Weights) -> Weights:
        """With histories and counts."""
        return Weights({**weights.arrays, **self._kept.arrays}, weights.settings)

    def files(self) -> dict[str, bytes]:
        """The vocabulary."""
        return self._kept.files
