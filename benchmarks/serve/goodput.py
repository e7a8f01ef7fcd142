"""Answers in time when more is asked than can be answered, over real sockets: gyral with workers, LitServe, FastAPI.

The model waits 4 + .5·b ms for a batch of b, at most 64, so the machine's cores do not decide; with variants int8 1.6 + .14·b
and int4 1.2 + .1·b, at qualities 1, .995 and .97. Deadlines of 20, 100 and 500 ms at 40, 40 and 20 %, sent as `x-deadline-ms`;
Poisson arrivals from `gyral bench serve` at 1.5 and 2.5 times what full batches of 64 sustain (1,778/s). FastAPI answers one by
one (there is one device, and batches are not its business), LitServe in batches of 64. Goodput is answers with status 200
within their deadline over all that were sent; the bound is 1 / load.

Predicted, from the simulation: gyral .58 and .36 without variants (.62 and .395 simulated, less for the loop's own time), .97
with them; LitServe below .05, as its queue is unbounded.

    .venv/bin/python benchmarks/serve/goodput.py [SECONDS]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import servers
from measure import GYRAL, write

CAPACITY = 64 / (0.004 + 0.0005 * 64)
DEADLINES = "20ms:.4,100ms:.4,500ms:.2"
SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 8.0

ENGINE = """
import time, sys, asyncio
import msgspec
from gyral.model.family import Route, Told
from gyral.serve.engine import OneShot
from gyral.serve.models import Several
from gyral.serve.job import in_set

class Ask(msgspec.Struct):
    x: list[float]

COSTS = {"full": (0.004, 0.0005), "int8": (0.0016, 0.00014), "int4": (0.0012, 0.0001)}

def one(name):
    fixed, each = COSTS[name]
    class Model:
        card, routes = {}, {}
    Model.name = f"{name}@1"
    def together(requests):
        time.sleep(fixed + each * len(requests))
        return [Told({"score": 1.0}, "score") for _ in requests]
    body = {"family": "wait", "learned_until": None, "card": {}, "routes": {"/predict": ["", False]}, "recommends": False}
    told = Told(body, "")
    return OneShot(Model, {"/predict": Route(Ask, lambda request: together([request])[0], "", together=together),
                           "/v1/model": Route(msgspec.Struct, lambda request: told, "")}, version=Model.name, max_batch=64)

def make(source, version, options):
    return Several(version, {name: one(name) for name in in_set(version)})

async def main(names):
    from gyral.config.sections import Serve
    from gyral.serve.front import Front
    from gyral.serve.gateway import Gateway
    from gyral.serve.http1.server import Server, listen
    from gyral.serve.job import Job
    from gyral.serve.pool import Settings
    from gyral.serve.pooled import pooled
    from gyral.serve.scheduling.cost import Curve
    from gyral.serve.scheduling.router import Variant
    from gyral.model.tiers import tiers
    from gyral.serve.slots import DEFAULT
    room, quality = [], {"full": 1.0, "int8": 0.995, "int4": 0.97}
    version = " ".join(f"{name}={name}@1" for name in names)
    engine = sys.argv[0].rpartition("/")[2][:-3] + ":make"
    job = Job(source="", version=version, engine=engine, environment={"PYTHONPATH": sys.path[0]})
    async with pooled(job, Settings(workers=1), on_room=lambda: room and room[0].pump()) as pool:
        variants = [Variant(name, quality[name], 1, 1, {"server": Curve(*COSTS[name])}) for name in names]
        gateway = Gateway(pool, {DEFAULT: variants}, tiers({}))
        room.append(gateway)
        front = Front(pool, gateway, None, Serve())
        await front.learn()
        await Server(front, front.hot()).start(listen("127.0.0.1", int(sys.argv[1])))
        await asyncio.sleep(1e6)

if __name__ == "__main__":
    from gyral.serve.http1.server import new_loop
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main(NAMES))
"""
MODEL = """
import threading, time

device = threading.Lock()

def forward(x):
    with device:
        time.sleep(0.004 + 0.0005 * len(x))
    return [1.0] * len(x)
"""


def main() -> None:
    own = {"gyral": ["full"], "gyral_variants": ["full", "int8", "int4"]}
    for name, names in own.items():
        servers.SERVERS[name] = ENGINE.replace("NAMES", repr(names))
    servers.SERVERS["fastapi"] = servers.SERVERS["fastapi"].replace("async def predict", "def predict")
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "mlp.py").write_text(MODEL)
        (folder / "body.json").write_text(servers.BODY)
        (folder / "bodies.jsonl").write_text(f"{servers.BODY}\n")
        for name in (*own, "litserve", "fastapi"):
            for load in (1.5, 2.5):
                with servers.running(name, folder) as (url, _, _):
                    found.setdefault(name, {})[f"{load}"] = told = asked(url, load, folder)
                print(name, load, json.dumps(told), file=sys.stderr, flush=True)
    write("serve_goodput", {"capacity_per_s": round(CAPACITY), "seconds": SECONDS, "found": found})


def asked(url: str, load: float, folder: Path) -> dict[str, Any]:
    """Goodput and what else the generator says of one run."""
    command = [*GYRAL, "bench", "serve", url.removesuffix("/predict"), "--route", "bodies", "--path", "/predict", "--json"]
    command += ["--bodies", str(folder / "bodies.jsonl"), "--root", str(folder), "--connections", "2000", "--timeout-s", "5"]
    command += ["--rate", str(load * CAPACITY), "--seconds", str(SECONDS), "--deadlines", DEADLINES]
    done = subprocess.run(command, capture_output=True, text=True)
    if not done.stdout:
        raise SystemExit(done.stderr[-2_000:])
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


if __name__ == "__main__":
    main()
