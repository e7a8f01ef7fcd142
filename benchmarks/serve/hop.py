"""What a request costs on its way from an event loop to a worker process and back, against queues, pipes and a Ray actor.

Bodies of 256 bytes that the worker turns round, 1, 8 and 64 in flight; CPU of the whole process tree a request (nanoseconds of
the scheduler, all threads), and its wall time. Own: `gyral.serve.pool` on asyncio, with everything on (ids, deadlines, retries,
heartbeats). Peers: `multiprocessing.Queue` there and back and `multiprocessing.Pipe`, both in a plain loop without asyncio and
with nothing on, and the method of a Ray actor (`ray 2.60`, an environment of its own, `--with-ray`). Then 1, 2 and 4 workers,
32 in flight each.

Written before the first run: own 15 µs at 64 in flight, 25 at 8, 70 at 1; queues 60 to 100 whatever the number, pipes 30, Ray
500 and more; two workers cost 1.05x and four 1.1x of one a request.

    .venv/bin/python benchmarks/serve/hop.py [--with-ray]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

BODY = os.urandom(256)
REQUESTS = 6_000
ROUNDS = 5
IN_FLIGHT = (1, 8, 64)
BACK_ENDS = Path(__file__).resolve().parents[2] / "tests" / "serve" / "back_ends"
RAY = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_AUTH_MODE": "disabled"}
Figures = dict[str, float]


def tree(root: int) -> list[int]:
    """A process and all below it."""
    parents: dict[int, int] = {}
    for each in Path("/proc").iterdir():
        if each.name.isdigit():
            try:
                parents[int(each.name)] = int((each / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
    found, last = [root], [root]
    while last:
        last = [pid for pid, parent in parents.items() if parent in last]
        found += last
    return found


def cpu_s(pids: list[int]) -> float:
    """CPU seconds of these processes, from the scheduler's nanoseconds."""
    total = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            try:
                total += int(task.read_text().split()[0])
            except OSError:
                continue
    return total / 1e9


def measured(num: int, run: Callable[[], None]) -> Figures:
    """CPU and wall µs a request."""
    pids = tree(os.getpid())
    cpu, wall = cpu_s(pids), time.perf_counter()
    run()
    return {"cpu_us": (cpu_s(pids) - cpu) / num * 1e6, "wall_us": (time.perf_counter() - wall) / num * 1e6}


class Own:
    """The pool, on a loop that runs only while it is measured."""

    def __init__(self, workers: int) -> None:
        from gyral.serve.job import Job
        from gyral.serve.pool import Pool, Settings

        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        job = Job(source="", version="a@1", engine="arithmetic:make", environment={"PYTHONPATH": str(BACK_ENDS)})

        async def start() -> Pool:
            pool = Pool(job, Settings(workers=workers), note=lambda text: print(text, file=sys.stderr))
            await pool.start()
            return pool

        self.pool = self.loop.run_until_complete(start())
        self.id = 0

    def run(self, num: int, at_once: int) -> Figures:
        from gyral.serve.engine import Ask, Part

        async def go() -> None:
            done = self.loop.create_future()
            sent = back = 0

            def ask() -> None:
                nonlocal sent
                sent += 1
                self.id += 1
                self.pool.ask(Ask(self.id, "/blob", BODY, 30.0), on_part)

            def on_part(part: Part) -> None:
                nonlocal back
                back += 1
                if sent < num:
                    ask()
                elif back == num:
                    done.set_result(None)

            for _ in range(min(at_once, num)):
                ask()
            await done

        return measured(num, lambda: self.loop.run_until_complete(go()))

    def close(self) -> None:
        self.loop.run_until_complete(self.pool.close())


def _from_queue(asked: Any, told: Any) -> None:
    while (each := asked.get()) is not None:
        told.put((each[0], each[1][::-1]))


class Queues:
    """`multiprocessing.Queue`, as a server would use it for a worker."""

    def __init__(self) -> None:
        self.asked, self.told = multiprocessing.Queue(), multiprocessing.Queue()
        self.process = multiprocessing.Process(target=_from_queue, args=(self.asked, self.told), daemon=True)
        self.process.start()

    def run(self, num: int, at_once: int) -> Figures:
        def go() -> None:
            for n in range(at_once):
                self.asked.put((n, BODY))
            for n in range(num):
                self.told.get()
                if n + at_once < num:
                    self.asked.put((n + at_once, BODY))

        return measured(num, go)

    def close(self) -> None:
        self.asked.put(None)
        self.process.join()


