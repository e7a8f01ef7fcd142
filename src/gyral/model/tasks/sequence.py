"""`recommender/sequence`: each object is foretold from those a subject met before it; quality is full ranking of later events.

A row holds `inputs`, `times` and `targets` (−1: none), each [B, T], `keys` [B] of its dropout, and, with a sampled softmax,
`negatives` [B, K]: drawn uniformly by the row's own generator, shared by its positions.

The sampled loss is that of the full softmax with the sum over all objects estimated from K of them: log(V / K) is added to
their logits, the log-Q correction for uniform Q.

Source: Kang and McAuley 2018; Klenitskiy and Vasilev 2023 (cross-entropy); Bengio and Senécal 2008 (sampled softmax).
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gyral.model.nets.dropout import row_keys
from gyral.model.nets.sequence import HSTU_ROLES, ROLES, Sequence, Shape
from gyral.model.sequences import Sequences, window_flops
from gyral.model.task import Batch, Gather, Sums, row_generator, seeded
from gyral.model.tasks.recommending import Judge, Kept, Recommending

INPUTS = ("inputs", "times", "keys", "targets", "negatives")


class NextObject(Recommending):
    """Next-object prediction.

    Parameters
    ----------
    negatives : objects a row is compared with; 0: all.
    """

    name = "sequence"
    unit = "events"

    def __init__(
        self,
        shape: Shape,
        trained: Sequences,
        seed: int,
        negatives: int = 0,
        judge: Judge | None = None,
        kept: Kept | None = None,
    ) -> None:
        super().__init__(shape, seed, judge, kept or Kept())
        self.roles = HSTU_ROLES if shape.net == "hstu" else ROLES
        self.num_rows, self.unit_per_row = trained.num_windows, shape.length
        self._trained, self.num_drawn = trained, negatives

    def build(self, seed: int) -> nn.Module:
        """A net of this shape."""
        return seeded(seed, lambda: Sequence(self.shape))

    def batch(self, examples: np.ndarray, step: int) -> Batch:
        """Windows at these places."""
        windows = dict(zip(("inputs", "times", "targets"), self._trained.windows(examples), strict=True))
        if self.num_drawn:
            generators = (row_generator(self.seed, step, example) for example in examples.tolist())
            drawn = [generator.integers(0, self.shape.objects, self.num_drawn) for generator in generators]
            windows["negatives"] = np.array(drawn).reshape(len(examples), self.num_drawn)
        batch = {name: torch.from_numpy(values) for name, values in windows.items()}
        return {**batch, "keys": row_keys(self.seed, step, examples)}

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """Objects, times, keys, targets, and negatives where there are some."""
        return tuple(batch[name] for name in INPUTS if name in batch)

    def sums(self, outputs: Tensor, batch: Batch, gather: Gather) -> Sums:
        """Cross-entropy in nats, summed over targets."""
        targets = batch["targets"][self.is_target(batch)]
        if outputs.dim() == 1:  # nats already
            return Sums(outputs.sum(), torch.tensor(float(len(targets))))
        loss = F.cross_entropy(self.logits(outputs), torch.zeros_like(targets) if self.num_drawn else targets, reduction="sum")
        return Sums(loss, torch.tensor(float(len(targets))))

    def is_target(self, batch: Batch) -> Tensor:
        """Positions that have a target, bool [B, T]."""
        return batch["targets"] >= 0

    def logits(self, outputs: Tensor) -> Tensor:
        """Those of all objects [N, V], or of the target and the draws [N, 1 + K], which stand for all."""
        if self.num_drawn:
            outputs = torch.cat([outputs[:, :1], outputs[:, 1:] + math.log(self.shape.objects / self.num_drawn)], dim=1)
        return outputs.float()

    def flops(self, model: nn.Module) -> float:
        """As `window_flops` counts them."""
        shape, compared = self.shape, 1 + self.num_drawn if self.num_drawn else self.shape.objects
        return window_flops(shape.net, shape.length, shape.width, shape.hidden, shape.depth, compared)
