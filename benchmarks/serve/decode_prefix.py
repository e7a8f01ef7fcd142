"""Throughput with the tree of beginnings and without, when prompts share most of their tokens and when they share none.

Model: Llama, 8 layers of 512, 8,000 tokens, 25 million parameters, random weights, int8; prompts of 512 tokens, of which the
first 409 (80 %) are the same in all, or none; 16 tokens more, greedy; 12 sequences, 6 at once, one thread. CPU seconds for all
of them, from the first pass to the last token; the tree is empty at the start of each run, so the first sequence reads all. In
turn, medians of three rounds. It is gyral against itself: the peer of the claim is the same engine with `prefixes=None`.

Predicted before the first run: 3.3x at 80 % (5x on prompts, nothing on the answers, which are a tenth of the time); .99x at 0
%.
Caveat: random weights; what is measured is time, not text.
Command: .venv/bin/python benchmarks/serve/decode_prefix.py (about two minutes)
"""

from __future__ import annotations

import os
import statistics
import sys
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0"}
sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
import torch
from decoders import ask, cpu_s, engine, finish, int8
from measure import write

from gyral.model.decoding.engine import Limits
from gyral.model.decoding.forward import Forward
from gyral.model.nets.llama import Llama, Shape
from gyral.model.task import seeded

SHAPE = Shape(8_000, 512, 8, 8, 8, 1_376, tied=False)
PROMPT, SHARED, TOKENS, NUM, AT_ONCE, ROUNDS = 512, 409, 16, 12, 6, 3


def run(forward: Forward, shared: int, is_shared: bool, seed: int) -> tuple[float, float]:
    """CPU seconds of all sequences, and the share of prompt tokens that were found."""
    random = np.random.default_rng(seed)
    head = random.integers(0, SHAPE.vocab, shared)
    prompts = [[*head.tolist(), *random.integers(0, SHAPE.vocab, PROMPT - shared).tolist()] for _ in range(NUM)]
    decoding = engine(forward, 800, is_shared, Limits(running=AT_ONCE))
    start = cpu_s()
    for number, prompt in enumerate(prompts):
        decoding.submit(ask(number, prompt, TOKENS))
    finish(decoding)
    return cpu_s() - start, decoding.counts.cached / decoding.counts.prompt


def main() -> None:
    torch.set_num_threads(1)
    forward = Forward(seeded(0, lambda: Llama(SHAPE)).eval(), 1_024, int8)
    spent: dict[str, list[float]] = {}
    found = {}
    for number in range(ROUNDS + 1):
        for share, shared in (("80", SHARED), ("0", 0)):
            for name, is_on in (("on", True), ("off", False)):
                seconds, found[f"{share} % {name}"] = run(forward, shared, is_on, number)
                if number:
                    spent.setdefault(f"{share} % {name}", []).append(seconds)
    ratios = {
        share: [off / on for on, off in zip(spent[f"{share} % on"], spent[f"{share} % off"], strict=True)]
        for share in ("80", "0")
    }
    result = {
        "cpu_s": {name: [round(each, 3) for each in every] for name, every in spent.items()},
        "found": {name: round(each, 3) for name, each in found.items()},
        "throughput_on_to_off": {f"{share} %": round(statistics.median(each), 3) for share, each in ratios.items()},
        "all_ratios": {f"{share} %": [round(one, 3) for one in each] for share, each in ratios.items()},
    }
    write("serve_decode_prefix", result)


if __name__ == "__main__":
    main()
