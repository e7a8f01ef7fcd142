"""`recommender/two_tower`: of a batch's objects, which one did this subject meet? The others of the batch are the negatives.

An object is in a batch as often as it is met, so popular ones are negatives too often: log Q, the logarithm of each object's
share of the events, is taken off its logit. Objects equal to the own one are no negatives. Rows are compared with those of all
ranks (`gather`), so the loss is that of the whole batch however it is split.

A row holds `subjects`, `countries`, `sizes`, `targets`, `keys`, `examples`, each [B], and `inputs`, `times` [B, T]: what was
met before.

Source: Yi et al., Sampling-bias-corrected neural modeling for large corpus item recommendations, RecSys 2019, section 4.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gyral.model.nets.dropout import row_keys
from gyral.model.nets.two_tower import ROLES, Shape, TwoTower
from gyral.model.sequences import Sequences
from gyral.model.task import Batch, Gather, Sums, seeded
from gyral.model.tasks.recommending import Judge, Kept, Recommending


class Retrieval(Recommending):
    """In-batch softmax.

    Parameters
    ----------
    country : of each subject, int64 [S], −1 unknown.
    words_VW : hashed words of each object's title, int64 [V, W].
    temperature : that cosines are divided by.
    """

    name = "two_tower"
    cross_sample = True
    roles = ROLES
    unit = "events"

    def __init__(
        self,
        shape: Shape,
        trained: Sequences,
        country: np.ndarray,
        words_VW: np.ndarray,
        seed: int,
        temperature: float = 0.1,
        judge: Judge | None = None,
        kept: Kept | None = None,
    ) -> None:
        super().__init__(shape, seed, judge, kept or Kept())
        self.num_rows = len(trained.objects)
        self._trained, self._country, self._temperature = trained, country, temperature
        self._words = torch.from_numpy(words_VW)
        counts = np.bincount(trained.objects, minlength=shape.objects)
        self._log_share = torch.from_numpy(np.log(np.maximum(counts, 1) / max(len(trained.objects), 1))).float()

    def build(self, seed: int) -> nn.Module:
        """Towers of this shape."""
        return seeded(seed, lambda: TwoTower(self.shape, self._words.clone()))

    def batch(self, examples: np.ndarray, step: int) -> Batch:
        """Events at these places, with what their subjects had met before."""
        subjects, inputs, times, sizes = self._trained.before(examples)
        found = {
            "subjects": subjects,
            "countries": self._country[subjects],
            "inputs": inputs,
            "times": times,
            "sizes": sizes,
            "targets": self._trained.objects[examples].astype(np.int64),
            "examples": examples,
        }
        batch = {name: torch.from_numpy(values) for name, values in found.items()}
        return {**batch, "keys": row_keys(self.seed, step, examples)}

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """Who is asked about, what they had met, the object met next, keys."""
        return tuple(batch[name] for name in ("subjects", "countries", "inputs", "times", "sizes", "targets", "keys"))

    def sums(self, outputs: tuple[Tensor, Tensor], batch: Batch, gather: Gather) -> Sums:
        """Cross-entropy in nats, summed over rows; how many rows had the right object first."""
        logits_BG, own_B = self.compared(*outputs, batch, gather)
        loss = F.cross_entropy(logits_BG, own_B, reduction="sum")
        right = (logits_BG.argmax(dim=1) == own_B).sum().float()
        return Sums(loss, torch.tensor(float(len(own_B))), {"first": right})

    def compared(self, subjects_BD: Tensor, objects_BD: Tensor, batch: Batch, gather: Gather) -> tuple[Tensor, Tensor]:
        """Logits of each subject with the objects of all rows, [B, G], −inf where one is the own again; places of the own."""
        objects_GD, targets_G, examples_G = gather(objects_BD), gather(batch["targets"]), gather(batch["examples"])
        logits_BG = subjects_BD @ objects_GD.T / self._temperature - self._log_share[targets_G]
        is_mine = examples_G == batch["examples"][:, None]
        own_B = is_mine.int().argmax(dim=1)  # the first: an example may come twice where a pass ends in a batch
        is_same = targets_G == batch["targets"][:, None]
        is_own = torch.arange(len(targets_G)) == own_B[:, None]
        return logits_BG.masked_fill(is_same & ~is_own, float("-inf")), own_B

    def flops(self, model: nn.Module) -> float:
        """Six a multiplied parameter, without the products of a batch's vectors, which depend on its size."""
        return 6.0 * self.roles.num_multiplied(model)
