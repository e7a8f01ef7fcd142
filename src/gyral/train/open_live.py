"""A live stream of documents → the task `next_token`: it learns from what comes, and is measured on documents kept aside of it.

Which document is kept aside is told by its digest alone, as anywhere, so a copy that comes a year later is not trained on
either. Tokens are bytes, or those of the model that training begins from. The losses of the steps are a measure by themselves:
examples are seen in one step and never again, so each loss is of text that the model did not know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from gyral.config import Config
from gyral.errors import ConfigError, InputError, UsageError
from gyral.lake.arrivals import Arrivals
from gyral.model import hf
from gyral.model.shards import encoded
from gyral.model.stream import Stream, Text
from gyral.model.task import Task
from gyral.model.tasks.next_token import NextToken
from gyral.model.tokenizer import FILE, Tokenizer
from gyral.train.live import Live
from gyral.train.open_lm import shape_of
from gyral.train.parallel import mesh


class Following(NextToken):
    """Next-token prediction on a live stream; `live` is what a run follows."""

    live: Live

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """Of what was kept aside up to the step that was computed last.

        Raises
        ------
        InputError : that is nothing: there was one document.
        """
        self._held_out = self.live.held_out()
        if not len(self._held_out):
            hint = "bring in more documents, or raise `lm.held_out`"
            raise InputError(f"nothing of `{self.live.source.name}` is kept aside to be measured on", hint=hint)
        return super().evaluate(model)


def next_token(data: Arrivals, config: Config) -> Task:
    """The texts that come into a lake.

    Raises
    ------
    UsageError : tokens of a dataset are asked for, which has none; or members of `elastic` would wait too long for each other.
    InputError : the model that training begins from cannot read bytes and has no tokenizer.
    """
    by = config.train
    if "elastic" in mesh.parse(by.parallel) and by.stream.idle_s >= by.elastic.timeout_s:
        what = f"`train.stream.idle_s = {by.stream.idle_s:g}` is not below `train.elastic.timeout_s = {by.elastic.timeout_s:g}`"
        why = "a member that comes back meanwhile waits for those who wait for documents"
        raise ConfigError(what, why=why, where="train.stream.idle_s", hint="raise `train.elastic.timeout_s`")
    if config.lm.tokens == "shards":
        raise UsageError(f"`{data.name}` has no tokens that `curate` wrote", hint="`--set lm.tokens=auto`")
    start = hf.read(Path(config.train.start)) if config.train.start else None
    tokenizer = Tokenizer(start.tokenizer) if start and start.tokenizer and start.tokens != "bytes" else None
    if start is not None and tokenizer is None and start.shape.vocab < Text.VOCAB:
        what = f"a model of {start.shape.vocab} tokens and no tokenizer cannot read bytes"
        raise InputError(what, where=config.train.start, hint="put its `tokenizer.json` into that folder")
    length = config.lm.length
    end = Text.END if tokenizer is None else start.end if start else 0
    if start and start.layout == "gpt2":
        length = min(length, start.length)

    def encode(texts: Sequence[bytes]) -> Stream:
        return Text(texts) if tokenizer is None else encoded([text.decode() for text in texts], tokenizer, end)

    live = Live(data, config, length, encode)
    task = Following(
        start.shape if start else shape_of(config, Text.VOCAB),
        length,
        live,
        layout=start.layout if start else config.lm.layout,
        is_masked=config.lm.mask == "documents",
        settings={"tokens": tokenizer.fingerprint if tokenizer else "bytes", "end": end},
        files={FILE: tokenizer.body} if tokenizer else {},
        start=start.state if start else None,
    )
    task.live = live
    return task
