"""One tiny model behind each server: what a request costs, how many go through, how long one waits at a fixed rate.

The model is an MLP of 64-256-256-1 in numpy, one thread, the same file for all; a request is 64 numbers as JSON, its answer one
number. `gyral` is the whole way: a key that is looked up, its rates, a deadline on every request, validation, a worker process,
batches that form by themselves, metrics, request ids, the impression event (kept in memory, not written). `gyral_inline` is the
same model on the fast handler of its HTTP server, nothing between. Peers as their documentation sets them up: FastAPI with
pydantic on uvicorn (httptools, uvloop), LitServe with batches of 64 and its fast queue, BentoML, Ray Serve with one replica,
`@serve.batch` of 64. All have both cores; 32 connections of `wrk`; `h2load` for 500 a second over 16 connections. CPU is of the
server's whole process tree over the requests that were answered.

Predicted before the first run, from the research file (torch there): gyral 25 to 35 µs of CPU a request, FastAPI 300, LitServe
1,100, BentoML 1,350, Ray Serve 6,000; requests a second in the same order, 10x LitServe, 5x FastAPI.

    .venv/bin/python benchmarks/serve/servers.py [NAME]...      (about six minutes, and as long once to install peers)
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from hop import cpu_s, tree
from measure import PYTHON, peer, write

ROUNDS, SECONDS, CONNECTIONS, RATE, FIXED_S = 3, 4, 32, 500, 6
QUIET = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", "BENTOML_DO_NOT_TRACK": "true"}
BODY = json.dumps({"x": [round(0.01 * n - 0.3, 2) for n in range(64)]})

MODEL = """
import numpy as np
random = np.random.default_rng(0)
sizes = (64, 256, 256, 1)
layers = [random.normal(size=pair, scale=pair[0] ** -0.5).astype(np.float32) for pair in zip(sizes, sizes[1:])]

def forward(x):
    for layer in layers[:-1]:
        x = np.maximum(x @ layer, 0)
    return (x @ layers[-1])[:, 0]
"""

SERVERS = {
    "gyral": """
import asyncio, hashlib, sys
from typing import Annotated
import msgspec, numpy as np
import mlp
from gyral.config.sections import Caller, Serve
from gyral.model.family import Route, Told
from gyral.serve.engine import OneShot

class Ask(msgspec.Struct):
    x: Annotated[list[float], msgspec.Meta(min_length=64, max_length=64)]

def make(source, version, options):
    class Model:
        name, card, routes = version, {}, {}
    def together(requests):
        scores = mlp.forward(np.array([each.x for each in requests], np.float32))
        return [Told({"score": float(score)}, "score") for score in scores]
    route = Route(Ask, lambda request: together([request])[0], '{"x": [0.5]}', together=together)
    body = {"family": "mlp", "learned_until": None, "card": {}, "routes": {"/predict": ["", False]}, "recommends": False}
    told = Told(body, "")
    routes = {"/predict": route, "/v1/model": Route(msgspec.Struct, lambda request: told, "")}
    return OneShot(Model, routes, version=version, max_batch=64)

class Log:
    appended = dropped = 0
    def add(self, one): pass

async def main():
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
    room = []
    job = Job(source="", version="mlp@1", engine="server_gyral:make", environment={"PYTHONPATH": sys.path[0]})
    config = Serve(deadline_ms=1000, keys=[Caller(name="bench", sha256=hashlib.sha256(b"key").hexdigest())])
    async with pooled(job, Settings(workers=1), on_room=lambda: room and room[0].pump()) as pool:
        gateway = Gateway(pool, {DEFAULT: [Variant("mlp", 1.0, 1, 1, {"server": Curve(1e-4, 1e-5)})]}, tiers({}))
        room.append(gateway)
        front = Front(pool, gateway, None, config, Log())
        await front.learn()
        await Server(front, front.hot()).start(listen("127.0.0.1", int(sys.argv[1])))
        await asyncio.sleep(1e6)

