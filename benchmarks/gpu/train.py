"""Training on a card: the same losses as on the processor, and tokens a second beside nanoGPT.

`equal`  12 steps of a small Llama with clip and decay: f32 on the card (no TF32) within 1e-4 of the processor, bf16 within
         3e-2, and compiled blocks within 1e-4 of those that are not
`speed`  GPT-2's 124M parameters (12 layers, 768 wide, 1,024 tokens, batch 16), bf16, blocks compiled: tokens a second of our
         step, and of nanoGPT's model and step in turn, where `NANOGPT` names a clone of it

Random tokens: neither depends on what is read. Without a card everything runs small on the processor, to see that it runs; such
a result is not kept. Written before measuring: equal as above; within 5 % of nanoGPT.

Command: [NANOGPT=FOLDER] .venv/bin/python benchmarks/gpu/train.py [equal|speed …] (two minutes on one H100)
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from measure import write

from gyral.config.training import Optim, Train
from gyral.model.nets.llama import Shape
from gyral.model.tasks.next_token import NextToken
from gyral.train import blocks, device, loop
from gyral.train.loader import Order
from gyral.train.optim import Optimizer
from gyral.train.parallel.mesh import strategy_of

ON_CARD = torch.cuda.is_available()
SMALL, LARGE = (512, 2, 128, 4, 64, 8), (50_304, 12, 768, 12, 1_024, 16) if ON_CARD else (512, 2, 128, 4, 64, 4)
"""Vocabulary, layers, width, heads, tokens, rows."""
STEPS, ROUNDS = (20, 5) if ON_CARD else (2, 2)


class Tokens:
    """A stream of random tokens of one document."""

    def __init__(self, vocab: int, size: int = 400_000) -> None:
        self.tokens = np.random.default_rng(7).integers(0, vocab, size, dtype=np.uint32)

    def num_sequences(self, length: int) -> int:
        return (len(self.tokens) - 1) // length

    def sequences(self, positions: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        at = positions[:, None] * length + np.arange(length + 1)
        return self.tokens[at], np.zeros(at.shape, np.int64)


def ours(sizes: tuple[int, ...], where: str, **words: Any) -> Callable[[int], list[float]]:
    """A function that trains so many steps more on a device and gives their losses."""
    os.environ["GYRAL_DEVICE"] = where
    vocab, layers, width, heads, length, rows = sizes
    train = Train(batch=rows, **words)
    task = NextToken(
        Shape(vocab, width, layers, heads, heads, -(-8 * width // 96) * 32), length, Tokens(vocab), is_masked=False
    )
    strategy = strategy_of({}, train)
    model = strategy.place(task, blocks.prepare(task.build(3), task.roles, train))
    optimizer = Optimizer(model, Optim(rate=6e-4, warmup=2, schedule="constant", clip=0.5), 10**6, task.roles)
    order, position = Order(task.num_rows, rows, 5), loop.Position()

    def run(num: int) -> list[float]:
        losses: list[float] = []
        settings = loop.Settings(position.step + num, rows, clip=0.5)
        loop.train(task, model, strategy, optimizer, settings, order, position, [lambda step: losses.append(step.loss)])
        return losses

    return run


def theirs(sizes: tuple[int, ...], folder: str) -> Callable[[int], list[float]]:
    """The same of nanoGPT's model and step as `train.py` takes it: autocast, compiled, fused AdamW, clip."""
    sys.path.insert(0, folder)
    from model import GPT, GPTConfig

    vocab, layers, width, heads, length, rows = sizes
    kind = device.kind()
    torch.manual_seed(1337)
    config = GPTConfig(block_size=length, vocab_size=vocab, n_layer=layers, n_head=heads, n_embd=width, dropout=0.0, bias=False)
    plain = GPT(config).to(kind)
    optimizer = plain.configure_optimizers(0.1, 6e-4, (0.9, 0.95), kind)
    model = torch.compile(plain) if ON_CARD else plain
    tokens = torch.from_numpy(Tokens(vocab).tokens.astype(np.int64))

    def run(num: int) -> list[float]:
        losses = []
        for _ in range(num):
            at = torch.randint(len(tokens) - length - 1, (rows,))
            x, y = (torch.stack([tokens[i + shift : i + shift + length] for i in at]).to(kind) for shift in (0, 1))
            with torch.autocast(kind, torch.bfloat16):
                _, loss = model(x, y)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.item())
        return losses

    return run


def equal() -> dict[str, float]:
    """Largest differences of 12 losses."""
    torch.backends.cuda.matmul.allow_tf32 = False
    card = "cuda" if ON_CARD else "cpu"
    expected = ours(SMALL, "cpu")(12)
    ways = {"f32": {}, "bf16": {"precision": "bf16"}, "f32_compiled": {"compile": ON_CARD}}
    found = {}
    for name, words in ways.items():
        got = ours(SMALL, card, **words)(12)
        found[name] = max(abs(a - b) for a, b in zip(expected, got, strict=True))
    assert found["f32"] <= 1e-4 and found["bf16"] <= 3e-2 and found["f32_compiled"] <= 1e-4, found
    return found


def speed() -> dict[str, Any]:
    """Median tokens a second of steps in turn; a step ends with its loss on the processor, so nothing is left in flight."""
    card = "cuda" if ON_CARD else "cpu"
    runs = {"gyral": ours(LARGE, card, precision="bf16", compile=ON_CARD)}
    if folder := os.environ.get("NANOGPT"):
        runs["nanogpt"] = theirs(LARGE, folder)
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(ROUNDS + 1):
        for name, run in runs.items():
            begun = time.perf_counter()
            run(STEPS)
            if number:  # the first compiles
                rates[name].append(STEPS * LARGE[4] * LARGE[5] / (time.perf_counter() - begun))
    found: dict[str, Any] = {f"{name}_tokens_per_s": round(statistics.median(each)) for name, each in rates.items()}
    if "nanogpt" in rates:
        found["ratio"] = round(found["gyral_tokens_per_s"] / found["nanogpt_tokens_per_s"], 3)
    if ON_CARD:
        found["peak_memory_bytes"] = torch.cuda.max_memory_allocated()
    return found


def main() -> None:
    wanted = sys.argv[1:] or ["equal", "speed"]
    result: dict[str, Any] = {"device": torch.cuda.get_device_name() if ON_CARD else "cpu", "torch": torch.__version__}
    for name in wanted:
        result[name] = {"equal": equal, "speed": speed}[name]()
    if ON_CARD:
        write("gpu_train", result)
    else:
        print(result)


if __name__ == "__main__":
    main()
