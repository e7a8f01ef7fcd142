"""What diversity, rules and exploration cost and bring on the bundled shop: the last of six turns, asked in this process.

The model is the product form that `gyral train` fits (fixed hyper-parameters, so that the run is short), learned from six
sevenths of the events; customers of the last seventh are asked about. Rows: the model itself; the pipeline with sources alone
(must be the same to the last place); MMR and DPP at several shares; no repeats; exploration. Per row:

    ndcg        NDCG@10 of all customers
    nearness    mean cosine of two objects of an answer, by who met them: of plain counts, not of the vectors it was made by
    novelty     mean −log2 of the share of customers that met an object
    coverage    share of the catalogue that is in any answer
    cpu_ms      a request

Predicted before it was run: sources alone change nothing; MMR at .1 costs under 2 % of NDCG and takes a fifth off nearness; at
.5 it costs over 20 %; exploration of .1 costs 5 %.
Command: OMP_NUM_THREADS=1 .venv/bin/python benchmarks/recommender/diverse.py (a minute)
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import ROOT, write

from gyral import config as configs
from gyral.config.rerank import Rerank
from gyral.curate.interactions import COLUMNS, decide
from gyral.ingest.files import cut, layout_of
from gyral.ingest.sources import open_source
from gyral.model.family import ServableRecommender
from gyral.model.inputs import Codes, encode
from gyral.model.metrics import ranking_metrics
from gyral.model.recommender import Spec, fit_with
from gyral.prequential import truth_of
from gyral.serve.recommend.pipeline import Reranked

SPEC = Spec(
    "product", lam=200.0, half_life_days=60.0, markov=0.3, repeat=0.3, count_power=0.5, popular_half_life_days=14.0,
    popular_power=0.5, background=0.02, newcomer=1.0, country=0.3,
)  # fmt: skip
ROWS: dict[str, Rerank | None] = {
    "model": None,
    "sources": Rerank(candidates={"model": 500, "similar": 100, "popular": 100}),
    **{f"mmr_{share}": Rerank(diversity=share) for share in (0.05, 0.1, 0.2, 0.5)},
    **{f"dpp_{share}": Rerank(diversity=share, diversity_by="dpp") for share in (0.02, 0.05, 0.1, 0.2)},
    "no_repeats": Rerank(no_repeats=True),
    "explore_0.1": Rerank(explore=0.1),
}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        config = configs.load(Path(folder), [], {"ingest.source": str(ROOT / "data" / "online_retail.parquet")})
        source = open_source(config.ingest.source, Path(folder), print)
        layout = layout_of(source, config)
        slices = cut(source, layout, config, 7)
        events = pa.concat_tables([part.events for part in slices[:6]]).select(COLUMNS)
        rows, _, _ = decide(events.to_batches(), [layout], config)
        truth = truth_of(slices[6], layout, config)
    inputs, data = encode(rows)
    servable = ServableRecommender.__new__(ServableRecommender)
    servable.name, servable.card, servable.codes, servable.model = "shop@1", {}, Codes(inputs), fit_with(data, SPEC)
    met = np.zeros((data.num_subjects, data.num_objects), np.float32)
    met[data.subject, data.object] = 1
    popularity = met.mean(axis=0)
    gram = met.T @ met
    length = np.sqrt(np.maximum(np.diag(gram), 1))
    cosine = gram / length[:, None] / length[None]
    told: dict[str, Any] = {}
    own = np.zeros(0, np.int64)
    for name, rules in ROWS.items():
        asked = servable if rules is None else Reranked(servable, rules, Path(), np.random.default_rng(0))
        asked.recommend(truth.subjects[0], 10, {})
        ranked = np.full((len(truth.subjects), 10), -1, np.int64)
        start = time.thread_time()
        for row, (subject, country) in enumerate(zip(truth.subjects, truth.countries, strict=True)):
            items = asked.recommend(subject, 10, {"country": country} if country else {}).items
            ranked[row, : len(items)] = [servable.codes.object[item.object] for item in items]
        spent = (time.thread_time() - start) / len(ranked) * 1e3
        unknown: dict[str, int] = {}
        later = data.num_objects
        relevant = [
            np.array([servable.codes.object.get(each, later + unknown.setdefault(each, len(unknown))) for each in objects])
            for objects in truth.objects
        ]
        near = [cosine[np.ix_(row, row)][np.triu_indices(10, 1)].mean() for row in ranked if row.min() >= 0]
        told[name] = {
            "ndcg": round(float(ranking_metrics(ranked, relevant, 10)["ndcg"].mean()), 4),
            "nearness": round(float(np.mean(near)), 4),
            "novelty": round(float(-np.log2(np.maximum(popularity[ranked[ranked >= 0]], 1e-9)).mean()), 3),
            "coverage": round(len(np.unique(ranked[ranked >= 0])) / data.num_objects, 4),
            "cpu_ms": round(spent, 3),
            "same_as_model": bool(np.array_equal(ranked, own)) if name != "model" else True,
        }
        if name == "model":
            own = ranked
    write("recommender_diverse", {"customers": len(truth.subjects), "objects": data.num_objects, "rows": told})


main()