if __name__ == "__main__":
    from gyral.serve.http1.server import new_loop
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())
""",
    "gyral_inline": """
import asyncio, sys
from typing import Annotated
import msgspec, numpy as np
import mlp
from gyral.serve.http1.answer import Response
from gyral.serve.http1.request import Route
from gyral.serve.http1.server import Server, listen, new_loop

class Ask(msgspec.Struct):
    x: Annotated[list[float], msgspec.Meta(min_length=64, max_length=64)]

decode, encode = msgspec.json.Decoder(Ask).decode, msgspec.json.Encoder().encode

def predict(request):
    return Response(encode({"score": float(mlp.forward(np.array([decode(request.body).x], np.float32))[0])}))

async def main():
    await Server(None, {"/predict": Route(predict)}).start(listen("127.0.0.1", int(sys.argv[1])))
    await asyncio.sleep(1e6)

with asyncio.Runner(loop_factory=new_loop) as runner:
    runner.run(main())
""",
    "fastapi": """
import sys
import numpy as np, uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, Field
import mlp

class Ask(BaseModel):
    x: list[float] = Field(min_length=64, max_length=64)

class Told(BaseModel):
    score: float

app = FastAPI()

@app.post("/predict", response_model=Told)
async def predict(ask: Ask):
    return Told(score=float(mlp.forward(np.array([ask.x], np.float32))[0]))

uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)
""",
    "litserve": """
import sys
import numpy as np
import litserve
import mlp

class Api(litserve.LitAPI):
    def setup(self, device): pass
    def decode_request(self, request): return request["x"]
    def batch(self, inputs): return np.array(inputs, np.float32)
    def predict(self, x): return mlp.forward(x)
    def unbatch(self, output): return list(output)
    def encode_response(self, output): return {"score": float(output)}

if __name__ == "__main__":
    api = Api(max_batch_size=64, batch_timeout=0.001)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(port=int(sys.argv[1]), host="127.0.0.1", generate_client_file=False, log_level="warning", access_log=False)
""",
    "bentoml": """
import numpy as np
import bentoml
import mlp

@bentoml.service(traffic={"timeout": 30})
class Service:
    @bentoml.api
    def predict(self, x: list[float]) -> dict:
        return {"score": float(mlp.forward(np.array([x], np.float32))[0])}
""",
    "ray": """
import sys, time
import numpy as np
from ray import serve
from starlette.requests import Request
import mlp

@serve.deployment(num_replicas=1, max_ongoing_requests=256)
class Deployed:
    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.001)
    async def many(self, xs):
        return [float(each) for each in mlp.forward(np.array(xs, np.float32))]
    async def __call__(self, request: Request):
        return {"score": await self.many((await request.json())["x"])}

serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
serve.run(Deployed.bind(), route_prefix="/predict")
time.sleep(1e6)
""",
}
NEEDS = {
    "fastapi": ["fastapi==0.141.1", "uvicorn[standard]", "numpy==2.4.6"],
    "litserve": ["litserve==0.2.19", "uvloop", "httptools", "numpy==2.4.6"],
    "bentoml": ["bentoml==1.4.39", "numpy"],
    "ray": ["ray[serve]==2.60.0", "numpy==2.4.6"],
}


def main() -> None:
    wrk, h2load = shutil.which("wrk"), shutil.which("h2load")
    if wrk is None or h2load is None:
        raise SystemExit("wrk and h2load are wanted: apt-get install wrk nghttp2-client")
    names = sys.argv[1:] or list(SERVERS)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "mlp.py").write_text(MODEL)
        (folder / "body.json").write_text(BODY)
        lua = f"wrk.method='POST' wrk.body='{BODY}' wrk.headers['content-type']='application/json'"
        (folder / "post.lua").write_text(lua + " wrk.headers['authorization']='Bearer key'")
        found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        for at in range(ROUNDS):
            for name in names:
                with running(name, folder) as (url, process, start_s):
                    told = {"start_s": start_s, **saturated(wrk, url, folder, process), **steady(h2load, url, folder)}
                found[name].append(told)
                print(at, name, json.dumps(told), file=sys.stderr, flush=True)
        medians = {
            name: {key: round(statistics.median(each[key] for each in rounds), 3) for key in rounds[0]}
            for name, rounds in found.items()
        }
        write("serve_servers", {"medians": medians, "rounds": found})


@contextmanager
def running(name: str, folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes], float]]:
    """A server that answers, its process, and seconds to the first answer."""
    python = PYTHON if name.startswith("gyral") else peer(f"serve-{name}", NEEDS[name])
    path, port = folder / f"server_{name}.py", free_port()
    path.write_text(SERVERS[name])
    command = [python, str(path), str(port)]
    if name == "bentoml":
        command = [
            str(Path(python).parent / "bentoml"),
            "serve",
            f"server_{name}:Service",
            "--port",
            str(port),
            "--host",
            "127.0.0.1",
        ]
    url = f"http://127.0.0.1:{port}/predict"
    environment = {**os.environ, **QUIET, "PATH": f"{Path(python).parent}:{os.environ['PATH']}"}
    began = time.monotonic()
    with open(folder / f"{name}.log", "wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        while not answers(url):
            if process.poll() is not None or time.monotonic() - began > 120:
                raise SystemExit(f"{name} does not answer: {(folder / f'{name}.log').read_text()[-2000:]}")
            time.sleep(0.02)
        yield url, process, time.monotonic() - began
    finally:
        pids = tree(process.pid)
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(15)
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.wait()


def answers(url: str) -> bool:
    headers = {"content-type": "application/json", "authorization": "Bearer key"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, BODY.encode(), headers), timeout=5) as answer:
            return "score" in json.load(answer)
    except OSError:
        return False


def saturated(wrk: str, url: str, folder: Path, process: subprocess.Popen[bytes]) -> dict[str, float]:
    """32 connections that always ask."""
    ask = [wrk, "-t1", f"-c{CONNECTIONS}", "--latency", "-s", str(folder / "post.lua"), url]
    subprocess.run([*ask, "-d1s"], capture_output=True, check=True)
    pids = tree(process.pid)
    before = cpu_s(pids)
    out = subprocess.run([*ask, f"-d{SECONDS}s"], capture_output=True, check=True, text=True).stdout
    cpu = cpu_s(pids) - before
    num = int(re.search(r"(\d+) requests in", out)[1])  # type: ignore[index]
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    rss = sum(resident(pid) for pid in pids)
    return {
        "per_s": float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1]),  # type: ignore[index]
        "cpu_us": cpu / num * 1e6, "bad": float(bad[1]) if bad else 0.0,
        "resident_mb": rss / 1e6, "processes": float(len(pids)),
    }  # fmt: skip


def steady(h2load: str, url: str, folder: Path) -> dict[str, float]:
    """500 a second over 16 connections."""
    log = folder / "h2load.log"
    log.unlink(missing_ok=True)
    headers = ["-H", "content-type: application/json", "-H", "authorization: Bearer key"]
    ask = [h2load, "--h1", "-c16", "-t1", f"--rps={RATE / 16}", f"-D{FIXED_S}", "-d", str(folder / "body.json"), *headers]
    subprocess.run([*ask, f"--log-file={log}", url], capture_output=True, check=True)
    rows = [line.split() for line in log.read_text().splitlines()]
    times = sorted(int(row[2]) / 1e3 for row in rows if row[1].startswith("2"))
    return {
        "steady_per_s": len(times) / FIXED_S, "p50_ms": times[len(times) // 2], "p99_ms": times[int(len(times) * 0.99)],
    }  # fmt: skip


def resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def free_port() -> int:
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


if __name__ == "__main__":
    main()
