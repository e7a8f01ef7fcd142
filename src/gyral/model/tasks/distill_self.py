"""`vision/self_distilled`: a student foretells, from one view, what its own past says of another; no captions, no negatives.

The teacher is the moving average of the student and part of the model; `after_step` moves it. What keeps all pictures from
getting one answer is the center, a moving mean of what the teacher says of the *global* batch, which `gather` brings: with
local means two ranks would learn something else than one. Small views see a part, large ones most of the picture; every view
but its own is foretold from it.

A teacher that follows at .996 stays where it began for the first thousand steps; so the momentum begins low:
min(momentum, (1 + step) / (10 + step)).

Shapes: B rows, V views of a row, K prototypes.

Source: Caron et al. 2021 (DINO), algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gyral.model import augment
from gyral.model.nets import vit
from gyral.model.nets.distilled import ROLES, StudentTeacher
from gyral.model.pictures import Pictures
from gyral.model.task import Batch, Gather, Sums, row_generator, seeded
from gyral.model.tasks.pictures import PictureTask


@dataclass(frozen=True)
class Teaching:
    """How the student is taught.

    Attributes
    ----------
    prototypes, hidden, narrow : sizes of the heads.
    parts, part_side : how many small views a row has, and their side in pixels.
    momentum, center_momentum : what the teacher and the center keep of themselves in a step.
    taught_at, said_at : temperatures; the teacher's is lower, so it is surer.
    """

    prototypes: int = 1024
    hidden: int = 256
    narrow: int = 64
    parts: int = 4
    part_side: int = 16
    momentum: float = 0.99
    center_momentum: float = 0.9
    taught_at: float = 0.04
    said_at: float = 0.1


class SelfDistilled(PictureTask):
    """Self-distillation without labels.

    Parameters
    ----------
    recipe, part_recipe : of large and of small views.
    """

    name = "self_distilled"
    cross_sample = True
    one_pass = False
    roles = ROLES

    def __init__(
        self,
        shape: vit.Shape,
        teaching: Teaching,
        trained: Pictures,
        held_out: Pictures,
        recipe: augment.Recipe,
        part_recipe: augment.Recipe,
        seed: int,
    ) -> None:
        super().__init__(shape, trained, held_out, recipe, seed)
        self.teaching, self.part_recipe = teaching, part_recipe

    def build(self, seed: int) -> nn.Module:
        """Student and teacher, equal."""
        return seeded(seed, lambda: StudentTeacher(self.shape, **self._head))

    def batch(self, examples: np.ndarray, step: int) -> Batch:
        """Two large and several small views of each concept, every one of a picture drawn anew from it: [B, V, C, S, S]."""
        generators = [row_generator(self.seed, step, example) for example in examples.tolist()]

        def several(count: int, recipe: augment.Recipe, side: int) -> Tensor:
            found = []
            for _ in range(count):
                drawn = [
                    self.drawn(example, generator) for example, generator in zip(examples.tolist(), generators, strict=True)
                ]
                found.append(augment.views(self.trained.pixels[drawn], generators, recipe, side))
            return torch.stack(found, dim=1)

        batch = {"whole": several(2, self.recipe, self.shape.side)}
        if self.teaching.parts:
            batch["parts"] = several(self.teaching.parts, self.part_recipe, self.teaching.part_side)
        return batch

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        """Large views, and small ones or None: rows of a picture stand together."""
        return batch["whole"].flatten(0, 1), batch["parts"].flatten(0, 1) if "parts" in batch else None

    def outputs(self, model: nn.Module, batch: Batch, gather: Gather) -> Any:
        """All views once; what the teacher says of the whole batch is kept for the center."""
        outputs = model(*self.inputs(batch))
        with torch.no_grad():
            model.seen.copy_(gather(outputs[2]).mean(dim=0))  # type: ignore[operator]
        return *outputs, model.center

    def sums(self, outputs: Any, batch: Batch, gather: Gather) -> Sums:
        """Cross-entropy of the student's views to the teacher's two, mean over pairs, summed over rows."""
        said, of_parts, taught, center = outputs
        loss = self.crossed(said, of_parts, taught - center).sum().float()
        with torch.no_grad():
            target_BTK = self._targets(taught - center)
            sureness = -(target_BTK * (target_BTK + 1e-12).log()).sum(dim=-1).mean(dim=1).sum()
        return Sums(loss, torch.tensor(float(len(batch["whole"]))), {"teacher_entropy": sureness})

    def crossed(self, said: Tensor, of_parts: Tensor | None, taught: Tensor) -> Tensor:
        """Cross-entropy of each row's views to what a teacher says of its two large ones, mean over pairs, float64 [B].

        Parameters
        ----------
        said, of_parts : products with prototypes of the student's large and small views, [2 B, K] and [P B, K].
        taught : of the teacher's large views, its center taken off, [2 B, K].
        """
        target_BTK, views_BVK = self._targets(taught), said.unflatten(0, (-1, 2))
        if of_parts is not None:
            views_BVK = torch.cat([views_BVK, of_parts.unflatten(0, (-1, self.teaching.parts))], dim=1)
        log_BVK = F.log_softmax(views_BVK / self.teaching.said_at, dim=-1)
        cross_BTV = -torch.einsum("btk,bvk->btv", target_BTK, log_BVK)
        total_B = cross_BTV.sum(dim=(1, 2)) - cross_BTV[:, 0, 0] - cross_BTV[:, 1, 1]
        return (total_B / (2 * views_BVK.shape[1] - 2)).double()

    def _targets(self, taught: Tensor) -> Tensor:
        """How much of each large view is each prototype, [B, 2, K]."""
        return F.softmax(taught / self.teaching.taught_at, dim=-1).unflatten(0, (-1, 2))

    def after_step(self, model: nn.Module, step: int) -> None:
        """The teacher and the center follow."""
        momentum = min(self.teaching.momentum, (1 + step) / (10 + step))
        model.follow(momentum, self.teaching.center_momentum)  # type: ignore[operator]

    def flops(self, model: nn.Module) -> float:
        """Student forward and backward on all views, teacher forward on large ones."""
        shape, teaching = self.shape, self.teaching
        whole = vit.flops_of(shape.depth, shape.width, shape.hidden, 1 + shape.num_patches)
        part = vit.flops_of(shape.depth, shape.width, shape.hidden, 1 + (teaching.part_side // shape.patch) ** 2)
        head = shape.width * teaching.hidden + teaching.hidden**2 + teaching.narrow * (teaching.hidden + teaching.prototypes)
        return 2 * (whole + whole / 3) + teaching.parts * part + (8.0 * 2 + 6 * teaching.parts) * head

    @property
    def _head(self) -> dict[str, int]:
        return {name: getattr(self.teaching, name) for name in ("prototypes", "hidden", "narrow")}

    def settings(self) -> dict[str, Any]:
        """Shapes of the towers and heads."""
        return self.described("self_distilled", head=self._head)
