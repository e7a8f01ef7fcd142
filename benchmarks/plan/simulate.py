"""Simulated requests a CPU-second: queues against simpy, ciw and plain Python, batches, tokens, and a day of a billion users.

- M/M/c, first come first served, c = 8, 64, 512; every program does the same queue from its own random numbers, in one thread,
  in turn, and imports and compilation are not counted. Mean waits stand beside Erlang's exact ones. simpy and ciw simulate
  fewer requests because they would take minutes, and their means scatter accordingly. They are general (any process in
  Python); the kernel does this queue, with rates by the minute, caches, deadlines and autoscalers, and no other.
- batches of what waits, as in the gateway of `gyral serve`; a language model's replica token by token, on lengths with the
  means of Azure's conversations (1,155 in, 211 out) and a step of assumed seconds; no peer.
- a day of a billion users in six regions, 20 requests each: 1 of 100 pods, or eight of a region where that is more, over all 24
  hours on all cores, by the clock.

Command: .venv/bin/python benchmarks/plan/simulate.py (about two minutes of CPU)
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import PYTHON, peer, timed, write

from gyral.plan import simulate as sim
from gyral.plan.figure import Figure
from gyral.plan.simulate import Replica, Rules, TokenCost, Traffic
from gyral.plan.spread import exponential, lognormal
from gyral.plan.traffic import Bursts, Device, Population, Region, play

BUSY, ROUNDS, SEED = 0.9, 3, 0
REQUESTS = {"gyral": {8: 20_000_000, 64: 20_000_000, 512: 20_000_000}, "others": {8: 100_000, 64: 100_000, 512: 100_000}}
GOAL = {"queue_per_cpu_s": 8e6, "tokens_per_cpu_s": 0.8e6, "mean_wait_within": 0.02, "day_s": 180}

SIMPY = """
import json, random, sys, time
import simpy
c, rate, count, seed = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
rng, waits = random.Random(seed), []
def customer(env, server):
    came = env.now
    with server.request() as turn:
        yield turn
        waits.append(env.now - came)
        yield env.timeout(rng.expovariate(1.0))
def source(env, server):
    for _ in range(count):
        yield env.timeout(rng.expovariate(rate))
        env.process(customer(env, server))
env = simpy.Environment()
server = simpy.Resource(env, capacity=c)
env.process(source(env, server))
start = time.process_time()
env.run()
print(json.dumps([time.process_time() - start, sum(waits) / len(waits), len(waits)]))
"""
CIW = """
import json, sys, time
import ciw
c, rate, count, seed = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
network = ciw.create_network(
    arrival_distributions=[ciw.dists.Exponential(rate)],
    service_distributions=[ciw.dists.Exponential(1.0)],
    number_of_servers=[c],
)
ciw.seed(seed)
simulation = ciw.Simulation(network)
start = time.process_time()
simulation.simulate_until_max_customers(count)
took = time.process_time() - start
waits = [record.waiting_time for record in simulation.get_all_records()]
print(json.dumps([took, sum(waits) / len(waits), len(waits)]))
"""
PLAIN = """
import heapq, json, random, sys, time
c, rate, count, seed = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
start = time.process_time()
rng, free, t, total = random.Random(seed), [0.0] * c, 0.0, 0.0
draw, replace = rng.expovariate, heapq.heapreplace
for _ in range(count):
    t += draw(rate)
    begin = max(t, free[0])
    total += begin - t
    replace(free, begin + draw(1.0))
