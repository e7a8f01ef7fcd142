"""What a mesh costs: CPU seconds, bytes and difference of losses a step at 8.4 M parameters, against torch's own wrappers.

    .venv/bin/python benchmarks/train/strategies.py [ROUNDS]

Peers: DistributedDataParallel, `fully_shard` and `parallelize_module` of torch as its tutorials use them, in the same
processes, round after round in turn. CPU seconds are both ranks' together.

Predicted before the first run: data 1.00 of DDP ± .05; shard 1.0 of FSDP2 and 1.1 to 1.3 of data; states 1.05 of data; tensor
1.1 of data and .7 of DTensor; losses within 2e-6 of one process.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bytes import figures
from measure import write

WAYS = ["alone", "data=2", "torch ddp", "shard=2", "shard=2 states", "torch fsdp2", "tensor=2", "torch dtensor"]
PEER = {"data=2": "torch ddp", "shard=2": "torch fsdp2", "shard=2 states": "torch fsdp2", "tensor=2": "torch dtensor"}


def main(rounds: int = 10) -> None:
    """Print a row a way, then the raw figures."""
    found = figures(2, WAYS, warm=2, rounds=rounds)
    ways, alone = found["ways"], found["ways"]["alone"]
    rows: dict[str, dict[str, Any]] = {}
    for words, taken in ways.items():
        base = statistics.median(ways["data=2"]["cpu_s"])
        rows[words] = {
            "loss_difference": max(abs(a - b) for a, b in zip(taken["loss"], alone["loss"], strict=True)),
            "mb_a_step": round(statistics.median(taken["bytes"]) / 1e6, 3),
            "cpu_s_a_step": round(statistics.median(taken["cpu_s"]), 4),
            "of_data": round(statistics.median(taken["cpu_s"]) / base, 3),
        }
    for words, peer in PEER.items():
        ratios = [own / other for own, other in zip(ways[words]["cpu_s"], ways[peer]["cpu_s"], strict=True)]
        rows[words]["of_peer"] = round(statistics.median(ratios), 3)
    for words, row in rows.items():
        print(f"{words:16} {json.dumps(row)}", file=sys.stderr)
    write("train_strategies", {"parameters": found["parameters"], "rounds": rounds, "rows": rows, "raw": ways})


if __name__ == "__main__":
    main(*(int(each) for each in sys.argv[1:]))
