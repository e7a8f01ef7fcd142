"""Which closed form fits best: candidates compete on the last part of what was learned, the winner learns everything.

The floors always run: popularity, and item–item cosine over the decayed history plus first-order transitions. Then plain EASE,
and two blends, the sum and the product of `gyral.model.recommender`, each followed by a coordinate search over a short list a
term. How many candidates run, and how many objects the dense part holds, is planned from the budget with a nominal cost model,
never from the clock: the same data, budget and seed choose the same model on any machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np

from gyral.model import item_item
from gyral.model.holdout import Split, hold_out, measure
from gyral.model.recommender import MAX_HEAD, MAX_SCORED_HISTORY, Interactions, Recommender, Spec, fit_with, gram_of

MIN_GAIN = 0.005
"""A step of the search is taken only when it is better by this share: less is noise of the held-out part."""
SOLVE_FLOP_PER_S = 35e9
ANSWER_OPS_PER_S = 3e9
PASSES = 8
"""How often an answer goes over all objects: base, background, lift, what may not be shown, the best k."""
FIT_S_PER_ROW = 0.7e-6
SOLVE_SHARE = 0.85
FLOP_PER_CUBE = 2.0
MIN_HEAD = 64

FLOORS = (
    Spec("popularity", kind="popularity", popular=1.0),
    Spec("item_item_markov", kind="cosine", rank_decay=0.8, markov=1.0),
)
EASE = Spec("ease", lam=200.0)
SUM = Spec("sum", lam=200.0, half_life_days=365.0, repeat=0.5, popular=0.5, popular_half_life_days=30.0, country=1.0)
PRODUCT = Spec(
    "product",
    lam=100.0,
    half_life_days=365.0,
    count_power=1.0,
    repeat=1.0,
    popular_power=0.5,
    background=0.01,
    popular_half_life_days=30.0,
    country=1.0,
    country_shrink=100.0,
    newcomer=1.0,
)
"""Round values that nobody fitted to a data set: what a data set needs is found by the search, on what was learned."""
ONCE_SUM = Spec("sum", lam=200.0, popular=0.03, popular_half_life_days=30.0)
ONCE_PRODUCT = Spec("product", lam=200.0, half_life_days=30.0, popular_power=0.2, background=0.01, popular_half_life_days=15.0)

Steps = tuple[tuple[str, tuple[float, ...]], ...]
SEARCH: Steps = (
    ("popular_half_life_days", (15.0, 7.0, 3.5, 60.0)),
    ("popular_power", (0.35, 0.25, 1.0)),
    ("repeat", (0.5, 2.0)),
    ("half_life_days", (180.0, 90.0)),
    ("country", (2.0, 4.0, 0.0)),
    ("newcomer", (0.0, 2.0)),
    ("lam", (200.0, 500.0)),
    ("count_power", (0.75,)),
)
"""Term → values tried in turn, each against the best so far; what changes most comes first."""
ONCE_SEARCH: Steps = (
    ("lam", (500.0, 1000.0, 100.0)),
    ("half_life_days", (0.0, 10.0, 90.0)),
    ("popular_power", (0.0, 0.4)),
    ("popular_half_life_days", (5.0, 60.0)),
    ("markov", (0.1, 0.3)),
)


class Planned(NamedTuple):
    """What a budget pays.

    Attributes
    ----------
    num_head : objects in the dense part.
    candidates : that compete, at most: the search tries nothing twice.
    nominal_s : of one core, for all of them and the last fit.
    """

    num_head: int
    candidates: int
    nominal_s: float


def planned(split: Split, *, repeats: bool, budget_s: float) -> Planned:
    """What `choose` would do, before it does."""
    purse = purse_of(split, repeats, budget_s)
    first = asdict(starts(repeats)[-1])
    steps = [Spec(**{**first, term: value}) for term, values in _steps(repeats) for value in values]
    paid = sum(purse.pay(spec) for spec in [*starts(repeats), *steps])
    return Planned(purse.num_head, len(FLOORS) + paid, len(FLOORS) * purse.one_s + purse.spent_s)


def choose(
    data: Interactions,
    *,
    repeats: bool,
    budget_s: float,
    seed: int,
    on_progress: Callable[[str, int, int, float], None] | None = None,
    split: Split | None = None,
) -> tuple[Recommender, list[dict[str, Any]]]:
    """Let candidates compete and fit the winner on everything.

    Parameters
    ----------
    repeats : whether an object that a subject has met may be recommended again.
    budget_s : nominal seconds of one core that all candidates and the last fit may cost together.
    on_progress : called after each candidate with its name, how many are done, how many are planned, its NDCG@10.
    split : what to fit and what to ask; None holds out the last part of the events.

    Returns
    -------
    The model; the best entry of each kind of candidate with its hyper-parameters under `spec`, `ndcg_at_10`, `recall_at_10` and
    `hit_at_10` on the held-out part; exactly one is `chosen`. Never one that is worse than a floor; ties go to the simpler.
    """
    split = split or hold_out(data, repeats=repeats, seed=seed)
    purse = purse_of(split, repeats, budget_s)
    judge = _Judge(split, repeats, purse.num_head)
    best: dict[str, dict[str, Any]] = {}
    at_most = planned(split, repeats=repeats, budget_s=budget_s).candidates
    for done, spec in enumerate(_search(repeats, purse, best), start=1):
        entry = judge.entry(spec)
        if spec.name not in best or entry["ndcg_at_10"] > best[spec.name]["ndcg_at_10"] * (1 + MIN_GAIN):
            best[spec.name] = entry
        if on_progress is not None:
            on_progress(spec.name, done, at_most, entry["ndcg_at_10"])
    chosen = max(best.values(), key=lambda entry: entry["ndcg_at_10"])  # the first, which is the simplest, wins ties
    del judge  # its matrices are not needed while the winner is fitted
    return fit_with(data, Spec(**chosen["spec"])), [{**entry, "chosen": entry is chosen} for entry in best.values()]


def candidate_s(split: Split) -> float:
    """Nominal seconds to fit one candidate without its solve, and to ask it."""
    history = min(len(split.before) / max(len(np.unique(split.before.subject)), 1), MAX_SCORED_HISTORY)
    an_answer = history * min(split.before.num_objects, MAX_HEAD) + PASSES * split.before.num_objects
    return 1e-3 + FIT_S_PER_ROW * len(split.before) + len(split.asked) * an_answer / ANSWER_OPS_PER_S


def plan_head(num_objects: int, budget_s: float) -> int:
    """Objects in the dense part: as many as two solves fit into a share of the budget, by a nominal rate."""
    affordable = int((SOLVE_SHARE * max(budget_s, 0.0) * SOLVE_FLOP_PER_S / (2 * FLOP_PER_CUBE)) ** (1 / 3))
    return int(min(max(affordable, MIN_HEAD), MAX_HEAD, max(num_objects, 1)))


def purse_of(split: Split, repeats: bool, budget_s: float) -> Purse:
    """The budget without the floors; empty where there is nothing to learn, or nobody to ask."""
    one_s = candidate_s(split)
    num_head = plan_head(split.before.num_objects, budget_s - (len(FLOORS) + len(starts(repeats))) * one_s)
    is_empty = len(split.before) == 0 or len(split.asked) == 0
    return Purse(0.0 if is_empty else budget_s - len(FLOORS) * one_s, one_s, num_head)


class Purse:
    """What is left of the budget after the floors, in nominal seconds; the last fit's solve is put aside first."""

    def __init__(self, budget_s: float, one_s: float, num_head: int) -> None:
        self.one_s, self.num_head = one_s, num_head
        self._solve_s = FLOP_PER_CUBE * num_head**3 / SOLVE_FLOP_PER_S
        self._solved: set[float] = set()
        self._left_s = budget_s - self._solve_s
        self.spent_s = self._solve_s

    def pay(self, spec: Spec) -> bool:
        """Take the cost of a candidate, or say that it is more than what is left."""
        cost_s = self.one_s + (0.0 if spec.lam in self._solved else self._solve_s)
        if cost_s > self._left_s:
            return False
        self._left_s -= cost_s
        self.spent_s += cost_s
        self._solved.add(spec.lam)
        return True