def _from_pipe(pipe: Any) -> None:
    while (each := pipe.recv()) is not None:
        pipe.send((each[0], each[1][::-1]))


class Pipes:
    """`multiprocessing.Pipe`."""

    def __init__(self) -> None:
        self.pipe, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.Process(target=_from_pipe, args=(theirs,), daemon=True)
        self.process.start()

    def run(self, num: int, at_once: int) -> Figures:
        def go() -> None:
            for n in range(at_once):
                self.pipe.send((n, BODY))
            for n in range(num):
                self.pipe.recv()
                if n + at_once < num:
                    self.pipe.send((n + at_once, BODY))

        return measured(num, go)

    def close(self) -> None:
        self.pipe.send(None)
        self.process.join()


class RayPeer:
    """The method of a Ray actor, in a process of the peer's Python, which measures as this one does."""

    def __init__(self) -> None:
        from benchmarks.measure import peer

        python = peer("ray", ["ray==2.60.0"])
        self.process = subprocess.Popen(
            [python, __file__, "--as-ray"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, **RAY},
        )  # fmt: skip
        self._line()

    def run(self, num: int, at_once: int) -> Figures:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{num} {at_once}\n")
        self.process.stdin.flush()
        return self._line()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _line(self) -> Any:
        assert self.process.stdout is not None
        while not (line := self.process.stdout.readline()).startswith("{"):
            if not line:
                raise SystemExit("the Ray peer ended")
        return json.loads(line)


def as_ray() -> None:
    """The other side of `RayPeer`."""
    import ray  # type: ignore[import-not-found,unused-ignore]

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")

    class Turner:
        def turn(self, number: int, body: bytes) -> tuple[int, bytes]:
            return number, body[::-1]

    actor = ray.remote(Turner).options(num_cpus=1).remote()
    ray.get(actor.turn.remote(0, BODY))
    print("{}", flush=True)
    for line in sys.stdin:
        num, at_once = map(int, line.split())

        def go(num: int = num, at_once: int = at_once) -> None:
            waiting = [actor.turn.remote(n, BODY) for n in range(at_once)]
            for n in range(num):
                ready, waiting = ray.wait(waiting, num_returns=1)
                ray.get(ready[0])
                if n + at_once < num:
                    waiting.append(actor.turn.remote(n, BODY))

        print(json.dumps(measured(num, go)), flush=True)


def main() -> None:
    """Everything in turn, and medians."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--with-ray", action="store_true")
    parser.add_argument("--as-ray", action="store_true")
    options = parser.parse_args()
    if options.as_ray:
        as_ray()
        return
    from benchmarks.measure import write

    peers: dict[str, Any] = {"queues": Queues(), "pipes": Pipes()}
    if options.with_ray:
        peers["ray"] = RayPeer()
    peers["own"] = Own(1)
    found: dict[str, dict[str, list[float]]] = {}

    def one(name: str, peer: Any, num: int, at_once: int, is_kept: bool) -> None:
        for figure, value in peer.run(num, at_once).items():
            if is_kept:
                found.setdefault(name, {}).setdefault(figure, []).append(round(value, 2))

    for number in range(ROUNDS + 1):
        for at_once in IN_FLIGHT:
            for name, peer in peers.items():
                num = REQUESTS // (10 if name == "ray" else 1) // (3 if at_once == 1 else 1)
                one(f"{name}, {at_once} in flight", peer, num, at_once, number > 0)
    for peer in peers.values():
        peer.close()
    several = {workers: Own(workers) for workers in (1, 2, 4)}
    for number in range(ROUNDS + 1):
        for workers, peer in several.items():
            one(f"own, {workers} workers", peer, 2 * REQUESTS, 32 * workers, number > 0)
    for peer in several.values():
        peer.loop.run_until_complete(peer.pool.close())
    table = {name: {key: statistics.median(all_) for key, all_ in figures.items()} for name, figures in found.items()}
    base = table["own, 1 workers"]["cpu_us"]
    ratios = {f"{workers} workers": round(table[f"own, {workers} workers"]["cpu_us"] / base, 3) for workers in (2, 4)}
    for name in peers:
        for at_once in IN_FLIGHT:
            ratio = table[f"{name}, {at_once} in flight"]["cpu_us"] / table[f"own, {at_once} in flight"]["cpu_us"]
            ratios[f"{name} / own, {at_once}"] = round(ratio, 2) if math.isfinite(ratio) else 0.0
    write("serve_hop", {"median": table, "ratios": ratios, "all": found, "requests": REQUESTS, "rounds": ROUNDS})


if __name__ == "__main__":
    main()
