"""A recommender that learned by gradients, answering as the closed form does: the net for known subjects, sums for new ones.

    score(subject, i) = log softmax net(subject, what they met)[i]  +  closed · log score_closed(subject, i)

The second term is there where a closed form was fitted beside the net (`closed` > 0): the net knows the order in which things
are met, the closed form how often, when and by whom. Somebody new has no sequence: what everybody meets answers, as it does
`popular`, so the baseline is the same for both kinds.

Arrays are those of the closed form, the net's by their names in its `state_dict`, `sequence_indptr`, `sequence`,
`sequence_time`, and for a ranking net what features last told (`gyral.model.features`); under `twin.` a net of the same sizes
that never learned the last part of the data, to measure on (`gyral.model.family`). This module loads torch, and is imported
when a model's settings name a net.

Shapes: B subjects, T positions, V objects.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Many
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from gyral.errors import InputError
from gyral.model import features, item_item
from gyral.model.card import Weights
from gyral.model.counted import Counted
from gyral.model.features import Known
from gyral.model.nets import history, interaction, sequence, two_tower
from gyral.model.nets.asked import Asked
from gyral.model.recommender import Interactions, Recommender
from gyral.model.sequences import Sequences
from gyral.model.tables import SETTING, table_of

ASKED_AT_ONCE = 128
TWIN = "twin."
FLOOR = 1e-6
"""Added to scores of the closed form before their logarithm."""

Met = tuple[np.ndarray, np.ndarray]
"""Objects, oldest first, and their times in seconds."""

NETS: dict[str, tuple[Any, Callable[[Any, dict[str, np.ndarray]], nn.Module]]] = {
    "sequence": (sequence.Shape, lambda shape, _: sequence.Sequence(shape)),
    "two_tower": (
        two_tower.Shape,
        lambda shape, arrays: two_tower.TwoTower(shape, torch.empty(arrays["words_VW"].shape, dtype=torch.int64)),
    ),
    "ranking": (interaction.Shape, lambda shape, _: interaction.Interaction(shape)),
    "history": (history.Shape, lambda shape, _: history.History(shape)),
}
"""The task a net was trained by → its sizes, and how it is made."""


class NeuralRecommender(Recommender):
    """Answers from arrays and settings.

    Parameters
    ----------
    meta : `net` (its kind), `shape`, `closed`, and the closed form's `spec`; `best`, where a ranking net only sorts so many of
        the closed form's best objects: an answer then costs those, and not all objects.
    net : one that is being trained; None makes it from the arrays.
    """

    def __init__(self, arrays: dict[str, np.ndarray], meta: dict[str, Any], net: nn.Module | None = None) -> None:
        super().__init__(arrays, meta)
        self.shape = NETS[meta["net"]][0](**meta["shape"])
        self.closed, self.best = float(meta["closed"]), int(meta.get("best", 0))
        self.sequences = Sequences(arrays["sequence_indptr"], arrays["sequence"], arrays["sequence_time"], self.shape.length)
        self.net = net if net is not None else net_of(meta, arrays)

    def recommend_many(
        self, subjects: Many[int] | np.ndarray, k: int, countries: Many[int] | np.ndarray | None = None
    ) -> np.ndarray:
        """The codes that `recommend` gives each subject, int32 [B, k], padded with −1."""
        everybody = np.asarray(subjects, dtype=np.int64)
        unknown = np.full(len(everybody), -1, dtype=np.int64)
        ranked = np.full((len(everybody), k), -1, dtype=np.int32)
        for start in range(0, len(everybody), ASKED_AT_ONCE):
            some = everybody[start : start + ASKED_AT_ONCE]
            where = unknown if countries is None else np.asarray(countries, dtype=np.int64)
            where = where[start : start + ASKED_AT_ONCE]
            met = [self.sequences.last(int(one), self.shape.length) for one in some]
            from_net = self._from_net(some, where, met) if not self.best else [None] * len(some)
            for row, (subject, country, scores) in enumerate(zip(some.tolist(), where.tolist(), from_net, strict=True), start):
                codes = item_item.top_k(self._joined(scores, subject, country, None), min(k, self.num_objects))
                ranked[row, : len(codes)] = codes
        return ranked

    def scores(self, subject: int, country: int = -1, recent: np.ndarray | None = None) -> np.ndarray:
        """Score of every object, float32; −inf where it may not be recommended."""
        if self.best:
            return self._joined(None, subject, country, recent)
        from_net = self._from_net(np.array([subject]), np.array([country]), [self.met(subject, recent)])
        return self._joined(from_net[0], subject, country, recent)

    def met(self, subject: int, recent: np.ndarray | None) -> Met:
        """The last objects a subject met, with `recent` just now."""
        objects, times = self.sequences.last(subject, self.shape.length)
        if recent is not None and len(recent):  # just met: at the time of the newest event anybody had
            objects = np.concatenate([objects, recent])[-self.shape.length :]
            times = np.concatenate([times, np.full(len(recent), self._now)])[-self.shape.length :]
        return objects, times

    def _joined(self, from_net: np.ndarray | None, subject: int, country: int, recent: np.ndarray | None) -> np.ndarray:
        if from_net is None:
            told = super().scores(subject, country, recent)
            return self._sorted_anew(told, subject, country) if self.best and subject >= 0 else told
        if self.closed:
            told = super().scores(subject, country, recent)
            from_net = from_net + np.float32(self.closed) * np.log(np.maximum(told, 0) + np.float32(FLOOR))
            from_net[told == -np.inf] = -np.inf
        elif not self.spec.repeats:
            from_net[self.history(subject, recent)[0]] = -np.inf
        return from_net

    @torch.inference_mode()
    def _sorted_anew(self, told: np.ndarray, subject: int, country: int) -> np.ndarray:
        """Scores of the closed form, its best replaced by what the net says of them; the others follow in their order."""
        if not len(self.sequences.last(subject, 1)[0]):
            return told
        codes = item_item.top_k(told, min(self.best, self.num_objects)).astype(np.int64)
        who, where = (np.full(len(codes), each, dtype=np.int64) for each in (subject, country))
        places, now = np.full(len(codes), self._counted.num), np.full(len(codes), self._now)
        numbers, words = self._counted.numbers(places, who, codes, now), None
        if self._features is not None:
            further, words = self._features.pairs(who, codes)
            numbers = np.concatenate([numbers, further], axis=1)
        asked = [torch.from_numpy(each) for each in (who, where, codes, numbers)]
        logits = self.net(*asked, None, None if words is None else torch.from_numpy(words)).float().log_softmax(-1).numpy()
        closed = np.log(np.maximum(told, 0) + np.float32(FLOOR))
        scores = np.where(told == -np.inf, told, closed)
        best = logits + np.float32(self.closed) * closed[codes]
        scores[told > -np.inf] += best.min(initial=0.0) - closed[codes].max(initial=0.0) - 1
        scores[codes] = best
        return np.asarray(scores, dtype=np.float32)

    @torch.inference_mode()
    def _from_net(self, subjects: np.ndarray, countries: np.ndarray, met: list[Met]) -> list[np.ndarray | None]:
        """log softmax over all objects, float32 [V] each; None for who has met nothing."""
        sizes = np.array([len(objects) for objects, _ in met], dtype=np.int64)
        told: list[np.ndarray | None] = [None] * len(met)
        there = np.flatnonzero(sizes)
        if len(there) == 0:
            return told
        longest = int(sizes.max())
        objects_BT, times_BT = np.zeros((len(there), longest), np.int64), np.zeros((len(there), longest), np.int64)
        for row, place in enumerate(there):
            objects_BT[row, : sizes[place]], times_BT[row, : sizes[place]] = met[place]
        arrays = (subjects[there], countries[there], objects_BT, times_BT, sizes[there])
        who, where, objects, times, counts = (torch.from_numpy(each) for each in arrays)
        asked = Asked(who, where, objects, times, counts, *self._told(subjects[there]))
        was_training = self.net.training
        self.net.eval()
        scores = self.net.score(asked).float().log_softmax(-1).numpy()  # type: ignore[operator]
        self.net.train(was_training)
        for row, place in enumerate(there):
            told[place] = scores[row]
        return told

    def _told(self, subjects: np.ndarray) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Numbers and words of subjects with every object, for a net that wants them."""
        if self.meta["net"] != "ranking":
            return None, None
        numbers, words = self._counted.now(subjects, self._now), None
        if self._features is not None:
            further, words = self._features.of(subjects)
            numbers = np.concatenate([numbers, further], axis=2)
        return torch.from_numpy(numbers), None if words is None or not words.shape[2] else torch.from_numpy(words)

    @cached_property
    def _features(self) -> Known | None:
        return Known(self.arrays) if self.meta.get(features.SETTING) else None

    @cached_property
    def _now(self) -> int:
        """The newest event anybody had, in seconds."""
        return int(self.sequences.times.max(initial=0))

    @cached_property
    def _counted(self) -> Counted:
        order = np.argsort(self.sequences.times, kind="stable")
        subject = np.repeat(np.arange(len(self.sequences.indptr) - 1), np.diff(self.sequences.indptr))
        return Counted(subject[order], self.sequences.objects[order], self.sequences.times[order], self.num_objects)


