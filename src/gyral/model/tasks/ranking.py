"""`recommender/ranking`: did this subject meet this object, yes or no? Each event, and for each some objects drawn at random.

An example is an event or one of its draws: example e is event e // (1 + drawn), and draw e % (1 + drawn), 0 the event itself.
Where labels are given (a rating, a click on what was shown) nothing is drawn. Numbers are counted from earlier events only, and
what features tell stands beside them (`gyral.model.features`).

Quality is AUC and log loss of later events, and full ranking of them.

A row holds `subjects`, `countries`, `objects`, `labels`, `keys` [B], `numbers` [B, F], and `words` [B, C] where there are some.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gyral.model.counted import Counted
from gyral.model.features import Features
from gyral.model.metrics import area_under_roc
from gyral.model.nets.dropout import row_keys
from gyral.model.nets.interaction import ROLES, Interaction, Shape
from gyral.model.recommender import Interactions
from gyral.model.task import Batch, Gather, Sums, row_generator, seeded
from gyral.model.tasks.recommending import Judge, Kept, Recommending

ASKED = ("subjects", "countries", "objects", "numbers")
EVALUATED_ROWS = 8_192
"""At once."""
MAX_EVALUATED = 50_000
"""Examples that AUC and log loss are told of, their events spread evenly: other ranks wait for the one that measures."""


class Ranking(Recommending):
    """Binary labels.

    Parameters
    ----------
    data : all events, sorted by time.
    num_trained : events that are learned from: the first ones; the later ones are asked about.
    drawn : objects beside each event; not looked at with labels.
    labels : of each event, [n]; None: an event is a yes, a draw a no.
    features : of the same events.
    """

    name = "ranking"
    roles = ROLES

    def __init__(
        self,
        shape: Shape,
        data: Interactions,
        num_trained: int,
        seed: int,
        drawn: int = 4,
        labels: np.ndarray | None = None,
        judge: Judge | None = None,
        kept: Kept | None = None,
        features: Features | None = None,
    ) -> None:
        super().__init__(shape, seed, judge, kept or Kept())
        self._features = features
        self._data, self._labels, self._num_trained = data, labels, num_trained
        self._drawn = 0 if labels is not None else drawn
        self._counted = Counted.of(data)
        self.num_rows = num_trained * (1 + self._drawn)

    def build(self, seed: int) -> nn.Module:
        """A net of this shape."""
        return seeded(seed, lambda: Interaction(self.shape))

    def batch(self, examples: np.ndarray, step: int) -> Batch:
        """Events and draws at these places."""
        return {**self._rows(examples, step), "keys": row_keys(self.seed, step, examples)}

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """Ids, numbers, keys, and words where there are some."""
        return tuple(batch[name] for name in (*ASKED, "keys", "words") if name in batch)

    def sums(self, outputs: Tensor, batch: Batch, gather: Gather) -> Sums:
        """Log loss in nats, summed over rows."""
        loss = F.binary_cross_entropy_with_logits(outputs, batch["labels"], reduction="sum")
        return Sums(loss, torch.tensor(float(len(outputs))))

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """AUC and log loss of the later events, with as many draws as in training where there are no labels; full ranking."""
        told = super().evaluate(model)
        num = len(self._data) - self._num_trained
        if num <= 0:
            return told
        some = np.linspace(self._num_trained, len(self._data) - 1, min(num, MAX_EVALUATED // (1 + self._drawn)), dtype=np.int64)
        examples = (some[:, None] * (1 + self._drawn) + np.arange(1 + self._drawn)).ravel()
        logits, labels = [], []
        for start in range(0, len(examples), EVALUATED_ROWS):
            batch = self._rows(examples[start : start + EVALUATED_ROWS], 0)
            logits.append(model(*(batch[name] for name in ASKED), None, batch.get("words")))
            labels.append(batch["labels"])
        logit, label = torch.cat(logits), torch.cat(labels)
        loss = float(F.binary_cross_entropy_with_logits(logit, label))
        return {**told, "auc": area_under_roc(logit.numpy(), label.numpy() > 0.5), "log_loss": loss}

    def flops(self, model: nn.Module) -> float:
        """Six a parameter that is no table's."""
        tables = sum(each.numel() for _, module in self.roles.named(model, "table") for each in module.parameters())
        return 6.0 * (sum(each.numel() for each in model.parameters()) - tables)

    def _rows(self, examples: np.ndarray, step: int) -> Batch:
        events, draw = np.divmod(examples, 1 + self._drawn)
        data = self._data
        subjects, objects = data.subject[events].astype(np.int64), data.object[events].astype(np.int64)
        for row in np.flatnonzero(draw).tolist():
            objects[row] = self._draw(int(examples[row]), step)
        labels = (draw == 0).astype(np.float32) if self._labels is None else self._labels[events].astype(np.float32)
        seconds = data.time[events] // 1_000_000
        found = {
            "subjects": subjects,
            "countries": data.country[events].astype(np.int64),
            "objects": objects,
            "labels": labels,
            "numbers": self._counted.numbers(events, subjects, objects, seconds),
        }
        if self._features is not None:
            numbers, words = self._features.at(events, objects)
            found["numbers"] = np.concatenate([found["numbers"], numbers], axis=1)
            if words.shape[1]:
                found["words"] = words
        return {name: torch.from_numpy(values) for name, values in found.items()}

    def _draw(self, example: int, step: int) -> int:
        return int(row_generator(self.seed, step, example).integers(0, self.shape.objects))
