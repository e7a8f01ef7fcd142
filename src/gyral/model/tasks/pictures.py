"""What the three vision tasks share: data kept aside by concept, how views find each other, and the gallery searched later."""

from __future__ import annotations

from collections.abc import Mapping
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
from gyral.model.task import BaseTask, row_generator

PICTURES = "pictures.json"
VIEW = augment.Recipe(scale=(0.6, 1.0), flip=0.5, jitter=1.0)
"""How a picture without a second one of its concept is changed to be found again."""


class PictureTask(BaseTask):
    """Base of the tasks; an example is a concept.

    Parameters
    ----------
    trained, held_out : pictures of different concepts.
    """

    unit = "images"

    def __init__(self, shape: vit.Shape, trained: Pictures, held_out: Pictures, recipe: augment.Recipe, seed: int) -> None:
        self.shape, self.recipe, self.seed = shape, recipe, seed
        self.trained, self.held_out = trained, held_out
        self.num_rows = trained.num_concepts

    def drawn(self, concept: int, generator: np.random.Generator) -> int:
        """One picture of a concept."""
        mine = self.trained.of(concept)
        return int(mine[generator.integers(len(mine))])

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """Share of pictures kept aside whose nearest other one is of their concept, and what chance gives."""
        queries, found, concepts = pairs_of(self.held_out, self.shape.side)
        embedder = Embedder(model)
        value = recall(embedder.pictures(queries), concepts, embedder.pictures(found), concepts)
        return {"r_at_1": value, "chance": 1 / max(len(concepts), 1)}

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


def pairs_of(pictures: Pictures, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two pictures of each concept, uint8 [n, S, S, C] each: two of its own, or one and a view of it; and the concepts."""
    firsts, seconds = [], []
    for concept in range(pictures.num_concepts):
        mine = pictures.of(concept).tolist()
        firsts.append(pictures.pixels[mine[0]])
        if len(mine) > 1:
            seconds.append(pictures.pixels[mine[-1]])
        else:
            view = augment.views(pictures.pixels[mine[:1]], [row_generator(0, 0, concept)], VIEW, side)[0]
            seconds.append(((view.permute(1, 2, 0).numpy() + 1) * 127.5).clip(0, 255).astype(np.uint8))
    empty = np.zeros((0, side, side, pictures.pixels.shape[-1]), np.uint8)
    stacked = [np.stack(each) if each else empty for each in (firsts, seconds)]
    return stacked[0], stacked[1], np.arange(pictures.num_concepts)
