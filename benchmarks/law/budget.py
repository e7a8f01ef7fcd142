"""A training whose sizes the project's law chose against the family's default sizes, at the same nominal budget and at the same
FLOPs.

    law        `gyral train --budget`: width, depth and so steps by the law of twenty runs that `gyral law sweep` made
    default    sizes as the configuration has them, the same `--budget`
    flops      the same sizes, as many steps as make the FLOPs of `law`

Language: Debian gnome-user-docs after `gyral curate`, bytes, steps of 2,048 of them; nats a byte of pages kept aside. What the
law foretold was written into the run before it began. The FLOPs of the sweep, which the law was bought with, are told too.
Command: `benchmarks/law/budget.py`; the sweep takes about four CPU-minutes, the three trainings two
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import GYRAL, ROOT, write

HOME = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "gyral" / "sweeps" / "budget_lm"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "GYRAL_NO_PROGRESS": "1", "PYTHONPATH": str(ROOT / "src")}
SETTINGS = """[train]
family = "lm"
batch = 8
[train.optim]
base_width = 32
rate = 0.006
warmup = 20
[lm]
length = 256
held_out_bytes = 100000
"""
SWEEP, BUDGET = "200s", "40s"
DEFAULT = ("--set", "lm.width=256", "--set", "lm.depth=4")


def gyral(*words: str) -> Any:
    """Run the command line in the project; its result."""
    done = subprocess.run([*GYRAL, *words, "--json"], cwd=HOME, env=ENVIRONMENT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"gyral {' '.join(words)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def swept() -> Path:
    """The table of runs of the sweep alone, made once."""
    kept = HOME / "swept.parquet"
    if not kept.exists():
        shutil.rmtree(HOME, ignore_errors=True)
        HOME.mkdir(parents=True)
        (HOME / "gyral.toml").write_text(SETTINGS)
        gyral("curate", "pages", "--source", "apt:gnome-user-docs")
        gyral("law", "sweep", "pages", "--budget", SWEEP)
        shutil.copyfile(HOME / "laws" / "runs.parquet", kept)
    return kept


def main() -> None:
    import pyarrow.parquet as pq

    kept, table = swept(), HOME / "laws" / "runs.parquet"
    shutil.copyfile(kept, table)
    law = gyral("train", "pages", "--budget", BUDGET)
    default = gyral("train", "pages", "--budget", BUDGET, *DEFAULT)
    steps = round(law["scale"]["C"] / (default["scale"]["C"] / default["steps"]))
    flops = gyral("train", "pages", *DEFAULT, "--set", f"train.steps={steps}")
    told = {
        name: {"loss": each["metrics"]["loss"], "steps": each["steps"], **{key: each["scale"][key] for key in ("N", "D", "C")}}
        for name, each in {"law": law, "default": default, "flops": flops}.items()
    }
    runs = pq.read_table(kept).select(["N_non_embedding", "D", "C", "loss"]).to_pylist()
    write("law_budget", {**told, "chosen": law["budget"], "sweep": runs, "sweep_flops": sum(each["C"] for each in runs)})


if __name__ == "__main__":
    main()
