"""Which closed form fits best: candidates compete on the last part of what was learned, the winner learns everything.

The floors always run: popularity, and item–item cosine over the decayed history plus first-order transitions. The blend is
found by a coordinate search over a short list a term. How many candidates run is planned from the budget with a nominal cost
model, never from the clock, so the same data, settings and seed choose the same model on any machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from gyral.lake.dataset import Dataset
from gyral.model import inputs as model_inputs
from gyral.model import item_item
from gyral.model.inputs import Inputs
from gyral.model.metrics import ranking_metrics
from gyral.model.recommender import MAX_HEAD, Interactions, Recommender, Spec, fit_with, gram_of, head_of
from gyral.run import Run

K = 10
HELD_OUT = 0.2
MAX_ASKED = 2_000
SOLVE_FLOP_PER_S = 15e9
ANSWER_OPS_PER_S = 1.5e9

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


@dataclass(frozen=True)
class Split:
    """The learned events in two: `before` is fitted, `after` is asked about. `asked` are subject codes, `met` their objects."""

    before: Interactions
    after: Interactions
    asked: np.ndarray
    met: list[np.ndarray]


def fit(data: Dataset, *, seed: int, budget_s: float, run: Run) -> Fitted:
    """The trainer of the family `recommender`: see the module docstring."""
    inputs, interactions = model_inputs.encode(data.read())
    meter = run.meter("candidates")

    def on_progress(done: int, total: int, entry: dict[str, Any]) -> None:
        meter.update(done, max(total, done), ndcg_at_10=entry["ndcg_at_10"])
        run.metric(candidate=entry["name"], **{name: entry[name] for name in ("ndcg_at_10", "recall_at_10", "hit_at_10", "spec")})

    model, candidates, split = choose(interactions, repeats=data.manifest.repeats, budget_s=budget_s, seed=seed, on_progress=on_progress)
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
    total = 0
    plan = _plan(split, repeats, budget_s)
    for number, spec in enumerate(_search(plan, repeats, best), start=1):
        entry = judge.entry(spec)
        total += 1
        if spec.name not in best or entry["ndcg_at_10"] > best[spec.name]["ndcg_at_10"]:
            best[spec.name] = entry
        if on_progress is not None:
            on_progress(number, plan, entry)
    chosen = max(best.values(), key=lambda entry: entry["ndcg_at_10"])  # the first, which is the simplest, wins ties
    candidates = [{**entry, "chosen": entry is chosen} for entry in best.values()]
    return fit_with(data, Spec(**chosen["spec"])), candidates, split


def hold_out(data: Interactions, *, repeats: bool, seed: int, share: float = HELD_OUT) -> Split:
    """Cut off the last part of the events by time; at most `MAX_ASKED` subjects of it are asked about."""
    cut = data.time[int(len(data) * (1 - share))] if len(data) else 0
    before, after = data.where(data.time < cut), data.where(data.time >= cut)
    pairs = np.unique(np.stack([after.subject.astype(np.int64), after.object.astype(np.int64)]), axis=1)
    if not repeats and len(before):
        width = data.num_objects
        seen = np.unique(before.subject.astype(np.int64) * width + before.object)
        pairs = pairs[:, ~np.isin(pairs[0] * width + pairs[1], seen)]
    asked, first = np.unique(pairs[0], return_index=True)
    met = np.split(pairs[1], first[1:]) if len(asked) else []
    if len(asked) > MAX_ASKED:
        kept = np.sort(np.random.default_rng(seed).choice(len(asked), MAX_ASKED, replace=False))
        asked, met = asked[kept], [met[place] for place in kept]
    return Split(before, after, asked, met)


class _Judge:
    """Fits candidates on the first part and asks them about the second; what candidates share is made once."""

    def __init__(self, split: Split, repeats: bool) -> None:
        self._split = split
        self._repeats = repeats
        country = np.full(split.before.num_subjects, -1, dtype=np.int64)
        country[split.after.subject[::-1]] = split.after.country[::-1]
        self._country = country
        self._gram: np.ndarray | None = None
        self._weights: dict[tuple[str, float], np.ndarray] = {}

    def entry(self, spec: Spec) -> dict[str, Any]:
        split = self._split
        spec = replace(spec, repeats=self._repeats)
        model = fit_with(split.before, spec, self._item_item)
        ranked = np.full((len(split.asked), K), -1, dtype=np.int32)
        for row, subject in enumerate(split.asked):
            codes, _ = model.recommend(int(subject), K, int(self._country[subject]))
            ranked[row, : len(codes)] = codes
        values = ranking_metrics(ranked, split.met, K)
        means = {f"{name}_at_{K}": round(float(each.mean()), 6) if len(each) else 0.0 for name, each in values.items()}
        return {"name": spec.name, **means, "spec": asdict(spec)}

    def _item_item(self, spec: Spec, head: np.ndarray) -> np.ndarray:
        if self._gram is None:
            self._gram = gram_of(self._split.before, head)
        key = (spec.kind, spec.lam)
        if key not in self._weights:
            if len(self._weights) >= 4:
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
            spec = replace(Spec(**leader), **{term: value})
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
    answer_s = len(split.asked) * (min(history, 256) + 4) * size / ANSWER_OPS_PER_S
    floors_s = len(FLOORS) * answer_s
    refit_s = solve_s
    left_s = budget_s - floors_s - refit_s - solve_s
    if len(split.before) == 0 or len(split.asked) == 0 or left_s < 2 * answer_s:
        return len(FLOORS)
    return len(FLOORS) + int(min(left_s / max(answer_s + solve_s / 8, 1e-6), 1_000))
