"""Counted bytes of a rank against published ones: four models of Megatron with and without recomputing, on A100.

The published numbers are those of a figure whose values are the paper's own formulas, so this is an agreement of two counts: of
parameters, gradients and optimizer in a middle stage (the figure leaves the embedding out), and of activations in the first.
Peer: Calculon, which counts layer by layer (`CALCULON` names a checkout, which then runs in the same call). Against what
PyTorch really saves for a block the tests hold the same formulas (`tests/plan/test_memory.py`).

Goals: parameters and optimizer 3 % on average, activations 2 %.

Command: .venv/bin/python benchmarks/plan/memory.py (a second)
"""

from __future__ import annotations

import re
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT)]
import peers  # noqa: E402
from measure import write  # noqa: E402
from tests.plan import published  # noqa: E402

from gyral.plan.counters import params  # noqa: E402
from gyral.plan.memory import memory  # noqa: E402

GIB = 2**30
CALCULON = {
    "states": {"mean": 0.0849, "worst": 0.1084}, "activations": {"mean": 0.0208, "worst": 0.0874},
    "from": "calculon-ai/calculon caa4b11f, run on 2026-11-26",
}  # fmt: skip


def main() -> None:
    states, first, every, activations = {}, {}, {}, {}
    for row in published.rows("megatron_memory_8.csv"):
        name = f"{row['model']} {row['mode']}"
        model, layout = published.megatron(row["model"], row["mode"])
        told = float(row["param_opt_gib"])
        stage = layout.pipeline // 2
        embedding = 0 if stage else 18 * (model.vocab / layout.tensor + model.positions) * model.width
        states[name] = (memory(model, layout, stage=stage).states - embedding) / GIB / told - 1
        first[name] = memory(model, layout).states / GIB / told - 1
        every[name] = 18 * params(model).total / layout.ranks / GIB / told - 1
        activations[name] = memory(model, layout, dropout=True).activations / GIB / float(row["act_gib"]) - 1
    write(
        "plan_memory",
        {
            "goal": {"states": 0.03, "activations": 0.02},
            "states_of_blocks": summary(states),
            "states_of_all_ranks_with_embeddings": summary(every),
            "states_of_the_fullest_rank_with_embeddings": summary(first),
            "activations": summary(activations),
            "peers": {"calculon": calculon()},
        },
    )


def summary(found: dict[str, float]) -> dict[str, object]:
    off = list(map(abs, found.values()))
    each = {name: round(value, 5) for name, value in found.items()}
    return {"mean": round(statistics.mean(off), 5), "worst": round(max(off), 5), "each": each}


def calculon() -> dict[str, object]:
    """Its own validation: run now, or as it was."""
    printed = peers.calculon()
    if printed is None:
        return CALCULON
    means, worsts = (re.findall(rf"{word},,([\d.]+)%", printed) for word in ("Ave", "Max"))
    parts = [{"mean": float(mean) / 100, "worst": float(worst) / 100} for mean, worst in zip(means, worsts, strict=True)]
    return {"states": parts[0], "activations": parts[1], "from": "this run"}


if __name__ == "__main__":
    main()
