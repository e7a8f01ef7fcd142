"""The p99 of a real `gyral serve`, predicted for two rates from requests that were sent at three low ones.

The server is that of the bundled purchases (`--workers 1`: one process in front, one that computes). Each round, in turn:

1. low: Poisson arrivals at three low rates, each request's time kept, and from `/metrics` how long batches took; by how long
   the server had been idle before each request, what silence costs (`gyral.plan.cold`), and what a warm request takes;
2. groups: requests that come 1, 4 and 16 at once, 20 times a second; how a batch of so many grows, and what CPU seconds each
   request costs the process in front;
3. predicted: the simulator of `plan` with these, and next to it without what silence costs, from 150/s alone;
4. measured: `gyral bench serve` at the two rates.

What varies from request to request is taken for the batch's: the rest of a latency is the same for all. Predicted over measured
is quoted as the median of the steady rounds, those in which the generator itself was never late by more than 2 ms at its p99: a
busy machine stops processes for 10 ms at a time, neither a service time nor a queue, and what it does in one minute says
nothing of the next. Fewer than three steady rounds decide nothing. Next to it stands the constant rule that a planner must
beat: the p99 at 150/s. Command: .venv/bin/python benchmarks/plan/laptop_serving.py [rounds] (80 s a round, five; another minute
before)
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import decide
from measure import GYRAL, ROOT, write

from gyral.bench import cpu
from gyral.bench.drive import Drive, Target
from gyral.bench.record import Record
from gyral.bench.traffic import Heads, assembled
from gyral.model import card as cards
from gyral.model import inputs as model_inputs
from gyral.plan.cold import Cold, cold_of, idle_before
from gyral.plan.simulate import Traffic, batching
from gyral.plan.spread import fixed, measured

NAME = "online_retail-int8"
LOW, LOWS, RATES, SECONDS, ROUNDS = 150.0, (75.0, 150.0, 300.0), (400.0, 1_000.0), 10.0, 5
WITHIN, STEADY_MS, FEWEST = 0.15, 2.0, 3
GROUPS, GROUP_RATE, GROUP_S = (1, 4, 16), 20.0, 4.0
SIMULATED = 400_000


class Batches(NamedTuple):
    """What `/metrics` says of batches: how many, requests in them, their seconds."""

    num: float
    size: float
    seconds: float

    def since(self, before: Batches) -> Batches:
        return Batches(*(now - then for now, then in zip(self, before, strict=True)))


class Sent(NamedTuple):
    """Requests at one rate: silence before each and seconds of each, [n]; how late the generator was; and the batches."""

    idle_s: np.ndarray
    seconds: np.ndarray
    late_p99_s: float
    batches: Batches


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        source = str(ROOT / "data" / "online_retail.parquet")
        for command in (
            ["ingest", "--source", source],
            ["curate", "online_retail"],
            ["train", "online_retail", "--budget", "5s"],
        ):
            subprocess.run([*GYRAL, *command, "--root", str(root)], check=True, capture_output=True)
        subprocess.run([*GYRAL, "compress", "online_retail", "--root", str(root)], check=True, capture_output=True)
        command = [*GYRAL, "serve", NAME, "--root", str(root), "--port", "0", "--workers", "1", "--json"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            told = json.loads(server.stdout.readline())  # type: ignore[union-attr]
            url, pid = told["url"], told["pid"]
            _groups(root, url, pid)  # warm
            found = [_round(root, url, pid) for _ in range(rounds)]
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(20)
    steady = [each for each in found if each["is_steady"]]
    rates = {f"{rate:g}": _compared(steady or found, f"{rate:g}") for rate in RATES}
    is_decided = len(steady) >= FEWEST
    rows = {
        rate: decide.row(f"p99 at {rate}/s", told["predicted_over_measured_p99"] - 1, WITHIN, is_decided)
        for rate, told in rates.items()
    }
    goal = {"p99_within": WITHIN, "steady_rounds_of": [len(steady), len(found)], "rows": rows}
    write("plan_laptop_serving", {"goal": goal, "low_per_s": LOWS, "rates": rates, "rounds": found, "seed": 0})


def _compared(rounds: list[dict[str, Any]], rate: str) -> dict[str, float]:
    """Medians over rounds of what was predicted and measured at a rate."""
    pairs = [(each["predicted"][rate], each["measured"][rate], each["low"]) for each in rounds]
    return {
        "p99_ms": _median(measured["p99_ms"] for _, measured, _ in pairs),
        "predicted_p99_ms": _median(predicted["p99_ms"] for predicted, _, _ in pairs),
        "predicted_over_measured_p99": _median(predicted["p99_ms"] / measured["p99_ms"] for predicted, measured, _ in pairs),
        "predicted_over_measured_p50": _median(predicted["p50_ms"] / measured["p50_ms"] for predicted, measured, _ in pairs),
        "predicted_without_cold_over_measured_p99": _median(
            each["without_cold"][rate]["p99_ms"] / each["measured"][rate]["p99_ms"] for each in rounds
        ),
        "constant_over_measured_p99": _median(low["p99_ms"] / measured["p99_ms"] for _, measured, low in pairs),
    }


def _round(root: Path, url: str, pid: int) -> dict[str, Any]:
    sent = {rate: _sent(root, url, rate) for rate in LOWS}
    _, each_s, front_s = _groups(root, url, pid)
    idle_s, seconds = (np.concatenate([getattr(each, name) for each in sent.values()]) for name in ("idle_s", "seconds"))
    cold = cold_of(idle_s, seconds)
    batches = Batches(*(sum(each.batches[place] for each in sent.values()) for place in range(3)))
    slow = float(cold.factor(np.array([1 / GROUP_RATE]))[0])  # of groups, before each of which it was silent
    factor, alone = cold.factor(idle_s), idle_s > 0
    batch_s = batches.seconds / batches.num / factor.mean()
    told = _predicted((seconds / factor)[alone], batch_s, each_s / slow, front_s / slow, cold)
    low = sent[LOW]
    without = _predicted(low.seconds[low.idle_s > 0], low.batches.seconds / low.batches.num, each_s, front_s, Cold())
    points = {f"{rate:g}": _bench(root, url, rate) for rate in RATES}
    late = max(
        [*(1e3 * each.late_p99_s for each in sent.values()), *(each["generator_late_p99_ms"] for each in points.values())]
    )
    result = {
        "is_steady": late <= STEADY_MS,
        "late_p99_ms": round(late, 3),
        "low": {
            f"p{share}_ms": round(1e3 * float(np.quantile(low.seconds, share / 100)), 3) for share in (50, 99)
        },
        "slower": round(cold.slower, 3),
        "cools_ms": round(1e3 * cold.cools_s, 2),
        "batch_us": {f"{rate:g}": round(1e6 * each.batches.seconds / each.batches.num, 1) for rate, each in sent.items()},
        "each_us": round(1e6 * each_s, 1),
        "front_us": round(1e6 * front_s, 1),
        "warm_batch_us": round(1e6 * batch_s, 1),
        "predicted": told,
        "without_cold": without,
        "measured": points,
    }  # fmt: skip
    print(json.dumps(result), file=sys.stderr)
    return result


def _predicted(seconds: np.ndarray, batch_s: float, each_s: float, front_s: float, cold: Cold) -> dict[str, Any]:
    """By the simulator, from what warm requests took and how much of it a batch is."""
    each_s = min(max(each_s, 0.0), 0.9 * batch_s)
    hop_s = max(float(seconds.mean()) - batch_s - front_s, 0.0)
    noise = measured(np.maximum(seconds - front_s - hop_s, 0.1 * batch_s))
    noise, hop = noise.scaled(1 / noise.mean), fixed(hop_s)
    found = {}
    for rate in RATES:
        traffic = Traffic.steady(rate, SIMULATED / rate)
        told = batching(traffic, batch_s - each_s, each_s, 1, noise=noise, hop=hop, front_s=front_s, cold=cold, seed=0)
        found[f"{rate:g}"] = {
            "p50_ms": round(1e3 * told.sojourns.quantile(0.5), 3), "p99_ms": round(1e3 * told.sojourns.quantile(0.99), 3),
            "batch": round(told.batch, 3), "busy": round(told.busy, 3),
        }  # fmt: skip
    return found


def _sent(root: Path, url: str, rate: float) -> Sent:
    """Poisson arrivals for a while."""
    rng = np.random.default_rng(round(rate))
    due_s = np.cumsum(rng.exponential(1 / rate, round(rate * SECONDS)))
    before = _batches(url)
    record = _driven(root, url, due_s, rng)
    done_s, reached_s = np.array(record.done_s), np.array(record.reached_s)
    late = float(np.quantile(reached_s - due_s, 0.99))
    # who came first found a server of which nothing is known
    return Sent(idle_before(due_s, done_s)[1:], (done_s - due_s)[1:], late, _batches(url).since(before))


def _driven(root: Path, url: str, due_s: np.ndarray, rng: np.random.Generator) -> Record:
    """Send requests when they are due."""
    subjects = model_inputs.load(cards.find(root, NAME)).subjects
    bodies = [json.dumps({"subject": each, "k": 10}).encode() for each in subjects[:2_000]]
    heads, body = Heads(Target.of(url).authority, {}), rng.integers(0, len(bodies), len(due_s))
    traffic = assembled(due_s, ["/v1/recommend"], np.zeros(len(due_s), np.uint32), bodies, body, heads, "", "", rng)

    async def drive() -> Record:
        return await Drive(traffic, Target.of(url), timeout_s=10.0).run()

    return asyncio.run(drive())


def _bench(root: Path, url: str, rate: float) -> dict[str, Any]:
    options = ["--rate", str(rate), "--seconds", str(SECONDS), "--set", "bench.late_ms=50.0", "--set", "bench.max_late=1.0"]
    command = [*GYRAL, "bench", "serve", url, "--root", str(root), "--json", *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    told = json.loads(done.stdout.splitlines()[-1])
    spread = told["latency"]
    p99 = spread["p99_ms"]
    return {
        "offered_per_s": told["offered_per_s"],
        "mean_ms": spread["mean_ms"],
        "p50_ms": spread["p50_ms"],
        "p99_ms": p99,
        "p99_interval_ms": spread["p99_interval_ms"],
        "generator_late_p99_ms": told["lateness"]["p99_ms"],
        "goodput": told["goodput"],
        "load": told["load"],
    }


def _groups(root: Path, url: str, pid: int) -> tuple[float, float, float]:
    """Seconds of a batch, `fixed + each · size`, and CPU seconds that one more request costs the process in front."""
    sizes, seconds, cores = [], [], []
    for group in GROUPS:
        due_s = np.repeat(np.arange(round(GROUP_RATE * GROUP_S)) / GROUP_RATE, group)
        before, front = _batches(url), _own_cpu_s(pid)
        _driven(root, url, due_s, np.random.default_rng(group))
        seen = _batches(url).since(before)
        sizes.append(seen.size / seen.num)
        seconds.append(seen.seconds / seen.num)
        cores.append((_own_cpu_s(pid) - front) / (len(due_s) / group))
    each_s, fixed_s = np.polyfit(sizes, seconds, 1)
    return float(fixed_s), float(each_s), max(float(np.polyfit(GROUPS, cores, 1)[0]), 0.0)


def _batches(url: str) -> Batches:
    text = urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{url}/metrics", timeout=10).read().decode()
    figures = dict(re.findall(r"gyral_batch_(\w+)\{variant[^}]*\} ([0-9.e+-]+)", text))
    return Batches(*(float(figures.get(name, 0)) for name in ("seconds_count", "size_sum", "seconds_sum")))


def _own_cpu_s(pid: int) -> float:
    """CPU seconds of a process without those it started."""
    fields = (cpu.PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def _median(values: Any) -> float:
    return round(statistics.median(values), 3)


if __name__ == "__main__":
    start = time.perf_counter()
    main()
    print(f"{time.perf_counter() - start:.0f} s", file=sys.stderr)
