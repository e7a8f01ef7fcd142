"""Whether a request goes to a small variant first: a calibrated cascade (`gyral.model.cascade`) while it serves.

A request goes to the small one first where

- its floor allows what the cascade was measured to keep of the large one's accuracy,
- its deadline leaves time for both,
- an answer costs less so: the small one's cost and, for the share that is asked again, the large one's, in batches of the size
  that they have lately; costs and share are learned while serving, from what the card says,
- and the workers keep up, or nothing that the floor allows is faster: where the small one's answers will do, it is for the
  router to say when they have to.

Where it would cost more, every `LOOK`-th request goes to the small one first all the same: without it nobody would notice that
pictures have become easier.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from gyral.model.cascade import Cascade
from gyral.serve.scheduling.cost import Cost
from gyral.serve.scheduling.router import SPARE, Variant

LOOK: Final = 64
MEMORY: Final = 256
"""Answers by which the share that is kept is known; before as many the card's counts for the rest."""
SIZES: Final = 16
"""Batches by which their size is known."""
PACE_S: Final = 0.25
"""Over which the rate of requests is known."""


class Costs(NamedTuple):
    """Seconds of an answer: of either variant alone and of the cascade, in batches of this size."""

    small_s: float
    large_s: float
    both_s: float
    size: float


class First:
    """The small variant of one slot, and the large one behind it.

    Parameters
    ----------
    small : has a cascade.
    costs : of both, learned while serving.
    """

    def __init__(self, small: Variant, large: Variant, costs: tuple[Cost, Cost]) -> None:
        if small.cascade is None:
            raise ValueError(f"nothing says when `{small.name}` is sure")
        self.small, self.large = small, large
        self.cascade: Cascade = small.cascade
        self.kept = self.cascade.kept
        self.counts = {"kept": 0, "escalated": 0, "late": 0}
        self.why = "nobody has asked yet"
        self._small, self._large = costs
        self._size = 1.0
        self._asked = 0
        self._rate, self._came, self._since = 0.0, 0, -math.inf

    def begins(self, floor: float, slack_s: float, workers: float, now: float) -> bool:
        """Whether a request that has come goes to the small one first.

        Parameters
        ----------
        floor : least quality of its answer, 1 that of the large one.
        slack_s : until its deadline.
        """
        self._count(now)
        if floor > self.cascade.quality:
            self.why = f"a floor of {floor:.4g} is above the {self.cascade.quality:.4g} that is kept of its accuracy"
            return False
        if slack_s < self._small.safe(self._size) + self._large.safe(self._size):
            self.why = f"{1e3 * slack_s:.3g} ms are too few for both"
            return False
        costs = self.costs()
        self._asked += 1
        if not costs.both_s < costs.large_s and self._asked % LOOK:
            self.why = "it would cost more"
            return False
        busy = self._rate * (1 / self._small.rate() + (1 - self.kept) / self._large.rate())
        if floor <= self.small.quality and busy > workers * (1 - SPARE):
            self.why = f"both together do not keep up with {self._rate:,.0f}/s"
            return False
        self.why = "it costs less"
        return True

    def keeps(self, props: Mapping[str, Any]) -> bool:
        """Whether an answer of the small one is sure enough; counted by who answers in the end (`counts`)."""
        sure = props.get("confidence") if self.cascade.judges(props) else None
        keeps = isinstance(sure, int | float) and not self.cascade.escalates(sure)
        self.kept += (keeps - self.kept) / MEMORY
        return keeps

    def batch(self, size: int) -> None:
        """Note a batch of either."""
        self._size += (size - self._size) / SIZES

    def costs(self) -> Costs:
        """What answers cost now."""
        size = max(1.0, self._size)
        small_s, large_s = self._small.seconds(size) / size, self._large.seconds(size) / size
        return Costs(small_s, large_s, small_s + (1 - self.kept) * large_s, size)

    def explain(self) -> str:
        """In words and numbers."""
        costs, found = self.costs(), self.counts
        times = f"{1e3 * costs.both_s:.3g} ms an answer by both, {1e3 * costs.large_s:.3g} by the second alone"
        return (
            f"{self.small.name} first, {self.large.name} where it is less sure than {self.cascade.threshold:.4g}: {self.why}\n"
            f"  {times}, in batches of {costs.size:.1f}\n"
            f"  {found['kept']:,} kept, {found['escalated']:,} asked again, {found['late']:,} too late for that; "
            f"{self.kept:.1%} are kept lately, {self.cascade.kept:.1%} of {self.cascade.examples:,} kept aside"
        )

    def _count(self, now: float) -> None:
        self._came += 1
        past = now - self._since
        if past >= PACE_S / 10:
            if past < math.inf:
                self._rate += (1 - math.exp(-past / PACE_S)) * (self._came / past - self._rate)
            self._came, self._since = 0, now


def chosen(variants: Sequence[Variant]) -> tuple[Variant, Variant] | None:
    """The variant that is asked before the first one, and that; None where none has shown that answers can be kept. One that
    is as good as the first one needs no other.

    Of several the one by which an answer costs least, by what cards say.
    """
    large = variants[0]
    able = [
        each for each in variants[1:] if each.quality < large.quality and each.cascade is not None and each.cascade.kept > 0
    ]
    if not able:
        return None

    def both_s(small: Variant) -> float:
        kept = small.cascade.kept if small.cascade is not None else 0.0
        return small.curves["server"].seconds(1) + (1 - kept) * large.curves["server"].seconds(1)

    return min(able, key=both_s), large
