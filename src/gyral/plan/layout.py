"""Which layout of a model over a cluster is fastest and fits: all of them, pruned, and why the others are not it.

Axes are divisors of the number of ranks; a tensor axis stays within a machine, where its sums are fast. What does not divide
the model or the batch is left out at once. Of each mesh and micro-batch only the least recomputing that fits is timed, because
less of it is never slower. 175 billion parameters on 3,072 devices: 10,000 layouts in 0.15 s of CPU time.

Every layout that is refused is told, with its reason, in counts: "240 need more memory than 76 GB" says what to buy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from msgspec.structs import replace

from gyral.errors import ConfigError
from gyral.plan.axes import MIXED_ADAM, Kept, Layout
from gyral.plan.counters import Recompute, Transformer
from gyral.plan.hardware import Device
from gyral.plan.memory import Memory, memory
from gyral.plan.steptime import StepTime, Timer, step_time

CHEAPEST_FIRST: tuple[Recompute, ...] = ("none", "selective", "full")
SHARE = 0.95
"""Of a device's memory that ranks may plan with: the rest is the driver's and the libraries'."""


KINDS = {
    "does not divide": "the tensor axis does not divide heads, hidden width or positions",
    "do not go into": "batch or blocks do not go into the parts",
    "do not fill": "micro-batches do not fill the stages",
    "interleaving": "interleaving needs whole rounds of micro-batches",
}


class Candidate(NamedTuple):
    """A layout that fits: its step, and the fullest rank's bytes."""

    layout: Layout
    step: StepTime
    memory: Memory


class Found(NamedTuple):
    """Layouts, fastest first, and how many were refused for what."""

    best: list[Candidate]
    refused: dict[str, int]


def search(
    model: Transformer,
    device: Device,
    timer: Timer,
    ranks: int,
    batch: int,
    kept: Kept = MIXED_ADAM,
    limit_bytes: float | None = None,
    dropout: bool = False,
    flash: bool = True,
    num: int = 10,
) -> Found:
    """Search.

    Parameters
    ----------
    ranks : devices there are; all are used.
    batch : sequences of a step.
    limit_bytes : that a rank may hold at most, with what an allocator may lose; None: `SHARE` of the device's memory.
    num : layouts that are returned at most.

    Raises
    ------
    ConfigError : none fits; the reason that most were refused for is the why.
    """
    limit = SHARE * device.memory if limit_bytes is None else limit_bytes
    fits: list[Candidate] = []
    refused: Counter[str] = Counter()
    for mesh in meshes(model, device, ranks, batch, flash):
        if why := mesh.why_not(model):
            refused[kind_of(why)] += 1
            continue
        for recompute in CHEAPEST_FIRST:
            if recompute == "selective" and flash:
                continue  # there are no scores to compute again
            layout = replace(mesh, recompute=recompute)
            held = max((memory(model, layout, kept, stage, dropout) for stage in {0, mesh.pipeline - 1}), key=_high)
            if _high(held) > limit:
                refused[f"need more memory than {limit / 1e9:,.0f} GB, {told(recompute)}"] += 1
                continue
            fits.append(Candidate(layout, step_time(model, layout, timer, kept, dropout), held))
            break
    fits.sort(key=lambda each: (each.step.total, _high(each.memory)))
    if not fits:
        (why, count), *_ = refused.most_common(1) or [("no mesh has that many ranks", 0)]
        hint = "more devices, devices with more memory, or a batch with more divisors"
        raise ConfigError(f"no layout of {ranks} ranks fits", why=f"{count:,} layouts: {why}", hint=hint)
    return Found(fits[:num], dict(refused.most_common()))


def meshes(model: Transformer, device: Device, ranks: int, batch: int, flash: bool) -> Iterator[Layout]:
    """Axes, micro-batches and chunks that are worth a look."""
    for tensor in divisors(ranks):
        if tensor > device.node:
            continue
        for pipeline in divisors(ranks // tensor):
            if pipeline > model.depth:
                continue
            parts = ranks // tensor // pipeline
            for shard in divisors(parts):
                for zero in (1, 3) if shard > 1 else (3,):
                    if zero == 3 and pipeline > 1 and shard > 1:
                        continue  # weights would be fetched anew for every micro-batch
                    for microbatch in powers(max(batch // parts, 1)):
                        for interleave in (1, 2, 3, 4) if pipeline > 1 else (1,):
                            yield Layout(
                                batch=batch, microbatch=microbatch, data=parts // shard, shard=shard, tensor=tensor,
                                pipeline=pipeline, interleave=interleave, zero=zero, sequence=tensor > 1, flash=flash,
                            )  # fmt: skip


def told(recompute: Recompute) -> str:
    """In words."""
    return {"none": "nothing recomputed", "selective": "scores recomputed", "full": "blocks recomputed"}[recompute]


def kind_of(why: str) -> str:
    """A reason without its numbers, so that alike ones are counted together."""
    for words, kind in KINDS.items():
        if words in why:
            return kind
    return why


def divisors(number: int) -> list[int]:
    """All, ascending."""
    return [each for each in range(1, number + 1) if number % each == 0]


def powers(most: int) -> list[int]:
    """Powers of two up to a number, 64 at most."""
    return [1 << at for at in range(7) if 1 << at <= most]


def _high(found: Memory) -> float:
    """Bytes at most."""
    return found.total.interval[1]
