"""The sections of `train`: what is trained, how long, by how many; the optimizer; and each family's model."""

from __future__ import annotations

from typing import Annotated, Literal

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
    experts: Annotated[int, Meta(ge=0, description="of each feed-forward part; 0: it is dense")] = 0
    experts_used: Annotated[int, Meta(ge=1, description="by each token")] = 2


class Vision(Section, frozen=True):
    """The family `vision`: a vision transformer, alone or with a tower of captions."""

    side: Annotated[int, Meta(ge=4, le=1024, description="pixels of a picture's side")] = 32
    patch: Annotated[int, Meta(ge=1, description="pixels of a patch's side")] = 4
    channels: Annotated[Literal[1, 3], Meta(description="3: colour, 1: grey")] = 3
    depth: Annotated[int, Meta(ge=1, description="blocks of the tower of pictures")] = 4
    width: Annotated[int, Meta(ge=4, description="of its stream; divisible by `heads` and by 4")] = 128
    heads: Annotated[int, Meta(ge=1, description="of attention, in both towers")] = 4
    positions: Annotated[Literal["sine", "learned"], Meta(description="where a patch is")] = "sine"
    concept: Annotated[
        Literal["picture", "name"],
        Meta(description="what pictures of a concept share: pixels, or the name of their file without folder and ending"),
    ] = "picture"
    loss: Annotated[Literal["siglip", "clip"], Meta(description="of `contrastive`")] = "siglip"
    captions: Annotated[int, Meta(ge=1, description="drawn for each picture of a batch")] = 4
    embed: Annotated[int, Meta(ge=2, description="numbers of a vector of the space where captions meet pictures")] = 128
    caption_width: Annotated[int, Meta(ge=4, description="of the tower of captions")] = 128
    caption_depth: Annotated[int, Meta(ge=0, description="its blocks")] = 1
    buckets: Annotated[int, Meta(ge=2, description="rows that n-grams of captions are hashed to")] = 16_384
    crop: Annotated[float, Meta(gt=0, le=1, description="smallest share of its area that a crop of a picture keeps")] = 0.6
    flip: Annotated[float, Meta(ge=0, le=1, description="how probable a mirror image is; captions may say left or right")] = 0.0
    jitter: Annotated[float, Meta(ge=0, le=1, description="how probable changed colours are")] = 0.5
    hidden: Annotated[float, Meta(gt=0, lt=1, description="share of patches that `masked` hides")] = 0.75
    decoder_width: Annotated[int, Meta(ge=4, description="of what paints them; divisible by 4")] = 64
    decoder_depth: Annotated[int, Meta(ge=1, description="its blocks")] = 1
    prototypes: Annotated[int, Meta(ge=2, description="of `self_distilled`: answers that a teacher chooses from")] = 1024
    parts: Annotated[int, Meta(ge=0, description="its small views of each picture")] = 4
    momentum: Annotated[float, Meta(ge=0, lt=1, description="what its teacher keeps of itself in a step")] = 0.99
