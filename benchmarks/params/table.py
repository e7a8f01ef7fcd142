"""A collision-free table against static ones: pull and push of 65,536 keys of 2 million, 32 weights, through a torch layer.

One thread each, each in its own process and environment, a round of 8 batches in turn; CPU time, ratios of the medians of a
round, the median of the rounds. `train` is forward and backward with the optimizer's step: `gyral` and `fbgemm` (its static
table: an id is a row's number and nothing is looked up) rowwise Adagrad, `torch` `nn.Embedding(sparse=True)` with Adagrad,
`tfra` (a dynamic table, libcuckoo) look-up, rowwise step and put back in one `tf.function`, less than its optimizer does.
fbgemm's rowwise step is slow on some processors, so `train_sgd` is its plain SGD beside gyral's rowwise step, which is more.
`gather` is `torch.index_select` of the same rows without any look-up. All get huge pages.

Prediction before measuring: `train` 4.8x torch (uniform) and 4.3x (Zipf), .8x and 1.5x fbgemm, 10x tfra; `pull` .6x of
`gather`; two threads .9 of what a copy gains; 150 bytes a key.

Command: .venv/bin/python benchmarks/params/table.py (about six minutes; `--without tfra` leaves a peer out)
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from measure import PYTHON, peer, write

WORKER = Path(__file__).with_name("table_worker.py")
ROUNDS = 10
PEERS = {
    "fbgemm": ("params-fbgemm", ["torch==2.13.0", "fbgemm-gpu-cpu==1.8.0", "numpy"]),
    "tfra": ("params-tfra", ["tensorflow-cpu==2.16.2", "tensorflow-recommenders-addons==0.8.1", "numpy<2"]),
}
ASKED = [("train", "uniform"), ("train", "zipf"), ("pull", "uniform"), ("pull", "zipf")]
MORE = {
    "gyral": [(what, which) for what in ("table", "gather") for which in ("uniform", "zipf")],
    "fbgemm": [("train_sgd", which) for which in ("uniform", "zipf")],
}


def started(name: str) -> subprocess.Popen[str]:
    python = peer(*PEERS[name]) if name in PEERS else PYTHON
    worker = subprocess.Popen([python, str(WORKER), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert worker.stdout
    for line in worker.stdout:  # peers greet
        if line == "ready\n":
            return worker
    raise SystemExit(f"{name} did not start: its last lines are above")


def asked(worker: subprocess.Popen[str], what: str, which: str) -> float:
    assert worker.stdin and worker.stdout
    print(what, which, file=worker.stdin, flush=True)
    return statistics.median(json.loads(worker.stdout.readline()))


def measured(names: list[str]) -> tuple[dict[str, Any], dict[str, float]]:
    workers = {name: started(name) for name in names}
    seconds: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    for number in range(ROUNDS + 1):
        for name, worker in workers.items():
            for what, which in ASKED + MORE.get(name, []):
                value = asked(worker, what, which)
                if number:
                    seconds[name].setdefault(f"{what} {which}", []).append(value)
    assert workers["gyral"].stdin and workers["gyral"].stdout
    print("memory -", file=workers["gyral"].stdin, flush=True)
    memory = json.loads(workers["gyral"].stdout.readline())
    for worker in workers.values():
        worker.communicate()
    return seconds, memory


def two_threads() -> dict[str, Any]:
    """Two tables in two threads beside one table in one, and a copy of 256 MB in the same turns; wall time, gains."""
    from table_worker import BATCH, DIM, ids

    from gyral.params.spec import TableSpec
    from gyral.params.table import Table

    batches, grads, tables = ids("uniform"), np.ones((BATCH, DIM), np.float32), []
    for number in range(2):
        tables.append(Table(TableSpec(f"items-{number}", DIM)))
        for keys in np.split(np.arange(2**20), 16):
            tables[-1].push(keys, np.zeros((len(keys), DIM), np.float32))
    copies = [(np.zeros(2**25, np.float32), np.ones(2**25, np.float32)) for _ in range(2)]

    def work(number: int) -> None:
        for keys in batches:
            found = tables[number].find(keys % 2**20)
            tables[number].read(found)
            tables[number].step(found, grads)

    def copy(number: int) -> None:
        for _ in range(4):
            np.copyto(*copies[number])

    def wall(function: Any, num: int) -> float:
        threads = [threading.Thread(target=function, args=(number,)) for number in range(num)]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - start

    gains: dict[str, list[float]] = {"table": [], "copy": []}
    for number in range(16):
        for name, function in (("table", work), ("copy", copy)):
            one, two = wall(function, 1), wall(function, 2)
            if number:
                gains[name].append(round(2 * one / two, 3))
    best = {name: sorted(values)[-4:] for name, values in gains.items()}
    return {"gains": gains, "of_a_copy": statistics.median(best["table"]) / statistics.median(best["copy"])}


def main() -> None:
    left_out = sys.argv[sys.argv.index("--without") + 1 :] if "--without" in sys.argv else []
    names = [name for name in ("gyral", "torch", *PEERS) if name not in left_out]
    seconds, memory = measured(names)
    ratios: dict[str, float] = {}
    for name in names[1:]:
        for each in seconds[name]:
            pairs = zip(seconds[name][each], seconds["gyral"][each.replace("_sgd", "")], strict=True)
            ratios[f"{each} / {name}"] = round(statistics.median(theirs / ours for theirs, ours in pairs), 3)
    for which in ("uniform", "zipf"):
        pairs = zip(seconds["gyral"][f"gather {which}"], seconds["gyral"][f"pull {which}"], strict=True)
        ratios[f"pull {which} / gather"] = round(statistics.median(theirs / ours for theirs, ours in pairs), 3)
    mrows = {
        name: {each: round(65_536 / 1e6 / statistics.median(values), 2) for each, values in of.items()}
        for name, of in seconds.items()
    }
    write("params-table", {"ratios": ratios, "mrows_per_cpu_s": mrows, **memory, "threads": two_threads(), "seconds": seconds})


if __name__ == "__main__":
    main()
