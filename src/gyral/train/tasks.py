"""A dataset and the configuration → the task to be trained: one small function a family, behind the hook `task`.

Every rank opens the task anew from the same words, so nothing but words travels between processes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gyral import plugins
from gyral.config import Config
from gyral.lake import documents
from gyral.lake.dataset import Dataset
from gyral.lake.order import scatter
from gyral.model.nets.llama import Shape
from gyral.model.task import Task
from gyral.model.tasks.next_token import NextToken, Text
from gyral.train.readers import folder

HELD_OUT = 0.1
"""Share of documents that is kept aside to measure on."""


def open_task(root: Path, dataset: str, config: Config) -> Task:
    """The task of `train.family` and `train.task` on a dataset."""
    name = config.train.family if not config.train.task else f"{config.train.family}/{config.train.task}"
    task: Task = plugins.find("task", name)(folder.find(root, dataset), config)
    return task


def next_token(data: Dataset, config: Config) -> Task:
    """`lm`: the texts of a dataset of documents, as bytes."""
    texts = [text.encode() for text in documents.read(data.require("text", "a language model"))["text"].to_pylist() if text]

    kept_aside = scatter(np.arange(len(texts)), 0) < np.uint64(HELD_OUT * 2.0**64)
    trained = Text([text for text, aside in zip(texts, kept_aside, strict=True) if not aside])
    held_out = Text([text for text, aside in zip(texts, kept_aside, strict=True) if aside])
    return NextToken(shape_of(config, Text.VOCAB), config.lm.length, trained, held_out)


def shape_of(config: Config, vocab: int) -> Shape:
    """Sizes of a language model: what is 0 follows from the depth."""
    lm = config.lm
    width = lm.width or 64 * lm.depth
    heads = lm.heads or max(1, width // 64)
    hidden = lm.hidden or -(-8 * width // (3 * 32)) * 32
    kv_heads = lm.kv_heads or heads
    return Shape(vocab, width, lm.depth, heads, kv_heads, hidden, lm.tied, experts=lm.experts, experts_used=lm.experts_used)
