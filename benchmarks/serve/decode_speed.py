"""Decoding speed of the engine against transformers' `generate`, one thread each.

Model: Llama, 12 layers of 768, 32,000 tokens, 110 million parameters in matrices, random weights (seed 0); prompts of 64 random
tokens; 16 tokens more, greedy; CPU milliseconds of a step (of all sequences) from the second token on, and the tokens a
CPU-second that makes. Own: fp32, bf16 and int8 matrices (a scale for each row; keys and values float32, and int8 in
`int8+kv8`), no compiler. Peer, in turn in the same run, same weights: transformers 4.57.6 `generate` in fp32 and bf16.

The fp32 tokens of both must be the same, or the run fails.

Predicted before the first run: int8 against the better of the peer's: 2.2x at 8 sequences (goal 2), 2.6x at one (goal 3: the
peer is bound by reading weights, as we are, and int8 reads a quarter of them at half the bandwidth); fp32 and bf16 1.1x.
Caveat: a shared machine; CPU seconds grow when others fill the caches. Read the ratios.
Command: .venv/bin/python benchmarks/serve/decode_speed.py (about four minutes)
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0"}
sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
import torch
from decoders import KINDS, LENGTH, SHAPE, big, decoded
from measure import peer, write

from gyral.model import hf
from gyral.model.decoder import Decoder
from gyral.model.decoding.forward import Forward

ROUNDS, PROMPT, TOKENS = 3, 64, 16
BATCHES = (1, 8)

PEER = """
import json, sys, time, torch
from transformers import AutoModelForCausalLM
torch.set_num_threads(1)
models = {"fp32": torch.float32, "bf16": torch.bfloat16}
models = {n: AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=d).eval() for n, d in models.items()}
print("ready", flush=True)
for line in sys.stdin:
    kind, prompts, num = json.loads(line)
    inputs = torch.tensor(prompts)
    told = dict(do_sample=False, attention_mask=torch.ones_like(inputs), pad_token_id=0, eos_token_id=None)
    with torch.inference_mode():
        spent = []
        for new in (1, num + 1):
            start = time.process_time()
            found = models[kind].generate(inputs, min_new_tokens=new, max_new_tokens=new, **told)
            spent.append(time.process_time() - start)
    print(json.dumps([(spent[1] - spent[0]) / num, found[:, inputs.shape[1]:].tolist()]), flush=True)
"""


def main() -> None:
    torch.set_num_threads(1)
    net = big()
    forwards = {kind: Forward(net, LENGTH, swap) for kind, swap in KINDS.items() if kind != "int4"}
    random = np.random.default_rng(0)
    steps: dict[str, dict[str, list[float]]] = {f"B={batch}": {} for batch in BATCHES}
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = b""
        hf.write(Decoder(SHAPE, LENGTH, "llama", dict(net.state_dict()), "bytes", tokenizer, 0), Path(folder))
        python = peer("transformers", ["torch==2.13.0", "transformers==4.57.6", "safetensors"])
        command = [python, "-c", PEER, folder]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            if process.stdin is None or process.stdout is None or process.stdout.readline() != "ready\n":
                raise SystemExit("the peer did not start")
            for number in range(ROUNDS + 1):
                for batch in BATCHES:
                    prompts: list[list[int]] = random.integers(0, SHAPE.vocab, (batch, PROMPT)).tolist()
                    spent: dict[str, Any] = {}
                    for kind in ("fp32", "bf16", "int8", "int8+kv8"):
                        spent[f"gyral {kind}"] = decoded(forwards[kind[:4]], prompts, TOKENS, kind == "int8+kv8")
                        if kind in ("fp32", "bf16"):
                            process.stdin.write(json.dumps([kind, prompts, TOKENS]) + "\n")
                            process.stdin.flush()
                            spent[f"transformers {kind}"] = json.loads(process.stdout.readline())
                    if spent["gyral fp32"][1] != spent["transformers fp32"][1]:
                        raise SystemExit("the answers differ")
                    for name, (seconds, _) in spent.items():
                        if number:
                            steps[f"B={batch}"].setdefault(name, []).append(seconds)
            process.stdin.close()
    result: dict[str, Any] = {"prompt": PROMPT, "tokens": TOKENS, "rounds": ROUNDS}
    for batch in BATCHES:
        median = {name: statistics.median(each) for name, each in steps[f"B={batch}"].items()}
        best = min(median["transformers fp32"], median["transformers bf16"])
        result[f"B={batch}"] = {
            name: {
                "step_ms": round(seconds * 1e3, 2),
                "all_ms": [round(each * 1e3, 2) for each in steps[f"B={batch}"][name]],
                "tokens_a_cpu_s": round(batch / seconds, 1),
                "of_best_peer": round(best / seconds, 2),
                "of_peer_fp32": round(median["transformers fp32"] / seconds, 2),
            }
            for name, seconds in median.items()
        }
    write("serve_decode_speed", result)


if __name__ == "__main__":
    main()
