"""What a training loop costs a step beside the arithmetic, on a toy so small that it shows: 27k parameters, batch 32.

Peers in the same run, each interleaved with the same bare hand-written loop in its own process (index, forward, cross-entropy,
backward, clip, fused AdamW, read the loss): gyral's loop with the ledger, the metrics and the meter that `gyral train` adds;
accelerate; pytorch-lightning; transformers' Trainer, the last three with logging and checkpoints off. Milliseconds of CPU time
a step, one thread, the 20th percentile of rounds: a shared machine only adds.

Written before measuring: gyral +.12 ms, accelerate +.3, Lightning +.4, Trainer +.5 (research: +.3, +.39, +.47 elsewhere).
Command: .venv/bin/python benchmarks/train/overhead.py (some minutes; the first run makes an environment of 2 GB)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROWS, IN, WIDTH, OUT, BATCH = 4096, 64, 128, 16, 32
STEPS, ROUNDS = int(os.environ.get("STEPS", "200")), int(os.environ.get("ROUNDS", "15"))
PEERS = ["torch==2.13.0", "transformers==4.57.6", "accelerate==1.15.0", "pytorch-lightning==2.6.6"]


def data() -> tuple[Any, Any]:
    import torch

    draw = torch.Generator().manual_seed(0)
    return torch.randn(ROWS, IN, generator=draw), torch.randint(0, OUT, (ROWS,), generator=draw)


def net() -> Any:
    import torch
    from torch import nn

    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(IN, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, OUT))


def bare() -> Any:
    """A hand-written loop."""
    import torch
    import torch.nn.functional as F

    inputs, targets = data()
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def run(steps: int) -> None:
        for step in range(steps):
            at = torch.arange(step * BATCH, (step + 1) * BATCH) % ROWS
            loss = F.cross_entropy(model(inputs[at]), targets[at])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            loss.item()

    return run


def gyral(told: bool = True) -> Any:
    """The loop of `gyral.train`, with all that `gyral train` has it do a step."""
    import msgspec
    import torch
    import torch.nn.functional as F

    from gyral.config import Config
    from gyral.config.training import Optim
    from gyral.model.task import BaseTask, Sums
    from gyral.progress import Screen
    from gyral.run import Run
    from gyral.train import loop
    from gyral.train.loader import Order
    from gyral.train.optim import Optimizer
    from gyral.train.parallel.strategy import Alone
    from gyral.train.telling import Teller

    inputs, targets = data()

    class Toy(BaseTask):
        num_rows = ROWS

        def batch(self, examples, step):  # type: ignore[no-untyped-def]
            at = torch.from_numpy(examples)
            return {"inputs": inputs[at], "targets": targets[at]}

        def sums(self, outputs, batch, gather):  # type: ignore[no-untyped-def]
            loss = F.cross_entropy(outputs, batch["targets"], reduction="sum")
            return Sums(loss, torch.tensor(float(len(outputs))))

    task, strategy = Toy(), Alone()
    model = strategy.place(task, net())
    optimizer = Optimizer(model, Optim(schedule="constant", warmup=0), 1)
    folder = Path(tempfile.mkdtemp())
    run_of_gyral = Run.start(folder, "train", Config(), screen=Screen(open(os.devnull, "w")))  # noqa: SIM115
    teller = Teller(run_of_gyral, task, Config(), 10**9)
    ledger = open(folder / "ledger.jsonl", "ab", buffering=0)  # noqa: SIM115
    order, position = Order(ROWS, BATCH, 0), loop.Position()
    losses = []

    def watch(step: loop.Step) -> None:
        losses.append(step.loss)
        ledger.write(msgspec.json.encode(step) + b"\n")
        teller.step(step)

    def run(steps: int) -> None:
        settings = loop.Settings(position.step + steps, BATCH)
        loop.train(task, model, strategy, optimizer, settings, order, position, [watch] if told else [])

    return run


def accelerate() -> Any:
    import torch
    import torch.nn.functional as F
    from accelerate import Accelerator

    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data()), BATCH)
    accelerator = Accelerator(cpu=True)
    model = net()
    model, optimizer, loader = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True), loader)

    def run(steps: int) -> None:
        done = 0
        while True:
            for inputs, targets in loader:
                loss = F.cross_entropy(model(inputs), targets)
                accelerator.backward(loss)
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
                loss.item()
                done += 1
                if done == steps:
                    return

    return run


def lightning() -> Any:
    import logging
    import warnings

    import pytorch_lightning as pl
    import torch
    import torch.nn.functional as F

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data()), BATCH)

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = net()

        def training_step(self, batch, _):  # type: ignore[no-untyped-def]
            return F.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self):  # type: ignore[no-untyped-def]
            return torch.optim.AdamW(self.parameters(), lr=1e-3, fused=True)

    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}

    def run(steps: int) -> None:
        pl.Trainer(max_steps=steps, max_epochs=-1, accelerator="cpu", gradient_clip_val=1.0, **quiet).fit(Module(), loader)

    return run


def trainer() -> Any:
    import torch
    import torch.nn.functional as F
    import transformers

    transformers.logging.set_verbosity_error()
    inputs, targets = data()
    rows = [{"inputs": row, "labels": label} for row, label in zip(inputs, targets, strict=True)]

    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = net()

        def forward(self, inputs, labels):  # type: ignore[no-untyped-def]
            return {"loss": F.cross_entropy(self.model(inputs), labels)}

    def run(steps: int) -> None:
        arguments = transformers.TrainingArguments(
            tempfile.mkdtemp(), max_steps=steps, per_device_train_batch_size=BATCH, use_cpu=True, save_strategy="no",
            logging_strategy="no", report_to=[], disable_tqdm=True, optim="adamw_torch_fused", dataloader_pin_memory=False,
        )  # fmt: skip
        transformers.Trainer(Wrapped(), arguments, train_dataset=rows).train()

    return run


LOOPS = {"gyral": gyral, "accelerate": accelerate, "lightning": lightning, "trainer": trainer}


def child(name: str) -> None:
    """Milliseconds a step of the bare loop and another, taking turns; what a fit costs once is taken off."""
    import torch

    torch.set_num_threads(1)
    loops = {"bare": bare(), name: LOOPS[name]()}
    spent: dict[str, list[float]] = {each: [] for each in loops}
    for number in range(ROUNDS + 1):
        for each, run in loops.items():
            times = []
            for steps in (STEPS // 10, STEPS + STEPS // 10):
                begun = time.process_time()
                run(steps)
                times.append(time.process_time() - begun)
            if number:
                spent[each].append(1000 * (times[1] - times[0]) / STEPS)
    print(json.dumps({each: sorted(values)[len(values) // 5] for each, values in spent.items()}))


def main() -> None:
    if sys.argv[1:]:
        return child(sys.argv[1])
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from measure import PYTHON, peer, write

    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0", "CUDA_VISIBLE_DEVICES": ""}
    found = {}
    for name in LOOPS:
        python = PYTHON if name == "gyral" else peer("train-loops", PEERS)
        done = subprocess.run([python, __file__, name], capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            found[name] = {"failed": done.stderr.strip().splitlines()[-1:]}
            continue
        times = json.loads(done.stdout.splitlines()[-1])
        found[name] = {"bare_ms": round(times["bare"], 4), "added_ms": round(times[name] - times["bare"], 4)}
    write("train_overhead", {"goal": {"gyral": 0.15}, "steps": STEPS, "rounds": ROUNDS, "loops": found})


if __name__ == "__main__":
    main()
