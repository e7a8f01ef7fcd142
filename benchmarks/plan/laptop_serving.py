"""The p99 of a real `gyral serve`, predicted for two rates from service times that were measured at a third, low one.

The server is that of the bundled purchases (`--workers 1`: one process in front, one that computes). Each round, in turn:

1. low: `gyral bench serve` at a low rate; its percentiles, and from `/metrics` how long batches took;
2. groups: requests that come 1, 4 and 16 at once, still at low rates; what a batch of so many takes, and what CPU seconds each
   request costs the process in front;
3. predicted: the simulator of `plan` with these;
4. measured: `gyral bench serve` at the two rates.

Predicted over measured is quoted as the median of the steady rounds, those in which the generator itself was never late by more
than 2 ms at its p99: a busy machine stops processes for 10 ms at a time, neither a service time nor a queue, and what it
does in one minute says nothing of the next. Without a steady round nothing is said. Next to it stands the constant rule that a
planner must beat: the p99 of the low rate.
Command: .venv/bin/python benchmarks/plan/laptop_serving.py [rounds] (about a minute a round)
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
from measure import GYRAL, ROOT, write

from gyral.bench import cpu
from gyral.bench.drive import Drive, Target
from gyral.bench.traffic import Heads, assembled
from gyral.model import card as cards
from gyral.model import inputs as model_inputs
from gyral.plan.simulate import Traffic, batching
from gyral.plan.spread import Spread, fixed, of_inverse
from gyral.run import read_metrics

NAME = "online_retail-int8"
LOW, RATES, SECONDS, ROUNDS = 150.0, (400.0, 1_000.0), 12.0, 5
STEADY_MS = 2.0
GROUPS, GROUP_RATE, GROUP_S = (1, 4, 16), 20.0, 4.0
SIMULATED = 400_000


class Batches(NamedTuple):
    """What `/metrics` says of batches: counts by upper edge in seconds, how many, requests in them, their seconds."""

    counts: np.ndarray
    edges: np.ndarray
    num: float
    size: float
    seconds: float

    def since(self, before: Batches) -> Batches:
        deltas = self.num - before.num, self.size - before.size, self.seconds - before.seconds
        return Batches(self.counts - before.counts, self.edges, *deltas)


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
    rates = {f"{rate:g}": _compared(steady, f"{rate:g}") for rate in RATES} if steady else {}
    goal = {"p99_within": 0.15, "steady_rounds_of": [len(steady), len(found)]}
    write("plan_laptop_serving", {"goal": goal, "low_per_s": LOW, "rates": rates, "rounds": found, "seed": 0})


def _compared(rounds: list[dict[str, Any]], rate: str) -> dict[str, float]:
    """Medians over rounds of what was predicted and measured at a rate."""
    pairs = [(each["predicted"][rate], each["measured"][rate], each["low"]) for each in rounds]
    return {
        "p99_ms": _median(measured["p99_ms"] for _, measured, _ in pairs),
        "predicted_p99_ms": _median(predicted["p99_ms"] for predicted, _, _ in pairs),
        "predicted_over_measured_p99": _median(predicted["p99_ms"] / measured["p99_ms"] for predicted, measured, _ in pairs),
        "predicted_over_measured_p50": _median(predicted["p50_ms"] / measured["p50_ms"] for predicted, measured, _ in pairs),
        "constant_over_measured_p99": _median(low["p99_ms"] / measured["p99_ms"] for _, measured, low in pairs),
    }


def _round(root: Path, url: str, pid: int) -> dict[str, Any]:
    before = _batches(url)
    low, curve = _bench(root, url, LOW)
    alone = _batches(url).since(before)
    _, each_s, front_s = _groups(root, url, pid)
    # the level is that of the low rate, the groups tell how it grows
    batch_s = alone.seconds / alone.num
    each_s = min(max(each_s, 0.0), 0.9 * batch_s)
    noise, hop = _spreads(alone, curve, 1e-3 * low["mean_ms"], front_s)
    predicted = {}
    for rate in RATES:
        traffic = Traffic.steady(rate, SIMULATED / rate)
        told = batching(traffic, batch_s - each_s, each_s, 1, noise=noise, hop=hop, front_s=front_s, seed=0)
        predicted[f"{rate:g}"] = {
            "p50_ms": round(1e3 * told.sojourns.quantile(0.5), 3),
            "p99_ms": round(1e3 * told.sojourns.quantile(0.99), 3),
            "batch": round(told.batch, 3),
            "busy": round(told.busy, 3),
        }
    measured = {f"{rate:g}": _bench(root, url, rate)[0] for rate in RATES}
    late = max(each["generator_late_p99_ms"] for each in (low, *measured.values()))
    result = {
        "is_steady": late <= STEADY_MS,
        "low": low,
        "batch_us": round(1e6 * batch_s, 1),
        "each_us": round(1e6 * each_s, 1),
        "front_us": round(1e6 * front_s, 1),
        "hop_us": round(1e6 * hop.mean, 1),
        "noise_cv": round(noise.cv, 2),
        "predicted": predicted,
        "measured": measured,
    }
    print(json.dumps(result), file=sys.stderr)
    return result


def _bench(root: Path, url: str, rate: float) -> tuple[dict[str, Any], list[list[float]]]:
    options = ["--rate", str(rate), "--seconds", str(SECONDS), "--set", "bench.late_ms=50.0", "--set", "bench.max_late=1.0"]
    command = [*GYRAL, "bench", "serve", url, "--root", str(root), "--json", *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    told = json.loads(done.stdout.splitlines()[-1])
    curve = next(each["curve"] for each in read_metrics(root, told["run"]) if each["type"] == "load")
    spread = told["latency"]
    p99 = spread["p99_ms"]
    point = {
        "offered_per_s": told["offered_per_s"],
        "mean_ms": spread["mean_ms"],
        "p50_ms": spread["p50_ms"],
        "p99_ms": p99,
        "p99_interval_ms": spread["p99_interval_ms"],
        "generator_late_p99_ms": told["lateness"]["p99_ms"],
        "goodput": told["goodput"],
        "load": told["load"],
    }
    return point, curve


def _groups(root: Path, url: str, pid: int) -> tuple[float, float, float]:
    """Seconds of a batch, `fixed + each · size`, and CPU seconds that one more request costs the process in front."""
    subjects = model_inputs.load(cards.find(root, NAME)).subjects
    bodies = [json.dumps({"subject": each, "k": 10}).encode() for each in subjects[:2_000]]
    heads = Heads(Target.of(url).authority, {})
    sizes, seconds, cores = [], [], []
    for group in GROUPS:
        due_s = np.repeat(np.arange(round(GROUP_RATE * GROUP_S)) / GROUP_RATE, group)
        rng = np.random.default_rng(group)
        body = rng.integers(0, len(bodies), len(due_s))
        traffic = assembled(
            due_s, ["/v1/recommend"], np.zeros(len(due_s), np.uint32), bodies, body, heads, "", "", rng
        )  # fmt: skip
        before, front = _batches(url), _own_cpu_s(pid)

        async def drive(traffic: Any = traffic) -> None:
            await Drive(traffic, Target.of(url), timeout_s=10.0).run()

        asyncio.run(drive())
        seen = _batches(url).since(before)
        sizes.append(seen.size / seen.num)
        seconds.append(seen.seconds / seen.num)
        cores.append((_own_cpu_s(pid) - front) / (len(due_s) / group))
    each_s, fixed_s = np.polyfit(sizes, seconds, 1)
    return float(fixed_s), float(each_s), max(float(np.polyfit(GROUPS, cores, 1)[0]), 0.0)


def _spreads(seen: Batches, curve: list[list[float]], mean_s: float, front_s: float) -> tuple[Spread, Spread]:
    """The factor on a batch's seconds, and what of a latency is neither batch nor the process in front."""
    below = np.concatenate([[0.0], seen.counts / seen.num])
    edges = np.concatenate([[seen.edges[0] / 2], seen.edges])
    is_step = np.concatenate([[True], np.diff(below) > 0])

    def batch(u: np.ndarray) -> np.ndarray:
        return np.exp(np.interp(u, below[is_step], np.log(edges[is_step])))

    nines, ms = np.array(curve).T
    whole = of_inverse(lambda u: np.exp(np.interp(u, 1 - 10.0**-nines, np.log(1e-3 * ms))), mean_s)
    of_batch = of_inverse(batch, seen.seconds / seen.num)
    rest_s = max(mean_s - of_batch.mean - front_s, 1e-6)
    shares = np.concatenate([np.linspace(0, 0.99, 100), 1 - np.logspace(-2, -4, 21)[1:]])
    left = np.array([max(whole.at(float(u)) - of_batch.at(float(u)) - front_s, 0.0) for u in shares])
    hop = of_inverse(lambda u: np.interp(u, shares, np.sort(left)), rest_s) if left.max() > 0 else fixed(rest_s)
    return of_batch.scaled(1 / of_batch.mean), hop


def _batches(url: str) -> Batches:
    text = urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{url}/metrics", timeout=10).read().decode()
    rows = re.findall(r'gyral_batch_seconds_bucket\{le="([^"]+)"[^}]*\} ([0-9.e+]+)', text)
    figures = dict(re.findall(r"gyral_batch_(\w+)\{variant[^}]*\} ([0-9.e+-]+)", text))
    edges = np.array([float(edge) for edge, _ in rows[:-1]]) if rows else np.empty(0)
    counts = np.array([float(count) for _, count in rows[:-1]]) if rows else np.empty(0)
    if not rows:  # before the first batch
        edges, counts = 10 ** (np.arange(-20, 11) / 5), np.zeros(31)
    names = "seconds_count", "size_sum", "seconds_sum"
    return Batches(counts, edges, *(float(figures.get(name, 0)) for name in names))


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
