"""What is left of training's speed when a neighbour keeps one core busy: torch as it comes, and as `gyral train` sets it.

A language model of 3.2M parameters on one machine's cores. `default` is a process that imports torch and takes a thread a core,
spinning while they wait; `quiet` is the same with what `gyral.train.neural.be_quiet` sets; `ranks` are two processes of one
thread each. Steps of 512 tokens a wall second, first alone, then beside a process that does nothing but count, on core 0; the
median of rounds that take turns. Only a machine that is otherwise idle tells anything: the load is printed with the result.

Written before measuring: of the speed alone `default` keeps 10–20 %, `quiet` 50 %, `ranks` 50 % (research: 10 %, 52 %, 55 %).
Command: .venv/bin/python benchmarks/train/busy.py (three minutes)
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import PYTHON, write

SECONDS, ROUNDS = float(os.environ.get("SECONDS_EACH", "4")), int(os.environ.get("ROUNDS", "3"))
CHILD = """
import sys, time
quiet = sys.argv[1] != "default"
if quiet:
    from gyral.train.neural import be_quiet
    be_quiet()
import torch
if sys.argv[1] == "ranks":
    torch.set_num_threads(1)
from gyral.model.nets.llama import Llama, Shape
torch.manual_seed(0)
model = Llama(Shape(257, 256, 4, 4, 4, 704))
optimizer = torch.optim.AdamW(model.parameters(), fused=True)
tokens, positions = torch.randint(0, 257, (4, 128)), torch.arange(128).expand(4, 128)
print("ready", flush=True)
for line in sys.stdin:
    end, num, begun = time.monotonic() + float(line), 0, time.monotonic()
    while time.monotonic() < end:
        torch.nn.functional.cross_entropy(model(tokens, positions).flatten(0, 1), tokens.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
        num += 1
    print(num / (time.monotonic() - begun), flush=True)
"""
SPIN = "import os\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\nwhile True: pass"


def main() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    modes = {"default": 1, "quiet": 1, "ranks": len(os.sched_getaffinity(0))}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    processes = {
        name: [subprocess.Popen([PYTHON, "-c", CHILD, name], **pipes) for _ in range(num)] for name, num in modes.items()
    }
    every = [process for group in processes.values() for process in group]
    try:
        for process in every:
            process.stdout.readline()
        speed: dict[str, dict[str, list[float]]] = {name: {"alone": [], "beside": []} for name in modes}
        for number in range(ROUNDS + 1):
            for how in ("alone", "beside"):
                spinner = subprocess.Popen([PYTHON, "-c", SPIN]) if how == "beside" else None
                try:
                    for name, group in processes.items():
                        for process in group:
                            process.stdin.write(f"{SECONDS if number else 1}\n")
                            process.stdin.flush()
                        total = sum(float(process.stdout.readline()) for process in group)
                        if number:
                            speed[name][how].append(total)
                finally:
                    if spinner:
                        spinner.kill()
                        spinner.wait()
    finally:
        for process in every:
            process.kill()
    medians = {name: {how: statistics.median(values) for how, values in each.items()} for name, each in speed.items()}
    kept = {name: round(each["beside"] / each["alone"], 3) for name, each in medians.items()}
    write("train_busy", {"goal": {"quiet": 0.45}, "kept": kept, "steps_per_s": medians, "all": json.loads(json.dumps(speed))})


if __name__ == "__main__":
    main()
