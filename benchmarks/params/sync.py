"""What is learned when workers do not wait: NDCG@10 of `ssp:4` and `async` beside `bsp`, 2 and 4 workers, three seeds.

MovieLens-100K and the bundled shop, leave one out (each subject's last event, all unseen objects ranked): SASRec and two
towers, small ones (width 32) so that a run takes some twenty CPU-seconds. All settings but `sync` are the same; a step is one
push of each worker with its part of the batch. Workers are threads of one process with a client each, shards are in it
(`local://1`): how far they are apart is what the scheduler makes of them, and is told as the staleness histogram. `bsp` is one
worker, as its numbers are the same for any number.

With `more`: what `momentum_correction` and `compensation` (DC-ASGD, λ .04 and 1) change of `async` with 4.

Prediction, written before: SASRec async − bsp within ±.003 with a deviation over seeds of .004; two towers lose .002 to .005,
as their negatives are those of a worker's own part; momentum correction and compensation change less than the deviation at
these delays (a handful of pushes). First runs, with 1 / N of the rate a push: ssp:4 and async lost .004 to .006 with 2 workers
and .011 with 4, and the deviation of bsp is .0002; hence 1 / √N, and momentum correction, as async x4 had .0957 without it and
.1020 with it (seed 0, bsp .0997).

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/params/sync.py [MODEL DATA]... [more]      (all: about half a CPU-hour)
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "recommender"))
import numpy as np
import torch
from measure import PYTHON, write
from ml100k import ratings

from gyral.config.training import Optim, Server, Train
from gyral.model.holdout import Split, hold_out_last, measure
from gyral.model.nets import two_tower
from gyral.model.nets.sequence import Shape
from gyral.model.neural_recommender import NeuralRecommender, arrays_of, meta_of
from gyral.model.recommender import Interactions, Spec, fit_with
from gyral.model.sequences import Sequences
from gyral.model.tasks.retrieval import Retrieval
from gyral.model.tasks.sequence import NextObject
from gyral.params import client as clients
from gyral.params.shard import Settings
from gyral.train import loop
from gyral.train.loader import Order
from gyral.train.parallel.parameter_server import Bsp, ParameterServer, tables_of

SEEDS = (0, 1, 2)
AT_ONCE = 2
PASSES = {"sasrec": 10, "two_tower": 2}
BATCH = {"sasrec": 32, "two_tower": 256}
RUNS: dict[str, tuple[str, int, Server]] = {
    "bsp": ("bsp", 1, Server()),
    "ssp:4 x2": ("ssp:4", 2, Server()),
    "ssp:4 x4": ("ssp:4", 4, Server()),
    "async x2": ("async", 2, Server()),
    "async x4": ("async", 4, Server()),
}
MORE = {
    "async x4, no momentum correction": ("async", 4, Server(momentum_correction=False)),
    "async x4, compensation .04": ("async", 4, Server(compensation=0.04)),
    "async x4, compensation 1": ("async", 4, Server(compensation=1.0)),
}


def shop() -> Interactions:
    """All purchases of the bundled shop, customer and product, in time order."""
    from retail import turns

    return turns()[-1][1]


def task_of(model: str, data: Interactions, seed: int) -> Any:
    """What is learned."""
    if model == "sasrec":
        shape = Shape(data.num_objects, 32, 1, 1, 50, 64, 0.2, "sasrec")
        return NextObject(shape, Sequences.of(data, shape.length), seed)
    countries = max(1, int(data.country.max(initial=0)) + 1)
    towers = two_tower.Shape(data.num_subjects, countries, data.num_objects, 32, 20, 64, 0.0)
    words = np.zeros((data.num_objects, 1), np.int64)
    return Retrieval(towers, Sequences.of(data, towers.length), np.full(data.num_subjects, -1), words, seed)


def trained(task: Any, train: Train, num: int, steps: int) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Weights, and what the server tells."""
    errors: list[BaseException] = []
    found: dict[str, Any] = {}
    models = [task.build(train.seed) for _ in range(num)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        specs = [table.spec for table in tables_of(models[0], task.roles, train, num)]
        looks = clients.open("local://1", specs, settings=Settings(train.sync, num, 1e6, 1e6), worker=-1)

        def work(rank: int) -> None:
            try:
                kind = Bsp if train.sync == "bsp" else ParameterServer
                strategy = kind(train, rank, num, folder, lambda _, seq, clock: looks.another(rank, seq=seq, clock=clock))
                strategy.follows_rows = True
                model = strategy.place(task, models[rank])
                optimizer, position = strategy.optimizer(model, train.optim, steps, task.roles), loop.Position()
                strategy.follow(optimizer, position)
                order, settings = Order(task.num_rows, train.batch, train.seed), loop.Settings(steps, train.batch)
                loop.train(task, model, strategy, optimizer, settings, order, position)
                with strategy.to_evaluate():
                    pass
                if rank == 0:
                    found.update(weights=strategy.weights(), told=strategy.told())
                strategy.close()
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(num)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        looks.close()
    if errors:
        raise errors[0]
    return found["weights"], found["told"]


def quality(model: str, task: Any, weights: dict[str, torch.Tensor], split: Split) -> float:
    """NDCG@10 of the net alone."""
    net = task.build(0)
    net.load_state_dict(weights)
    net.eval()
    closed = fit_with(split.before, Spec("popularity", repeats=False))
    length = task.shape.length
    name = "sequence" if model == "sasrec" else "two_tower"
    asked = NeuralRecommender(arrays_of(split.before, closed, length), meta_of(name, asdict(task.shape), closed, 0.0), net)
    return measure(asked, split)["ndcg_at_10"]


def one(model: str, data: str, name: str, seed: int) -> dict[str, Any]:
    """One run."""
    sync, num, server = {**RUNS, **MORE}[name]
    split = hold_out_last(ratings() if data == "ml100k" else shop())
    task = task_of(model, split.before, seed)
    optim = Optim(rate=2e-3, weight_decay=0.1, tables="rowwise_adagrad" if model == "two_tower" else "adamw", table_rate=0.05)
    train = Train(sync=sync, seed=seed, batch=BATCH[model], optim=optim, server=server)
    begun, steps = time.process_time(), PASSES[model] * task.num_rows // BATCH[model]
    weights, told = trained(task, train, num, steps)
    cpu_s = round(time.process_time() - begun, 1)
    ndcg = round(quality(model, task, weights, split), 4)
    return {"name": name, "seed": seed, "steps": steps, "ndcg_at_10": ndcg, "cpu_s": cpu_s, "staleness": told["staleness"]}


def part(key: tuple[str, str, str, int]) -> dict[str, Any]:
    """A run in a process of its own."""
    done = subprocess.run([PYTHON, __file__, "one", *map(str, key)], stdout=subprocess.PIPE, check=True, start_new_session=True)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(*key[:2], json.dumps(told), file=sys.stderr, flush=True)
    return told


def compared(model: str, data: str) -> dict[str, Any]:
    """All rules on one data set."""
    names = [*RUNS, *(MORE if "more" in sys.argv else ())]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        told = list(pool.map(part, [(model, data, name, seed) for seed in SEEDS for name in names]))
    found: dict[str, Any] = {}
    for name in names:
        values = [each["ndcg_at_10"] for each in told if each["name"] == name]
        found[name] = {"ndcg_at_10": round(statistics.mean(values), 4), "deviation": round(statistics.stdev(values), 4)}
    for name in names:
        found[name]["less_bsp"] = round(found[name]["ndcg_at_10"] - found["bsp"]["ndcg_at_10"], 4)
    return {"rules": found, "runs": told}


def main() -> None:
    given = [each for each in sys.argv[1:] if each != "more"] or [
        "sasrec",
        "ml100k",
        "two_tower",
        "ml100k",
        "sasrec",
        "retail",
        "two_tower",
        "retail",
    ]
    pairs = list(zip(given[::2], given[1::2], strict=True))
    for model, data in pairs:
        write(f"params_sync_{model}_{data}", compared(model, data))


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["one"]:
        print(json.dumps(one(sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]))))
    else:
        main()
