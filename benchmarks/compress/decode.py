"""Resident memory and tokens a second of SmolLM2-135M by variant, with the plain loop (`gyral.model.generate`), one thread.

Each variant is a process of its own that loads a published folder and writes 48 tokens after a prompt of 32 four times; the CPU
seconds of the fastest count. The peer of the same run is the same model in float32 (and `--to bf16`).

Written before measuring: int8 takes a third of float32's memory and half its time a token, int4 a fourth and two thirds; the
embedding and the output matrix, 28 million of 135 million weights, are int8 in all of them.

Command: MODELS=PROJECT/models .venv/bin/python benchmarks/compress/decode.py (folders `smollm2@1`, `smollm2-int4@1`, …)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from measure import PYTHON, write

ONE = """
import json, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from gyral.model.generate import generate
from gyral.model.lm import LM
def resident():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) * 1024
before = resident()
begin = time.process_time()
model = LM.load(Path(sys.argv[1]))
loaded = time.process_time() - begin
prompt = list(range(1000, 1032))
def write(count):
    left = [count]
    def draw(logits):
        left[0] -= 1
        return int(logits.argmax()) if left[0] >= 0 else None
    begin = time.process_time()
    generate(model.model, prompt, 512, draw, count)
    return time.process_time() - begin
write(2)
took = [write(49) - write(1) for _ in range(int(sys.argv[2]))]
from gyral.model.quant.linear import kernels_of
print(json.dumps({"load_cpu_s": loaded, "resident_bytes": resident() - before, "ms_per_token": 1e3 * min(took) / 48,
    "all": took, "kernels": kernels_of(model.model)}))
"""


def main() -> None:
    root = Path(os.environ["MODELS"])
    told = {}
    for folder in sorted(root.glob("smollm2*@1")):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0"}
        times = os.environ.get("TIMES", "4")
        done = subprocess.run([PYTHON, "-c", ONE, folder, times], capture_output=True, text=True, env=environment, check=True)
        told[folder.name] = json.loads(done.stdout) | {"file_bytes": (folder / "weights.safetensors").stat().st_size}
        print(folder.name, told[folder.name], file=sys.stderr)
    write("compress_decode", {"variants": told})


if __name__ == "__main__":
    main()
