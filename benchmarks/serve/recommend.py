"""`POST /v1/recommend`: requests a second, latency at half the peak, and swaps under load, load generator on the same machine.

The model is the one that `gyral` makes of the bundled purchases; subjects are drawn from it by Zipf's law, seed 0. gyral runs
as a user runs it: routing, validation, impressions logged durably. Peer, in turn in the same run: the same model behind
FastAPI + uvicorn (uvloop, httptools, one worker), pydantic models in and out, nothing logged.

- closed loop: wrk when it is installed, else gyral's own client, c connections; the median of three rounds;
- open loop: requests are due at fixed moments and latency counts from the moment they were due, so waiting is not hidden; each
  server at half of its own peak, and gyral at half of the peer's, which is the pair to compare. `generator_late_p99_ms` is how
  late the generator itself began to send: what of a latency no server is to blame for;
- swaps: 20 versions are published by a process of their own while requests come at a quarter of the peak.
Caveat: two cores serve both the server and the load; the ratio is what to read.
Command: .venv/bin/python benchmarks/serve/recommend.py (about four minutes)
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import GYRAL, PYTHON, ROOT, peer, write

from gyral.files import new_version
from gyral.model import card as cards
from gyral.model import inputs as model_inputs
from gyral.serve.client import Connection, ask_many

CONNECTIONS = (1, 8, 32, 64)
ROUNDS = 3
SECONDS = 4
SWAPS = 20
FIGURES = ("p50_ms", "p99_ms", "p99.9_ms", "generator_late_p99_ms")
NAME = "online_retail-int8"

FASTAPI = """
import sys
from pathlib import Path
from typing import Optional
from fastapi import FastAPI
from pydantic import BaseModel, Field
from gyral.model.family import RECOMMENDER
model = RECOMMENDER.load(Path(sys.argv[1]))
model.warm()
class Context(BaseModel):
    country: Optional[str] = None
    recent: list[str] = []
class Request(BaseModel):
    subject: str = Field(max_length=1024)
    k: int = Field(10, ge=1, le=1000)
    context: Optional[Context] = None
class Item(BaseModel):
    object: str
    score: float
    title: str = ""
class Answer(BaseModel):
    model: str
    subject: str
    known: bool
    items: list[Item]
app = FastAPI()
@app.post("/v1/recommend", response_model=Answer)
async def recommend(request: Request):
    answer = model.recommend(request.subject, request.k, request.context.model_dump() if request.context else {})
    items = [Item(object=item.object, score=item.score, title=item.title) for item in answer.items]
    return Answer(model=model.name, subject=request.subject, known=answer.known, items=items)
@app.get("/healthz")
async def healthz():
    return {"status": "ok"}
