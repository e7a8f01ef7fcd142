"""A recommender in closed form: what was met, what is met again, and what everybody meets now.

    need(subject, i)  = Σ_h w(h) · B[h, i]  +  markov · T[last, i]  +  repeat · w(i)  +  popular · p(i)
    score(subject, i) = need, or (max(need, 0) + background) · lift(i) ** popular_power  where a power is set

w is (times met) ** count_power and halves with the age of the last meeting, B is EASE (or cosine) between objects, T the
first-order transitions, p popularity that halves with age, lift the same popularity smoothed so that no object is at zero. A
new subject is answered by what is popular, by what others met on their first day, and by what is special in its country.
Everything is fitted by sums and one matrix inverse: no epochs, no learning rate, the same bytes each time.

The product beats the sum where objects come and go (Online Retail, mean NDCG@10 of six turns: sum with fitted values .279 for
all and .358 for known customers; product with what the search finds .295 and .381, `benchmarks/recommender/retail.py`). Sixteen
such terms with weights from a conditional logit were no better. That the product is the form was seen on these very turns; its
values are not: around them the plateau is flat (±.002).

The dense part covers the `num_head` most met objects; the others can be recommended by repetition and popularity only. At 4,300
subjects x 3,700 objects a fit costs about 3 CPU-seconds and a request about 0.1 ms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from gyral.event.clock import DAY_US
from gyral.model import item_item
from gyral.model.tables import table_of

MAX_SCORED_HISTORY = 256
MAX_COUNTRY_OBJECTS = 500
MAX_HEAD = 8_000
LIFT_SMOOTHING = 0.5
NEW_POPULAR_HALF_LIFE_DAYS = 14.0
NEWCOMER_HALF_LIFE_DAYS = 20.0


@dataclass(frozen=True)
class Interactions:
    """Who met what, when; rows sorted by time.

    Attributes
    ----------
    subject, object : int32 codes [n].
    time : microseconds since the epoch, int64 [n].
    country : int32 codes [n], −1 unknown.
    """

    subject: np.ndarray
    object: np.ndarray
    time: np.ndarray
    country: np.ndarray
    num_subjects: int
    num_objects: int
    num_countries: int

    def __len__(self) -> int:
        return len(self.subject)

    def where(self, mask: np.ndarray) -> Interactions:
        """The rows of a mask, with the same codes."""
        return replace(
            self, subject=self.subject[mask], object=self.object[mask], time=self.time[mask], country=self.country[mask]
        )


@dataclass(frozen=True)
class Spec:
    """Hyper-parameters of one candidate; 0 switches a term off, a half-life of 0 means that age does not matter.

    `country_shrink` is the number of events at which a country speaks half for itself; at 0 its favourites count as they are.
    """

    name: str
    kind: str = "ease"
    lam: float = 200.0
    half_life_days: float = 0.0
    rank_decay: float = 0.0
    markov: float = 0.0
    repeat: float = 0.0
    popular: float = 0.0
    popular_half_life_days: float = 0.0
    country: float = 0.0
    repeats: bool = True
    num_head: int = MAX_HEAD
    count_power: float = 0.0
    popular_power: float = 0.0
    background: float = 0.0
    newcomer: float = 0.0
    country_shrink: float = 0.0


class Recommender:
    """Answers from arrays; `Recommender(model.arrays, model.meta)` answers the same.

    Parameters
    ----------
    arrays : what `fit` made: `indptr`, `history`, `weight` (one CSR row a subject, strongest first), `popular`, `count`,
        `country_indptr`, `country_object`, `country_share`, `head`, and for item–item kinds `item_item` (float32 with
        `item_item_scale`, or as `gyral.model.tables` has it), `transition` likewise when the Markov term is on, `newcomer`
        (what somebody new is answered by) when that term is, `last` (each subject's newest object) with counted histories, and
        `popular_max` (what 1 in `popular` stands for) when popularity is a factor.
    meta : the hyper-parameters under `spec`.
    """

    def __init__(self, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
        self.arrays = arrays
        self.meta = meta
        self.spec = Spec(**meta["spec"])
        self._row_of = np.full(len(arrays["popular"]), -1, dtype=np.int32)
        self._row_of[arrays["head"]] = np.arange(len(arrays["head"]), dtype=np.int32)
        self._base = (self.spec.popular * arrays["popular"]).astype(np.float32)
        smooth = LIFT_SMOOTHING / max(float(arrays["popular_max"][0]), LIFT_SMOOTHING) if self.spec.popular_power else 0.0
        lift = (arrays["popular"].astype(np.float64) + smooth) / (1 + smooth) if self.spec.popular_power else None
        self._lift = None if lift is None else (lift**self.spec.popular_power).astype(np.float32)
        self.tables = {name: table_of(arrays, meta, name) for name in ("item_item", "transition") if name in arrays}
        self._by_count = np.argsort(-arrays["count"], kind="stable").astype(np.int32)

    @property
    def num_objects(self) -> int:
        return len(self.arrays["popular"])

    def recommend(
        self, subject: int, k: int, country: int = -1, recent: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rank objects for a subject.

        Parameters
        ----------
        subject : code, −1 for somebody new.
        country : code, −1 unknown; only looked at when there is no history.
        recent : codes of objects met since the model was made, newest last; they count as just met.

        Returns
        -------
        Codes (int32) and scores (float32), best first, ties to the lower code; fewer than k when there are no more.
        """
        scores = self.scores(subject, country, recent)
        codes = item_item.top_k(scores, min(k, len(scores)))
        return codes, scores[codes]

    def recommend_many(
        self, subjects: Sequence[int] | np.ndarray, k: int, countries: Sequence[int] | np.ndarray | None = None
    ) -> np.ndarray:
        """The codes that `recommend` gives each subject, int32 [B, k], padded with −1."""
        ranked = np.full((len(subjects), k), -1, dtype=np.int32)
        for row, subject in enumerate(subjects):
            codes, _ = self.recommend(int(subject), k, -1 if countries is None else int(countries[row]))
            ranked[row, : len(codes)] = codes
        return ranked

    def scores(self, subject: int, country: int = -1, recent: np.ndarray | None = None) -> np.ndarray:
        """Score of every object, float32; −inf where it may not be recommended."""
        items, weights = self.history(subject, recent)
        if len(items) == 0:
            return self._for_new(country)
        out = self._base.copy()
        strongest = items[:MAX_SCORED_HISTORY]
        rows = self._row_of[strongest]
        arrays, head = self.arrays, self.arrays["head"]
        if "item_item" in arrays:
            self.tables["item_item"].add(out, head, rows, weights[:MAX_SCORED_HISTORY])
        if "transition" in arrays:
            if recent is not None and len(recent):
                last = self._row_of[recent[-1:]]
            else:
                last = self._row_of[arrays["last"][subject : subject + 1]] if "last" in arrays else rows[:1]
            by = np.array([self.spec.markov], dtype=np.float32)
            self.tables["transition"].add(out, head, last, by)
        if self.spec.repeats and self.spec.repeat:
            out[items] += np.float32(self.spec.repeat) * weights
        if self._lift is not None:
            np.maximum(out, 0, out=out)
            out += np.float32(self.spec.background)
            out *= self._lift
        if not self.spec.repeats:
            out[items] = -np.inf
        return out

    def history(self, subject: int, recent: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Objects a subject has met and their weights, strongest first."""
        items, weights = np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.float32)
        if subject >= 0:
            first, last = self.arrays["indptr"][subject : subject + 2]
            items, weights = self.arrays["history"][first:last], self.arrays["weight"][first:last]
        if recent is not None and len(recent):
            codes, first, times = np.unique(recent[::-1], return_index=True, return_counts=True)
            order = np.argsort(first)
            new, old = codes[order], ~np.isin(items, codes)
            decay, power = self.spec.rank_decay, self.spec.count_power
            fresh = decay ** np.arange(len(new)) if decay else np.ones(len(new))
            if power:
                before = np.zeros(len(codes))
                before[np.searchsorted(codes, items[~old])] = weights[~old].astype(np.float64) ** (1 / power)
                fresh = fresh * (before + times)[order] ** power
                order = np.argsort(-fresh, kind="stable")
                new, fresh = new[order], fresh[order]
            kept = weights[old] * (decay ** len(new) if decay else 1.0)
            items = np.concatenate([new.astype(np.int32), items[old]])
            weights = np.concatenate([fresh, kept]).astype(np.float32)
        return items, weights

    def popular(self, subject: int, k: int, recent: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Objects by how often everybody met them, all time: the baseline, under the same rule for what was met already."""
        codes = self._by_count[:k]
        if not self.spec.repeats:
            met, _ = self.history(subject, recent)
            codes = self._by_count[: k + len(met)]
            codes = codes[~np.isin(codes, met)][:k]
        return codes, self.arrays["count"][codes]

    def _for_new(self, country: int) -> np.ndarray:
        out = self.arrays["newcomer" if "newcomer" in self.arrays else "popular"].copy()
        if country >= 0 and self.spec.country:
            first, last = self.arrays["country_indptr"][country : country + 2]
            share = self.arrays["country_share"][first:last]
            out[self.arrays["country_object"][first:last]] += np.float32(self.spec.country) * share
        return out


def fit_with(data: Interactions, spec: Spec, weights: Callable[[Spec, np.ndarray], np.ndarray] | None = None) -> Recommender:
    """Fit one candidate on all rows of `data`; the same rows give the same bytes.

    Parameters
    ----------
    weights : makes the item–item weights of a head; given by whoever fits many candidates on the same rows.
    """
    arrays = {**histories(data, spec), **popularity(data, spec)}
    head = head_of(data, spec)
    arrays["head"] = head
    if spec.kind != "popularity":
        arrays["item_item"] = weights(spec, head) if weights is not None else item_weights(data, spec, head)
        arrays["item_item_scale"] = np.ones(len(head), dtype=np.float32)
    if spec.markov:
        arrays["transition"] = transition_weights(data, head)
        arrays["transition_scale"] = np.ones(len(head), dtype=np.float32)
    return Recommender(arrays, {"spec": asdict(spec)})


def without_history(arrays: Mapping[str, np.ndarray], subject: int) -> dict[str, np.ndarray]:
    """The arrays of a model that remembers nothing of one subject; what everybody taught it together stays."""
    left = dict(arrays)
    first, last = arrays["indptr"][subject : subject + 2]
    for name in ("history", "weight"):
        left[name] = np.delete(arrays[name], slice(first, last))
    left["indptr"] = arrays["indptr"].copy()
    left["indptr"][subject + 1 :] -= last - first
    if "last" in arrays:
        left["last"] = arrays["last"].copy()
        left["last"][subject] = 0
    return left


def head_of(data: Interactions, spec: Spec) -> np.ndarray:
    """Codes of the objects in the dense part, ascending, int32."""
    counts = np.bincount(data.object, minlength=data.num_objects)
    if data.num_objects <= spec.num_head:
        return np.arange(data.num_objects, dtype=np.int32)
    return np.sort(np.argsort(-counts, kind="stable")[: spec.num_head]).astype(np.int32)


def histories(data: Interactions, spec: Spec) -> dict[str, np.ndarray]:
    """One CSR row a subject: each object once, weighted by its last meeting, strongest first, newest first among equals."""
    order = np.lexsort((np.arange(len(data)), data.object, data.subject))
    subject, object_, place = data.subject[order], data.object[order], order
    is_first = np.r_[[True] * (len(subject) > 0), (subject[1:] != subject[:-1]) | (object_[1:] != object_[:-1])].astype(bool)
    is_last = np.r_[(subject[1:] != subject[:-1]) | (object_[1:] != object_[:-1]), [True] * (len(subject) > 0)].astype(bool)
    is_new_time = is_first | np.r_[[True] * (len(place) > 0), np.diff(data.time[place]) > 0].astype(bool)
    times_met = np.bincount(np.cumsum(is_first) - 1, weights=is_new_time)
    subject, object_, place = subject[is_last], object_[is_last], place[is_last]
    order = np.lexsort((-place, subject))
    subject, object_, place, times_met = subject[order], object_[order], place[order], times_met[order]
    indptr = np.zeros(data.num_subjects + 1, dtype=np.int64)
    np.cumsum(np.bincount(subject, minlength=data.num_subjects), out=indptr[1:])
    if spec.rank_decay:
        weight = spec.rank_decay ** (np.arange(len(subject)) - indptr[subject]).astype(np.float64)
    else:
        weight = decayed(data.time[place], data.time[-1] if len(data) else 0, spec.half_life_days)
    more: dict[str, np.ndarray] = {}
    if spec.count_power:
        weight = weight * times_met**spec.count_power
        order = np.lexsort((np.arange(len(weight)), -weight, subject))
        last = np.zeros(data.num_subjects, dtype=np.int32)
        last[data.subject] = data.object
        more, object_, weight = {"last": last}, object_[order], weight[order]
    return {"indptr": indptr, "history": object_.astype(np.int32), "weight": weight.astype(np.float32), **more}


def popularity(data: Interactions, spec: Spec) -> dict[str, np.ndarray]:
    """Popularity now (largest = 1), plain counts, and each country's favourites (largest = 1)."""
    now = data.time[-1] if len(data) else 0
    weight = decayed(data.time, now, spec.popular_half_life_days)
    recent = np.bincount(data.object, weights=weight, minlength=data.num_objects)
    more: dict[str, np.ndarray] = {}
    everywhere = recent
    if spec.newcomer:
        weight = decayed(data.time, now, NEW_POPULAR_HALF_LIFE_DAYS)
        everywhere = np.bincount(data.object, weights=weight, minlength=data.num_objects)
        more["newcomer"] = (_relative(everywhere) + np.float32(spec.newcomer) * _newcomer(data)).astype(np.float32)
    inside = data.country >= 0
    pair = data.country[inside].astype(np.int64) * data.num_objects + data.object[inside]
    keys, inverse = np.unique(pair, return_inverse=True)
    total = np.bincount(inverse, weights=weight[inside], minlength=len(keys))
    country, object_ = keys // max(data.num_objects, 1), keys % max(data.num_objects, 1)
    order = np.lexsort((object_, -total, country))
    country, object_, total = country[order], object_[order], total[order]
    rank = np.arange(len(country)) - np.searchsorted(country, country)
    best = np.maximum.reduceat(total, np.flatnonzero(rank == 0)) if len(total) else total
    if spec.country_shrink:
        share, order = _special(country, object_, total, everywhere, spec.country_shrink)
        country, object_ = country[order], object_[order]
    else:
        share = total / np.repeat(best, np.diff(np.r_[np.flatnonzero(rank == 0), len(total)]))
    kept = rank < MAX_COUNTRY_OBJECTS
    indptr = np.zeros(data.num_countries + 1, dtype=np.int64)
    np.cumsum(np.bincount(country[kept], minlength=data.num_countries), out=indptr[1:])
    if spec.popular_power:
        more["popular_max"] = recent.max(initial=0.0, keepdims=True).astype(np.float32)
    return {
        **more,
        "popular": _relative(recent),
        "count": np.bincount(data.object, minlength=data.num_objects).astype(np.float32),
        "country_indptr": indptr,
        "country_object": object_[kept].astype(np.int32),
        "country_share": share[kept].astype(np.float32),
    }


def _special(
    country: np.ndarray, object_: np.ndarray, total: np.ndarray, everywhere: np.ndarray, shrink: float
) -> tuple[np.ndarray, np.ndarray]:
    """How much larger each object's share is in a country than everywhere, shrunk where little was met; and the order by it."""
    events = np.bincount(country, weights=total, minlength=1)[country]
    excess = (
        events / (events + shrink) * (total / np.maximum(events, 1e-12) - everywhere[object_] / max(everywhere.sum(), 1e-12))
    )
    excess = np.maximum(excess, 0.0)
    order = np.lexsort((object_, -excess, country))
    return (excess / max(excess.max(initial=0.0), 1e-12))[order], order


def _newcomer(data: Interactions) -> np.ndarray:
    """Popularity among what subjects met within a day of their first meeting (largest = 1), float32."""
    first = np.zeros(data.num_subjects, dtype=np.int64)
    first[data.subject[::-1]] = data.time[::-1]
    fresh = data.where(data.time - first[data.subject] < DAY_US)
    weight = decayed(fresh.time, data.time[-1] if len(data) else 0, NEWCOMER_HALF_LIFE_DAYS)
    total = np.bincount(fresh.object, weights=weight, minlength=data.num_objects)
    return _relative(total)


def _relative(values: np.ndarray) -> np.ndarray:
    """Values over the largest of them, float32."""
    return np.asarray(values / max(values.max(initial=0.0), 1e-12), dtype=np.float32)


def item_weights(data: Interactions, spec: Spec, head: np.ndarray) -> np.ndarray:
    """B of the module docstring, float32 [M, M]."""
    gram_MM = gram_of(data, head)
    return item_item.ease(gram_MM, spec.lam) if spec.kind == "ease" else item_item.cosine(gram_MM)


def gram_of(data: Interactions, head: np.ndarray) -> np.ndarray:
    """XᵀX of who ever met what, float64 [M, M]."""
    rows = histories(data, Spec("gram"))
    return item_item.gram(
        rows["indptr"], _rows_in(head, data.num_objects)[rows["history"]], np.ones(len(rows["weight"])), len(head)
    )


def transition_weights(data: Interactions, head: np.ndarray) -> np.ndarray:
    """T of the module docstring, float32 [M, M]."""
    order = np.argsort(data.subject, kind="stable")
    rows = _rows_in(head, data.num_objects)[data.object[order]]
    return item_item.markov(item_item.transitions(data.subject[order], rows, len(head)))


def decayed(time: np.ndarray, now: int, half_life_days: float) -> np.ndarray:
    """Weight that halves with age, float64; 1 when the half-life is 0."""
    if not half_life_days:
        return np.ones(len(time))
    return np.asarray(0.5 ** ((now - time) / (half_life_days * DAY_US)))


def _rows_in(head: np.ndarray, num_objects: int) -> np.ndarray:
    rows = np.full(num_objects, -1, dtype=np.int32)
    rows[head] = np.arange(len(head), dtype=np.int32)
    return rows
