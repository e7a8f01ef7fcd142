"""Which closed form fits best: candidates compete on the last part of what was learned, the winner learns everything.

The floors always run: popularity, and item–item cosine over the decayed history plus first-order transitions. The blend is
found by a coordinate search over a short list a term. How many candidates run is planned from the budget with a nominal cost
model, never from the clock, so the same data, settings and seed choose the same model on any machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np

from gyral.lake.dataset import Dataset
from gyral.model import inputs as model_inputs
from gyral.model import item_item
from gyral.model.holdout import HELD_OUT, Split, hold_out, measure
from gyral.model.inputs import Inputs
from gyral.model.recommender import MAX_HEAD, Interactions, Recommender, Spec, fit_with, gram_of
from gyral.run import Run

MIN_GAIN = 0.01
"""A blend replaces the leading one only when it is better by this share: less is noise of the held-out part."""
SOLVE_FLOP_PER_S = 40e9
ANSWER_OPS_PER_S = 3e9
FIT_S = 0.05

FLOORS = (
    Spec("popularity", kind="popularity", popular=1.0),
    Spec("item_item_markov", kind="cosine", rank_decay=0.8, markov=1.0),
)
EASE = Spec("ease", lam=200.0)
BLEND = Spec(
    "blend", lam=200.0, half_life_days=180.0, repeat=0.6, popular=0.4, popular_half_life_days=14.0, country=1.0, markov=0.0
)
RATINGS = Spec("blend", lam=200.0)

SHOP_SEARCH: tuple[tuple[str, tuple[float, ...]], ...] = (
    ("repeat", (0.3, 1.0, 1.6)),
    ("popular", (0.2, 0.8)),
    ("popular_half_life_days", (5.0, 30.0)),
    ("half_life_days", (60.0, 365.0)),
    ("country", (0.0, 3.0)),
    ("markov", (0.3,)),
    ("lam", (500.0, 100.0)),
    ("repeat", (0.6, 2.5)),
    ("popular", (0.4, 1.2)),
)
"""Term → values tried in turn, each against the best so far; the order is by what was measured to matter."""

RATINGS_SEARCH: tuple[tuple[str, tuple[float, ...]], ...] = (
    ("lam", (500.0, 100.0, 1000.0)),
    ("half_life_days", (90.0, 30.0, 365.0)),
    ("popular", (0.03, 0.1)),
    ("popular_half_life_days", (30.0,)),
    ("markov", (0.1, 0.3)),
)


class Fitted(NamedTuple):
    """What the trainer publishes."""

    arrays: dict[str, np.ndarray]
    settings: dict[str, Any]
    inputs: Inputs
    candidates: list[dict[str, Any]]
    measured_on: str


def fit(data: Dataset, *, seed: int, budget_s: float, run: Run) -> Fitted:
    """The trainer of the family `recommender`: see the module docstring."""
    inputs, interactions = model_inputs.encode(data.read())
    meter = run.meter("candidates")

    def on_progress(done: int, total: int, entry: dict[str, Any]) -> None:
        meter.update(done, max(total, done), ndcg_at_10=entry["ndcg_at_10"])

    model, candidates, split = choose(
        interactions, repeats=data.manifest.repeats, budget_s=budget_s, seed=seed, on_progress=on_progress
    )
    for entry in candidates:
        run.metric(candidate=entry["name"], **{name: value for name, value in entry.items() if name != "name"})
    measured_on = f"the last {100 * HELD_OUT:.0f} % of the learned events, {len(split.asked):,} subjects, full ranking"
    return Fitted(model.arrays, model.meta, inputs, candidates, measured_on)


def choose(
    data: Interactions,
    *,
    repeats: bool,
    budget_s: float,
    seed: int,
    on_progress: Callable[[int, int, dict[str, Any]], None] | None = None,
    split: Split | None = None,
) -> tuple[Recommender, list[dict[str, Any]], Split]:
    """Let candidates compete and fit the winner on everything.

    Returns
    -------
    The model; the best entry of each kind of candidate, with metrics on the held-out part, exactly one `chosen`; the split.
    """
    split = split or hold_out(data, repeats=repeats, seed=seed)
    judge = _Judge(split, repeats)
    best: dict[str, dict[str, Any]] = {}
    plan = _plan(split, repeats, budget_s)
    for number, spec in enumerate(_search(plan, repeats, best), start=1):
        entry = judge.entry(spec)
        if spec.name not in best or entry["ndcg_at_10"] > best[spec.name]["ndcg_at_10"] * (1 + MIN_GAIN):
            best[spec.name] = entry
        if on_progress is not None:
            on_progress(number, plan, entry)
    chosen = max(best.values(), key=lambda entry: entry["ndcg_at_10"])  # the first, which is the simplest, wins ties
    del judge  # its matrices are not needed while the winner is fitted
    candidates = [{**entry, "chosen": entry is chosen} for entry in best.values()]
    return fit_with(data, Spec(**chosen["spec"])), candidates, split


class _Judge:
    """Fits candidates on the first part and asks them about the second; what candidates share is made once."""

    def __init__(self, split: Split, repeats: bool) -> None:
        self._split = split
        self._repeats = repeats
        self._gram: np.ndarray | None = None
        self._weights: dict[tuple[str, float], np.ndarray] = {}

    def entry(self, spec: Spec) -> dict[str, Any]:
        spec = replace(spec, repeats=self._repeats)
        model = fit_with(self._split.before, spec, self._item_item)
        means = {name: round(value, 6) for name, value in measure(model, self._split).items()}
        return {"name": spec.name, **means, "spec": asdict(spec)}

    def _item_item(self, spec: Spec, head: np.ndarray) -> np.ndarray:
        if self._gram is None:
            self._gram = gram_of(self._split.before, head)
        key = (spec.kind, spec.lam)
        if key not in self._weights:
            if len(self._weights) >= 2:
                self._weights.pop(next(iter(self._weights)))
            self._weights[key] = item_item.ease(self._gram, spec.lam) if spec.kind == "ease" else item_item.cosine(self._gram)
        return self._weights[key]


def _search(plan: int, repeats: bool, best: dict[str, dict[str, Any]]) -> Iterator[Spec]:
    """Yield what to try next; `best` is filled by the caller between two steps."""
    yield from FLOORS
    if plan <= len(FLOORS):
        return
    yield EASE
    start, steps = (BLEND, SHOP_SEARCH) if repeats else (RATINGS, RATINGS_SEARCH)
    tried = {start}
    yield start
    num_tried = len(FLOORS) + 2
    for term, values in steps:
        for value in values:
            leader = {**best["blend"]["spec"], "repeats": start.repeats}
            spec = Spec(**{**leader, term: value})
            if spec in tried:
                continue
            if num_tried >= plan:
                return
            tried.add(spec)
            num_tried += 1
            yield spec


def _plan(split: Split, repeats: bool, budget_s: float) -> int:
    """How many candidates the budget buys, by counting operations at a nominal rate."""
    size = min(split.before.num_objects, MAX_HEAD)
    history = len(split.before) / max(len(np.unique(split.before.subject)), 1)
    solve_s = 4 * size**3 / SOLVE_FLOP_PER_S
    answer_s = FIT_S + len(split.asked) * (min(history, 256) + 4) * size / ANSWER_OPS_PER_S
    floors_s = len(FLOORS) * answer_s
    refit_s = solve_s
    left_s = budget_s - floors_s - refit_s - solve_s
    if len(split.before) == 0 or len(split.asked) == 0 or left_s < 2 * answer_s:
        return len(FLOORS)
    return len(FLOORS) + int(min(left_s / max(answer_s + solve_s / 8, 1e-6), 1_000))
