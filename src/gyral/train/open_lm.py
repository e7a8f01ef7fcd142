"""A dataset of documents → the task `next_token`: which tokens, what is kept aside, what training begins from.

Tokens are, in this order: those of the model that training begins from; the shards that `curate` wrote; bytes. Bytes need no
tokenizer, no room for a large output matrix and lose nothing, at 4 to 5 times as many positions a text.

What is kept aside: the parts that a column `split` names, where the dataset has one; else a share of the documents by the hash
of their digests. Either way a copy of what is kept aside is not trained on.
"""

from __future__ import annotations

from pathlib import Path

from gyral.config import Config
from gyral.errors import InputError
from gyral.lake.arrivals import Arrivals
from gyral.lake.dataset import Dataset
from gyral.model import hf, texts
from gyral.model.nets.llama import Shape
from gyral.model.task import Task
from gyral.model.tasks.next_token import NextToken
from gyral.model.tokenizer import FILE


def next_token(data: Dataset, config: Config) -> Task:
    """`lm`: the texts of a dataset of documents.

    Raises
    ------
    InputError : it has too little text, or its tokens are not those of the model that training begins from.
    """
    data.require("text", "a language model")
    if isinstance(data, Arrivals):
        from gyral.train.open_live import next_token as following

        return following(data, config)
    start = hf.read(Path(config.train.start)) if config.train.start else None
    opened = texts.opened(data, config.lm, start)
    length = config.lm.length
    if not opened.trained.num_sequences(length):
        hint = f"shorter sequences, `--set lm.length={max(length // 8, 2)}`, or more text"
        raise InputError(f"`{data.name}` has less text to train on than one sequence of {length:,} tokens", hint=hint)
    shape = start.shape if start else shape_of(config, opened.vocab)
    return NextToken(
        shape,
        min(length, start.length) if start and start.layout == "gpt2" else length,
        opened.trained,
        opened.held_out,
        layout=start.layout if start else config.lm.layout,
        is_masked=config.lm.mask == "documents",
        settings={"tokens": opened.name, "end": opened.end, "held_out": [config.lm.held_out, config.lm.held_out_bytes]},
        files={FILE: opened.tokenizer} if opened.tokenizer else {},
        start=start.state if start else None,
    )


def shape_of(config: Config, vocab: int) -> Shape:
    """Sizes of a language model: what is 0 follows from the depth."""
    lm = config.lm
    width = lm.width or 64 * lm.depth
    heads = lm.heads or max(1, width // 64)
    hidden = lm.hidden or (4 * width if lm.layout == "gpt2" else -(-8 * width // (3 * 32)) * 32)
    kv_heads = lm.kv_heads or heads
    return Shape(vocab, width, lm.depth, heads, kv_heads, hidden, lm.tied, experts=lm.experts, experts_used=lm.experts_used)
