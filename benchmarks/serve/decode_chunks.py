"""The longest gap between two tokens of sequences that decode while a prompt of 2,000 tokens comes, by the size of chunks.

Model: the 110 million parameters of `decode_speed`, int8, one thread; four sequences decode, then a prompt of 2,000 tokens is
submitted. CPU milliseconds between the ends of two passes, as every pass gives each of the four a token: the median before the
prompt came, the longest while it was read, and how long reading took in all. In turn, means of two rounds. `whole` reads a
prompt in one pass, which is what an engine without chunks does.

Predicted before the first run: whole 2,200 ms; 64 tokens a chunk: 110 ms at most, the prompt read in 1.6 times the time of
whole (the decoders' own passes are in it: 32 of 25 ms).
Command: .venv/bin/python benchmarks/serve/decode_chunks.py (about two minutes)
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
from decoders import LENGTH, SHAPE, ask, big, cpu_s, engine, int8
from measure import write

from gyral.model.decoding.engine import Limits
from gyral.model.decoding.forward import Forward

CHUNKS = {"whole": 4_096, "256": 256, "64": 64}
PROMPT, DECODING, ROUNDS = 2_000, 4, 2


def run(forward: Forward, chunk: int, seed: int) -> dict[str, float]:
    random = np.random.default_rng(seed)
    decoding = engine(forward, 256, limits=Limits(tokens=4_096, tokens_beside=chunk))
    for number in range(DECODING):
        decoding.submit(ask(number, random.integers(0, SHAPE.vocab, 64).tolist(), 1_000))
    decoding.step()
    usual, gaps = [], []
    for _ in range(5):
        start = cpu_s()
        decoding.step()
        usual.append(cpu_s() - start)
    decoding.submit(ask(99, random.integers(0, SHAPE.vocab, PROMPT).tolist(), 2))
    is_read = False
    while not is_read:
        start = cpu_s()
        told = decoding.step()
        gaps.append(cpu_s() - start)
        if {each.id for each in told} - {99} != set(range(DECODING)):
            raise SystemExit("a sequence got no token")
        is_read = any(each.id == 99 for each in told)
    decoding.close()
    return {"usual_ms": statistics.median(usual) * 1e3, "longest_ms": max(gaps) * 1e3, "read_ms": sum(gaps) * 1e3}


def main() -> None:
    torch.set_num_threads(1)
    forward = Forward(big(), LENGTH, int8)
    every: dict[str, dict[str, list[float]]] = {name: {} for name in CHUNKS}
    for number in range(ROUNDS + 1):
        for name, chunk in CHUNKS.items():
            for figure, value in run(forward, chunk, number).items():
                if number:
                    every[name].setdefault(figure, []).append(round(value, 1))
    median = {name: {figure: statistics.median(each) for figure, each in figures.items()} for name, figures in every.items()}
    write("serve_decode_chunks", {"median": median, "all": every})


if __name__ == "__main__":
    main()
