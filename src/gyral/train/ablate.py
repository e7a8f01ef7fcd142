"""A trainer for `gyral curate --ablate`: equally small Llamas, equally long, on each variant of a dataset.

`gyral.curate.probe` draws each variant's text, cuts out what the held-out text shares with it and resamples for the intervals;
it asks for a `Trainer`, texts → scorer, and this is one. All variants get the same shape, steps, batch and seeds, so the same
compute, and see their text as often as that makes of it. The bits of a held-out document are the mean over the seeds.

A model of 123 thousand parameters takes 18 CPU-seconds for 200 steps of 4,096 bytes (one thread of a busy machine): the ten
variants of a usual recipe take 6 minutes with two seeds. What it ranks is what such a model can learn in that time; the n-grams
of `curate.probe` read a text better and in a second, but count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from gyral.config import Config
from gyral.config.training import Ablate
from gyral.errors import InputError
from gyral.model.nets.llama import Shape
from gyral.model.stream import Text
from gyral.model.tasks.next_token import NextToken, bits_of
from gyral.train import loop
from gyral.train.loader import Order
from gyral.train.optim import Optimizer
from gyral.train.parallel.strategy import Alone

NOTE_EVERY_S = 9.0


class Ablation:
    """Models that learned one variant, one a seed: bits that each text takes, float64 [n], their mean."""

    def __init__(self, models: list[torch.nn.Module], length: int) -> None:
        self.models, self.length = models, length

    def __call__(self, texts: pa.StringArray) -> np.ndarray:
        stream = Text([text.encode() for text in texts.to_pylist()])
        found = [bits_of(model, stream, self.length, Text.VOCAB, stride=max(self.length // 2, 1)) for model in self.models]
        mean: np.ndarray = np.mean(found, axis=0)
        return mean


def trainer_of(config: Config, note: Callable[[str], None]) -> Callable[[Iterable[pa.StringArray]], Ablation]:
    """The trainer that `[ablate]` describes.

    Parameters
    ----------
    note : told how far it is, every few seconds.
    """
    number = 0

    def trainer(batches: Iterable[pa.StringArray]) -> Ablation:
        nonlocal number
        number += 1
        texts = [text.encode() for batch in batches for text in batch.to_pylist() if text]
        seeds = range(config.ablate.seeds)
        return Ablation([_learned(texts, config, seed, _teller(note, number, seed, config.ablate)) for seed in seeds], length)

    length = config.ablate.length
    return trainer


def _learned(texts: list[bytes], config: Config, seed: int, watch: loop.Watch) -> torch.nn.Module:
    by = config.ablate
    width = by.width
    shape = Shape(Text.VOCAB, width, by.depth, max(1, width // 32), max(1, width // 32), -(-8 * width // 96) * 32)
    task = NextToken(shape, by.length, Text(texts))
    batch = min(by.batch, task.num_rows)
    if not batch:
        raise InputError(
            f"a variant has less than {by.length} bytes of text",
            where="ablate.length",
            hint="a smaller length, or more documents",
        )
    model = task.build(seed)
    strategy = Alone()
    strategy.place(task, model)
    optimizer = Optimizer(model, config.train.optim, by.steps)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        order = Order(task.num_rows, batch, seed)
        loop.train(task, model, strategy, optimizer, loop.Settings(by.steps, batch), order, loop.Position(), [watch])
    finally:
        torch.set_num_threads(threads)
    return model.eval()


def _teller(note: Callable[[str], None], number: int, seed: int, by: Ablate) -> Callable[[Any], None]:
    told = time.monotonic()

    def watch(step: loop.Step) -> None:
        nonlocal told
        if time.monotonic() - told > NOTE_EVERY_S:
            told = time.monotonic()
            note(f"curate   ablation: variant {number}, model {seed + 1} of {by.seeds}, step {step.step + 1:,} of {by.steps:,}")

    return watch
