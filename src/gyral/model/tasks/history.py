"""`recommender/history`: at each moment that somebody met objects, these are foretold from all that they met before.

An example is one subject with its whole history: a customer's device. What happened at one moment (a basket) is one query; the
loss is cross-entropy over all objects, summed over the objects of all its baskets. A target weighs half for every `half_life`
that it lies back of the newest event of the data: what is met changes with the season, and a model serves tomorrow.

A row holds `items`, `times` [B, T] (seconds), `sizes` [B], `queries` [B, Q] (the moments; 0: none) and `weights` [B, Q, T]: of
each event as a target of each query.

Source: Rendle, Freudenthaler and Schmidt-Thieme, WWW 2010 (baskets as what is foretold).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from gyral.model.nets.history import DAY_S, ROLES, History, Shape, seen
from gyral.model.sequences import Sequences
from gyral.model.task import Batch, Gather, Sums, seeded
from gyral.model.tasks.recommending import Judge, Kept, Recommending

MAX_QUERIES = 24
"""Of a subject, its newest ones: one customer of a hundred has more, and a phone has its limits too."""


class NextBasket(Recommending):
    """Baskets foretold from histories.

    Parameters
    ----------
    trained : what each subject met; `length` events of it are looked at, the last ones.
    half_life_days : of a target's weight.
    """

    name = "history"
    unit = "subjects"
    roles = ROLES

    def __init__(
        self,
        shape: Shape,
        trained: Sequences,
        seed: int,
        half_life_days: float,
        judge: Judge | None = None,
        kept: Kept | None = None,
    ) -> None:
        super().__init__(shape, seed, judge, kept or Kept())
        self._trained, self._half_life_s = trained, half_life_days * DAY_S
        self._newest = int(trained.times.max(initial=0))
        self.subjects = taught_by(trained)
        self.num_rows = len(self.subjects)

    def build(self, seed: int) -> nn.Module:
        """A net of this shape."""
        return seeded(seed, lambda: History(self.shape))

    def batch(self, examples: np.ndarray, step: int) -> Batch:
        """Histories of some subjects, by their places in `subjects`, padded to the longest."""
        met = [self._trained.last(int(self.subjects[one]), self.shape.length) for one in examples]
        moments = [np.unique(times)[1:][-MAX_QUERIES:] for _, times in met]
        sizes = np.array([len(objects) for objects, _ in met], dtype=np.int64)
        items = np.zeros((len(met), sizes.max(initial=1)), dtype=np.int64)
        times, queries = items.copy(), np.zeros((len(met), max(map(len, moments), default=1)), dtype=np.int64)
        for row, ((objects, seconds), at) in enumerate(zip(met, moments, strict=True)):
            items[row, : len(objects)], times[row, : len(objects)], queries[row, : len(at)] = objects, seconds, at
        is_there = np.arange(items.shape[1]) < sizes[:, None]
        is_target = (times[:, None] == queries[..., None]) & is_there[:, None]
        weights = is_target * np.exp2((queries - self._newest) / self._half_life_s)[..., None]
        arrays = {"items": items, "times": times, "sizes": sizes, "queries": queries, "weights": weights.astype(np.float32)}
        return {name: torch.from_numpy(values) for name, values in arrays.items()}

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """Items, and what the queries see of them."""
        return tuple(seen(*(batch[name] for name in ("items", "times", "sizes", "queries"))))

    def sums(self, outputs: Tensor, batch: Batch, gather: Gather) -> Sums:
        """Cross-entropy in nats, summed over targets by their weights."""
        per_row_B, weight_B = nats(outputs, batch["items"], batch["weights"])
        return Sums(per_row_B.sum(), weight_B.sum())

    def for_devices(self) -> NextBasket:
        """The same without judge and what is published: what may travel to a worker."""
        return NextBasket(self.shape, self._trained, self.seed, self._half_life_s / DAY_S)

    def num_targets(self) -> np.ndarray:
        """How many events each example learns from, int64 [num_rows]."""
        found = np.zeros(self.num_rows, dtype=np.int64)
        for row, subject in enumerate(self.subjects):
            times = self._trained.last(int(subject), self.shape.length)[1]
            found[row] = int(np.isin(times, np.unique(times)[1:][-MAX_QUERIES:]).sum())
        return found

    def flops(self, model: nn.Module) -> float:
        """Six a number of `answers` and a query; how many queries a subject has is not known here: the most."""
        return 6.0 * MAX_QUERIES * self.shape.objects * max(self.shape.width, 1)


def nats(logits_BQV: Tensor, items_BT: Tensor, weights_BQT: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted cross-entropy of each row, [B], and the weight of its targets, [B]."""
    rows, queries, _ = logits_BQV.shape
    own_BQT = logits_BQV.gather(2, items_BT[:, None].expand(rows, queries, -1))
    nats_BQT = logits_BQV.logsumexp(-1, keepdim=True) - own_BQT
    return (nats_BQT * weights_BQT).sum((1, 2)), weights_BQT.sum((1, 2))


def taught_by(trained: Sequences) -> np.ndarray:
    """Subjects with events of two moments within the `length` last ones, int64: others have nothing to foretell from."""
    counts = np.diff(trained.indptr)
    last = trained.indptr[1:] - 1
    first = np.maximum(trained.indptr[:-1], trained.indptr[1:] - trained.length)
    there = np.flatnonzero(counts >= 2)
    return there[trained.times[first[there]] < trained.times[last[there]]]
