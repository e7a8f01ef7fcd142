"""A recommender behind sources, rules and diversity: what answers `/v1/recommend` where `[rerank]` is set.

    candidates   of each source: the model's best, objects similar to what was met, popular ones, new ones
    ranking      by the model's score, computed once a request and read by every step after it
    places       one by one (`slate`): freshness, diversity, caps, pins, exploration
    reasons      which sources and rules put an object there, and what of the history spoke for it

A model of two towers alone is asked through its index: only candidates are scored. All others score every object today, at 0.1
to 1 ms, and are asked once for all. With nothing but defaults the answer is the model's own, in its order; a server then does
not even make this object.

Shapes: C candidates, V objects, D numbers of a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from gyral.config.rerank import Rerank
from gyral.event.clock import DAY_US, now_us
from gyral.model import item_item
from gyral.model.family import Answer, Item, Route, Servable, ServableRecommender
from gyral.model.retrieving.co_met import co_met_vectors
from gyral.model.retrieving.index import Index
from gyral.serve.recommend.catalogue import Catalogue
from gyral.serve.recommend.reasons import Reasons, why
from gyral.serve.recommend.slate import How, Limit, Place, slate

MET = 10
"""Objects met that `similar` starts from, the strongest of a history."""


class Asked(NamedTuple):
    """Codes of one request, and how many candidates of `model` it needs at least."""

    subject: int
    country: int
    recent: np.ndarray | None
    met: np.ndarray
    k: int


class Candidates(NamedTuple):
    """Codes in the order of the model's scores, their scores, and of each source code → place, from 1 on."""

    codes_C: np.ndarray
    scores_C: np.ndarray
    sources: dict[str, dict[int, int]]


