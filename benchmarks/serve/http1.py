"""What a request costs in the HTTP server alone, and what open connections cost, against granian, uvicorn and FastAPI.

- `echo`: 547 bytes of JSON are decoded and encoded (msgspec; FastAPI: a pydantic model in and out). `gyral` is a fast handler,
  `gyral_async` the same as `async def`, `gyral_asgi` and `granian` and `uvicorn` the same bare ASGI application.
- `recommend`: `POST /v1/recommend` of a model with 943 subjects and 1,682 objects (as MovieLens 100k; made by seed 0), nothing
  logged: a fast handler, and gyral's ASGI application on gyral's, granian's (embedded, as gyral used it) and uvicorn's server.
- `sse`: 64 events of 60 bytes, each sent as it is made; microseconds an event.
- `open`: requests at 500/s, each on a connection drawn from 100 or from 10,000 that are open; latency counts from the moment a
  request was due, rounds alternate. Resident bytes a connection: of the server's process, the kernel's are not in it.
- `start`: process to first answer, and what importing the server costs.
Servers on one core, h2load on the other; CPU time of the server's process over the requests answered, each round as many as
take 0.3 s of it; rounds in turn, medians. On a busy machine CPU time is what to read, requests/s depend on the others.

Predicted before measuring: echo 18 µs against 33 (uvicorn), 41 (granian) and 180 (FastAPI); ASGI on our server 30; recommend
30 µs cheaper than on granian; an SSE event at most half of FastAPI's; p99 with 10,000 open at most 1.2 of that with 100, 10 kB
each.
Command: .venv/bin/python benchmarks/serve/http1.py (about five minutes)
"""

from __future__ import annotations

import csv
import json
import os
import random
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import GYRAL, ROOT, peer, write

ROUNDS, SECONDS, CONNECTIONS, CPU_S = 3, 2, 32, 0.3
SHOWN = {"echo": "/echo", "recommend": "/v1/recommend", "sse": "/sse"}
SERVERS = {
    "echo": ("gyral", "gyral_async", "gyral_asgi", "granian", "uvicorn", "fastapi"),
    "recommend": ("gyral", "gyral_asgi", "granian", "uvicorn"),
    "sse": ("gyral", "gyral_asgi", "granian", "uvicorn", "fastapi"),
}
EVENTS = 64
RATE, FEW, MANY = 500, 100, 10_000
REQUIREMENTS = ["fastapi", "uvicorn[standard]", "granian==2.8.7", "httptools==0.9.0", "uvloop==0.23.0", "numpy==2.4.6"]
REQUIREMENTS += ["numba==0.68.1", "msgspec==0.22.0", "safetensors==0.8.0", "pyarrow==26.0.1", "pylance==14.0.2", "click"]

SERVER = """
import asyncio, os, socket, sys
name, port, root = sys.argv[1], int(sys.argv[2]), sys.argv[3]
import msgspec
encode, decode = msgspec.json.Encoder().encode, msgspec.json.Decoder().decode
EVENT = b'data: {"id":"cmpl-1","choices":[{"index":0,"text":" word"}]}\\n\\n'

async def sse():
    for _ in range(64):
        yield EVENT
        await asyncio.sleep(0)

recommend = None
if root != "-":
    from pathlib import Path
    from gyral.config.sections import Serve
    from gyral.serve.app import App
    from gyral.serve.slots import Slots
    from gyral.serve.wire import Recommend
    inner = App(Slots(Path(root), "shop-int8", print), Serve())

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    if scope["path"] == "/v1/recommend":
        await inner(scope, receive, send)
        return
    if scope["path"] == "/sse":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        async for event in sse():
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        return
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    body = encode(decode(body)) if body else b"{}"
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})

if name.startswith("gyral"):
    from gyral.serve.http1.answer import Response, Stream
    from gyral.serve.http1.request import Route
    from gyral.serve.http1.server import Server, listen, new_loop
    def echo(request):
        return Response(encode(decode(request.body)))
    async def echo_async(request):
        return Response(encode(decode(request.body)))
    routes = {} if name == "gyral_asgi" else {
        "/echo": Route(echo_async if name == "gyral_async" else echo), "/sse": Route(lambda request: Stream(sse()), ("GET",))}
    if root != "-" and name == "gyral":
        question, answer = msgspec.json.Decoder(Recommend).decode, inner.answer
        routes["/v1/recommend"] = Route(lambda request: Response(encode(answer(question(request.body)))))
    async def main():
        await Server(app, routes).start(listen("127.0.0.1", port))
        await asyncio.sleep(1e6)
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())
elif name == "granian":
    from granian.constants import Interfaces
    from granian.server.embed import Server
    asyncio.run(Server(app, address="127.0.0.1", port=port, interface=Interfaces.ASGI, log_enabled=False).serve())
else:
    import uvicorn
    if name == "fastapi":
        from fastapi import FastAPI
        from fastapi.responses import StreamingResponse
        from pydantic import BaseModel
        class Body(BaseModel):
            x: list[float]
        app = FastAPI()
        @app.post("/echo", response_model=Body)
        async def echo(body: Body):
            return body
        @app.get("/sse")
        async def events():
            return StreamingResponse(sse(), media_type="text/event-stream")
        @app.get("/")
        async def index():
            return {}
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)
"""


