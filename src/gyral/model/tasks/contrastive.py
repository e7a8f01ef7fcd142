"""`vision/contrastive`: a picture and its caption are near, every other pair of the batch is far.

A row is a concept: one of its pictures and `several` of its captions are drawn anew each step. With names in 130 languages a
caption comes by once in 130 passes when one is drawn; captions cost less than pictures, so several are. Each has a batch of
its own, and the loss is the mean over them. Rows of one concept, which a batch over the end of a pass may have, are pairs and
not strangers.

With `alike` a row brings two pictures, of two renderings where its concept has them and else two views of one: both meet its
captions, and each other, as in SLIP. Captions alone teach what is told; that two renderings are one thing, they do not.

Each rank compares its own rows with those of all ranks, which `gather` brings: the sum over ranks is the sum over the square of
the global batch, and gradients come back to whose rows they are of.

Shapes: b rows of this rank, B of all, V captions of a row, E width of the common space.

Source: Zhai et al. 2023 (SigLIP, the default), section 3; Radford et al. 2021 (CLIP), figure 3; Mu et al. 2022 (SLIP), section
3 (here both losses look at the same vectors). CLIP's mean of two directions is a sum of halves here.
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
from gyral.model.naming import judged
from gyral.model.nets import captions, vit
from gyral.model.nets.towers import ROLES, Towers
from gyral.model.pictures import Pictures
from gyral.model.retrieval import naming, recall
from gyral.model.task import Batch, Gather, Sums, row_generator, seeded
from gyral.model.tasks.pictures import PictureTask
from gyral.model.uncaptioned import captions_are_classes

MOST_CAPTIONS = 20_000
"""That an evaluation asks about."""
SCALE_LIMIT = 100.0


class Contrastive(PictureTask):
    """Pictures and captions in one space.

    Parameters
    ----------
    width : numbers of a vector.
    several : captions of a row.
    rows : of a global batch: SigLIP's bias begins at the log-odds of a pair in it, log 1 / (rows − 1). The paper's −10 is
        that of a batch of 22,000; with 128 rows the loss then begins at 9.8 and not at 6.3.
    alike : weight of two pictures of a row that meet each other, beside 1 for pictures that meet captions; 0: a row has one.
    joined : as `Towers` has it.
    concept : what the dataset's pictures were told apart by, kept for who measures again.
    """

    name = "contrastive"
    metric = "r_at_1"
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
        several: int = 1,
        alike: float = 0.0,
        joined: bool = False,
        concept: str = "picture",
    ) -> None:
        super().__init__(shape, trained, held_out, recipe, seed)
        self.caption, self.width, self.kind, self.rows, self.several = caption, width, loss, rows, several
        self.alike, self.joined, self.num_views, self.concept = alike, joined, 2 if alike else 1, concept
        self._has_classes = captions_are_classes(trained, held_out)
        if self._has_classes:  # a thousand pictures are as right for `shirt` as the nearest
            self.metric = "label_accuracy"

    def build(self, seed: int) -> nn.Module:
        """Both towers."""
        bias = -math.log(max(self.rows - 1, 1)) if self.kind == "siglip" else 0.0
        return seeded(seed, lambda: Towers(self.shape, self.caption, self.width, bias, self.joined, self.alike > 0))

    def batch(self, examples: np.ndarray, step: int) -> Batch:
        """Pictures and captions of each concept."""
        generators = [row_generator(self.seed, step, example) for example in examples.tolist()]
        drawn_VB: list[list[int]] = [[] for _ in range(self.num_views)]
        texts = []
        for concept, generator in zip(examples.tolist(), generators, strict=True):
            for view, picture in zip(drawn_VB, self._drawn(concept, generator), strict=True):
                view.append(picture)
            mine = self.trained.captions_of(concept)
            texts += [self.trained.texts[mine[at]] for at in generator.integers(len(mine), size=self.several).tolist()]
        views = [augment.views(self.trained.pixels[drawn], generators, self.recipe, self.shape.side) for drawn in drawn_VB]
        return {
            "pixels": torch.stack(views, dim=1),
            "grams": captions.grams_of(texts, self.caption.buckets).unflatten(0, (len(examples), self.several)),
            "concepts": torch.from_numpy(examples),
        }

    def _drawn(self, concept: int, generator: np.random.Generator) -> list[int]:
        """One picture of a concept, or two: different ones where it has several."""
        mine = self.trained.of(concept)
        first = int(generator.integers(len(mine)))
        if self.num_views == 1:
            return [int(mine[first])]
        further = int(generator.integers(1, len(mine))) if len(mine) > 1 else 0
        return [int(mine[first]), int(mine[(first + further) % len(mine)])]

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """Pictures and captions, those of a row together."""
        return batch["pixels"].flatten(0, 1), batch["grams"].flatten(0, 1)

    def sums(self, outputs: Any, batch: Batch, gather: Gather) -> Sums:
        """The loss of this rank's rows among all rows."""
        picture, caption, scale, bias, *of_alike = outputs
        concepts = batch["concepts"]
        rows = len(concepts)
        same_bB = concepts[:, None] == gather(concepts)[None, :]
        mine_VbE, all_VBE = _views(picture, rows, self.num_views, gather)
        told_CbE, all_CBE = _views(caption, rows, self.several, gather)
        known = zip(mine_VbE, all_VBE, strict=True)
        parts = [self._apart(mine, told_CbE, everybody, all_CBE, scale, bias, same_bB) for mine, everybody in known]
        loss = torch.stack(parts).sum() / (self.several * self.num_views)
        if self.alike:
            alike_scale, alike_bias = of_alike
            alike = self._apart(mine_VbE[0], mine_VbE[1:], all_VBE[0], all_VBE[1:], alike_scale, alike_bias, same_bB)
            loss = loss + self.alike * alike
        return Sums(loss.float(), torch.tensor(float(rows)))

    def _apart(
        self,
        mine_bE: Tensor,
        theirs_VbE: Tensor,
        all_BE: Tensor,
        all_VBE: Tensor,
        scale: Tensor,
        bias: Tensor,
        same_bB: Tensor,
    ) -> Tensor:
        """The loss of rows of one kind among V drawings of another kind, summed over both."""
        factor = scale.exp().clamp(max=SCALE_LIMIT)
        if self.kind == "siglip":
            logits_VbB = factor * mine_bE @ all_VBE.transpose(1, 2) + bias
            return -F.logsigmoid(torch.where(same_bB, logits_VbB, -logits_VbB)).double().sum()
        share_bB = same_bB.float() / same_bB.sum(dim=1, keepdim=True)
        both = (mine_bE @ all_VBE.transpose(1, 2), theirs_VbE @ all_BE.T)
        forth, back = [(share_bB * F.log_softmax(factor * each, dim=2)).double().sum() for each in both]
        return -0.5 * (forth + back)

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """Of concepts kept aside: captions whose nearest picture is right, pictures whose nearest caption is; where captions
        are classes, pictures that get their own."""
        embedder, data = Embedder(model), self.held_out
        pictures, texts = embedder.pictures(data.pixels), embedder.captions([data.texts[at] for at in self._asked.tolist()])
        concepts = data.caption_concept[self._asked]
        named = naming(pictures, data.concept, texts, concepts, [data.languages[at] for at in self._asked.tolist()])
        by_class = {}
        if self._has_classes:
            classes = sorted(set(self.trained.texts))
            own = dict(zip(data.caption_concept.tolist(), data.texts, strict=True))
            truth = [{own[concept]} for concept in data.concept.tolist()]
            right = judged(pictures, embedder.captions(classes), 1.0, classes, truth)[1]
            by_class = {"label_accuracy": float(right.mean())}
        return by_class | {
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
        if self.joined:
            patches += 6.0 * picture.num_patches * picture.width * self.width
        of_caption = vit.flops_of(caption.depth, caption.width, caption.hidden, captions.LENGTH)
        return self.num_views * (patches + of_picture) + self.several * of_caption

    def settings(self) -> dict[str, Any]:
        """Shapes of both towers."""
        more = {"joined": self.joined, "alike": self.alike > 0, "concept": self.concept}
        return self.described("contrastive", caption=asdict(self.caption), width=self.width, **more)


def _views(rows_BE: Tensor, rows: int, count: int, gather: Gather) -> tuple[Tensor, Tensor]:
    """Vectors of which those of a row stand together → of this rank [V, b, E] and of all [V, B, E]."""
    mine_bVE = rows_BE.unflatten(0, (rows, count))
    return mine_bVE.transpose(0, 1), gather(mine_bVE).transpose(0, 1)
