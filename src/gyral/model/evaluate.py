"""How good answers are: full ranking over all objects, no sampled negatives, nothing learned from what is asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gyral import plugins
from gyral.errors import InputError
from gyral.event.clock import parse_times
from gyral.lake import dataset as datasets
from gyral.model import card as cards
from gyral.model.metrics import ranking_metrics
from gyral.progress import fixed
from gyral.run import Run

METRICS = ("ndcg", "recall", "hit")


def score(answers: Sequence[Sequence[str]], relevant: Sequence[Sequence[str]], k: int = 10) -> dict[str, np.ndarray]:
    """Score ranked names against what was really met.

    Parameters
    ----------
    answers : for each subject the recommended objects, best first.
    relevant : for each subject the objects it then met, each once; at least one.

    Returns
    -------
    `ndcg_at_k`, `recall_at_k` and `hit_at_k`, one value a subject. NDCG is normalised by min(k, objects met).
    """
    codes: dict[str, int] = {}
    ranked = np.full((len(answers), k), -1, dtype=np.int64)
    for row, answer in enumerate(answers):
        for place, name in enumerate(answer[:k]):
            ranked[row, place] = codes.setdefault(name, len(codes))
    lists = [np.array([codes.setdefault(name, len(codes)) for name in names], dtype=np.int64) for names in relevant]
    values = ranking_metrics(ranked, lists, k=k)
    return {f"{metric}_at_{k}": values[metric] for metric in METRICS}


def mean(values: dict[str, np.ndarray], mask: np.ndarray | None = None) -> dict[str, float | None]:
    """Average over subjects (over those in the mask), to six places; None over nobody."""
    chosen = {name: value if mask is None else value[mask] for name, value in values.items()}
    return {name: round(float(value.mean()), 6) if len(value) else None for name, value in chosen.items()}


def not_met_before(subjects: Sequence[str], objects: Sequence[list[str]], learned: pa.Table) -> list[list[str]]:
    """Of what each subject met, what is not in the learned rows: where nothing repeats, only that can be recommended."""
    asked = learned.filter(pc.is_in(learned["subject"], value_set=pa.array(subjects, pa.string())))
    before: dict[str, set[str]] = {}
    for subject, object_ in zip(asked["subject"].to_pylist(), asked["object"].to_pylist(), strict=True):
        before.setdefault(subject, set()).add(object_)
    nothing: set[str] = set()
    return [
        [each for each in met if each not in before.get(subject, nothing)]
        for subject, met in zip(subjects, objects, strict=True)
    ]


def evaluate(root: Path, model: str, dataset: str, run: Run) -> dict[str, Any]:
    """Score a model in process on the interactions of a dataset that are later than what it learned.

    Raises
    ------
    InputError : nothing in the dataset is later.
    """
    servable = plugins.find("family", cards.read_card(cards.find(root, model)).family).load(cards.find(root, model))
    data = datasets.find(root, dataset).require("interactions", f"`{servable.name}`")
    run.reads("model", servable.name)
    run.reads("dataset", data.name)
    rows = data.read()
    until = parse_times(pa.array([servable.card["learned_until"]]))[0]
    is_later = pc.greater(rows["event_time"], until)
    later = rows.filter(is_later)
    if later.num_rows == 0:
        raise InputError(
            f"`{data.name}` holds nothing later than `{servable.name}` learned",
            why=f"it learned until {servable.card['learned_until']}",
            hint="ingest newer events and curate again, then evaluate",
        )
    met = later.group_by(["subject"], use_threads=False).aggregate([("object", "distinct"), ("country", "first")])
    subjects, relevant = met["subject"].to_pylist(), met["object_distinct"].to_pylist()
    if not servable.card["repeats"]:
        relevant = not_met_before(subjects, relevant, rows.filter(pc.invert(is_later)))
    answers: dict[str, list[list[str]]] = {"model": [], "popularity": []}
    known, kept = [], []
    meter = run.meter("subjects", met.num_rows)
    for done, (subject, objects, country) in enumerate(
        zip(subjects, relevant, met["country_first"].to_pylist(), strict=True), 1
    ):
        if objects:
            context = {"country": country} if country else {}
            answer = servable.recommend(subject, 10, context)
            known.append(answer.known)
            kept.append(objects)
            answers["model"].append([item.object for item in answer.items])
            answers["popularity"].append([item.object for item in servable.popular(subject, 10, context).items])
        meter.update(done)
    values = {name: score(each, kept) for name, each in answers.items()}
    mask = np.array(known, dtype=bool)
    result: dict[str, Any] = {
        "model": servable.name,
        "dataset": data.name,
        "subjects": len(kept),
        "known": int(mask.sum()),
    }
    for metric in next(iter(values.values())):
        result[metric] = {name: mean(each)[metric] for name, each in values.items()}
        result[f"known_{metric}"] = {name: mean(each, mask)[metric] for name, each in values.items()}
    run.summarize(**result)
    told = ", ".join(f"{name} {fixed(value)}" for name, value in result["ndcg_at_10"].items())
    run.note(f"eval     {servable.name} on {len(kept):,} subjects of {data.name} after {until}: NDCG@10 {told}")
    return result
