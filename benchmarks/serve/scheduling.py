"""Who is answered in time, by order of service: gyral's queue and router, FIFO, bounded FIFO, EDF, EDF that drops the hopeless.

Simulated time (`simulator.py`), the same requests and the same truth for every policy: batches of b take 4 + .5·b ms (int8 1.6
+ .14·b at .995 of the quality, int4 1.2 + .1·b at .97), times log-normal noise of 15 %, and one batch in 500 takes 20 ms
longer. The policies are told a curve that is off: 1.3x at the start, 1/1.3 for each. Deadlines 20, 100 and 500 ms at 40, 40
and 20 %; twenty keys by Zipf's law; batches of 32 at most; loads are relative to full batches of fp32 (1,600/s). Poisson
arrivals, and bursts: three times the mean for a fifth of the time. Two seeds.

Expected from the research's simulation, which had neither noise nor a curve that is off: without variants .645 at 1.5x and .41
at 2.5x, where 1/load is .667 and .40; with variants 1; EDF under .01 and EDF + hopeless .13 at 1.5x; bounded FIFO (32) .40 at
1.5x. The policy was tuned on seeds 1 and 2 of this simulator; here are seeds 100 and 101. Counted are requests that come
between .5 s and 4.5 s of 5.5 s, so that neither an empty queue at the start nor the time after the last one helps.

`decision_us` is CPU of the same calls replayed without the simulator, a request: letting in, taking, learning, dropping. A
decision is one of these calls that decides, a request or a batch: `per_decision_us`.
Peers are their orders of service, not their programs: `benchmarks/serve/` has those over sockets.
Command: .venv/bin/python benchmarks/serve/scheduling.py (two to four minutes; `--quick`: one seed, three loads)
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from measure import write
from policies import Edf, Fifo, Own, Varied
from simulator import Policy, Recorder, arrivals, noisy, simulate

from gyral.serve.scheduling.cost import Curve
from gyral.serve.scheduling.router import Variant

MAX_BATCH = 32
TRUTH = [Curve(0.004, 0.0005), Curve(0.0016, 0.00014), Curve(0.0012, 0.0001)]
TOLD = [Curve(1.3 * curve.fixed_s, curve.each_s / 1.3) for curve in TRUTH]
QUALITY = [1.0, 0.995, 0.97]
FULL = TRUTH[0].rate(MAX_BATCH)
LOADS = (0.3, 0.7, 0.85, 1.0, 1.5, 2.5, 3.0)
SECONDS = 4


def variants(count: int) -> list[Variant]:
    """Variants with the curves that are told."""
    made = zip(("fp32", "int8", "int4"), QUALITY, TOLD, strict=True)
    return [Variant(name, quality, 1, 1, {"server": curve}, max_batch=MAX_BATCH) for name, quality, curve in made][:count]


POLICIES: dict[str, Callable[[], Policy]] = {
    "fifo": lambda: Fifo(MAX_BATCH),
    "fifo <= 256": lambda: Fifo(MAX_BATCH, 256),
    "fifo <= 32": lambda: Fifo(MAX_BATCH, 32),
    "edf": lambda: Edf(MAX_BATCH, TOLD[0], drops_hopeless=False),
    "edf + hopeless": lambda: Edf(MAX_BATCH, TOLD[0], drops_hopeless=True),
    "gyral, queue alone": lambda: Own(MAX_BATCH, TOLD[0]),
    "gyral": lambda: Varied(variants(1)),
    "gyral + variants": lambda: Varied(variants(3)),
}


def measured(name: str, load: float, is_bursty: bool, seeds: int) -> dict[str, Any]:
    """Medians over seeds of one policy at one load."""
    found: list[dict[str, float]] = []
    for seed in range(seeds):
        requests = arrivals(load * FULL, SECONDS + 1.5, 100 + seed, bursty=is_bursty, keys=20)
        recorder = Recorder(POLICIES[name]())
        outcome = simulate(requests, recorder, noisy(TRUTH), seed=seed)
        at = np.array([each.at for each in requests])
        counted = (at >= 0.5) & (at < SECONDS + 0.5)
        answered = counted & np.isfinite(outcome.latency_s)
        on_time = counted & outcome.on_time
        spare = np.array([each.deadline - each.at for each in requests]) - outcome.latency_s
        us = min(recorder.replay_us(POLICIES[name](), len(requests)) for _ in range(2))
        batches = round(np.isfinite(outcome.latency_s).sum() / outcome.batch)
        found.append(
            {
                "goodput": float(on_time.sum() / counted.sum()),
                "of_bound": float(on_time.sum() / counted.sum() / min(1, 1 / load)),
                "per_s": float(on_time.sum() / SECONDS),
                "late_of_answered": float((answered & ~on_time).sum() / max(1, answered.sum())),
                "p99_is_in_time": float(np.quantile(spare[answered], 0.01) >= 0) if answered.any() else 0.0,
                "quality": float(np.array(QUALITY)[outcome.variant[on_time]].mean()) if on_time.any() else 0.0,
                "refused_at_once": outcome.refused / max(1, outcome.refused + outcome.dropped),
                "batch": outcome.batch,
                "decision_us": us,
                "per_decision_us": us * len(requests) / (len(requests) + batches),
            }
        )
    return {figure: round(statistics.median(each[figure] for each in found), 4) for figure in found[0]}


def main() -> None:
    is_quick = "--quick" in sys.argv
    loads, seeds = ((0.7, 1.5, 2.5), 1) if is_quick else (LOADS, 2)
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for arrival in ("poisson", "bursts"):
        for name in POLICIES:
            table[f"{name}, {arrival}"] = {
                f"{load:g}x": measured(name, load, arrival == "bursts", seeds)
                for load in (loads if arrival == "poisson" else (0.7, 1.5, 2.5))
            }
            told = " ".join(f"{load} {row['goodput']:.3f}" for load, row in table[f"{name}, {arrival}"].items())
            print(f"{name:20} {arrival:8} {told}", file=sys.stderr)
    one, all_three = table["gyral, poisson"], table["gyral + variants, poisson"]
    goals = {
        "of the bound at 1.5x, at least .9": one["1.5x"]["of_bound"],
        "of the bound at 2.5x, at least .9": one["2.5x"]["of_bound"],
        "with variants at 2.5x, at least .95": all_three["2.5x"]["goodput"],
        "most CPU a decision, at most 5 µs": max(row["per_decision_us"] for row in (*one.values(), *all_three.values())),
    }
    if not is_quick:
        peak = max(row["per_s"] for row in one.values())
        goals["of the peak at 3x, at least .9"] = round(one["3x"]["per_s"] / peak, 4)
        goals["late of those answered at 3x, at most .01"] = one["3x"]["late_of_answered"]
    write("serve_scheduling", {"goals": goals, "table": table})


if __name__ == "__main__":
    main()
