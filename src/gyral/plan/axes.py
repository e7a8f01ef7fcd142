"""How a step is laid out over ranks: the axes of the mesh, and how a batch goes through them.

| axis | splits | collectives of a step |
|---|---|---|
| `data` | rows | all-reduce of gradients |
| `shard` | rows; and optimizer (`zero` 1), gradients (2), weights (3) | all-gather of weights, reduce-scatter of gradients |
| `tensor` | every matrix | all-reduces of the stream, four a block and micro-batch |
| `pipeline` | blocks | the stream, from stage to stage |

Source: Rajbhandari et al. 2020 (ZeRO); Narayanan et al. 2021 (arXiv 2104.04473) for tensor and interleaved pipeline.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from gyral.errors import ConfigError
from gyral.plan.counters import Recompute, Transformer


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """Axes and micro-batches of one step.

    Attributes
    ----------
    batch : sequences of a step, over all ranks.
    microbatch : sequences that a rank computes at once.
    interleave : chunks of blocks a stage has; 1: one.
    zero : what the axis `shard` splits: 1 optimizer, 2 gradients too, 3 weights too.
    sequence : what is outside tensor-parallel matrices is split by positions (Megatron's sequence parallelism).
    flash : attention never stores its scores.
    """

    batch: int
    microbatch: int = 1
    data: int = 1
    shard: int = 1
    tensor: int = 1
    pipeline: int = 1
    interleave: int = 1
    zero: Literal[1, 2, 3] = 3
    recompute: Recompute = "none"
    sequence: bool = False
    flash: bool = True

    @property
    def ranks(self) -> int:
        return self.data * self.shard * self.tensor * self.pipeline

    @property
    def parts(self) -> int:
        """Parts that a batch is cut into."""
        return self.data * self.shard

    @property
    def passes(self) -> int:
        """Micro-batches of a step that one rank computes."""
        return self.batch // (self.parts * self.microbatch)

    def why_not(self, model: Transformer) -> str:
        """Why a model cannot be laid out so, in a few words; empty: it can."""
        chunks = self.pipeline * self.interleave
        if self.batch % (self.parts * self.microbatch):
            return f"{self.batch} sequences do not go into {self.parts} parts by {self.microbatch}"
        if model.heads % self.tensor or (model.kv_heads or model.heads) % self.tensor or model.hidden % self.tensor:
            return f"tensor = {self.tensor} does not divide {model.heads} heads, their keys and {model.hidden} hidden"
        if self.sequence and model.length % self.tensor:
            return f"tensor = {self.tensor} does not divide {model.length} positions"
        if chunks > model.depth or (self.interleave > 1 and model.depth % chunks):
            return f"{model.depth} blocks do not go into {self.pipeline} stages of {self.interleave}"
        if self.interleave > 1 and (self.pipeline < 2 or self.passes % self.pipeline):
            return f"interleaving needs stages, and micro-batches ({self.passes}) by whole rounds of them"
        if self.passes < self.pipeline:
            return f"{self.passes} micro-batches do not fill {self.pipeline} stages"
        return ""

    def check(self, model: Transformer) -> None:
        """Refuse what cannot be.

        Raises
        ------
        ConfigError : an axis does not divide the model or the batch.
        """
        if why := self.why_not(model):
            hint = "`gyral.plan.layout.search` finds layouts that do"
            raise ConfigError("this layout does not fit the model", why=why, hint=hint)


class Kept(NamedTuple):
    """Bytes that a rank keeps of each parameter, and of a number that passes through.

    Attributes
    ----------
    passing : of an activation, and of a weight as it is multiplied and travels.
    """

    weight: int
    gradient: int
    optimizer: int
    passing: int


MIXED_ADAM = Kept(2, 4, 12, 2)
"""Megatron: 16-bit weights, gradients added up in f32, f32 weights and two means."""
SHARDED_ADAM = Kept(4, 4, 8, 2)
"""FSDP and `gyral train --precision bf16`: f32 weights that travel and are multiplied as bf16, and two means."""
ADAM = Kept(4, 4, 8, 4)
"""All in f32."""
MUON = Kept(4, 4, 4, 4)
"""One momentum; of matrices inside the network alone, others are Adam's."""
ROWWISE_ADAGRAD = Kept(4, 0, 0, 4)
"""Tables: gradients are of touched rows, and four bytes a *row* are kept beside (`rows_bytes`)."""


def rows_bytes(rows: int, width: int, kept: Kept = ROWWISE_ADAGRAD) -> int:
    """Bytes of a table with what its optimizer keeps."""
    return rows * width * sum(kept[:3]) + (4 * rows if kept is ROWWISE_ADAGRAD else 0)