def net_of(meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> nn.Module:
    """The net with its weights; tables in fewer bits are made float again.

    Raises
    ------
    InputError : an array is missing or of another shape than the settings say.
    """
    with torch.device("meta"):
        net = _built(meta, arrays)
    try:
        state = {name: torch.from_numpy(_whole(arrays, meta, name)) for name in net.state_dict()}
        net.load_state_dict(state, assign=True)
    except (KeyError, RuntimeError) as error:
        raise InputError("the net's weights do not fit its settings", why=str(error), hint="train the model again") from None
    return net.eval()


def net_arrays(weights: Weights) -> dict[str, np.ndarray]:
    """The arrays of the net that never learned the last part of the events: the twin's, or where there is none its own."""
    with torch.device("meta"):
        names = list(_built(weights.settings, weights.arrays).state_dict())
    twin = {name: weights.arrays[TWIN + name] for name in names if TWIN + name in weights.arrays}
    return twin or {name: weights.arrays[name] for name in names}


def meta_of(net: str, shape: dict[str, Any], closed_form: Recommender, closed: float, best: int = 0) -> dict[str, Any]:
    """Settings of a model: enough to make it anew from arrays."""
    return {"net": net, "shape": shape, "closed": closed, **({"best": best} if best else {}), **closed_form.meta}


def arrays_of(data: Interactions, closed_form: Recommender, length: int) -> dict[str, np.ndarray]:
    """All arrays but the net's."""
    made = Sequences.of(data, length)
    kept = {"sequence_indptr": made.indptr, "sequence": made.objects, "sequence_time": made.times}
    return {**closed_form.arrays, **kept}


def _built(meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> nn.Module:
    shape_type, build = NETS[meta["net"]]
    return build(shape_type(**meta["shape"]), arrays)


def _whole(arrays: dict[str, np.ndarray], meta: dict[str, Any], name: str) -> np.ndarray:
    values = arrays[name]
    is_kept = not any(name in meta.get(kind, {}) for kind in ("packed", SETTING)) and values.dtype != np.int8
    return values if is_kept else table_of(arrays, meta, name).dense()
