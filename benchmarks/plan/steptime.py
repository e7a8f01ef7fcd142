"""Predicted steps of training against published ones: eight of Megatron on up to 512 A100, nine of llm-foundry on 128.

Nothing is trained here; what is compared are predictions. Peers: Calculon, whose efficiency curves are set by hand (`CALCULON`
names a checkout, which then runs in the same call; otherwise its numbers of that run stand there), and one utilization for all
(the median MFU of the rows that gyral calibrates on).

Goals: Megatron 3.5 % on average and 8.5 % at most, with the model that is asked about left out of the calibration; 128 devices
from fewer, 6 %. How many constants are calibrated on how many rows is in the output. The choice of tiles, and which constants,
was made with these rows in sight; what other choices give is told too.

Command: .venv/bin/python benchmarks/plan/steptime.py (five seconds)
"""

from __future__ import annotations

import re
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT)]
import peers  # noqa: E402
from measure import write  # noqa: E402
from tests.plan import published  # noqa: E402

from gyral.plan import machine  # noqa: E402
from gyral.plan.calibrate import calibrate  # noqa: E402

CALCULON = {"mean": 0.0365, "worst": 0.0887, "from": "calculon-ai/calculon caa4b11f, run on 2026-11-26"}
TILES = {
    "three tiles": machine.TILES,
    "five tiles": (*machine.TILES, (128, 64), (64, 128)),
    "no tiles": ((1, 1),),
}


def main() -> None:
    begun = time.process_time()
    megatron = {f"{name}, {'+'.join(names)}": left_out(tiles, names) for name, tiles in TILES.items() for names in CHOICES}
    foundry = {"+".join(names): from_fewer(names) for names in FOUNDRY}
    write(
        "plan_steptime",
        {
            "goal": {"megatron_mean": 0.035, "megatron_worst": 0.085, "foundry_mean": 0.06},
            "megatron": {"rows": 8, "calibrated_on": "6 rows, the model that is asked about left out", **megatron},
            "foundry": {"rows": 9, "calibrated_on": "69 rows of fewer than 128 devices", **foundry},
            "peers": {"calculon": calculon(), "one_utilization": one_utilization()},
            "cpu_s": round(time.process_time() - begun, 2),
        },
    )


CHOICES = (["matmul"], ["matmul", "memory"])
FOUNDRY = (
    ["matmul", "attention"],
    ["matmul", "attention", "memory"],
    ["matmul", "attention", "memory", "network"],
    ["matmul", "attention", "memory", "launch_s"],
)


def left_out(tiles: tuple[tuple[int, int], ...], names: list[str]) -> dict[str, object]:
    """Errors of each model's two rows, calibrated on the other six."""
    machine.TILES = tiles
    steps, found = published.rows("megatron_steptime_8.csv"), {}
    for model in published.MEGATRON:
        known, asked = ([row for row in steps if (row["model"] == model) == is_asked] for is_asked in (False, True))
        truth = [float(row["step_s"]) for row in known]
        rates = calibrate(lambda rates, known=known: published.megatron_s(known, rates), truth, names).rates
        for row, predicted in zip(asked, published.megatron_s(asked, rates), strict=True):
            found[f"{model} {row['mode']}"] = round(predicted / float(row["step_s"]) - 1, 4)
    machine.TILES = TILES["three tiles"]
    return {"constants": len(names), **summary(found)}


def from_fewer(names: list[str]) -> dict[str, object]:
    """Errors of rows of 128 devices, calibrated on those of fewer."""
    rows = [row for row in published.rows("llmfoundry_a100.csv") if row["GPU"] == "a100_40gb"]
    known, asked = ([row for row in rows if (int(row["# GPUs"]) >= 128) == large] for large in (False, True))
    fitted = calibrate(lambda rates: published.foundry_s(known, rates), list(map(published.foundry_truth, known)), names)
    found = {
        row["Model"]: round(predicted / published.foundry_truth(row) - 1, 4)
        for row, predicted in zip(asked, published.foundry_s(asked, fitted.rates), strict=True)
    }
    rates = {name: float(f"{getattr(fitted.rates, name):.3g}") for name in names}
    return {"constants": len(names), "rates": rates, "calibrated_mean": round(fitted.mean, 4), **summary(found)}


def one_utilization() -> dict[str, float]:
    """The median MFU of rows of fewer devices as that of 128."""
    rows = [row for row in published.rows("llmfoundry_a100.csv") if row["GPU"] == "a100_40gb"]
    usual = statistics.median(float(row["MFU"]) for row in rows if int(row["# GPUs"]) < 128)
    off = [abs(float(row["MFU"]) / usual - 1) for row in rows if int(row["# GPUs"]) >= 128]
    return {"mfu": usual, "mean": round(statistics.mean(off), 4), "worst": round(max(off), 4)}


def summary(found: dict[str, float]) -> dict[str, object]:
    off = list(map(abs, found.values()))
    return {"mean": round(statistics.mean(off), 4), "worst": round(max(off), 4), "each": found}


def calculon() -> dict[str, object]:
    """Its own validation: run now, or as it was."""
    printed = peers.calculon()
    if printed is None:
        return CALCULON
    told = printed[printed.index("End-to-end") :]
    mean, worst = (float(re.search(rf"{word},,([\d.]+)%", told).group(1)) / 100 for word in ("Ave", "Max"))
    return {"mean": mean, "worst": worst, "from": "this run"}


if __name__ == "__main__":
    main()