if __name__ == "__main__":
    import uvicorn
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", access_log=False)
"""
REQUIREMENTS = [
    "fastapi==0.121.*",
    "uvicorn[standard]",
    "numpy==2.4.6",
    "numba==0.68.1",
    "msgspec==0.22.0",
    "safetensors==0.8.0",
]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _make_model(root)
        subjects = model_inputs.load(cards.find(root, NAME)).subjects
        drawn = np.random.default_rng(0).zipf(1.2, 20_000) % len(subjects)
        bodies = [json.dumps({"subject": subjects[code], "k": 10}) for code in drawn]
        servers = {"gyral": _gyral(root), "fastapi": _fastapi(root)}
        try:
            closed = _closed(servers, bodies, root)
            best = {name: max(statistics.median(rounds) for rounds in by.values()) for name, by in closed.items()}
            opened = _opened(servers, bodies, best)
            swaps = _swaps(root, servers["gyral"]["url"], bodies, best["gyral"] / 4)
            described = json.load(urllib.request.urlopen(servers["gyral"]["url"] + "/v1/model"))
        finally:
            for server in servers.values():
                server["process"].send_signal(signal.SIGTERM)
                server["process"].wait(20)
    write(
        "serve_recommend",
        {
            "load_generator": "wrk" if shutil.which("wrk") else "gyral.serve.client",
            "peak_requests_per_s": {name: round(value) for name, value in best.items()},
            "ratio_to_fastapi": round(best["gyral"] / best["fastapi"], 2),
            "goal": {"peak_requests_per_s": 2_000, "p99_ms_at_half_peak": 25},
            "open_loop_at_half_peak": {name: opened[name] for name in servers},
            "open_loop_at_half_of_fastapis_peak": {"gyral": opened["gyral_equal"], "fastapi": opened["fastapi"]},
            "seed": 0,
            "peer_versions": _peer_versions(),
            "swaps_under_load": swaps,
            "impressions": described["impressions"],
            "closed_loop_requests_per_s": closed,
        },
    )


def _make_model(root: Path) -> None:
    source = str(ROOT / "data" / "online_retail.parquet")
    for command in (["ingest", "--source", source], ["curate", "online_retail"], ["train", "online_retail", "--budget", "5s"]):
        subprocess.run([*GYRAL, *command, "--root", str(root)], check=True, capture_output=True)
    subprocess.run([*GYRAL, "compress", "online_retail", "--root", str(root)], check=True, capture_output=True)


def _gyral(root: Path) -> dict[str, Any]:
    command = [*GYRAL, "serve", NAME, "--root", str(root), "--port", "0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return {"process": process, "url": json.loads(process.stdout.readline())["url"]}  # type: ignore[union-attr]


def _fastapi(root: Path) -> dict[str, Any]:
    python = peer("fastapi", REQUIREMENTS)
    subprocess.run([python, "-m", "pip", "install", "-q", "pyarrow==26.0.1", "pylance==14.0.2", "click"], check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = root / "peer.py"
    script.write_text(FASTAPI)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen([python, script, str(cards.find(root, NAME)), str(port)], env=environment)
    url = f"http://127.0.0.1:{port}"
    for _ in range(600):
        try:
            urllib.request.urlopen(url + "/healthz", timeout=2)
            break
        except OSError:
            time.sleep(0.1)
    return {"process": process, "url": url}


def _closed(servers: dict[str, dict[str, Any]], bodies: list[str], root: Path) -> dict[str, dict[str, list[float]]]:
    script = root / "load.lua"
    lines = ",\n".join(json.dumps(body) for body in bodies[:1_000])
    script.write_text(
        f"local bodies = {{{lines}}}\nlocal number = 0\nwrk.method = 'POST'\nwrk.headers['content-type'] = 'application/json'\n"
        "request = function()\n  number = number % #bodies + 1\n  return wrk.format(nil, nil, nil, bodies[number])\nend\n"
    )
    result: dict[str, dict[str, list[float]]] = {name: {str(c): [] for c in CONNECTIONS} for name in servers}
    for number in range(ROUNDS + 1):
        for connections in CONNECTIONS:
            for name, server in servers.items():
                rate = _rate(server["url"], connections, script, bodies)
                if number:
                    result[name][str(connections)].append(round(rate, 1))
    return result


def _rate(url: str, connections: int, script: Path, bodies: list[str]) -> float:
    if shutil.which("wrk"):
        command = ["wrk", "-t1", f"-c{connections}", f"-d{SECONDS}s", "-s", str(script), f"{url}/v1/recommend"]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        if "Non-2xx" in told:
            raise SystemExit(told)
        return float(told.partition("Requests/sec:")[2].split()[0])
    requests = [json.loads(body) for body in bodies]
    start = time.perf_counter()
    asyncio.run(ask_many(url, requests, connections))
    return len(requests) / (time.perf_counter() - start)


def _open(url: str, bodies: list[str], rate: float, seconds: float, stop: threading.Event | None = None) -> dict[str, Any]:
    """Send at a fixed rate; latency counts from the moment a request was due."""
    latencies: list[float] = []
    late: list[float] = []
    failed = 0
    versions: set[str] = set()

    async def load() -> None:
        nonlocal failed
        idle: asyncio.Queue[Connection] = asyncio.Queue()
        for _ in range(64):
            idle.put_nowait(Connection(url))
        waiting: set[asyncio.Task[None]] = set()
        start = time.perf_counter()

        async def one(number: int) -> None:
            nonlocal failed
            due = start + number / rate
            late.append(time.perf_counter() - due)
            connection = await idle.get()
            try:
                response = await connection.post("/v1/recommend", bodies[number % len(bodies)].encode())
                failed += response.status != 200
                versions.add(response.json().get("model", ""))
            except Exception:
                failed += 1
            finally:
                idle.put_nowait(connection)
            latencies.append(time.perf_counter() - due)

        number = 0
        while (stop is None or not stop.is_set()) and number < rate * seconds:
            while number < rate * seconds and start + number / rate <= time.perf_counter():
                task = asyncio.create_task(one(number))
                waiting.add(task)
                task.add_done_callback(waiting.discard)
                number += 1
            await asyncio.sleep(0.0005)
        await asyncio.gather(*waiting)
        while not idle.empty():
            await idle.get_nowait().close()

    asyncio.run(load())
    p50, p99, p999 = (round(1e3 * float(np.quantile(latencies, q)), 2) for q in (0.5, 0.99, 0.999))
    sent = len(latencies)
    return {
        "rate": round(rate),
        "sent": sent,
        "failed": failed,
        "p50_ms": p50,
        "p99_ms": p99,
        "p99.9_ms": p999,
        "generator_late_p99_ms": round(1e3 * float(np.quantile(late, 0.99)), 2),
        "models": len(versions),
    }


def _opened(servers: dict[str, dict[str, Any]], bodies: list[str], best: dict[str, float]) -> dict[str, dict[str, Any]]:
    """Each server at half of its own peak, and gyral once more at the peer's rate; in turn, the median of every figure."""
    cases = {"gyral": ("gyral", "gyral"), "fastapi": ("fastapi", "fastapi"), "gyral_equal": ("gyral", "fastapi")}
    told: dict[str, list[dict[str, Any]]] = {case: [] for case in cases}
    for _ in range(ROUNDS):
        for case, (name, rate_of) in cases.items():
            told[case].append(_open(servers[name]["url"], bodies, best[rate_of] / 2, SECONDS))
    return {
        case: {
            "rate": rounds[0]["rate"],
            "sent": sum(each["sent"] for each in rounds),
            "failed": sum(each["failed"] for each in rounds),
            **{key: statistics.median(each[key] for each in rounds) for key in FIGURES},
            "p99_ms_all": [each["p99_ms"] for each in rounds],
        }
        for case, rounds in told.items()
    }


