"""What pipeline, context, expert and spread tables cost: CPU seconds and bytes a step at 8 M parameters, against `data=2`.

    .venv/bin/python benchmarks/train/pieces.py [ROUNDS [dense] [experts] [clicks]]

Three models: the dense decoder of `strategies.py` (8.4 M), one with eight experts of which a token uses two (8.0 M), and two
tables of 4 M numbers each under clicks by Zipf's law. The peer of each way is `data=2` of the same model, which is torch's
DistributedDataParallel in speed and bytes (`strategies.py`). CPU seconds are both ranks' together, bytes those of the loopback
counter of a network namespace, a way's steps in turn with the others'.

Predicted before the first run, of `data=2`: pipelines 1.0 ± .1 in CPU (interleaved and zero-bubble 1.1) and .10 of the bytes
for one boundary (.3 for three, .2 for zbv; and its tied table); context 1.1 and 1.2 of the bytes (sums of gradients, and keys
and values); expert 1.0 and .6 of the bytes; tables row .4 of the CPU (the optimizer's work is halved) and .01 of the bytes,
column .02, table .01; losses within 2e-6 of one process.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import bytes as counting
from measure import write

DENSE = ["pipeline=2 schedule=gpipe", "pipeline=2", "pipeline=2 schedule=interleaved", "pipeline=2 schedule=zero-bubble",
         "pipeline=2 schedule=zbv", "context=2"]  # fmt: skip
MODELS = {
    "dense": ["alone", "data=2", "torch ddp", *DENSE],
    "experts": [f"{way} experts" for way in ("alone", "data=2", "expert=2", "context=2")],
    "clicks": [
        f"{way} clicks" for way in ("alone", "data=2", "data=2 tables=row", "data=2 tables=column", "data=2 tables=table")
    ],
}


def main(rounds: str = "8", *models: str) -> None:
    """Print a row a way, then the raw figures of each model."""
    counting.WORKER = str(Path(__file__).with_name("pieces_worker.py"))
    for model in models or MODELS:
        found = counting.figures(2, MODELS[model], warm=2, rounds=int(rounds))["ways"]
        alone, data = (found[words] for words in MODELS[model][:2])
        rows: dict[str, dict[str, Any]] = {}
        for words, taken in found.items():
            ratios = [own / other for own, other in zip(taken["cpu_s"], data["cpu_s"], strict=True)]
            rows[words] = {
                "loss_difference": max(abs(a - b) for a, b in zip(taken["loss"], alone["loss"], strict=True)),
                "mb_a_step": round(statistics.median(taken["bytes"]) / 1e6, 3),
                "bytes_of_data": round(statistics.median(taken["bytes"]) / statistics.median(data["bytes"]), 4),
                "cpu_s_a_step": round(statistics.median(taken["cpu_s"]), 4),
                "cpu_of_data": round(statistics.median(ratios), 3),
            }
            print(f"{words:34} {json.dumps(rows[words])}", file=sys.stderr)
        write(f"train_pieces_{model}", {"rounds": int(rounds), "rows": rows, "raw": found})


if __name__ == "__main__":
    main(*sys.argv[1:])