def main() -> None:
    cores = sorted(os.sched_getaffinity(0))
    server_core, load_core = {cores[0]}, {cores[-1]}
    os.sched_setaffinity(0, load_core)  # and so is everything that this process starts, but for the servers
    python = peer("http", REQUIREMENTS)
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _make_model(root)
        load = _h2load()
        for what, names in SERVERS.items():
            with ExitStack() as stack:
                at = root if what == "recommend" else None
                servers = {name: stack.enter_context(_server(python, name, server_core, at)) for name in names}
                result[what] = _in_turn(load, root, what, servers)
            print(what, json.dumps(result[what]), file=sys.stderr)
        result["open"] = _open(python, server_core)
        print(json.dumps(result["open"]), file=sys.stderr)
        result["start"] = _start(python)
    for what, base in (("echo", "gyral"), ("recommend", "gyral"), ("sse", "gyral")):
        figures = result[what]
        result[f"{what}_ratio"] = {name: round(each["cpu_us"] / figures[base]["cpu_us"], 2) for name, each in figures.items()}
    os.sched_setaffinity(0, cores)
    write("serve_http1", {**result, "seed": 0, "peer_versions": _versions(python)})


@contextmanager
def _server(python: str, name: str, cores: set[int], root: Path | None = None) -> Iterator[tuple[int, int]]:
    """A server in a process of its own on these cores; its process and port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    command = [python, "-c", SERVER, name, str(port), str(root or "-")]
    child = subprocess.Popen(command, env=environment, preexec_fn=lambda: os.sched_setaffinity(0, cores))
    try:
        _wait(port)
        yield child.pid, port
    finally:
        child.kill()
        child.wait()


def _wait(port: int) -> None:
    for _ in range(6_000):
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
                client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                if client.recv(100).startswith(b"HTTP/1.1 200"):
                    return
        except OSError:
            pass
        time.sleep(0.005)
    raise SystemExit(f"nothing answers on port {port}")


def _make_model(root: Path) -> None:
    rng = random.Random(0)
    source = root / "shop.csv"
    with source.open("w") as file:
        rows = csv.writer(file)
        rows.writerow(["subject", "object", "event_time"])
        for number in range(100_000):
            item = min(int(rng.paretovariate(0.7)), 1_682)
            rows.writerow([f"u{rng.randrange(943)}", f"i{item}", f"2024-01-{1 + number // 4_000:02d}T00:00:{number % 60:02d}Z"])
    for command in (["ingest", "--source", str(source)], ["curate", "shop"], ["train", "shop", "--budget", "5s"]):
        subprocess.run([*GYRAL, *command, "--root", str(root)], check=True, capture_output=True)
    subprocess.run([*GYRAL, "compress", "shop", "--root", str(root)], check=True, capture_output=True)


def _h2load() -> list[str]:
    """h2load, installed or taken out of Debian packages."""
    if (found := shutil.which("h2load")) is not None:
        return [found]
    folder = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "gyral" / "benchmarks" / "h2load"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "usr" / "bin" / "h2load").exists():
        packages = ["nghttp2-client", "libev4", "libjemalloc2", "libc-ares2", "libnghttp2-14"]
        subprocess.run(["apt-get", "download", *packages], cwd=folder, check=True, capture_output=True)
        for package in folder.glob("*.deb"):
            subprocess.run(["dpkg", "-x", package, folder], check=True)
    libraries = str(next(folder.glob("usr/lib/*/libev.so*")).parent)
    return ["env", f"LD_LIBRARY_PATH={libraries}", str(folder / "usr" / "bin" / "h2load")]


def _in_turn(load: list[str], root: Path, what: str, servers: dict[str, tuple[int, int]]) -> dict[str, dict[str, Any]]:
    numbers = ",".join(f"{number / 7:.6f}" for number in range(61))
    (root / "body").write_text(f'{{"x":[{numbers}]}}' if what == "echo" else '{"subject": "u17", "k": 10}')
    extra = [] if what == "sse" else ["-d", str(root / "body"), "-H", "content-type: application/json"]
    told: dict[str, list[tuple[float, float]]] = {name: [] for name in servers}
    counts = dict.fromkeys(servers, 320)
    for number in range(ROUNDS + 2):  # the first two warm up and say how many requests take `CPU_S`
        for name, (process, port) in servers.items():
            before = _cpu_s(process)
            count = counts[name]
            command = [*load, "--h1", "-t1", f"-c{CONNECTIONS}", f"-n{count}", *extra, f"http://127.0.0.1:{port}{SHOWN[what]}"]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            if f" {count} succeeded, 0 failed, 0 errored" not in said or f"{count} 2xx" not in said:
                raise SystemExit(f"{name}: {said}")
            each_s = max(_cpu_s(process) - before, 0.005) / count
            if number < 2:
                counts[name] = int(min(max(CPU_S / each_s, 320), 50_000))
            else:
                told[name].append(
                    (1e6 * each_s / (EVENTS if what == "sse" else 1), float(said.partition(" req/s")[0].split()[-1]))
                )
    return {
        name: {
            "cpu_us": round(statistics.median(cpu for cpu, _ in rounds), 2),
            "per_s": round(statistics.median(rate for _, rate in rounds)),
            "cpu_us_all": [round(cpu, 2) for cpu, _ in rounds],
            "requests": counts[name],
        }
        for name, rounds in told.items()
    }


def _cpu_s(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss_bytes(process: int) -> int:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _open(python: str, cores: set[int]) -> dict[str, Any]:
    """Two servers, one with few connections and one with many; each asked at the same rate, in turn."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    rng = random.Random(0)
    with ExitStack() as stack:
        clients: dict[int, list[socket.socket]] = {}
        process: dict[int, int] = {}
        bytes_each: dict[str, int] = {}
        for count in (FEW, MANY):
            process[count], port = stack.enter_context(_server(python, "gyral", cores))
            before = _rss_bytes(process[count])
            clients[count] = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(count)]
            for client in clients[count]:
                _exchange(client)
            bytes_each[str(count)] = round((_rss_bytes(process[count]) - before) / count)
        p99: dict[int, list[float]] = {FEW: [], MANY: []}
        p50: dict[int, list[float]] = {FEW: [], MANY: []}
        cpu: dict[int, list[float]] = {FEW: [], MANY: []}
        for number in range(2 * ROUNDS + 1):
            for count, sockets in clients.items():
                cpu_s = _cpu_s(process[count])
                latencies = sorted(_asked(sockets, rng, SECONDS))
                if number:
                    p50[count].append(1e3 * latencies[len(latencies) // 2])
                    p99[count].append(1e3 * latencies[int(len(latencies) * 0.99)])
                    cpu[count].append(1e6 * (_cpu_s(process[count]) - cpu_s) / len(latencies))
    ratios = [many / few for few, many in zip(p99[FEW], p99[MANY], strict=True)]
    return {
        "rate": RATE,
        "p50_ms": {str(count): round(statistics.median(each), 3) for count, each in p50.items()},
        "p99_ms": {str(count): round(statistics.median(each), 3) for count, each in p99.items()},
        "p99_ms_all": {str(count): [round(value, 3) for value in each] for count, each in p99.items()},
        "p99_ratio_of_pairs": round(statistics.median(ratios), 3),
        "cpu_us": {str(count): round(statistics.median(each), 1) for count, each in cpu.items()},
        "resident_bytes_each": bytes_each,
    }


def _exchange(client: socket.socket) -> None:
    client.sendall(b'POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{"x":[1]}')
    if not client.recv(4_096).startswith(b"HTTP/1.1 200"):
        raise SystemExit("an open connection was not answered")


def _asked(sockets: list[socket.socket], rng: random.Random, seconds: float) -> list[float]:
    """Ask one after the other when each is due; seconds from then to the answer."""
    latencies = []
    start = time.perf_counter()
    for number in range(int(RATE * seconds)):
        due = start + number / RATE
        while (wait := due - time.perf_counter()) > 0:
            time.sleep(wait)
        _exchange(rng.choice(sockets))
        latencies.append(time.perf_counter() - due)
    return latencies


def _start(python: str) -> dict[str, Any]:
    told: dict[str, list[float]] = {name: [] for name in ("gyral", "granian", "uvicorn", "fastapi")}
    for _ in range(ROUNDS):
        for name, each in told.items():
            begun = time.perf_counter()
            with _server(python, name, os.sched_getaffinity(0)):
                each.append(1e3 * (time.perf_counter() - begun))
    code = "import time; a = time.process_time(); import gyral.serve.http1.server; print(time.process_time() - a)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    imports = [float(subprocess.check_output([python, "-c", code], env=environment)) for _ in range(ROUNDS)]
    return {
        "first_answer_ms": {name: round(statistics.median(each)) for name, each in told.items()},
        "import_cpu_ms": round(1e3 * statistics.median(imports)),
    }


def _versions(python: str) -> dict[str, str]:
    names = ["fastapi", "uvicorn", "granian", "httptools", "uvloop", "pydantic", "starlette"]
    code = f"import json; from importlib.metadata import version; print(json.dumps({{n: version(n) for n in {names}}}))"
    told: dict[str, str] = json.loads(subprocess.check_output([python, "-c", code]))
    return told


if __name__ == "__main__":
    main()
