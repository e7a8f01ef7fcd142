"""What a table is: width, optimizer, first values, who is let in and for how long. Two tables with one spec are the same table.

A row is `dim` weights and the optimizer's state; unseen keys have a first value that follows from (seed, key) alone, so nothing
is stored for them and any number of shards gives the same bits.

| optimizer | state a row | update of g, the sum over a push's occurrences of the key |
|---|---|---|
| `sgd` | – | w −= rate · g |
| `momentum` | dim | m = momentum · m + g; w −= rate · m |
| `rowwise_adagrad` | 1 | s += mean(g²); w −= rate · g / (√s + eps) |
| `adagrad` | dim | s += g²; w −= rate · g / (√s + eps) |
| `adam` | 2 dim + 1 | torch's Adam, with the row's own step count |
| `ftrl` | 2 dim | McMahan et al. 2013, per coordinate, with `l1`, `l2` and `beta` |

A push may have a factor on the rate (a schedule's), and `decay` is that of AdamW, of whatever optimizer.

Source: Liu et al., arXiv 2209.07663 (Monolith) for admission and expiry; Li et al., OSDI 2014, for the server.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

BUCKET_BITS = 12
BUCKETS = 1 << BUCKET_BITS
"""Parts of a table by its keys' hashes: what is sharded, moved, written and followed as one."""

OPTIMIZERS = ("sgd", "momentum", "rowwise_adagrad", "adagrad", "adam", "ftrl")
OptimizerName = Literal["sgd", "momentum", "rowwise_adagrad", "adagrad", "adam", "ftrl"]
Dtype = Literal["f32", "bf16", "int8"]


class Optimizer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a row's gradient becomes its update."""

    name: OptimizerName = "rowwise_adagrad"
    rate: Annotated[float, Meta(gt=0)] = 0.05
    eps: Annotated[float, Meta(ge=0)] = 1e-8
    momentum: Annotated[float, Meta(ge=0, lt=1)] = 0.9
    beta1: Annotated[float, Meta(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Meta(ge=0, lt=1)] = 0.999
    l1: Annotated[float, Meta(ge=0)] = 0.0
    l2: Annotated[float, Meta(ge=0)] = 0.0
    beta: Annotated[float, Meta(ge=0)] = 1.0
    decay: Annotated[float, Meta(ge=0, description="decoupled: before a step, w −= rate · this · w")] = 0.0
    compensation: Annotated[float, Meta(ge=0, description="of delay: g += this · g² · (w now − w it was computed at)")] = 0.0

    def state_words(self, dim: int) -> int:
        """Numbers of four bytes that a row keeps beside its weights."""
        return {"sgd": 0, "momentum": dim, "rowwise_adagrad": 1, "adagrad": dim, "adam": 2 * dim + 1, "ftrl": 2 * dim}[
            self.name
        ]


class TableSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One table.

    Attributes
    ----------
    init, scale : distribution of first values: `uniform` in [−scale, scale), `normal` with that deviation (the sum of four
        uniforms: no libm, so the same on every machine), `zero`, or `pushed`: zero until the first push of a key, which is its
        first value and no gradient: how weights that somebody has made come into a table.
    dtype : of weights at rest; state is float32. bf16 and int8 (one scale a row) round at random, from (seed, key, step).
    admit_count, admit_window_s : occurrences in pushes within about a window of event time that let a key in. A key
        that is not in reads the default row.
    admit_probability : with which each occurrence lets a key in; 1: the first does.
    expire_s : event time without a push after which a row goes; 0: never.
    max_rows : of the whole table; 0: no limit but memory. Over it, pushes of new keys count as not admitted.
    """

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
    dim: Annotated[int, Meta(ge=1, le=4096)]
    optimizer: Optimizer = Optimizer()
    init: Literal["uniform", "normal", "zero", "pushed"] = "normal"
    scale: Annotated[float, Meta(ge=0)] = 0.01
    seed: int = 0
    dtype: Dtype = "f32"
    admit_count: Annotated[int, Meta(ge=1, le=255)] = 1
    admit_window_s: Annotated[int, Meta(ge=0)] = 0
    admit_probability: Annotated[float, Meta(gt=0, le=1)] = 1.0
    expire_s: Annotated[int, Meta(ge=0)] = 0
    max_rows: Annotated[int, Meta(ge=0)] = 0

    @property
    def salt(self) -> int:
        """64 bits that follow from name and seed: what keys of this table are hashed with."""
        digest = hashlib.blake2b(f"{self.name}\0{self.seed}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little")

    @property
    def weight_bytes(self) -> int:
        """Of a row at rest: float32 4 dim; bfloat16 2 dim; int8 dim and a float32 scale; rounded up to 4."""
        size = {"f32": 4 * self.dim, "bf16": 2 * self.dim, "int8": self.dim + 4}[self.dtype]
        return -(-size // 4) * 4

    @property
    def body_bytes(self) -> int:
        """Of a row as it is held, written and moved: state first (float32), then weights."""
        return 4 * self.optimizer.state_words(self.dim) + self.weight_bytes

    @property
    def admits_all(self) -> bool:
        """Whether the first push of a key makes its row."""
        return self.admit_count == 1 and self.admit_probability == 1.0 and not self.max_rows
