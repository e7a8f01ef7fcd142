"""Decoding speed over OpenVINO's passes (`decode.engine = "openvino"`) against our own and vLLM, one thread and one core.

Model, prompts and peers as in `decode_vllm.py`: Llama of 110 million parameters in matrices, random weights; prompts of 64
random tokens; 32 tokens more, greedy; CPU milliseconds of a step (of all sequences) from the second token on, of the whole
process, in turn in the same run. OpenVINO 2026.4.1, float32 inside; matrices float32, and int8 as `gyral compress --to int8`
makes them; keys and values float32. Also told: CPU milliseconds of a prompt of 512 and its first token.

The float32 tokens of both of our engines must be the same, or the run fails; of the others, how often the first token is that
of float32 is told.

Predicted after a draft of three rounds without vLLM: in int8 1.3x vLLM's bf16 at one and eight sequences (goal), 1.1x our own
int8; in float32 1.7x and 2x our own.
Command: .venv/bin/python benchmarks/serve/decode_openvino.py (four minutes; extra `openvino`)
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0"}
sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from decoders import KINDS, LENGTH, SHAPE, ask, big, cpu_s, decoded, engine, finish, int8, one_core
from decoding_peers import as_w8a8, vllm
from measure import write
from torch import nn

from gyral.model import hf
from gyral.model.decoder import Decoder
from gyral.model.decoding.engine import Limits
from gyral.model.decoding.forward import Forward, Pass
from gyral.model.decoding.openvino import OpenVinoForward
from gyral.model.quant.linear import installed
from gyral.model.quant.packing import to_int8

ROUNDS, PROMPT, TOKENS, LONG = 3, 64, 32, 512
BATCHES = (1, 8)

Steps = Callable[[list[list[int]]], tuple[float, list[list[int]]]]


def main() -> None:
    core, net = one_core(), big()
    passes: dict[str, Pass] = {
        "gyral fp32": Forward(net, LENGTH, KINDS["fp32"]),
        "gyral int8": Forward(net, LENGTH, int8),
        "openvino fp32": OpenVinoForward(net, LENGTH),
        "openvino int8": OpenVinoForward(_in_int8(), LENGTH),
    }
    runs: dict[str, Steps] = {
        name: lambda prompts, each=each: decoded(each, prompts, TOKENS)  # type: ignore[misc]
        for name, each in passes.items()
    }
    runs["gyral int8+kv8"] = lambda prompts: decoded(passes["gyral int8"], prompts, TOKENS, True)
    random = np.random.default_rng(0)
    spent: dict[str, dict[str, list[float]]] = {f"B={batch}": {name: [] for name in runs} for batch in BATCHES}
    same: dict[str, list[float]] = {}
    first: dict[str, list[float]] = {name: [] for name in passes}
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        root = Path(place)
        hf.write(Decoder(SHAPE, LENGTH, "llama", dict(net.state_dict()), "bytes", b"", 0), root / "hf")
        peers = {"vllm bf16": vllm(root / "hf", core), "vllm int8": vllm(as_w8a8(root / "hf", root / "w8a8"), core)}
        for name, peer in peers.items():
            stack.callback(peer.close)
            runs[name] = lambda prompts, peer=peer: peer.steps(prompts, TOKENS)  # type: ignore[misc]
        for number in range(ROUNDS + 1):
            for batch in BATCHES:
                prompts: list[list[int]] = random.integers(0, SHAPE.vocab, (batch, PROMPT)).tolist()
                found: dict[str, list[list[int]]] = {}
                for name, steps in runs.items():
                    seconds, found[name] = steps(prompts)
                    if number:
                        spent[f"B={batch}"].setdefault(name, []).append(seconds)
                if found["openvino fp32"] != found["gyral fp32"]:
                    raise SystemExit("the answers differ")
                for name, tokens in found.items():
                    hits = [one[0] == other[0] for one, other in zip(tokens, found["gyral fp32"], strict=True)]
                    same.setdefault(name, []).extend(hits)
            prompt: list[int] = random.integers(0, SHAPE.vocab, LONG).tolist()
            for name, each in passes.items():
                seconds = _first_token_s(each, prompt)
                if number:
                    first[name].append(seconds)
    result: dict[str, Any] = {"prompt": PROMPT, "tokens": TOKENS, "rounds": ROUNDS, "openvino": version("openvino")}
    result["first_token_as_fp32"] = {name: round(statistics.mean(each), 3) for name, each in same.items()}
    result[f"first_token_of_{LONG}_ms"] = {name: round(statistics.median(each) * 1e3, 1) for name, each in first.items()}
    for batch in BATCHES:
        median = {name: statistics.median(each) for name, each in spent[f"B={batch}"].items()}
        result[f"B={batch}"] = {
            name: {
                "step_ms": round(seconds * 1e3, 2),
                "all_ms": [round(each * 1e3, 2) for each in spent[f"B={batch}"][name]],
                "tokens_a_cpu_s": round(batch / seconds, 1),
                "of_vllm_bf16": round(median["vllm bf16"] / seconds, 2),
                "of_vllm_int8": round(median["vllm int8"] / seconds, 2),
                "of_gyral_fp32": round(median["gyral fp32"] / seconds, 2),
                "of_gyral_int8": round(median["gyral int8"] / seconds, 2),
            }
            for name, seconds in median.items()
        }
    write("serve_decode_openvino", result)


def _in_int8() -> nn.Module:
    """The same model with its matrices in int8, the embedding as it is."""
    net = big()
    linears = {f"{name}.weight": each for name, each in net.named_modules() if isinstance(each, nn.Linear)}
    installed(net, {name: to_int8(each.weight.detach().numpy()) for name, each in linears.items()}, {})
    return net


def _first_token_s(forward: Pass, prompt: list[int]) -> float:
    """CPU seconds of a prompt and one token."""
    decoding = engine(forward, 2 * LONG // forward.page, limits=Limits(tokens=LONG))
    decoding.submit(ask(0, prompt, 1))
    start = cpu_s()
    finish(decoding)
    return cpu_s() - start


if __name__ == "__main__":
    main()