print(json.dumps([time.process_time() - start, total / count, count]))
"""


def main() -> None:
    peers = {
        "simpy": (peer("simpy", ["simpy==4.1.1"]), SIMPY),
        "ciw": (peer("ciw", ["ciw==3.2.4"]), CIW),
        "plain Python": (PYTHON, PLAIN),
    }
    sim.first_come(Traffic.steady(1.0, 10.0), exponential(1.0), 1)
    queues: dict[str, Any] = {}
    for workers in REQUESTS["gyral"]:
        rate, exact = BUSY * workers, sim.erlang_c(BUSY * workers, 1.0, workers)
        rows: dict[str, list[tuple[float, float]]] = {name: [] for name in ("gyral", *peers)}
        for number in range(ROUNDS):
            rows["gyral"].append(_own(workers, rate, number))
            for name, (python, code) in peers.items():
                argv = [str(workers), str(rate), str(REQUESTS["others"][workers]), str(number)]
                took, wait, count = json.loads(timed([python, "-c", code, *argv])["stdout"])
                rows[name].append((count / took, wait))
        queues[str(workers)] = {"exact_mean_wait": exact} | {
            name: {
                "requests_per_cpu_s": round(statistics.median(rate for rate, _ in found)),
                "mean_wait_over_exact": round(statistics.mean(wait for _, wait in found) / exact, 4),
                "all": [round(rate) for rate, _ in found],
            }
            for name, found in rows.items()
        }
    own = {workers: each["gyral"]["requests_per_cpu_s"] for workers, each in queues.items()}
    ratios = {
        name: {workers: round(own[workers] / each[name]["requests_per_cpu_s"], 1) for workers, each in queues.items()}
        for name in peers
    }
    write(
        "plan_simulate",
        {
            "goal": GOAL, "busy": BUSY, "queues": queues, "gyral_over": ratios, "batches": _batches(), "tokens": _tokens(),
            "day": _day(), "seed": SEED,
        },
    )  # fmt: skip


def _own(workers: int, rate: float, seed: int) -> tuple[float, float]:
    count = REQUESTS["gyral"][workers]
    start = time.process_time()
    found = sim.first_come(Traffic.steady(rate, count / rate), exponential(1.0), workers, seed=seed)
    return found.came / (time.process_time() - start), found.waits.mean_s


def _rate(call: Callable[[int], tuple[int, Any]]) -> tuple[int, Any]:
    rates = []
    for seed in range(ROUNDS + 1):
        start = time.process_time()
        count, told = call(seed)
        rates.append(count / (time.process_time() - start))
    return round(statistics.median(rates[1:])), told  # the first compiles


def _batches() -> dict[str, Any]:
    def call(seed: int) -> tuple[int, Any]:
        noise = lognormal(1.0, 0.3)
        found = sim.batching(Traffic.steady(2_000.0, 4_000.0), 5e-4, 2e-4, noise=noise, hop=exponential(1e-4), seed=seed)
        return found.came, {"batch": round(found.batch, 3), "p99_ms": round(1e3 * found.sojourns.quantile(0.99), 3)}

    rate, told = _rate(call)
    return {"requests_per_cpu_s": rate, **told}


def _tokens() -> dict[str, Any]:
    cost = TokenCost(0.010, 2e-5, 6.5e-8)  # assumed: 16 GB read a step, 16 GFLOP a token, 131 kB a token of context
    replica = Replica(cost, 400_000, 512, 256)
    rows = {}
    for per_s in (2.0, 6.0, 12.0):

        def call(seed: int, per_s: float = per_s) -> tuple[int, Any]:
            traffic = Traffic.steady(per_s, 300_000 / per_s)
            found = sim.tokens(traffic, replica, lognormal(1_155, 1.0), lognormal(211, 0.8), seed=seed)
            told = {
                "steps": found.num_steps,
                "busy": round(found.busy, 3),
                "first_p99_ms": round(1e3 * found.first.quantile(0.99), 1),
                "between_p99_ms": round(1e3 * found.between.quantile(0.99), 2),
                "refused": found.refused,
            }
            return found.answered + found.refused, told

        rate, told = _rate(call)
        rows[f"{per_s:g}"] = {"requests_per_cpu_s": rate, **told}
    return rows


def _day() -> dict[str, Any]:
    regions = [
        Region("americas", 0.2, -5.0), Region("europe", 0.15, 1.0), Region("africa", 0.1, 2.0), Region("south asia", 0.25, 5.5),
        Region("china", 0.25, 8.0), Region("pacific", 0.05, 9.0),
    ]  # fmt: skip
    users, each = Figure(1e9, "", "assumed", "the goal's"), Figure(20.0, "1/day", "assumed", "")
    people = Population(users, each, regions, [Device("phone", 0.7, 0.9), Device("desk", 0.3)], Bursts(1.5, 3))
    service, workers = lognormal(0.004, 1.2), 2
    # a pod of two, busy to six tenths at the region's peak
    pods = {name: round(peak * service.mean * 0.7 / (0.6 * workers)) for name, peak in people.peak().items()}
    rules = Rules(hit_share=0.3, hit_s=2e-4, deadline_s=0.1, sheds=True)

    def pod(traffic: Traffic, seed: Any) -> Any:
        return sim.first_come(traffic, service, workers, rules=rules, seed=seed)

    rows: dict[str, Any] = {"pods": sum(pods.values())}
    for name, enough in (("1 of 100 pods", 0.0), ("until 5 % is known", 0.05)):
        wall, cpu = time.perf_counter(), time.process_time()
        told = play(people, pods, pod, enough=enough)
        low, high = told.p99_s.interval
        rows[name] = {
            "wall_s": round(time.perf_counter() - wall, 2),
            "cpu_s": round(time.process_time() - cpu, 2),
            "pods": told.num_pods,
            "requests": told.num_requests,
            "p99_ms": [round(1e3 * value, 3) for value in (low, told.p99_s.value, high)],
        }
    return rows


if __name__ == "__main__":
    main()
