"""`vision/contrastive`: a picture and its caption are near, every other pair of the batch is far.

A row is a concept: one of its pictures and one of its captions are drawn anew each step, so over a run a picture meets its
names in all languages. Rows of one concept, which a batch over the end of a pass may have, are pairs and not strangers.

Each rank compares its own rows with those of all ranks, which `gather` brings: the sum over ranks is the sum over the square of
the global batch, and gradients come back to whose rows they are of.

Shapes: b rows of this rank, B of all, E width of the common space.

Source: Zhai et al. 2023 (SigLIP, the default), section 3; Radford et al. 2021 (CLIP), figure 3. CLIP's mean of two directions
is a sum of halves here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gyral.model import augment
from gyral.model.embedder import Embedder
from gyral.model.nets import captions, vit
from gyral.model.nets.towers import ROLES, Towers
from gyral.model.pictures import Pictures
from gyral.model.retrieval import naming, recall
from gyral.model.task import Batch, Gather, Sums, row_generator, seeded
from gyral.model.tasks.pictures import PictureTask

MOST_CAPTIONS = 20_000
"""That an evaluation asks about."""
SCALE_LIMIT = 100.0


class Contrastive(PictureTask):
    """Pictures and captions in one space.

    Parameters
    ----------
    width : numbers of a vector.
    rows : of a global batch: SigLIP's bias begins at the log-odds of a pair in it, log 1 / (rows − 1). The paper's −10 is
        that of a batch of 22,000; with 128 rows it takes the first hundred steps to come back.
    """

    name = "contrastive"
    cross_sample = True
    roles = ROLES

    def __init__(
        self,
        shape: vit.Shape,
        caption: captions.Shape,
        width: int,
        trained: Pictures,
        held_out: Pictures,
        recipe: augment.Recipe,
        seed: int,
        loss: Literal["siglip", "clip"] = "siglip",
        rows: int = 128,
    ) -> None:
        super().__init__(shape, trained, held_out, recipe, seed)
        self.caption, self.width, self.kind, self.rows = caption, width, loss, rows

    def build(self, seed: int) -> nn.Module:
        """Both towers."""
        bias = -math.log(max(self.rows - 1, 1)) if self.kind == "siglip" else 0.0
        return seeded(seed, lambda: Towers(self.shape, self.caption, self.width, bias))

    def batch(self, examples: np.ndarray, step: int) -> Batch:
        """A picture and a caption of each concept."""
        generators = [row_generator(self.seed, step, example) for example in examples.tolist()]
        pictures, texts = [], []
        for concept, generator in zip(examples.tolist(), generators, strict=True):
            pictures.append(self.drawn(concept, generator))
            mine = self.trained.captions_of(concept)
            texts.append(self.trained.texts[mine[generator.integers(len(mine))]])
        return {
            "pixels": augment.views(self.trained.pixels[pictures], generators, self.recipe, self.shape.side),
            "grams": captions.grams_of(texts, self.caption.buckets),
            "concepts": torch.from_numpy(examples),
        }

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """Pictures and captions."""
        return batch["pixels"], batch["grams"]

    def sums(self, outputs: Any, batch: Batch, gather: Gather) -> Sums:
        """The loss of this rank's rows among all rows."""
        picture, caption, scale, bias = outputs
        concepts = batch["concepts"]
        same = concepts[:, None] == gather(concepts)[None, :]
        factor = scale.exp().clamp(max=SCALE_LIMIT)
        if self.kind == "siglip":
            logits = factor * picture @ gather(caption).T + bias
            loss = -F.logsigmoid(torch.where(same, logits, -logits)).double().sum()
        else:
            share = same.float() / same.sum(dim=1, keepdim=True)
            to_captions = factor * picture @ gather(caption).T
            to_pictures = factor * caption @ gather(picture).T
            parts = [(share * F.log_softmax(each, dim=1)).double().sum() for each in (to_captions, to_pictures)]
            loss = -0.5 * (parts[0] + parts[1])
        return Sums(loss.float(), torch.tensor(float(len(concepts))))

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """Of concepts kept aside: captions whose nearest picture is right, pictures whose nearest caption is."""
        embedder, data = Embedder(model), self.held_out
        pictures, texts = embedder.pictures(data.pixels), embedder.captions([data.texts[at] for at in self._asked.tolist()])
        concepts = data.caption_concept[self._asked]
        named = naming(pictures, data.concept, texts, concepts, [data.languages[at] for at in self._asked.tolist()])
        return {
            "r_at_1": recall(texts, concepts, pictures, data.concept),
            "r_at_10": recall(texts, concepts, pictures, data.concept, 10),
            "zero_shot": float(np.mean([found for found, _ in named.values()])) if named else 0.0,
            "zero_shot_languages": float(len(named)),
            "chance": 1 / max(data.num_concepts, 1),
        }

    @cached_property
    def _asked(self) -> np.ndarray:
        """Captions that are asked about: all, or as many as are allowed, evenly."""
        count = len(self.held_out.texts)
        return np.arange(0, count, max(1, -(-count // MOST_CAPTIONS)))

    def flops(self, model: nn.Module) -> float:
        """Of both towers."""
        picture, caption = self.shape, self.caption
        patches = 6.0 * picture.num_patches * picture.channels * picture.patch**2 * picture.width
        of_picture = vit.flops_of(picture.depth, picture.width, picture.hidden, 1 + picture.num_patches)
        return patches + of_picture + vit.flops_of(caption.depth, caption.width, caption.hidden, captions.LENGTH)

    def settings(self) -> dict[str, Any]:
        """Shapes of both towers."""
        return self.described("contrastive", caption=asdict(self.caption), width=self.width)