def _peer_versions() -> dict[str, str]:
    names = ["fastapi", "uvicorn", "uvloop", "httptools", "pydantic"]
    code = f"import json; from importlib.metadata import version; print(json.dumps({{n: version(n) for n in {names}}}))"
    told: dict[str, str] = json.loads(subprocess.check_output([peer("fastapi", REQUIREMENTS), "-c", code]))
    return told


def _swaps(root: Path, url: str, bodies: list[str], rate: float) -> dict[str, Any]:
    """Publish versions while requests come at a fixed rate."""
    before = _open(url, bodies, rate, 5)
    stop = threading.Event()
    publisher = subprocess.Popen([PYTHON, __file__, "publish", str(root)])

    def wait() -> None:
        publisher.wait()
        stop.set()

    thread = threading.Thread(target=wait)
    thread.start()
    during = _open(url, bodies, rate, 60, stop)
    thread.join()
    if publisher.returncode:
        raise SystemExit(f"the publisher failed with {publisher.returncode}")
    return {"swaps": SWAPS, "before": before, "during": during}


def publish(root: Path) -> None:
    """Publish the newest version again and again, under the next number."""
    for _ in range(SWAPS):
        source = cards.find(root, NAME)
        with new_version(root / cards.FOLDER, NAME) as (folder, number):
            for path in source.iterdir():
                shutil.copy(path, folder / path.name)
            card = json.loads((folder / "card.json").read_text())
            (folder / "card.json").write_text(json.dumps({**card, "model": f"{NAME}@{number}"}))
        time.sleep(0.4)


if __name__ == "__main__":
    if sys.argv[1:2] == ["publish"]:
        publish(Path(sys.argv[2]))
    else:
        main()
