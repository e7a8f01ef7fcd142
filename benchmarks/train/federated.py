"""What learning on devices costs in quality and bytes, beside the same model trained centrally, on the bundled shop.

    .venv/bin/python benchmarks/train/federated.py [ROUNDS]

Online Retail, one device a customer (2,426 have two moments to learn from within their last 200 events), the dataset's own
protocol: the last fifth of the events by time is asked about, every object ranked, NDCG@10 over 1,880 customers, a fifth of
whom are new. 80 rounds of 200 devices, one local step (FedAvg: two); `central` is the same net by AdamW (200 steps of 64).
Bytes are those of whole messages, all devices and rounds together, up and down. Peers in the same run: popularity, EASE, and
the closed form that the trainer chooses, which see all events centrally.

A first attempt with two local steps and 60 rounds was stopped for want of a core: FedAvg .3029, FedAdam .3083 by then.

Predicted after a prototype had shown central .32 and FedAdam .315, before this ran: FedAdam within .006 of central, FedAvg .01
to .02 below it; a limit of 1 within .003 of none; int8 within .002 of f32 at a quarter of the bytes; masks twice the bytes of
int8 and no other bit; 30 % dropouts and mixed phones within .005; ε 8 with counts only (3,663 parameters) within .02, ε 2
within .05, and ε 8 with vectors (120,755 parameters) worse than with counts.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import GYRAL, PYTHON, ROOT, write

ROUNDS = 80
SEED = 0
IDEAL = {"fleet": "ideal"}
ONE_STEP = {"local_steps": 1, "local_rate": 3.0}
SMALL = {"width": 0, "local_rate": 6.0, "rate": 0.03, **IDEAL}
MASKED = {"clip": 1.0, "wire": "int8", "secure_sum": True}
WAYS: dict[str, dict[str, Any]] = {
    "FedAvg": {"server": "average", "local_steps": 2, "local_rate": 10.0, **IDEAL},
    "FedAdam": IDEAL,
    "FedAdam, clip 1": {"clip": 1.0, **IDEAL},
    "FedAdam, clip 1, int8": {"clip": 1.0, "wire": "int8", **IDEAL},
    "FedAdam, 30 % drop out": {"tiers": {"phone": {"share": 1.0, "dropout": 0.3}}},
    "FedAdam, mixed phones": {},
    "FedAdam, mixed phones, 1.5 times asked": {"over": 1.5},
    "FedAdam, mixed phones, late ones count later": {"late": "next"},
    "counts only": SMALL,
    "counts only, int8": {"clip": 0.5, "wire": "int8", **SMALL},
    "counts only, ε 8": {"clip": 0.5, "epsilon": 8.0, **SMALL},
    "counts only, ε 2": {"clip": 0.5, "epsilon": 2.0, **SMALL},
    "vectors, ε 8": {"clip": 1.0, "epsilon": 8.0, **IDEAL},
    "masked, clip 1, int8, mixed phones (6 rounds)": {"rounds": 6, **MASKED},
}
AT_ONCE = 3


def opened(root: str, width: int) -> Any:
    """The task, and its configuration."""
    from gyral.config import load
    from gyral.train.tasks import open_task

    sets = ["train.family=recommender", "train.task=history", "recommend.length=200", f"recommend.history_width={width}"]
    return open_task(Path(root), "online_retail", load(Path(root), sets, {"train.seed": SEED}))


def devices(root: str, name: str, rounds: int) -> dict[str, Any]:
    """One way over simulated devices."""
    import msgspec

    from gyral.config.training import Federated
    from gyral.engine.local import LocalEngine
    from gyral.train import loop
    from gyral.train.federated.fit import facts_of, with_noise
    from gyral.train.federated.rounds import Rounds

    words = {"rounds": rounds, **ONE_STEP, **WAYS[name]}
    task = opened(root, words.pop("width", 16))
    begun, model, history = time.process_time(), task.build(SEED), []
    told, private = with_noise(msgspec.convert(words, Federated), task, model, SEED)
    run = Rounds(task.for_devices(), model, told, SEED, LocalEngine(threads=1))
    run.run(history.append)
    facts = facts_of(history, run, told)
    kept = ("parameters", "rounds", "asked", "answers", "late", "gone", "lost", "up_bytes", "down_bytes", "clock_s", "tiers")
    found = {key: facts[key] for key in (*kept, "share_clipped")}
    cpu_s = round(time.process_time() - begun, 1)
    return {**loop.evaluate(task, run.take_over()), **found, "privacy": private, "cpu_s": cpu_s}


def central(root: str, width: int) -> dict[str, Any]:
    """The same net by one process that has all data."""
    from gyral.config.training import Optim
    from gyral.train import loop
    from gyral.train.loader import Order
    from gyral.train.optim import Optimizer
    from gyral.train.parallel.strategy import Alone

    task, strategy, steps = opened(root, width), Alone(), 200
    begun = time.process_time()
    model = strategy.place(task, task.build(SEED))
    optim = Optim(rate=0.01 if width else 0.02, weight_decay=1.0, schedule="wsd", decay=1.0, warmup=5, beta2=0.999)
    order = Order(task.num_rows, 64, SEED)
    loop.train(
        task, model, strategy, Optimizer(model, optim, steps, task.roles), loop.Settings(steps, 64), order, loop.Position()
    )
    return {**loop.evaluate(task, model), "cpu_s": round(time.process_time() - begun, 1)}


def closed(root: str) -> dict[str, Any]:
    """Closed forms that see everything; what a matrix of all pairs would cost as a sum over devices."""
    from dataclasses import replace

    from gyral.lake import dataset as datasets
    from gyral.model import inputs as model_inputs
    from gyral.model.holdout import hold_out, measure
    from gyral.model.recommender import Spec, fit_with
    from gyral.train.closed_form import EASE, FLOORS, choose

    _, data = model_inputs.encode(datasets.find(Path(root), "online_retail").read())
    split = hold_out(data, repeats=True, seed=SEED)
    found = {spec.name: measure(fit_with(split.before, replace(spec, repeats=True)), split) for spec in (FLOORS[0], EASE)}
    _, candidates = choose(data, repeats=True, budget_s=30, seed=SEED, split=split)
    chosen = next(each for each in candidates if each["chosen"])
    found["closed form chosen"] = measure(fit_with(split.before, Spec(**chosen["spec"])), split)
    pairs = data.num_objects * (data.num_objects + 1) // 2
    return {**found, "pairs_up_bytes_a_device": 2 * pairs}


def part(root: str, kind: str, name: str, rounds: int) -> dict[str, Any]:
    """One of them in a process of its own."""
    command = [PYTHON, str(Path(__file__).resolve()), "--part", root, kind, name, str(rounds)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=ROOT)
    print(kind, name, done.stdout.decode().strip(), file=sys.stderr, flush=True)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    with tempfile.TemporaryDirectory() as root:
        for words in (["ingest", "--source", str(ROOT / "data" / "online_retail.parquet")], ["curate", "online_retail"]):
            subprocess.run([*GYRAL, *words, "--root", root], check=True, capture_output=True)
        jobs = [("central", "16"), ("central", "0"), *(("devices", name) for name in WAYS), ("closed", "")]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = dict(zip(jobs, pool.map(lambda job: part(root, *job, rounds), jobs), strict=True))
    rows = {name: found["devices", name] for name in WAYS}
    whole = {"vectors": found["central", "16"], "counts only": found["central", "0"]}
    write("train_federated", {"rounds": rounds, "central": whole, "closed_forms": found["closed", ""], "devices": rows})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--part"]:
        import torch

        torch.set_num_threads(1)
        root, kind, name, rounds = sys.argv[2:]
        answer = (
            devices(root, name, int(rounds))
            if kind == "devices"
            else central(root, int(name))
            if kind == "central"
            else closed(root)
        )
        print(json.dumps(answer))
    else:
        main()
