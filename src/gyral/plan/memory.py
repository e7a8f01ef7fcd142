"""Bytes that one rank holds: weights, gradients, optimizer, activations, and what is gathered for a moment.

Activations of a block are those tensors that the backward pass needs, by the kind of block. For a GPT block with dropout that
is Korthikanti et al.'s s b h (10 + 24/t + 5 a s / (h t)) in 16 bits, and the tests hold it to their eight rows; the same
accounting for blocks of `gyral.model.nets` is held to what PyTorch really saves. Stages other than the last have as many
micro-batches in flight as stages follow, so the first one, which also holds the embedding, is the fullest: 1F1B keeps the
activations of as many blocks as the whole model has, and interleaving 1 + (p − 1) / (p m) times as much.

What an allocator loses is an interval and not a number: it keeps freed blocks that no request fits in. Up to a tenth is
assumed.

Source: Korthikanti et al. 2022 (arXiv 2205.05198), equations 1–6; Rajbhandari et al. 2020 for ZeRO.
"""

from __future__ import annotations

from typing import NamedTuple

from msgspec.structs import replace

from gyral.plan.axes import MIXED_ADAM, Kept, Layout
from gyral.plan.counters import Transformer, params
from gyral.plan.figure import Figure

FRAGMENTED = 0.10
"""Of what is held, that an allocator may lose at most; assumed."""


class Memory(NamedTuple):
    """Bytes of one rank.

    Attributes
    ----------
    working : activations of the one block that is computed again, weights that are gathered, and logits with their gradient.
    """

    weights: float
    gradients: float
    optimizer: float
    activations: float
    working: float

    @property
    def states(self) -> float:
        """What is kept from step to step, and gradients."""
        return self.weights + self.gradients + self.optimizer

    @property
    def total(self) -> Figure:
        """All of it, and what an allocator may lose besides."""
        held = sum(self)
        why = f"tensors counted; up to {FRAGMENTED:.0%} lost by the allocator"
        return Figure(held * (1 + FRAGMENTED / 2), "bytes", "assumed", why, held, held * (1 + FRAGMENTED))


def memory(model: Transformer, layout: Layout, kept: Kept = MIXED_ADAM, stage: int = 0, dropout: bool = False) -> Memory:
    """Bytes of a rank of one stage; the first is the fullest, but for logits.

    Parameters
    ----------
    kept : bytes of each parameter.
    dropout : blocks have it after attention and feed-forward part, and on scores.

    Raises
    ------
    ConfigError : the layout does not fit the model.
    """
    layout.check(model)
    held, block = held_params(model, layout, stage), params(model).blocks / model.depth / layout.tensor
    by_zero = [layout.shard if layout.zero >= level else 1 for level in (3, 2, 1)]
    weights, gradients, optimizer = (held * size / by for size, by in zip(kept[:3], by_zero, strict=True))
    gathered = 2 * block * kept.passing if by_zero[0] > 1 else 0.0  # the block that is computed, and the next one
    each = block_activations(model, layout, kept.passing, dropout)
    activations = each * in_flight(model, layout, stage)
    working = gathered + logits_bytes(model, layout, kept, stage)
    if layout.recompute != "none":
        whole = block_activations(model, replace(layout, recompute="none"), kept.passing, dropout)
        working += whole - each
    return Memory(weights, gradients, optimizer, activations, working)


def held_params(model: Transformer, layout: Layout, stage: int = 0) -> float:
    """Parameters of a stage's rank before the axis `shard` splits them; a tied output is held by both ends.

    Norms, learned positions and biases behind sums are whole on every rank of a tensor axis.
    """
    found, p = params(model), layout.pipeline
    whole = (found.norms + 2 * model.depth * model.width * model.biases) / p
    split = found.blocks / p - whole
    if stage == 0:
        whole += found.embedding - model.vocab * model.width
        split += model.vocab * model.width
    if stage == p - 1:
        split += found.output or (model.vocab * model.width if model.tied and p > 1 else 0)
    return split / layout.tensor + whole


def block_activations(model: Transformer, layout: Layout, number_bytes: int = 2, dropout: bool = False) -> float:
    """Bytes that the backward pass needs of one block and micro-batch, on one rank."""
    tokens, e, t = layout.microbatch * model.length, number_bytes, layout.tensor
    apart = t if layout.sequence else 1  # outside of tensor-parallel matrices
    if layout.recompute == "full":
        return tokens * model.width * e / apart
    used = max(model.experts_used, 1) if model.experts else 1
    stream = 4 * tokens * model.width * e  # inputs of two norms and of two layers
    if model.experts:
        stream += (used - 1) * tokens * model.width * e  # rows that go to several experts
    stream += 2 * tokens * model.width if dropout else 0  # masks of a byte
    inner = tokens * e * (2 * model.queries + 2 * model.keys)  # queries, keys, values, what was seen
    inner += tokens * e * model.hidden * (3 if model.gated else 2) * used
    if layout.flash:
        inner += 4 * tokens * model.heads  # log-sum-exp
    elif layout.recompute == "none":
        scores = layout.microbatch * model.heads * model.length**2
        inner += scores * (2 * e + 1 if dropout else e)  # softmax; with dropout its mask and what it leaves
    return stream / apart + inner / t


def in_flight(model: Transformer, layout: Layout, stage: int = 0) -> float:
    """Blocks times micro-batches whose activations a stage holds at once."""
    p, m = layout.pipeline, layout.interleave
    begun = ((p - stage - 1) * 2 + (m - 1) * p + 1) / m if m > 1 else p - stage  # before the first one comes back
    return model.depth / p * min(layout.passes, begun)


def logits_bytes(model: Transformer, layout: Layout, kept: Kept, stage: int) -> float:
    """Logits in f32 and their gradient, on the last stage."""
    if stage != layout.pipeline - 1:
        return 0.0
    return layout.microbatch * model.length * model.vocab * (4 + kept.passing) / layout.tensor
