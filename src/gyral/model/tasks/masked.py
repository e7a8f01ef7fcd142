"""`vision/masked`: what is hidden of a picture is painted from what is seen; no captions, no negatives.

Which patches are kept is drawn by the row's own generator. The loss is the squared error of hidden patches whose numbers are
brought to mean 0 and deviation 1 each, summed over patches: its weight is how many are hidden.

Shapes: B rows, N patches, K of them kept.

Source: He et al. 2022 (masked autoencoders), sections 3 and 4 (normalized pixels).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gyral.model import augment
from gyral.model.nets import vit
from gyral.model.nets.masked import ROLES, Autoencoder, DecoderShape
from gyral.model.pictures import Pictures
from gyral.model.task import Batch, Gather, Sums, alone, row_generator, seeded
from gyral.model.tasks.pictures import PictureTask

EVALUATED_ROWS = 256
"""At once."""


class Masked(PictureTask):
    """Masked autoencoding.

    Parameters
    ----------
    hidden : share of patches that are not seen.
    """

    name = "masked"
    unlabelled = "loss"
    roles = ROLES

    def __init__(
        self,
        shape: vit.Shape,
        decoder: DecoderShape,
        hidden: float,
        trained: Pictures,
        held_out: Pictures,
        recipe: augment.Recipe,
        seed: int,
    ) -> None:
        super().__init__(shape, trained, held_out, recipe, seed)
        self.decoder = decoder
        self.num_kept = max(1, round((1 - hidden) * shape.num_patches))

    def build(self, seed: int) -> nn.Module:
        """Encoder and decoder."""
        return seeded(seed, lambda: Autoencoder(self.shape, self.decoder))

    def batch(self, examples: np.ndarray, step: int) -> Batch:
        """A view of a picture of each concept, and which patches of it are seen."""
        generators = [row_generator(self.seed, step, example) for example in examples.tolist()]
        drawn = [self.drawn(concept, generator) for concept, generator in zip(examples.tolist(), generators, strict=True)]
        return self._batch(self.trained.pixels[drawn], generators, self.recipe)

    def _batch(self, pixels: np.ndarray, generators: list[np.random.Generator], recipe: augment.Recipe) -> Batch:
        seen = augment.views(pixels, generators, recipe, self.shape.side)
        kept = [generator.permutation(self.shape.num_patches)[: self.num_kept] for generator in generators]
        return {"pixels": seen, "kept": torch.from_numpy(np.stack(kept))}

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """Pictures, and which patches are seen."""
        return batch["pixels"], batch["kept"]

    def sums(self, outputs: tuple[Tensor, Tensor], batch: Batch, gather: Gather) -> Sums:
        """Squared error of each hidden patch, mean over its numbers, summed over patches."""
        targets = vit.patches_of(batch["pixels"], self.shape.patch)
        targets = (targets - targets.mean(dim=2, keepdim=True)) / (targets.var(dim=2, keepdim=True) + 1e-6).sqrt()
        error = ((outputs[0].float() - targets) ** 2).mean(dim=2)
        is_hidden = torch.ones_like(error).scatter_(1, batch["kept"], 0.0)
        return Sums((error * is_hidden).sum(), is_hidden.sum())

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """As all, and the loss on pictures kept aside: 1 is what a patch painted in its mean would have."""
        pixels, total, weight = self.held_out.pixels, 0.0, 0.0
        for at in range(0, len(pixels), EVALUATED_ROWS):
            part = pixels[at : at + EVALUATED_ROWS]
            batch = self._batch(part, [row_generator(0, 1, at + row) for row in range(len(part))], augment.PLAIN)
            sums = self.loss(model, batch, alone)
            total, weight = total + float(sums.loss), weight + float(sums.weight)
        return {**super().evaluate(model), "loss": total / max(weight, 1.0)}

    def flops(self, model: nn.Module) -> float:
        """Of the encoder on what is seen and the decoder on everything."""
        shape, decoder = self.shape, self.decoder
        encoder = vit.flops_of(shape.depth, shape.width, shape.hidden, 1 + self.num_kept)
        painting = vit.flops_of(decoder.depth, decoder.width, 4 * decoder.width, 1 + shape.num_patches)
        numbers = shape.channels * shape.patch**2
        return encoder + painting + 6.0 * shape.num_patches * numbers * (shape.width + decoder.width)

    def settings(self) -> dict[str, Any]:
        """Shapes of encoder and decoder."""
        return self.described("masked", decoder=asdict(self.decoder))
