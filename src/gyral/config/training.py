"""The sections of `train`: what is trained, how long, by how many; the optimizer; and each family's model."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gyral.config.sections import Section


class Optim(Section, frozen=True):
    """How gradients become updates: `[train.optim]`."""

    name: Annotated[Literal["adamw"], Meta(description="the optimizer")] = "adamw"
    rate: Annotated[float, Meta(gt=0, description="largest learning rate")] = 1e-3
    weight_decay: Annotated[float, Meta(ge=0, description="of matrices; vectors do not decay")] = 0.1
    beta1: Annotated[float, Meta(ge=0, lt=1, description="decay of the mean of gradients")] = 0.9
    beta2: Annotated[float, Meta(ge=0, lt=1, description="decay of the mean of their squares")] = 0.95
    eps: Annotated[float, Meta(gt=0, description="added to the root of the latter")] = 1e-8
    schedule: Annotated[Literal["wsd", "cosine", "constant"], Meta(description="of the rate, after the warm-up")] = "wsd"
    warmup: Annotated[int, Meta(ge=0, description="steps over which the rate rises")] = 10
    decay: Annotated[float, Meta(gt=0, le=1, description="share of all steps over which `wsd` falls")] = 0.3
    final: Annotated[float, Meta(ge=0, le=1, description="share of the rate at the end")] = 0.0
    clip: Annotated[float, Meta(ge=0, description="largest norm of the whole gradient; 0: no limit")] = 1.0


class Train(Section, frozen=True):
    """Dataset → Model."""

    family: Annotated[str, Meta(min_length=1, description="kind of model")] = "recommender"
    task: Annotated[str, Meta(description="what a neural model is to learn; empty: the family's own way")] = ""
    budget: Annotated[str, Meta(description="time (`90s`, `3m`, `1h`) or work (`1e12flop`)")] = "3m"
    seed: Annotated[int, Meta(ge=0, description="same data, config and seed: same bytes")] = 0
    steps: Annotated[int, Meta(ge=0, description="updates; 0: as many as the budget pays by a nominal rate")] = 0
    batch: Annotated[int, Meta(ge=1, description="examples a step, all ranks together")] = 32
    microbatch: Annotated[int, Meta(ge=0, description="examples computed at once; 0: all of a rank's")] = 0
    parallel: Annotated[str, Meta(description="mesh axes: `data=2`, `data=2,tensor=2`, `pipeline=2,shard=2`, …")] = ""
    precision: Annotated[
        Literal["auto", "f32", "bf16"], Meta(description="of matrix products; `auto`: bf16 where it is fast")
    ] = "f32"
    evaluate_every: Annotated[int, Meta(ge=0, description="steps; 0: at the end only")] = 0
    checkpoint_every: Annotated[int, Meta(ge=0, description="steps; 0: at the end only")] = 0
    distill: Annotated[str, Meta(description="a model of this project that teaches the new one; empty: none")] = ""
    distill_weight: Annotated[float, Meta(ge=0, le=1, description="share of the loss that the teacher has")] = 0.5
    distill_temperature: Annotated[float, Meta(gt=0, description="by which both divide their logits")] = 1.0
    optim: Optim = Optim()


class Lm(Section, frozen=True):
    """The family `lm`: a decoder in the Llama layout."""

    depth: Annotated[int, Meta(ge=1, description="blocks; the one dial from which the rest follows where it is 0")] = 4
    width: Annotated[int, Meta(ge=0, description="of the stream; 0: 64 a block")] = 0
    heads: Annotated[int, Meta(ge=0, description="of queries; 0: one for each 64 of the width")] = 0
    kv_heads: Annotated[int, Meta(ge=0, description="of keys and values; 0: as many as of queries")] = 0
    hidden: Annotated[int, Meta(ge=0, description="width inside the feed-forward part; 0: 8/3 of the width")] = 0
    length: Annotated[int, Meta(ge=2, description="tokens of a sequence")] = 256
    tied: Annotated[bool, Meta(description="the output matrix is the embedding")] = True
    layout: Annotated[Literal["llama", "gpt2"], Meta(description="`gpt2`: learned positions, LayerNorm, GELU")] = "llama"
    tokens: Annotated[
        Literal["auto", "bytes", "shards"],
        Meta(description="of the text; `auto`: those that `curate` wrote (`tokens.write`), else bytes"),
    ] = "auto"
    mask: Annotated[
        Literal["documents", "causal"],
        Meta(description="whether documents of one sequence are hidden from each other, or just follow one another"),
    ] = "documents"
    held_out: Annotated[float, Meta(gt=0, lt=1, description="share of documents that is measured on, by their digests")] = 0.1
    held_out_bytes: Annotated[int, Meta(ge=1, description="of text measured on at most; the rest is not trained on")] = 200_000
    from_: Annotated[
        str, Meta(description="where training begins: a model of this project, or a folder of transformers; empty: anew")
    ] = msgspec.field(default="", name="from")
    experts: Annotated[int, Meta(ge=0, description="of each feed-forward part; 0: it is dense")] = 0
    experts_used: Annotated[int, Meta(ge=1, description="by each token")] = 2


class Ablate(Section, frozen=True):
    """The models of `gyral curate --ablate`: one a variant and a seed, all alike."""

    steps: Annotated[int, Meta(ge=1, description="updates of each")] = 200
    seeds: Annotated[int, Meta(ge=1, description="models of each variant; their mean counts")] = 2
    depth: Annotated[int, Meta(ge=1, description="blocks")] = 2
    width: Annotated[int, Meta(ge=32, multiple_of=32, description="of the stream")] = 64
    length: Annotated[int, Meta(ge=2, description="bytes of a sequence")] = 128
    batch: Annotated[int, Meta(ge=1, description="sequences a step")] = 32
    held_out_bytes: Annotated[
        int, Meta(ge=1, description="of the result that is kept aside, where `curate.probe` names no clean text")
    ] = 100_000
