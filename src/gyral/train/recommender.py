"""The trainer of the family `recommender`: a dataset in, the winner of `gyral.train.closed_form` out, or a net that beats it.

Closed forms come first. Where torch is installed and half the budget pays two trainings, a sequence net competes on the same
held-out events (`gyral.train.sequence_candidate`), and where `recommend.ranker` says so a ranking net behind the closed form
(`gyral.train.ranking_candidate`); one is served only if it is clearly better. Otherwise torch is never loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from gyral.config import Config
from gyral.lake.dataset import Dataset
from gyral.model import inputs as model_inputs
from gyral.model.card import Weights
from gyral.model.holdout import HELD_OUT, Split, hold_out
from gyral.model.recommender import Interactions, Spec
from gyral.run import Run
from gyral.train import closed_form, ranking_candidate, sequence_candidate
from gyral.train.fitted import Fitted
from gyral.train.reading import reads


class Shared(NamedTuple):
    """What is learned, and who gets how many nominal seconds of the budget.

    Attributes
    ----------
    net_s, ranker_s : of nets beside the closed forms; 0: none competes.
    closed_s : what is left for the closed forms.
    """

    rows: pa.Table
    inputs: model_inputs.Inputs
    interactions: Interactions
    split: Split
    repeats: bool
    net_s: float
    ranker_s: float
    closed_s: float

    def planned(self) -> closed_form.Planned:
        """What the closed forms take; nets come on top."""
        return closed_form.planned(self.split, repeats=self.repeats, budget_s=self.closed_s)


def shared(data: Dataset, config: Config, budget_s: float) -> Shared:
    """Read what is learned, and share the budget."""
    repeats = data.require("interactions", "a recommender").manifest.repeats
    rows = data.read()
    inputs, interactions = model_inputs.encode(rows)
    split = hold_out(interactions, repeats=repeats, seed=config.train.seed)
    net_s = sequence_candidate.planned_s(interactions, config, budget_s) if len(split.asked) else 0.0
    ranker_s = ranking_candidate.planned_s(interactions, config, budget_s - net_s) if len(split.asked) else 0.0
    return Shared(rows, inputs, interactions, split, repeats, net_s, ranker_s, budget_s - net_s - ranker_s)


@reads(
    why="a `recommender` is fitted in closed form, without steps and without a teacher",
    hint="`--set train.task=sequence` learns by gradients and reads it; `lm` and `vision` do so anyway",
)
def fit(root: Path, data: Dataset, config: Config, run: Run, budget_s: float) -> Fitted:
    """Number the names, let the candidates compete on the last part of the events, fit the winner on all of them."""
    rows, inputs, interactions, split, repeats, net_s, ranker_s, closed_s = has = shared(data, config, budget_s)
    run.summarize(rows=len(rows), nominal_s=has.planned().nominal_s + net_s + ranker_s)
    meter = run.meter("candidates")

    def on_progress(_name: str, done: int, total: int, ndcg: float) -> None:
        meter.update(done, max(total, done), ndcg_at_10=ndcg)

    model, candidates = closed_form.choose(
        interactions, repeats=repeats, budget_s=closed_s, seed=config.train.seed, on_progress=on_progress, split=split
    )
    meter.update(meter.record.done, meter.record.done, **meter.record.metric)  # fewer than planned may have fitted the budget
    weights = Weights(model.arrays, model.meta)
    winner = next(entry for entry in candidates if entry["chosen"])
    spec, steps = Spec(**winner["spec"]), run.meter("steps") if net_s or ranker_s else meter
    judged = [sequence_candidate.compete(split, spec, config, steps)] if net_s else []
    if ranker_s:
        judged.append(ranking_candidate.compete(data, rows, interactions, split, spec, config, steps))
    if judged:
        best = max(judged, key=lambda each: float(each.best["ndcg_at_10"]))
        has_won = sequence_candidate.is_better(best, winner)
        if has_won:
            winner["chosen"] = False
            weights = (
                ranking_candidate.finished(data, rows, interactions, split, model, best, config, steps)
                if best.net_name == "ranking"
                else sequence_candidate.finished(interactions, model, best, config, steps)
            )
        candidates += [{**entry, "chosen": has_won and entry is best.best} for each in judged for entry in each.entries]
    for entry in candidates:
        run.metric(candidate=entry["name"], **{name: value for name, value in entry.items() if name != "name"})
    measured_on = f"the last {100 * HELD_OUT:.0f} % of the learned events, {len(split.asked):,} subjects, full ranking"
    return Fitted(weights, inputs, candidates, measured_on)
