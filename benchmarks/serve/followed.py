"""What answers pay for pages that are followed: p50 and p99 of a served recommender while nobody looks, while ten streams of
`/changes` are open, and while ten browsers follow the first page.

A browser here is what the script of the pages does: it holds a stream and, once told of a change, asks for the page again, two
seconds after the last time at the earliest, later where the page took long. The server writes a line of its run each second,
so there always is a change. Requests are due at fixed moments, 100 a second over 16 connections, and latency counts from the
moment they were due. Nobody, streams and browsers take turns; CPU is of the server's process. Browsers are a process of their
own on the same two cores.

Written before the first run: streams cost nothing that can be seen (a look at the folder a second, shared); browsers, at most
five pages a second of about 10 ms each, double the p99.

    .venv/bin/python benchmarks/serve/followed.py      (about three minutes)
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import ROOT, in_turn, write

from gyral.bench.cpu import of_tree
from gyral.serve.client import RECOMMEND, Connection

ROUNDS, SECONDS, RATE, CONNECTIONS, FOLLOWERS = 5, 6.0, 100, 16, 10
REST_S = 2.0
SETTLE_S = 1.5
GYRAL = [sys.executable, "-P", "-m", "gyral"]


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, int, list[str]]]:
    """A project with a loop of two turns, and its model served: address, process, and whom to ask for."""
    source = ROOT / "data" / "online_retail.parquet"
    loop = [*GYRAL, "loop", "--root", str(folder), "--source", str(source), "--turns", "2", "--budget", "4s"]
    subprocess.run(loop, check=True, capture_output=True)
    command = [*GYRAL, "serve", "online_retail-int8", "--root", str(folder), "--port", "0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        yield url, process.pid, subjects_of(folder)
    finally:
        process.terminate()
        process.communicate()


def subjects_of(folder: Path) -> list[str]:
    """Whom the dataset knows."""
    file = next((folder / "datasets").glob("online_retail@2/shards/*.parquet"))
    return sorted(set(pq.read_table(file, columns=["subject"])["subject"].to_pylist()))[:2_000]


async def load(url: str, subjects: list[str]) -> list[float]:
    """Milliseconds from due to answered, of each request of a window."""
    due, took = asyncio.Queue[float](), list[float]()
    bodies = [json.dumps({"subject": each, "k": 10}).encode() for each in subjects]

    async def work() -> None:
        connection = Connection(url)
        while (at := await due.get()) >= 0:
            answer = await connection.post(RECOMMEND, bodies[len(took) % len(bodies)])
            assert answer.status == 200, answer.body
            took.append((time.monotonic() - at) * 1e3)
        await connection.close()

    workers = [asyncio.ensure_future(work()) for _ in range(CONNECTIONS)]
    start = time.monotonic()
    for number in range(int(RATE * SECONDS)):
        at = start + number / RATE
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        due.put_nowait(at)
    for _ in workers:
        due.put_nowait(-1.0)
    await asyncio.gather(*workers)
    return took


def window(url: str, pid: int, subjects: list[str], kind: str) -> dict[str, float]:
    """One window beside followers of a kind."""
    followers = None
    if kind:
        words = [sys.executable, __file__, "--follow", kind, url]
        followers = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert followers.stdout is not None and followers.stdout.readline() == "follow\n"
        time.sleep(SETTLE_S)
    before, begun = of_tree(pid) or 0.0, time.monotonic()
    took = asyncio.run(load(url, subjects))
    cpu, lasted = (of_tree(pid) or 0.0) - before, time.monotonic() - begun
    told: dict[str, float] = {"changes": 0, "pages": 0}
    if followers is not None:
        told = json.loads(followers.communicate("stop\n", timeout=30)[0].splitlines()[-1])
    p50, p99 = (float(np.percentile(took, at)) for at in (50, 99))
    return {"p50_ms": p50, "p99_ms": p99, "cpu_share": cpu / lasted, "requests": len(took), **told}


async def follow(kind: str, url: str) -> dict[str, int]:
    """Follow until told to stop: how many changes were told, and pages fetched, while it did."""
    counts = {"changes": 0, "pages": 0}
    opened, stop = asyncio.Semaphore(0), asyncio.Event()

    async def browser(client: httpx.AsyncClient) -> None:
        rest, last, wanted = REST_S, -REST_S, asyncio.Event()

        async def pages() -> None:
            nonlocal rest, last
            while True:
                await wanted.wait()
                await asyncio.sleep(max(0.0, last + rest - time.monotonic()))
                wanted.clear()
                last = time.monotonic()
                answer = await client.get("/")
                assert answer.status_code == 200
                counts["pages"] += 1
                rest = max(REST_S, 20 * (time.monotonic() - last))

        fetching = asyncio.ensure_future(pages()) if kind == "browsers" else None
        try:
            async with client.stream("GET", "/changes") as answer:
                assert answer.status_code == 200
                opened.release()
                async for line in answer.aiter_lines():
                    if line.startswith("data: "):
                        counts["changes"] += 1
                        wanted.set()
        finally:
            if fetching is not None:
                fetching.cancel()

    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        tasks = [asyncio.ensure_future(browser(client)) for _ in range(FOLLOWERS)]
        for _ in tasks:
            await opened.acquire()
        print("follow", flush=True)
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), stop.set)
        await stop.wait()
        for task in tasks:
            task.cancel()
        failed = [each for each in await asyncio.gather(*tasks, return_exceptions=True) if isinstance(each, Exception)]
        assert not failed, failed
    return counts


def main() -> None:
    """Make a project, serve, measure in turn, say."""
    if "--follow" in sys.argv:
        print(json.dumps(asyncio.run(follow(*sys.argv[2:4]))))
        return
    with tempfile.TemporaryDirectory() as name, served(Path(name)) as (url, pid, subjects):
        kinds = {"nobody": "", "streams": "streams", "browsers": "browsers"}
        load_before = os.getloadavg()[0]
        found = in_turn({each: lambda kind=kind: window(url, pid, subjects, kind) for each, kind in kinds.items()}, ROUNDS)
    ratios = {
        f"{figure} of {each} against nobody": round(
            statistics.median(
                a / b for a, b in zip(found[each][figure]["all"], found["nobody"][figure]["all"], strict=True)
            ), 3
        )
        for each in ("streams", "browsers")
        for figure in ("p50_ms", "p99_ms", "cpu_share")
    }  # fmt: skip
    shape = {"rate_per_s": RATE, "seconds": SECONDS, "followers": FOLLOWERS, "load_before": load_before}
    write("serve_followed", {**shape, "windows": found, "ratios": ratios})


if __name__ == "__main__":
    main()
