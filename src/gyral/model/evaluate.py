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


def mean(values: dict[str, np.ndarray], mask: np.ndarray | None = None) -> dict[str, float]:
    """Average over subjects (over those in the mask); NaN-free: no subject gives 0."""
    chosen = {name: value if mask is None else value[mask] for name, value in values.items()}
    return {name: float(value.mean()) if len(value) else 0.0 for name, value in chosen.items()}


def evaluate(root: Path, model: str, dataset: str, run: Run) -> dict[str, Any]:
    """Score a model in process on the interactions of a dataset that are later than what it learned.

    Raises
    ------
    InputError : nothing in the dataset is later.
    """
    servable = plugins.find("family", cards.read_card(cards.find(root, model)).family).load(cards.find(root, model))
    data = datasets.find(root, dataset)
    run.reads("model", servable.name)
    run.reads("dataset", data.name)
    rows = data.read()
    until = parse_times(pa.array([servable.card["learned_until"]]))[0]
    rows = rows.filter(pc.greater(rows["event_time"], until))
    if rows.num_rows == 0:
        raise InputError(
            f"`{data.name}` holds nothing later than `{servable.name}` learned",
            why=f"it learned until {servable.card['learned_until']}",
            hint="ingest newer events and curate again, then evaluate",
        )
    met = rows.group_by(["subject"], use_threads=False).aggregate([("object", "distinct"), ("country", "first")])
    answers: dict[str, list[list[str]]] = {"model": [], "popularity": []}
    known = []
    meter = run.meter("subjects", met.num_rows)
    for done, row in enumerate(met.to_pylist(), start=1):
        context = {"country": row["country_first"]} if row["country_first"] else {}
        answer = servable.recommend(row["subject"], 10, context)
        known.append(answer.known)
        answers["model"].append([item.object for item in answer.items])
        answers["popularity"].append([item.object for item in servable.popular(10, context).items])
        meter.update(done)
    relevant = met["object_distinct"].to_pylist()
    values = {name: score(each, relevant) for name, each in answers.items()}
    mask = np.array(known, dtype=bool)
    result: dict[str, Any] = {
        "model": servable.name,
        "dataset": data.name,
        "subjects": met.num_rows,
        "known": int(mask.sum()),
    }
    for metric in next(iter(values.values())):
        result[metric] = {name: round(mean(each)[metric], 6) for name, each in values.items()}
        result[f"known_{metric}"] = {name: round(mean(each, mask)[metric], 6) for name, each in values.items()}
    run.summarize(**result)
    run.note(
        f"eval     {servable.name} on {met.num_rows:,} subjects of {data.name} after {servable.card['learned_until']}: "
        f"NDCG@10 {result['ndcg_at_10']['model']:.4f}, popularity {result['ndcg_at_10']['popularity']:.4f}"
    )
    return result
