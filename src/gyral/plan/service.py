"""What a worker needs for a request, and how it is known: measured under load, from a card, calibrated, or from a sheet.

A batch of b takes `fixed_s + each_s · b` seconds, spread by a factor. From runs of `gyral bench serve` the point at the lowest
valid rate is taken, where next to nobody waits for another; from a card the CPU seconds of batches, which leave out the server
around the model.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gyral.errors import InputError, NotFound
from gyral.model.card import Card
from gyral.plan.cold import Cold
from gyral.plan.figure import FOUR_OF_FIVE, Figure, weakest
from gyral.plan.product import product, scaled
from gyral.plan.spread import Spread, fixed, lognormal, of_inverse, of_percentiles
from gyral.run import read_metrics


class Work(NamedTuple):
    """Of one worker.

    Attributes
    ----------
    fixed_s, each_s : of a batch, and of each request in it.
    noise : a factor on both, mean 1.
    hop : seconds of a request elsewhere, for which nobody else waits; None: none.
    max_batch : 1: one at a time.
    cold : what silence costs, of those who take batches; seconds are then those of a warm worker. One that is seldom asked may
        miss a limit that it keeps when it is busy.
    """

    fixed_s: Figure
    each_s: Figure
    noise: Spread
    hop: Spread | None = None
    max_batch: int = 1
    cold: Cold | None = None

    @property
    def alone_s(self) -> Figure:
        """Seconds of a request by itself."""
        (a, b), (c, d) = self.fixed_s.interval, self.each_s.interval
        by = weakest(self.fixed_s, self.each_s)
        return Figure(self.fixed_s.value + self.each_s.value, "s", by, self.fixed_s.why, a + c, b + d)

    def scaled(self, factor: float) -> Work:
        """The same on a machine on which everything takes `factor` times as long."""
        hop = self.hop.scaled(factor) if self.hop is not None else None
        return self._replace(fixed_s=scaled(self.fixed_s, factor), each_s=scaled(self.each_s, factor), hop=hop)

    def calibrated(self, factor: Figure) -> Work:
        """The same on another machine, by a factor that was found on other work (its interval widens this one's)."""
        hop = self.hop.scaled(factor.value) if self.hop is not None else None
        known = Figure(1.0, by="calibrated", why=factor.why)
        a, b = (product("s", f"{each.why} · {factor.why}", each, factor, known) for each in (self.fixed_s, self.each_s))
        return self._replace(fixed_s=a, each_s=b, hop=hop)


def of_sheet(each_s: float, why: str, *, fixed_s: float = 0.0, cv: float = 1.0, off: float = 2.0, max_batch: int = 1) -> Work:
    """From a maker's sheet; such numbers are taken to be within a factor `off` in four of five cases."""
    a, b = (Figure(value, "s", "sheet", why, value / off, value * off) for value in (fixed_s, each_s))
    return Work(a, b, lognormal(1.0, cv), max_batch=max_batch)


def of_card(card: Card, to: str = "", *, max_batch: int = 64) -> Work:
    """From the forms that a model was tried in; `to` is how one was made, empty: the model as it is.

    Raises
    ------
    NotFound : the card has no such form, or it was not timed.
    """
    found = next((each for each in card.variants if each.to == to and each.p50_ms and each.p99_ms), None)
    if found is None:
        known = ", ".join(f"`{each.to}`" for each in card.variants if each.p50_ms) or "none"
        hint = f"timed are {known}; `gyral compress MODEL --to auto` times them"
        raise NotFound(f"`{card.model}` was not timed as `{to}`", hint=hint)
    size = np.array([float(each) for each in found.p50_ms])
    seconds = np.array([1e-3 * value for value in found.p50_ms.values()])
    each = float(np.polyfit(size, seconds, 1)[0]) if len(size) > 1 else 0.0
    least = str(int(size.min()))
    one = 1e-3 * found.p50_ms[least]
    each = min(max(each, 0.0), one)
    width = max(found.p99_ms.get(least, found.p50_ms[least]) / found.p50_ms[least], 1.0)
    noise = of_percentiles({0.5: 1.0, 0.99: width}, 1.0) if width > 1 else fixed(1.0)
    why = f"card of {card.model}, {found.to or 'as it is'}: CPU of one thread, on {card.measured_on or 'its machine'}"
    off = max(abs(one - each * size.min() + each * size - seconds) / seconds)
    a, b = (Figure(v, "s", "measured", why, v * (1 - off), v * (1 + off)) for v in (one - each * size.min(), each))
    return Work(a, b, noise, max_batch=max_batch)


def of_run(root: Path, number: int, *, slope: float = 0.0, max_batch: int = 64) -> Work:
    """From a run of `gyral bench serve`: how long those took who came at the lowest rate.

    Parameters
    ----------
    slope : share of a request's seconds that each further one in its batch adds; 0: batches cost what one does.

    Raises
    ------
    NotFound : the run has no valid point.
    """
    return of_lines(read_metrics(root, number), f"run {number}", slope=slope, max_batch=max_batch)


def of_lines(lines: Sequence[Mapping[str, Any]], where: str = "", *, slope: float = 0.0, max_batch: int = 64) -> Work:
    """From the lines of such a run: each `operating_point` is followed by its curve of percentiles, and by what silence cost.

    Where that was told, seconds are those of a server that is awake, and `cold` is what silence adds.

    Raises
    ------
    NotFound : there is no valid point.
    InputError : its curve is missing.
    """
    points = [(each, lines[at + 1 :]) for at, each in enumerate(lines) if each.get("type") == "operating_point"]
    valid = [each for each in points if each[0].get("is_valid")]
    if not valid:
        raise NotFound(f"{where or 'the run'} has no valid point", hint="`gyral bench serve --rate 50 --seconds 30`")
    point, after = min(valid, key=lambda each: float(each[0]["offered_per_s"]))
    own = list(itertools.takewhile(lambda each: each.get("type") != "operating_point", after))
    load, slept = (next((each for each in own if each.get("type") == name), None) for name in ("load", "silence"))
    if not load or not load["curve"]:
        raise InputError("a point has no curve of percentiles", where=where, hint="run `gyral bench serve` again")
    curve, told = (slept["curve"], slept) if slept else (load["curve"], point["latency"])
    spread = of_curve(curve, 1e-3 * float(told["mean_ms"]))
    around = FOUR_OF_FIVE * spread.cv / math.sqrt(max(int(told["num_samples"]), 1))
    why = f"{where}: {point['offered_per_s']:,.0f}/s, load {point['load']:g}"
    cold = Cold(float(slept["slower"]), 1e-3 * float(slept["cools_ms"])) if slept else None
    if cold is not None and cold.slower:
        why += f", awake; after a long silence it takes {100 * cold.slower:.0f} % longer"
    mean = 1e-3 * float(told["mean_ms"])
    a, b = (
        Figure(share * mean, "s", "measured", why, share * mean * (1 - around), share * mean * (1 + around))
        for share in (1 - slope, slope)
    )
    return Work(a, b, spread.scaled(1 / spread.mean), max_batch=max_batch, cold=cold)


def of_curve(curve: Sequence[Sequence[float]], mean_s: float) -> Spread:
    """Spread of seconds from (nines, milliseconds), as `gyral bench serve` keeps them; linear between nines.

    Below the second point, where a quarter of the requests are, the mean tells how the line bends: scaling everything to it
    instead would move the 99th percentile by 4 % for a gamma of shape 4.
    """
    nines, seconds = (np.array([float(each[place]) for each in curve]) * unit for place, unit in ((0, 1.0), (1, 1e-3)))
    low, high, first = seconds[0], seconds[1], 1 - 10.0 ** -nines[1]

    def bent(power: float) -> Spread:
        def inverse(u: np.ndarray) -> np.ndarray:
            below = low + (high - low) * np.minimum(u / first, 1.0) ** power
            return np.asarray(np.where(u < first, below, np.interp(-np.log10(1 - u), nines, seconds)))

        return of_inverse(inverse)

    lacks = (mean_s - bent(1.0).mean) / (first * (high - low)) if high > low else 0.0
    return bent(1 / min(max(0.5 + lacks, 0.1), 0.9) - 1)
