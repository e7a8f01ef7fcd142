"""What the three vision tasks share: data kept aside by concept, how good vectors are without captions, and the gallery that is
searched later."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
from torch import nn

from gyral.model import augment
from gyral.model.card import Weights
from gyral.model.embedder import GALLERY, Embedder
from gyral.model.nets import vit
from gyral.model.pictures import Pictures
from gyral.model.retrieval import recall
from gyral.model.task import BaseTask
from gyral.model.uncaptioned import labels_of, probed, spread

PICTURES = "pictures.json"
MOST_SPREAD = 2_048
"""Pictures kept aside whose directions are counted."""


class PictureTask(BaseTask):
    """Base of the tasks; an example is a concept.

    Parameters
    ----------
    trained, held_out : pictures of different concepts.

    Attributes
    ----------
    unlabelled : the metric where the data says nothing of its pictures.
    """

    unit = "images"
    unlabelled = "effective_rank"

    def __init__(self, shape: vit.Shape, trained: Pictures, held_out: Pictures, recipe: augment.Recipe, seed: int) -> None:
        self.shape, self.recipe, self.seed = shape, recipe, seed
        self.trained, self.held_out = trained, held_out
        self.num_rows = trained.num_concepts
        self.metric = self.metric or self._compared_by()

    def drawn(self, concept: int, generator: np.random.Generator) -> int:
        """One picture of a concept."""
        mine = self.trained.of(concept)
        return int(mine[generator.integers(len(mine))])

    def _compared_by(self) -> str:
        """Models of pictures alone: by a probe, where the data has classes; by finding the other picture of a concept, where
        concepts have several; else by what the task says."""
        if labels_of(self.trained, self.held_out) is not None:
            return "probe_accuracy"
        return "r_at_1" if self._pairs else self.unlabelled

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """Of pictures kept aside: accuracy of a linear probe, how often the nearest other picture is of the same concept, how
        many directions vectors use; the first two where the data can say."""
        embedder = Embedder(model)
        found = probed(embedder, self.trained, self.held_out)
        if self._pairs:
            first, second = (embedder.pictures(self.held_out.pixels[list(each)]) for each in zip(*self._pairs, strict=True))
            concepts = np.arange(len(first))
            found |= {"r_at_1": recall(first, concepts, second, concepts), "chance": 1 / len(first)}
        pixels = self.held_out.pixels
        return found | spread(embedder.pictures(pixels[:: -(-len(pixels) // MOST_SPREAD) or 1]))

    @cached_property
    def _pairs(self) -> list[tuple[int, int]]:
        """Two pictures of each concept kept aside that has two; none where there is but one such concept."""
        found = [self.held_out.of(concept).tolist() for concept in range(self.held_out.num_concepts)]
        pairs = [(mine[0], mine[-1]) for mine in found if len(mine) > 1]
        return pairs if len(pairs) > 1 else []

    def finished(self, weights: Weights) -> Weights:
        """Weights and the vectors of all pictures, by which they are searched."""
        pixels = np.concatenate([self.trained.pixels, self.held_out.pixels])
        return Weights({**weights.arrays, GALLERY: Embedder.of(weights).pictures(pixels)}, weights.settings)

    def files(self) -> dict[str, bytes]:
        """`pictures.json`: names of the pictures in the order of the gallery, and their captions by language."""
        names: dict[str, dict[str, str]] = {}
        ids: list[str] = []
        for part in (self.trained, self.held_out):
            for concept in range(part.num_concepts):
                captions = part.captions_of(concept).tolist()
                for picture in part.of(concept).tolist() if captions else ():
                    at = str(len(ids) + picture)
                    for caption in captions:
                        names.setdefault(part.languages[caption], {}).setdefault(at, part.texts[caption])
            ids += part.ids
        return {PICTURES: msgspec.json.encode({"ids": ids, "names": names})}

    def described(self, name: str, **more: Any) -> dict[str, Any]:
        """Settings of a task."""
        return {
            "task": name,
            "picture": {field: getattr(self.shape, field) for field in vit.Shape.__dataclass_fields__},
            **more,
        }
