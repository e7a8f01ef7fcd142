"""The headline: time to close the loop, from an empty folder to a served model that beats popularity on the next slice.

No peer does this in one command, so there is none in this row. Wall seconds from the start of the command, kernels already
compiled (`first_run` has the figure with an empty kernel cache); two runs.
Command: .venv/bin/python benchmarks/loop/close.py (about four minutes)
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import GYRAL, ROOT, timed, write


def run(folder: Path, cache: Path | None = None) -> dict[str, Any]:
    """One loop in an empty folder."""
    command = [*GYRAL, "loop", "--root", str(folder), "--source", str(ROOT / "data" / "online_retail.parquet")]
    start = time.time()
    environment = {**os.environ, **({"NUMBA_CACHE_DIR": str(cache)} if cache else {})}
    told = timed([*command, "--turns", "6", "--budget", "3m", "--json"], env=environment)
    turns = json.loads(told.pop("stdout").strip().splitlines()[-1])["turns"]
    lines = [json.loads(line) for line in (folder / "runs" / "1" / "metrics.jsonl").read_text().splitlines()]
    first = next(
        line for line in lines if line["type"] == "turn" and line["ndcg_at_10"]["looped"] > line["ndcg_at_10"]["popularity"]
    )
    return {"closed_s": round(first["time"] - start, 2), **told, "turns": turns}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        cold = run(Path(folder, "cold"), Path(folder, "kernels"))
        runs = [run(Path(folder, str(number))) for number in range(2)]
    turns = runs[0]["turns"]
    write(
        "loop_close",
        {
            "closed_s": statistics.median(each["closed_s"] for each in runs),
            "first_run_closed_s": cold["closed_s"],
            "total_s": round(statistics.median(each["wall_s"] for each in runs), 1),
            "total_cpu_s": round(statistics.median(each["cpu_s"] for each in runs), 1),
            "peak_MB": round(max(each["peak_bytes"] for each in runs) / 1e6, 1),
            "freshness_s": [turn["freshness_s"] for turn in turns],
            "same_answers_in_every_run": len({json.dumps([turn["ndcg_at_10"] for turn in each["turns"]]) for each in runs})
            == 1,
            "turns": turns,
        },
    )


if __name__ == "__main__":
    main()
