"""The adapter to Flower: a real server and two clients of flwr on 127.0.0.1 end where our own rounds end.

    .venv/bin/python benchmarks/train/flower.py

Flower lives in an environment of its own (its pins are older than ours), which sees gyral and torch behind its own packages.
200 customers of the bundled shop, 100 a client, 2 rounds of FedAvg at the full rate; the same without Flower by `Rounds`. CPU
seconds are those of whole processes, imports included.

Predicted: weights equal to 1e-6 (another order of additions, float32 on the wire), and several times our CPU.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import GYRAL, PYTHON, ROOT, peer, write

ROUNDS, DEVICES, RATE = 2, 200, 10.0


def task_of(root: str) -> Any:
    from gyral.config import load
    from gyral.train.tasks import open_task

    return open_task(Path(root), "online_retail", load(Path(root), ["train.family=recommender", "train.task=history"]))


def told() -> Any:
    from gyral.config.training import Federated

    return Federated(rounds=ROUNDS, cohort=DEVICES, server="average", momentum=0.0, decay=0.0, local_rate=RATE, fleet="ideal")


def some(task: Any) -> Any:
    """The task with the first devices only."""
    few = task.for_devices()
    few.subjects, few.num_rows = few.subjects[:DEVICES], DEVICES
    return few


def ours(root: str, out: str) -> None:
    import numpy as np
    import torch

    from gyral.engine.local import LocalEngine
    from gyral.train.federated.rounds import Rounds

    torch.set_num_threads(1)
    task = some(task_of(root))
    rounds = Rounds(task, task.build(0), told(), 0, LocalEngine(threads=1))
    rounds.run(lambda _: None)
    np.save(out, rounds.server.common.numpy())


def client(root: str, address: str, half: int) -> None:
    import numpy as np
    import torch
    from flwr.compat.client.app import start_client

    from gyral.train.federated.flower import Devices, client_of

    torch.set_num_threads(1)
    task = some(task_of(root))
    mine = np.array_split(np.arange(DEVICES), 2)[half]
    start_client(
        server_address=address, client=client_of(Devices(task, task.build(0), told(), mine)).to_client(), insecure=True
    )


def server(root: str, address: str, out: str) -> None:
    import numpy as np
    from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
    from flwr.server import ServerConfig, start_server
    from flwr.server.strategy import FedAvg

    from gyral.train.federated.flower import Devices

    task = some(task_of(root))
    begin = ndarrays_to_parameters(Devices(task, task.build(0), told(), np.arange(1)).parameters())

    class Keeping(FedAvg):
        def aggregate_fit(self, *words: Any) -> Any:
            done = super().aggregate_fit(*words)
            np.save(out, np.concatenate([each.ravel() for each in parameters_to_ndarrays(done[0])]))
            return done

    strategy = Keeping(
        fraction_fit=1.0, fraction_evaluate=0.0, min_fit_clients=2, min_available_clients=2, initial_parameters=begin
    )
    start_server(server_address=address, config=ServerConfig(num_rounds=ROUNDS, round_timeout=120), strategy=strategy)


def main() -> None:
    import numpy as np

    python = Path(os.environ["FLOWER_PYTHON"]) if "FLOWER_PYTHON" in os.environ else Path(peer("flower", ["flwr==1.42.0"]))
    site = next((ROOT / ".venv" / "lib").glob("python*")) / "site-packages"
    packages = next((python.parent.parent / "lib").glob("python*")) / "site-packages"
    (packages / "behind.pth").write_text(f"{site}\n{ROOT / 'src'}\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with tempfile.TemporaryDirectory() as root:
        for words in (["ingest", "--source", str(ROOT / "data" / "online_retail.parquet")], ["curate", "online_retail"]):
            subprocess.run([*GYRAL, *words, "--root", root], check=True, capture_output=True)
        me = str(Path(__file__).resolve())
        outs = {name: str(Path(root, f"{name}.npy")) for name in ("ours", "flower")}
        env = {**os.environ, "OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0", "FLWR_TELEMETRY_ENABLED": "0"}
        before = cpu_s()
        subprocess.run([PYTHON, me, "--ours", root, outs["ours"]], check=True, env=env, timeout=300)
        between = cpu_s()
        server_ = subprocess.Popen([str(python), me, "--server", root, address, outs["flower"]], env=env)
        time.sleep(5)
        parts = [subprocess.Popen([str(python), me, "--client", root, address, str(half)], env=env) for half in range(2)]
        try:
            codes = [each.wait(timeout=300) for each in parts]
            codes.append(server_.wait(timeout=60))
        finally:
            for each in (server_, *parts):
                each.kill()
        if any(codes):
            raise SystemExit(f"Flower's processes ended with {codes}")
        after = cpu_s()
        own, theirs = (np.load(outs[name]) for name in ("ours", "flower"))
    write(
        "train_flower",
        {
            "flwr": "1.42.0", "rounds": ROUNDS, "devices": DEVICES, "clients": 2, "parameters": len(own),
            "largest_difference": float(np.abs(own - theirs).max()), "moved": float(np.linalg.norm(own)),
            "cpu_s": {"ours": round(between - before, 1), "flower": round(after - between, 1)},
        },
    )  # fmt: skip


def cpu_s() -> float:
    """Of all children that have ended."""
    import resource

    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    if sys.argv[1:2] == ["--ours"]:
        ours(*sys.argv[2:])
    elif sys.argv[1:2] == ["--server"]:
        server(*sys.argv[2:])
    elif sys.argv[1:2] == ["--client"]:
        client(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        main()
    print(json.dumps({"done": True}), file=sys.stderr)
