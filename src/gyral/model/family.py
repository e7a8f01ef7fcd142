"""Families: what every kind of model can do once it is trained, and the recommender's way of doing it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np

from gyral.errors import InputError
from gyral.lake.dataset import Dataset
from gyral.model import card as cards
from gyral.model import features
from gyral.model import inputs as model_inputs
from gyral.model.card import Weights
from gyral.model.holdout import hold_out, measure
from gyral.model.inputs import Codes
from gyral.model.portable import Portable, without_subjects
from gyral.model.recommender import Interactions, Recommender, Spec, fit_with, without_history
from gyral.model.sequences import without_sequence


class Item(msgspec.Struct, frozen=True, omit_defaults=True):
    """One recommended object; scores compare inside one answer only. `why`: what put it there, where that is asked for."""

    object: str
    score: float
    title: str = ""
    why: dict[str, Any] = {}


class Answer(msgspec.Struct, frozen=True):
    """Best first; `known` says whether the subject has a history. `props`: what the log keeps beside the items."""

    known: bool
    items: list[Item]
    props: dict[str, Any] = {}


class Told(NamedTuple):
    """What a route of a family answers: the body that goes back, and the event that the log keeps of it.

    Attributes
    ----------
    kind : of the event: `search`, `score`, `completion`.
    props : what was asked and answered, as far as it is worth keeping: feedback joins it by the request's id.
    confidence : in the answer, 1 at most; None where that means nothing.
    """

    body: dict[str, Any]
    kind: str
    subject: str | None = None
    object: str | None = None
    props: dict[str, Any] = {}
    confidence: float | None = None


class Route(NamedTuple):
    """One way to ask a model: `POST` of a body that `request` describes (its field `model`, if any, names the slot).

    `is_pure`: an answer depends on the body and the version alone, so it may be told again. `together` answers several
    requests at once, in their order, where that is cheaper; what it raises is found out by asking one by one.
    `response` describes what goes back: the body of `Told`, with `request_id` and `model`, which the server adds.
    """

    request: type[msgspec.Struct]
    answer: Callable[[Any], Told]
    example: str
    is_pure: bool = False
    together: Callable[[list[Any]], Sequence[Told]] | None = None
    response: Any = dict[str, Any]


class Servable(Protocol):
    """A loaded model, called from one thread.

    Attributes
    ----------
    routes : path → how it is asked. What answers in well under a millisecond has a route of the server's own instead.
    """

    name: str
    card: dict[str, Any]
    routes: Mapping[str, Route]

    def warm(self) -> None: ...


class Recommends(Servable, Protocol):
    """A loaded recommender; calls cost well under a millisecond."""

    def recommend(self, subject: str, k: int, context: dict[str, Any]) -> Answer: ...

    def popular(self, subject: str, k: int, context: dict[str, Any]) -> Answer: ...


class Twin(Protocol):
    """What stands in for a model that has learned everything and therefore cannot be tested: the same hyper-parameters fitted
    without the last part of the data, and that part to measure on."""

    weights: Weights

    def measure(self, weights: Weights) -> float: ...


class Trial(NamedTuple):
    """What a loaded model is timed by.

    Attributes
    ----------
    answer : answers so many typical requests at once.
    work : does some of what is counted, and says how much.
    unit : what is counted.
    """

    answer: Callable[[int], object]
    work: Callable[[], int]
    unit: str


class Family(Protocol):
    """One kind of model: the hook behind `--family`.

    Attributes
    ----------
    metric : name of what `Twin.measure` gives and cards compare.
    matrices : names of the arrays that are large and may be quantized; `*` in a name stands for anything.

    `twin` is given the weights of `folder`; a twin of a net has `calibration()`, too (`gyral.model.quant.calibration`), and one
    whose model keeps what it made of its data has `finish(weights)`; one whose answers say how sure they are has
    `judged(weights)` (`gyral.model.naming.Judged`, on what was kept aside). A family that may be tried in several forms (`gyral
    compress --tiers`) has `tried`, the targets that are worth it, and `trial(servable)`, what they are timed by. A
    family whose models may go to devices has `portable(folder)` (`gyral.model.portable`). One that learns from what people
    did, and not from documents, says so by `of_events = True`: `gyral train FILE` then ingests the file's events first.
    """

    name: str
    metric: str
    matrices: tuple[str, ...]

    def load(self, folder: Path) -> Servable: ...

    def twin(self, data: Dataset, weights: Weights, seed: int, folder: Path) -> Twin: ...

    def erase(self, folder: Path, subject: str) -> bool:
        """Take a subject's name and their own data out of a model folder; whether they were in it. Nothing is unlearned."""


