"""What each part of the recommender is worth on the bundled shop: the six turns of the loop, asked in this process.

The turns, slices, curation and questions are those of `gyral loop --turns 6`; only HTTP and int8 are left out. Rows:

- popularity, EASE with λ 200 on binary histories, item–item cosine + first-order Markov: peers, fitted on the same rows;
- chosen: what the trainer chooses from the rows learned so far, with the loop's budget of 30 s a turn;
- chosen_frozen_matrix: the same with the item–item weights of turn 1, everything else fresh;
- chosen_on_slice_1: hyper-parameters of turn 1 kept, everything fitted anew.

NDCG@10 over all customers, those known, and those new. Command: .venv/bin/python benchmarks/recommender/retail.py (two minutes)
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import ROOT, write

from gyral import config as configs
from gyral.curate.interactions import COLUMNS, decide
from gyral.ingest.files import cut, layout_of
from gyral.ingest.sources import open_source
from gyral.model.inputs import Codes, Inputs, encode
from gyral.model.metrics import ranking_metrics
from gyral.model.recommender import Interactions, Recommender, Spec, fit_with
from gyral.prequential import Truth, truth_of
from gyral.train.closed_form import FLOORS, choose

TURNS = 6
BUDGET_S = 30.0


def turns() -> list[tuple[Inputs, Interactions, Truth]]:
    """What each turn has learned, and what came next."""
    with tempfile.TemporaryDirectory() as folder:
        config = configs.load(Path(folder), [], {"ingest.source": str(ROOT / "data" / "online_retail.parquet")})
        source = open_source(config.ingest.source, Path(folder), print)
        layout = layout_of(source, config)
        slices = cut(source, layout, config, TURNS + 1)
        found = []
        for turn in range(1, TURNS + 1):
            events = pa.concat_tables([part.events for part in slices[:turn]]).select(COLUMNS)
            rows, _, _ = decide(events.to_batches(), [layout], config)
            found.append((*encode(rows), truth_of(slices[turn], layout, config)))
        return found


def score(model: Recommender, inputs: Inputs, truth: Truth, popularity: bool = False) -> dict[str, float]:
    """NDCG@10 of all, known and new customers."""
    codes = Codes(inputs)
    ranked = np.full((len(truth.subjects), 10), -1, dtype=np.int64)
    unknown: dict[str, int] = {}
    met, known = [], []
    for row, (subject, country, objects) in enumerate(zip(truth.subjects, truth.countries, truth.objects, strict=True)):
        code = codes.subject.get(subject, -1)
        found = model.popular(code, 10) if popularity else model.recommend(code, 10, codes.country.get(country or "", -1))
        ranked[row, : len(found[0])] = found[0]
        later = len(inputs.objects)
        met.append(np.array([codes.object.get(name, later + unknown.setdefault(name, len(unknown))) for name in objects]))
        known.append(code >= 0)
    values, mask = ranking_metrics(ranked, met, 10)["ndcg"], np.array(known)
    return {
        name: round(float(part.mean()), 4) for name, part in (("all", values), ("known", values[mask]), ("new", values[~mask]))
    }


def with_matrix(of: Recommender, inputs: Inputs, data: Interactions, now: Inputs, spec: Spec) -> Recommender:
    """Fit everything but the item–item weights, which are those of an older model, by name."""
    codes = {name: code for code, name in enumerate(now.objects)}
    place = np.array([codes[inputs.objects[code]] for code in of.arrays["head"]])

    def weights(_spec: Spec, head: np.ndarray) -> np.ndarray:
        row_of = np.full(len(now.objects), -1)
        row_of[head] = np.arange(len(head))
        matrix = np.zeros((len(head), len(head)), dtype=np.float32)
        matrix[np.ix_(row_of[place], row_of[place])] = of.arrays["item_item"]
        return matrix

    return fit_with(data, spec, weights)


def main() -> None:
    rows: dict[str, list[dict[str, float]]] = {}
    chosen_specs: list[dict[str, Any]] = []
    first: tuple[Recommender, Inputs, Spec] | None = None
    for inputs, data, truth in turns():
        model, candidates = choose(data, repeats=True, budget_s=BUDGET_S, seed=0)
        spec = Spec(**next(entry for entry in candidates if entry["chosen"])["spec"])
        first = first or (model, inputs, spec)
        chosen_specs.append(
            {"name": spec.name, **{key: getattr(spec, key) for key in spec.__dataclass_fields__ if key != "name"}}
        )
        peers = {"ease_200": Spec("ease", lam=200.0), "item_item_markov": replace(FLOORS[1])}
        answers = {
            "popularity": score(model, inputs, truth, popularity=True),
            **{name: score(fit_with(data, peer), inputs, truth) for name, peer in peers.items()},
            "chosen": score(model, inputs, truth),
            "chosen_frozen_matrix": score(with_matrix(first[0], first[1], data, inputs, spec), inputs, truth),
            "chosen_on_slice_1": score(fit_with(data, first[2]), inputs, truth),
        }
        for name, value in answers.items():
            rows.setdefault(name, []).append(value)
        print(f"turn {len(chosen_specs)}: {answers}", file=sys.stderr)
    mean = {
        name: {who: round(statistics.mean(turn[who] for turn in every), 4) for who in ("all", "known", "new")}
        for name, every in rows.items()
    }
    write("recommender_retail", {"metric": "ndcg_at_10", "mean_of_turns": mean, "turns": rows, "chosen": chosen_specs})


if __name__ == "__main__":
    main()
