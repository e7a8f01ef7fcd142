"""The trainer of the family `recommender`: a dataset in, the winner of `gyral.train.closed_form` out, or a net that beats it.

Closed forms come first. Where torch is installed and half the budget pays two trainings, a sequence net competes on the same
held-out events (`gyral.train.sequence_candidate`); it is served only if it is clearly better. Otherwise torch is never loaded.
"""

from __future__ import annotations

from pathlib import Path

from gyral.config import Config
from gyral.lake.dataset import Dataset
from gyral.model import inputs as model_inputs
from gyral.model.card import Weights
from gyral.model.holdout import HELD_OUT, hold_out
from gyral.model.recommender import Spec
from gyral.run import Run
from gyral.train import sequence_candidate
from gyral.train.closed_form import choose
from gyral.train.fitted import Fitted


def fit(root: Path, data: Dataset, config: Config, run: Run, budget_s: float) -> Fitted:
    """Number the names, let the candidates compete on the last part of the events, fit the winner on all of them."""
    seed = config.train.seed
    repeats = data.require("interactions", "a recommender").manifest.repeats
    inputs, interactions = model_inputs.encode(data.read())
    split = hold_out(interactions, repeats=repeats, seed=seed)
    net_s = sequence_candidate.planned_s(interactions, config, budget_s) if len(split.asked) else 0.0
    meter = run.meter("candidates")

    def on_progress(_name: str, done: int, total: int, ndcg: float) -> None:
        meter.update(done, max(total, done), ndcg_at_10=ndcg)

    model, candidates = choose(
        interactions, repeats=repeats, budget_s=budget_s - net_s, seed=seed, on_progress=on_progress, split=split
    )
    meter.update(meter.record.done, meter.record.done, **meter.record.metric)  # fewer than planned may have fitted the budget
    weights = Weights(model.arrays, model.meta)
    if net_s:
        steps = run.meter("steps")
        chosen = next(entry for entry in candidates if entry["chosen"])
        judged = sequence_candidate.compete(split, Spec(**chosen["spec"]), config, steps)
        has_won = sequence_candidate.is_better(judged, chosen)
        if has_won:
            weights = sequence_candidate.finished(interactions, model, judged, config, steps)
            chosen["chosen"] = False
        candidates += [{**entry, "chosen": has_won and entry is judged.best} for entry in judged.entries]
    for entry in candidates:
        run.metric(candidate=entry["name"], **{name: value for name, value in entry.items() if name != "name"})
    measured_on = f"the last {100 * HELD_OUT:.0f} % of the learned events, {len(split.asked):,} subjects, full ranking"
    return Fitted(weights, inputs, candidates, measured_on)