class Reranked:
    """A recommender with its rules.

    Parameters
    ----------
    root : of the project, where `rerank.objects` is.
    random : draws what is explored.

    Raises
    ------
    ConfigError : a rule names a column that there is not.
    """

    def __init__(
        self, servable: ServableRecommender, config: Rerank, root: Path, random: np.random.Generator | None = None
    ) -> None:
        self._inner, self._config = servable, config
        self.name = servable.name
        self._random = random if random is not None else np.random.default_rng()
        names, model = servable.codes.inputs.objects, servable.model
        catalogue = Catalogue(names, root / config.objects if config.objects else None)
        self._limits = [(catalogue.column(cap.column)[0], cap.most, cap.within) for cap in config.caps]
        self._blocked_V = _blocked(catalogue, config, len(names))
        self._added_V = catalogue.added_us() if config.fresh or "fresh" in config.sources else None
        self._pins = {
            pin.place - 1: servable.codes.object[pin.object] for pin in config.pins if pin.object in servable.codes.object
        }
        self._towers = _towers(servable) if config.sources.get("model") else None
        self._vectors_VD: np.ndarray | None = None
        if self._towers is not None:
            self._vectors_VD = self._towers.vectors_VD
        elif config.diversity or "similar" in config.sources or config.because:
            self._vectors_VD = co_met_vectors(model.arrays["indptr"], model.arrays["history"], len(names))
        self._similar: Index | None = None
        if "similar" in config.sources and self._vectors_VD is not None:
            self._similar = Index()
            self._similar.build(self._vectors_VD, self.name)
        self._reasons = Reasons(model, self._vectors_VD) if config.because else None

    @property
    def routes(self) -> Mapping[str, Route]:
        """None of its own."""
        return self._inner.routes

    @property
    def card(self) -> dict[str, Any]:
        """The model's, with the rules and the index that answers go through."""
        unknown = [pin.object for pin in self._config.pins if pin.object not in self._inner.codes.object]
        told: dict[str, Any] = {"blocked": int(self._blocked_V.sum()), "pins_unknown": unknown}
        index = self._towers.index if self._towers is not None else self._similar
        return {**self._inner.card, "rerank": {**told, **({"index": index.card} if index is not None else {})}}

    def popular(self, subject: str, k: int, context: dict[str, Any]) -> Answer:
        """The baseline, without rules."""
        return self._inner.popular(subject, k, context)

    def warm(self) -> None:
        """Run once with and without a history."""
        self._inner.warm()
        for name in (next((each for each in self._inner.codes.inputs.subjects if each), ""), "\0"):
            self.recommend(name, 10, {})

    def recommend(self, subject: str, k: int, context: dict[str, Any]) -> Answer:
        """Rank objects for a subject; see `ServableRecommender.recommend`."""
        codes, config = self._inner.codes, self._config
        who, where = codes.subject.get(subject, -1), codes.country.get(context.get("country", ""), -1)
        recent = codes.objects(context["recent"]) if context.get("recent") else None
        asked = Asked(who, where, recent, self._inner.model.history(who, recent)[0], k)
        some = self._candidates(asked)
        place_of = {code: place for place, code in enumerate(some.codes_C.tolist())}
        limits = [Limit(values_V[some.codes_C], most, within) for values_V, most, within in self._limits]
        pins = {place: place_of[code] for place, code in self._pins.items() if code in place_of and place < k}
        how = How(config.diversity, config.diversity_by, config.explore, config.temperature, limits, pins)
        vectors_CD = self._vectors_VD[some.codes_C] if config.diversity and self._vectors_VD is not None else None
        places = slate(self._relevance(some), k, how, vectors_CD, self._random)
        return Answer(who >= 0, self._items(asked, some, places), self._props(places, len(some.codes_C)))

    def _candidates(self, asked: Asked) -> Candidates:
        """What the sources bring, each object once; pins are always among them."""
        scores_of, brought = self._scored(asked)
        config, sources = self._config, dict[str, dict[int, int]]()
        for name, most in config.sources.items():
            found = brought(max(most, asked.k)) if name == "model" else self._from(name, most, asked)
            sources[name] = {code: place for place, code in enumerate(found.tolist(), 1)}
        pinned = [code for code in self._pins.values() if not self._blocked_V[code]]
        codes = np.unique(np.array([*(code for each in sources.values() for code in each), *pinned], np.int64))
        codes = codes[~self._blocked_V[codes]]
        if config.no_repeats:
            codes = codes[~np.isin(codes, asked.met) | np.isin(codes, pinned)]
        scores = scores_of(codes)
        stays = (scores > -np.inf) | np.isin(codes, pinned)
        codes, scores = codes[stays], scores[stays]
        scores = np.where(scores > -np.inf, scores, np.append(scores[scores > -np.inf], 0).min())
        order = np.lexsort((codes, -scores))
        return Candidates(codes[order], scores[order], sources)

    def _scored(self, asked: Asked) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[int], np.ndarray]]:
        """Scores of some codes, and the model's best so many; by the index where there is one and something was met."""
        towers, model = self._towers, self._inner.model
        hidden_V = self._blocked_V.copy()
        if self._config.no_repeats:
            hidden_V[asked.met] = True
        vector_D = towers.of(asked.subject, asked.country, asked.recent) if towers is not None else None
        if towers is None or vector_D is None:
            scores_V = model.scores(asked.subject, asked.country, asked.recent)
            shown_V = np.where(hidden_V, np.float32(-np.inf), scores_V) if hidden_V.any() else scores_V
            return lambda codes: scores_V[codes], lambda most: item_item.top_k(shown_V, min(most, len(shown_V)))
        if not model.spec.repeats:
            hidden_V[asked.met] = True

        def best(most: int) -> np.ndarray:
            allowed = ~hidden_V if self._blocked_V.any() else None
            exclude = None if allowed is not None or not hidden_V.any() else [asked.met]
            ids = towers.index.search(vector_D[None], most, exclude, allowed).ids_Bk[0]
            return np.asarray(ids[ids >= 0])

        def scores_of(codes: np.ndarray) -> np.ndarray:
            scores = towers.vectors_VD[codes] @ vector_D
            scores[hidden_V[codes]] = -np.inf
            return np.asarray(scores)

        return scores_of, best

    def _from(self, source: str, most: int, asked: Asked) -> np.ndarray:
        if source == "popular":
            return np.asarray(self._inner.model.popular(asked.subject, most, asked.recent)[0])
        if source == "fresh":
            if self._added_V is None:
                return np.zeros(0, np.int64)
            order = np.argsort(-self._added_V, kind="stable")[:most]
            return np.asarray(order[self._added_V[order] >= 0])
        if self._similar is None or self._vectors_VD is None or not len(asked.met):
            return np.zeros(0, np.int64)
        strongest = asked.met[:MET]
        exclude = [asked.met] * len(strongest)
        found = self._similar.search(self._vectors_VD[strongest], -(-most // len(strongest)) + 1, exclude)
        ids, scores = found.ids_Bk.ravel(), found.scores_Bk.ravel()
        order = np.lexsort((ids, -scores))
        ids = ids[order][ids[order] >= 0]
        return np.asarray(ids[np.sort(np.unique(ids, return_index=True)[1])][:most])

    def _relevance(self, some: Candidates) -> np.ndarray:
        """0 to 1 among the candidates, and what is new more."""
        scores_C = some.scores_C.astype(np.float64)
        low, high = scores_C.min(initial=np.inf), scores_C.max(initial=-np.inf)
        relevance_C = (scores_C - low) / max(high - low, 1e-12)
        if self._config.fresh and self._added_V is not None:
            added_C = self._added_V[some.codes_C]
            age_days_C = np.maximum(now_us() - added_C, 0) / DAY_US
            boost_C = self._config.fresh * 0.5 ** (age_days_C / self._config.fresh_half_life_days)
            relevance_C = relevance_C + np.where(added_C >= 0, boost_C, 0)
        return np.asarray(relevance_C)

    def _items(self, asked: Asked, some: Candidates, places: list[Place]) -> list[Item]:
        names, titles = self._inner.codes.inputs.objects, self._inner.codes.inputs.titles
        shown = some.codes_C[[place.candidate for place in places]] if places else np.zeros(0, np.int64)
        scores = [float(some.scores_C[place.candidate]) for place in places]
        reasons: list[dict[str, Any]] = [{} for _ in places]
        if self._reasons is not None:
            by, because = self._reasons.of(shown, asked.subject, asked.recent, self._config.because)
            for at, (place, code) in enumerate(zip(places, shown.tolist(), strict=True)):
                sources = {name: found[code] for name, found in some.sources.items() if code in found}
                rules = (*place.rules, *(["fresh"] if self._is_fresh(code) else []))
                reasons[at] = why(sources, rules, because[at], by, names, place.propensity)
        rows = zip(shown.tolist(), scores, reasons, strict=True)
        return [Item(names[code], score, titles[code] if titles else "", reason) for code, score, reason in rows]

    def _is_fresh(self, code: int) -> bool:
        if not self._config.fresh or self._added_V is None or self._added_V[code] < 0:
            return False
        return bool(now_us() - self._added_V[code] < self._config.fresh_half_life_days * DAY_US)

    def _props(self, places: list[Place], candidates: int) -> dict[str, Any]:
        if not self._config.explore:
            return {}
        explored = [at for at, place in enumerate(places) if "explored" in place.rules]
        return {
            "propensities": [round(place.propensity, 9) for place in places],
            "explored": explored,
            "candidates": candidates,
        }


def dressing(config: Rerank, root: Path) -> Callable[[Servable], Servable] | None:
    """What puts the rules before a loaded model; None where none are set. Families that rank nothing are left as they are."""
    if not config.is_on:
        return None

    def dress(servable: Servable) -> Servable:
        if not isinstance(servable, ServableRecommender):
            return servable
        made = Reranked(servable, config, root)
        made.warm()
        return cast(Servable, made)  # `card` and `routes` are only read

    return dress


def _blocked(catalogue: Catalogue, config: Rerank, num: int) -> np.ndarray:
    blocked_V = np.zeros(num, bool)
    for block in config.blocks:
        values_V, numbers = catalogue.column(block.column)
        if block.value in numbers:
            blocked_V |= values_V == numbers[block.value]
    return blocked_V


def _towers(servable: ServableRecommender) -> Any:
    """Only a model of towers loads what is needed to ask them."""
    if servable.model.meta.get("net") != "two_tower":
        return None
    from gyral.model.retrieving.towers import towers_of

    return towers_of(servable.model, servable.name)