class ServableRecommender:
    """A recommender with its vocabulary: names in, names out."""

    routes: Mapping[str, Route] = {}

    def __init__(self, folder: Path) -> None:
        card = cards.read_card(folder)
        self.name = card.model
        self.card: dict[str, Any] = msgspec.to_builtins(card)
        self.model = recommender_of(cards.read_weights(folder))
        self.codes = Codes(model_inputs.load(folder))

    def recommend(self, subject: str, k: int, context: dict[str, Any]) -> Answer:
        """Rank objects for a subject; `context` may hold `country` and `recent`, objects met since the model was made."""
        code = self.codes.subject.get(subject, -1)
        country = self.codes.country.get(context.get("country", ""), -1)
        return Answer(code >= 0, self._items(*self.model.recommend(code, k, country, self._recent(context))))

    def popular(self, subject: str, k: int, context: dict[str, Any]) -> Answer:
        """Rank objects by how often everybody met them: the baseline."""
        code = self.codes.subject.get(subject, -1)
        return Answer(code >= 0, self._items(*self.model.popular(code, k, self._recent(context))))

    def warm(self) -> None:
        """Touch the weights and compile the kernels, so that no request pays for it."""
        names = self.codes.inputs.subjects
        self.recommend(names[0] if names else "", 10, {})
        self.recommend("\0", 10, {})
        self.popular("", 10, {})

    def _recent(self, context: dict[str, Any]) -> np.ndarray | None:
        return self.codes.objects(context["recent"]) if context.get("recent") else None

    def _items(self, objects: np.ndarray, scores: np.ndarray) -> list[Item]:
        names, titles = self.codes.inputs.objects, self.codes.inputs.titles
        pairs = zip(objects.tolist(), scores.tolist(), strict=True)
        if not titles:
            return [Item(names[code], score) for code, score in pairs]
        return [Item(names[code], score, titles[code]) for code, score in pairs]


def recommender_of(weights: Weights) -> Recommender:
    """The closed form, or, where the settings name a net, what answers by one; only then torch is loaded."""
    if "net" not in weights.settings:
        return Recommender(*weights)
    from gyral.model.neural_recommender import NeuralRecommender

    return NeuralRecommender(*weights)


class RecommenderTwin:
    """Asked about the last part of the events, which it has not learned."""

    def __init__(self, data: Dataset, weights: Weights, seed: int) -> None:
        rows = data.read()
        _, interactions = model_inputs.encode(rows)
        spec = Spec(**weights.settings["spec"])
        self._split = hold_out(interactions, repeats=spec.repeats, seed=seed)
        fitted = fit_with(self._split.before, spec)
        self.weights = Weights(fitted.arrays, fitted.meta)
        if "net" in weights.settings:
            self.weights = _net_twin(weights, self._split.before, fitted)
            self.weights.arrays.update(features.again(weights.settings, rows, interactions, len(self._split.before)))

    def measure(self, weights: Weights) -> float:
        """NDCG@10 by full ranking."""
        return measure(recommender_of(weights), self._split)[RecommenderFamily.metric]


def _net_twin(weights: Weights, before: Interactions, fitted: Recommender) -> Weights:
    """A net cannot be fitted anew here: the one that was judged lies beside it, or it never learned the last part itself."""
    from gyral.model.neural_recommender import arrays_of, net_arrays

    net = net_arrays(weights)
    if len(weights.arrays["popular"]) != before.num_objects:
        why = "somebody was erased, or the dataset is another one"
        raise InputError("the net knows other objects than its dataset has now", why=why, hint="train the model again")
    kept = arrays_of(before, fitted, int(weights.settings["shape"]["length"]))
    return Weights({**net, **kept}, weights.settings)


class RecommenderFamily:
    """Who will meet what next."""

    name = "recommender"
    metric = "ndcg_at_10"
    of_events = True
    matrices = ("item_item", "transition", "objects.weight", "subjects.weight", "words.weight")
    tried = ("int8", "rows-int4", "rows-pq8", "rows-hash-4")

    def trial(self, servable: ServableRecommender) -> Trial:
        """Subjects that are known, one after the other."""
        model, num = servable.model, max(1, len(servable.codes.inputs.subjects))
        turn = itertools.count()

        def answer(size: int) -> int:
            ranked = model.recommend_many([next(turn) % num for _ in range(size)], 10)
            return len(ranked)

        return Trial(answer, lambda: answer(8), "answers")

    def load(self, folder: Path) -> ServableRecommender:
        """Read a model folder."""
        return ServableRecommender(folder)

    def twin(self, data: Dataset, weights: Weights, seed: int, folder: Path) -> RecommenderTwin:
        """Fit the same hyper-parameters without the last part of the events."""
        return RecommenderTwin(data, weights, seed)

    def erase(self, folder: Path, subject: str) -> bool:
        """Empty the history of a subject, then their name."""
        inputs = model_inputs.load(folder)
        if subject not in inputs.subjects:
            return False
        code = inputs.subjects.index(subject)
        weights = cards.read_weights(folder)
        arrays = features.without_subject(without_sequence(without_history(weights.arrays, code), code), code)
        cards.write_weights(folder, Weights(arrays, weights.settings))
        names = [*inputs.subjects[:code], "", *inputs.subjects[code + 1 :]]
        model_inputs.save(msgspec.structs.replace(inputs, subjects=names), folder)
        return True

    def portable(self, folder: Path) -> Portable:
        """What everybody taught it together; the device knows its own subject and sends along nothing."""
        inputs = msgspec.json.encode(msgspec.structs.replace(model_inputs.load(folder), subjects=[]))
        weights = cards.read_weights(folder)
        runtimes = () if "net" not in weights.settings else ("torch",)
        return Portable({cards.WEIGHTS: cards.weights_bytes(without_subjects(weights)), model_inputs.FILE: inputs}, runtimes)


RECOMMENDER = RecommenderFamily()
