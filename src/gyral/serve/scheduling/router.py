"""Which variant of a model answers: the most accurate one that keeps up, and why not the others.

A variant is ruled out by what it is (runtime, memory, quality below the floor, price above the limit), by its deadline (not
even one request in time), or by the load. For the load a request is taken to wait for the batch before it and then for its
own, so a batch may last half the deadline, and throughput at that size, less `SPARE`, has to be the demand: the measured rate
and what waits already, within `DRAIN_S`. When none keeps up, the fastest of those that are allowed answers, since a floor is a
promise.

To a worse variant it goes at once; back to a better one when that had room to spare, `BACK`, and then kept up for `HOLD_S`.
Simulated, a load that swings by 10 % around the edge with 3 % noise: 10 switches in a minute, 42 without.

Curves of tiers where nobody measured are scaled from one that was, by the bytes that are read each second (weights) and the
arithmetic; the explanation says `estimated`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from gyral.config.sections import DeviceTier
from gyral.model.cascade import Cascade
from gyral.serve.scheduling.cost import Cost, Curve

SPARE: Final = 0.1
BACK: Final = 0.1
HOLD_S: Final = 1.0
DRAIN_S: Final = 0.1
MAX_KEPT: Final = 1024


class Variant(NamedTuple):
    """A variant as its card has it: quality is the family's metric, higher is better; curves are seconds by tier; `cascade`
    says when it is sure, where it is asked first."""

    name: str
    quality: float
    size_bytes: int
    memory_bytes: int
    curves: Mapping[str, Curve]
    runtimes: tuple[str, ...] = ("torch",)
    max_batch: int = 32
    cascade: Cascade | None = None


class Wish(NamedTuple):
    """What is wanted; the rate and the backlog are of all who want the same. `max_usd` is for 1,000 answers."""

    tier: str = "server"
    deadline_s: float = math.inf
    min_quality: float = -math.inf
    max_usd: float = math.inf
    rate: float = 0.0
    backlog: float = 0.0
    workers: float = 1.0


class Considered(NamedTuple):
    """A variant and what was found: `verdict` is `chosen`, `kept` or why not."""

    name: str
    verdict: str
    quality: float
    batch: int
    capacity: float
    alone_s: float
    usd: float
    is_estimated: bool
    is_allowed: bool
    keeps_up: bool


class Choice(NamedTuple):
    """The variant, None when none is allowed, and all that were looked at, best quality first."""

    variant: Variant | None
    why: str
    considered: tuple[Considered, ...]

    def explain(self) -> str:
        """The choice in words and numbers, one line a variant."""
        lines = [f"{self.variant.name if self.variant else 'none'}: {self.why}"]
        for each in self.considered:
            told = "estimated" if each.is_estimated else "measured"
            numbers = f"quality {each.quality:.4g}, {1e3 * each.alone_s:.3g} ms alone ({told})"
            if each.batch:
                numbers += f", {each.capacity:,.0f}/s in batches of {each.batch}"
            lines.append(f"  {each.name}: {each.verdict} ({numbers})")
        return "\n".join(lines)


def curve_on(variant: Variant, tier: str, tiers: Mapping[str, DeviceTier]) -> tuple[Curve, bool]:
    """The curve of a variant on a tier, and whether it is only estimated.

    Raises
    ------
    KeyError : nothing was measured, or there is no such tier.
    """
    if tier in variant.curves:
        return variant.curves[tier], False
    at = next((name for name in variant.curves if name in tiers), "")
    if not at:
        raise KeyError(f"no curve of `{variant.name}` was measured on a tier that is known")
    base, here = tiers[at], tiers[tier]
    known = variant.curves[at]
    return Curve(known.fixed_s * base.bytes_per_s / here.bytes_per_s, known.each_s * base.flop_per_s / here.flop_per_s), True


def consider(variant: Variant, wish: Wish, cost: Cost, tier: DeviceTier, is_estimated: bool = False) -> Considered:
    """Hold one variant against a wish."""
    batch = min(cost.fits(wish.deadline_s / 2), variant.max_batch)
    capacity = cost.rate(batch) * wish.workers * (1 - SPARE) if batch else 0.0
    alone = cost.seconds(1)
    usd = tier.usd_per_hour / 3600 * (cost.seconds(batch) / batch if batch else alone) * 1000
    demand = wish.rate + max(0.0, wish.backlog - variant.max_batch) / DRAIN_S
    verdict = ""
    if tier.runtimes and not set(tier.runtimes) & set(variant.runtimes):
        verdict = f"runs in {' or '.join(variant.runtimes)}, a {wish.tier} in {', '.join(tier.runtimes)}"
    elif variant.memory_bytes > tier.memory_bytes:
        verdict = f"takes {variant.memory_bytes / 2**20:,.0f} MiB, a {wish.tier} has {tier.memory_bytes / 2**20:,.0f}"
    elif variant.quality < wish.min_quality:
        verdict = f"below the floor of {wish.min_quality:.4g}"
    elif usd > wish.max_usd:
        verdict = f"{usd:.3g} USD for 1,000 answers, at most {wish.max_usd:.3g}"
    elif cost.safe(1) > wish.deadline_s:
        verdict = f"too slow for {1e3 * wish.deadline_s:.3g} ms"
    is_allowed = not verdict
    keeps_up = is_allowed and capacity >= demand
    if is_allowed and not keeps_up:
        verdict = f"does not keep up with {demand:,.0f}/s"
    return Considered(variant.name, verdict, variant.quality, batch, capacity, alone, usd, is_estimated, is_allowed, keeps_up)


def choose(found: Sequence[tuple[Variant, Considered]], *, tier: DeviceTier, kept: str = "", is_held: bool = False) -> Choice:
    """Choose among variants that were looked at; `kept` answers now, and a better one has to wait while `is_held`.

    On a battery the smallest variant that is allowed is chosen, because reading weights is what it pays for.
    """
    ordered = sorted(found, key=lambda pair: (-pair[1].quality, pair[0].size_bytes, pair[0].name))
    able = [pair for pair in ordered if pair[1].keeps_up]
    allowed = [pair for pair in ordered if pair[1].is_allowed]
    if not allowed:
        return Choice(None, "no variant is allowed", tuple(each for _, each in ordered))
    if able and tier.is_on_battery:
        best, why = min(able, key=lambda pair: pair[0].size_bytes), "the smallest that is allowed, on a battery"
    elif able:
        best, why = able[0], "the most accurate that keeps up"
    else:
        best, why = max(allowed, key=lambda pair: pair[1].capacity), "none keeps up; the fastest of those allowed"
    stays = next((pair for pair in able if pair[0].name == kept), None)
    if stays is not None and is_held and stays[1].quality < best[1].quality:
        best, why = stays, f"kept until `{best[0].name}` has kept up for {HOLD_S:g} s with {BACK:.0%} to spare"
    told = []
    for variant, each in ordered:
        rather = "smaller" if tier.is_on_battery and able else "more accurate" if able else "faster"
        passed = f"would do, but {best[0].name} is {rather}" if best is not stays else f"would do, but {best[0].name} is kept"
        verdict = ("kept" if best is stays and is_held else "chosen") if variant is best[0] else each.verdict or passed
        told.append(each._replace(verdict=verdict))
    return Choice(best[0], why, tuple(told))


class Router:
    """Chooses for one model and one tier, and remembers what answers now.

    Parameters
    ----------
    costs : of each variant by its name, learned while serving; made from the measured curves when None.
    """

    def __init__(
        self,
        variants: Sequence[Variant],
        tiers: Mapping[str, DeviceTier],
        tier: str = "server",
        costs: Callable[[str], Cost] | None = None,
    ) -> None:
        self.variants = tuple(variants)
        self.tier_name, self.tier = tier, tiers[tier]
        curves = {each.name: curve_on(each, tier, tiers) for each in variants}
        own = {each.name: Cost(curves[each.name][0], each.max_batch) for each in variants}
        self._estimated = {name: told for name, (_, told) in curves.items()}
        self.cost: Callable[[str], Cost] = costs or own.__getitem__
        self._kept: dict[tuple[float, float], str] = {}
        self._since: dict[tuple[float, float], tuple[str, float]] = {}

    def pick(self, wish: Wish, now: float) -> Choice:
        """Choose, with the memory of what was chosen for the same floor and price."""
        wish = wish._replace(tier=self.tier_name)
        found = [(each, self._consider(each, wish)) for each in self.variants]
        slot = (wish.min_quality, wish.max_usd)
        kept = self._kept.get(slot, "")
        choice = choose(found, tier=self.tier, kept=kept, is_held=bool(kept) and self._is_held(slot, kept, wish, found, now))
        if choice.variant is not None:
            if len(self._kept) >= MAX_KEPT:  # floors are the clients'
                self._kept.clear()
                self._since.clear()
            if choice.variant.name != kept:
                self._since.pop(slot, None)
            self._kept[slot] = choice.variant.name
        return choice

    def _consider(self, variant: Variant, wish: Wish) -> Considered:
        return consider(variant, wish, self.cost(variant.name), self.tier, self._estimated[variant.name])

    def _is_held(
        self,
        slot: tuple[float, float],
        kept: str,
        wish: Wish,
        found: Sequence[tuple[Variant, Considered]],
        now: float,
    ) -> bool:
        """Whether to stay with a worse variant: until a better one, that had room to spare, has kept up for `HOLD_S`."""
        name, since = self._since.get(slot, ("", now))
        if any(each.name == name and told.keeps_up for each, told in found):
            return now - since < HOLD_S
        self._since.pop(slot, None)
        eager = wish._replace(rate=wish.rate * (1 + BACK))
        roomy = [(each, self._consider(each, eager)) for each, told in found if told.keeps_up]
        better = choose(roomy, tier=self.tier).variant if roomy else None
        if better is not None and better.name != kept:
            self._since[slot] = (better.name, now)
        return True