class _Judge:
    """Fits candidates on the first part and asks them about the second; what candidates share is made once."""

    def __init__(self, split: Split, repeats: bool, num_head: int) -> None:
        self._split, self._repeats, self._num_head = split, repeats, num_head
        self._gram: np.ndarray | None = None
        self._weights: dict[tuple[str, float], np.ndarray] = {}

    def entry(self, spec: Spec) -> dict[str, Any]:
        spec = replace(spec, repeats=self._repeats, num_head=self._num_head)
        means = measure(fit_with(self._split.before, spec, self._item_item), self._split)
        return {"name": spec.name, **{name: round(value, 6) for name, value in means.items()}, "spec": asdict(spec)}

    def _item_item(self, spec: Spec, head: np.ndarray) -> np.ndarray:
        if self._gram is None:
            self._gram = gram_of(self._split.before, head)
        key = (spec.kind, spec.lam)
        if key not in self._weights:
            if len(self._weights) >= 2:
                self._weights.pop(next(iter(self._weights)))
            self._weights[key] = item_item.ease(self._gram, spec.lam) if spec.kind == "ease" else item_item.cosine(self._gram)
        return self._weights[key]


def starts(repeats: bool) -> tuple[Spec, ...]:
    """What is tried after the floors; the last one is what the search begins with."""
    return (EASE, SUM, PRODUCT) if repeats else (EASE, ONCE_SUM, ONCE_PRODUCT)


def _steps(repeats: bool) -> Steps:
    return SEARCH if repeats else ONCE_SEARCH


def _search(repeats: bool, purse: Purse, best: dict[str, dict[str, Any]]) -> Iterator[Spec]:
    """Yield what to try next until the purse is empty; `best` is filled by the caller between two steps."""
    yield from FLOORS
    tried = set()
    for spec in starts(repeats):
        if not purse.pay(spec):
            return
        tried.add(spec)
        yield spec
    for term, values in _steps(repeats):
        for value in values:
            leader = {**best["product"]["spec"], "repeats": EASE.repeats, "num_head": EASE.num_head}
            spec = Spec(**{**leader, term: value})
            if spec not in tried and purse.pay(spec):
                tried.add(spec)
                yield spec
