"""Seconds of one training step: every operation of a block, collectives, the pipeline's bubble, the optimizer, the input.

    step = passes × slowest stage + filling of the pipeline + exposed exchange of gradients + optimizer + waiting for input

Whoever times operations is a `Timer`: a device's sheet (`gyral.plan.machine`, a roofline) or a probe of the machine itself
(`gyral.plan.probe`). The last stage also makes logits: where a stage has few blocks, that is what all others wait for (1T
parameters in 64 stages: 8 % of a stage). Tensor-parallel collectives are waited for; a gather that sequence parallelism adds to
the backward pass is hidden behind it, and so is the exchange over `data` and `shard` but for a share.

Held to published steps, leaving out the model that is predicted: one constant (`matmul`), calibrated on six rows of Megatron on
A100, is 2.7 % off on average and 5.8 % at most on the other two (Calculon 3.65 and 8.87 %, with its curves set by hand). Three
(`matmul`, `attention`, `memory`), calibrated on llm-foundry's 69 rows of fewer than 128 A100, are 5.2 % off on 9 rows of 128,
where one MFU for all is 6.6 % off. What tiles a product is cut into was chosen with those rows in sight: without tiles one
constant is 4.2 % off, with two smaller ones besides 2.4 %.

Source: Narayanan et al. 2021 (arXiv 2104.04473), section 2.2, for the bubble; Korthikanti et al. 2022 (arXiv 2205.05198),
tables 3 and 5, and llm-foundry's `scripts/train/benchmarking` for the rows.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from gyral.plan.axes import MIXED_ADAM, Kept, Layout
from gyral.plan.counters import Transformer
from gyral.plan.figure import By, Figure
from gyral.plan.memory import held_params
from gyral.plan.operations import Matmul, Operations, Walk, block_operations, head_operations

SPREAD: dict[By, float] = {"calibrated": 0.065, "sheet": 0.25, "measured": 0.25, "assumed": 0.5}
"""Within which share four of five steps lie: of the 17 held-out rows of A100; of other devices and probed machines assumed."""


class Timer(Protocol):
    """Seconds of what a rank does."""

    @property
    def hidden(self) -> float:
        """Share of an exchange that goes on beside the computing."""

    @property
    def by(self) -> By:
        """What its numbers rest on."""

    def matmul_s(self, each: Matmul, number_bytes: int) -> float:
        """Of products."""

    def walk_s(self, each: Walk) -> float:
        """Of what only reads and writes."""

    def gather_s(self, size_bytes: float, ranks: int, apart: int = 1) -> float:
        """Of an all-gather or a reduce-scatter of a tensor of so many bytes; ranks are `apart` devices from each other."""

    def send_s(self, size_bytes: float, apart: int) -> float:
        """Of a message to the rank so many devices away."""


class StepTime(NamedTuple):
    """Seconds of a step by part; they add up to the step.

    Attributes
    ----------
    tensor : collectives of the stream within a stage.
    pipeline : filling, emptying, and sends between stages.
    exchange : of gradients and weights, what is not hidden.
    """

    forward: float
    backward: float
    recompute: float
    tensor: float
    pipeline: float
    exchange: float
    optimizer: float
    input: float

    @property
    def total(self) -> float:
        return sum(self)

    def figure(self, by: By) -> Figure:
        """The step, and where four of five such steps lie."""
        spread = SPREAD.get(by, SPREAD["assumed"])
        why = "17 held-out published steps" if by == "calibrated" else f"±{spread:.0%} assumed"
        return Figure(self.total, "s", by, why, self.total * (1 - spread), self.total * (1 + spread))


def step_time(
    model: Transformer,
    layout: Layout,
    timer: Timer,
    kept: Kept = MIXED_ADAM,
    dropout: bool = False,
    input_s: float = 0.0,
) -> StepTime:
    """Seconds of one step.

    Parameters
    ----------
    input_s : that a rank needs to read and prepare a step's rows, beside the computing; what is longer is waited for.

    Raises
    ------
    ConfigError : the layout does not fit the model.
    """
    layout.check(model)
    e, p, passes = kept.passing, layout.pipeline, layout.passes
    blocks = -(-model.depth // p)
    forward, backward, again = (blocks * total_s(timer, each, e) for each in block_operations(model, layout, e, dropout))
    head, head_back = (total_s(timer, each, e) for each in head_operations(model, layout, e))
    stream = layout.microbatch * model.length * model.width * e
    # two forward, two backward, two again; with sequence parallelism each is a gather and a scatter of the same bytes
    sums = 0 if layout.tensor < 2 else 6 if layout.recompute == "full" else 4
    tensor = blocks * sums * reduce_s(timer, stream, layout.tensor) if sums else 0.0
    sends = 2 * layout.interleave * timer.send_s(stream / layout.tensor, layout.tensor) if p > 1 else 0.0
    # the last stage alone has logits, and is waited for in every micro-batch
    filling = (p - 1) / layout.interleave * (forward + backward + again + tensor + sends)
    exchange = exchange_s(model, layout, timer, kept, passes * (forward + backward))
    optimizer = timer.walk_s(Walk(optimizer_bytes(model, layout, kept)))
    found = StepTime(
        forward=passes * (forward + head),
        backward=passes * (backward + head_back),
        recompute=passes * again,
        tensor=passes * tensor,
        pipeline=filling + passes * sends,
        exchange=exchange,
        optimizer=optimizer,
        input=0.0,
    )
    return found._replace(input=max(input_s - found.total, 0.0))


def total_s(timer: Timer, found: Operations, number_bytes: int) -> float:
    """Of all operations, one after the other."""
    return sum(timer.matmul_s(each, number_bytes) for each in found[0]) + sum(timer.walk_s(each) for each in found[1])


def reduce_s(timer: Timer, size_bytes: float, ranks: int, apart: int = 1) -> float:
    """Of an all-reduce: a reduce-scatter and an all-gather."""
    return 2 * timer.gather_s(size_bytes, ranks, apart)


def exchange_s(model: Transformer, layout: Layout, timer: Timer, kept: Kept, beside_s: float) -> float:
    """Gradients and weights over `data` and `shard`, less what the computing (`beside_s` seconds) hides."""
    held, apart = held_params(model, layout), layout.tensor * layout.pipeline
    found = 0.0
    if layout.shard > 1:
        fetches = 2 * layout.passes if layout.zero == 3 else 1
        scatters = layout.passes if layout.zero >= 2 else 1
        found += (fetches + scatters) * timer.gather_s(held * kept.passing, layout.shard, apart)
    if layout.data > 1:
        found += reduce_s(timer, held * kept.gradient / layout.shard, layout.data, apart * layout.shard)
    return found - min(timer.hidden * found, beside_s)


def optimizer_bytes(model: Transformer, layout: Layout, kept: Kept) -> float:
    """That one rank reads and writes in an update: gradients once, states and weights both."""
    return held_params(model, layout) / layout.shard * (kept.gradient + 2 * kept.optimizer + 2 * kept.weight)
