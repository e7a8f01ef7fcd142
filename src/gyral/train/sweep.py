"""The runs that a law needs: small trainings of several sizes at each of several amounts of compute, one after the other.

Five amounts over 1.6 decades, which is what the stop rules of `gyral.law.sweep` ask for, and at each four sizes of the
family's ladder, three where four are not to be had. The largest amount is the most that the budget pays for all together, by
the nominal rate of `gyral.train.neural`. Sizes spread evenly over those that still make `LEAST_STEPS` steps, so the smallest
and the largest at an amount are both worse than what lies between. Every training adds its row to the table of runs itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gyral.config import Config, with_values
from gyral.errors import ConfigError, UsageError
from gyral.run import Run
from gyral.train import neural, shapes
from gyral.train.readers import folder
from gyral.train.shapes import Sized

AMOUNTS = tuple(10 ** (-0.4 * k) for k in range(5))
"""Of compute, as parts of the largest."""
SIZES, LEAST_SIZES = 4, 3
LEAST_STEPS = 20


class Planned(NamedTuple):
    """One training: its sizes, its steps, and nominal seconds."""

    sized: Sized
    steps: int
    seconds: float


def planned(root: Path, dataset: str, config: Config, budget_s: float, given: Collection[str]) -> list[Planned]:
    """The trainings of a sweep, cheapest amount first.

    Raises
    ------
    UsageError : the configuration leaves no size open.  ConfigError : the budget does not pay four sizes of 20 steps.
    """
    neural.be_quiet()
    from gyral.train.tasks import open_task

    ladder = shapes.ladder(config, given)
    if len(ladder) < LEAST_SIZES:
        hint = f"leave settings of size as they are, and name what has some: {', '.join(shapes.DIALS)} (`--set train.task=…`)"
        raise UsageError(f"`{shapes.key_of(config)}` has {len(ladder)} sizes to sweep, and {LEAST_SIZES} are needed", hint=hint)
    task = open_task(root, folder.find(root, dataset).name, config)
    sizes = [each for each in (shapes.sized(task, config, values) for values in ladder) if each is not None]
    low = LEAST_STEPS * sizes[LEAST_SIZES - 1].flops / AMOUNTS[-1]
    found = _at(sizes, low)
    if (needed := sum(each.seconds for each in found)) > budget_s:
        why = f"the least sweep takes {needed:,.0f} nominal seconds: {len(found)} trainings of {LEAST_STEPS} steps or more"
        raise ConfigError("the budget pays no sweep", why=why, hint="a larger `--budget`, or a smaller `train.batch`")
    high = 1e6 * low
    while high > low * 1.02:
        middle = (low * high) ** 0.5
        tried = _at(sizes, middle)
        if sum(each.seconds for each in tried) > budget_s:
            high = middle
        else:
            low, found = middle, tried
    return found


def _at(sizes: list[Sized], most: float) -> list[Planned]:
    """Trainings with so many FLOPs at most, smallest amount first."""
    found = []
    for amount in reversed(AMOUNTS):
        fits = [each for each in sizes if most * amount >= 0.999 * LEAST_STEPS * each.flops]
        for at in np.unique(np.linspace(0, len(fits) - 1, min(SIZES, len(fits))).round().astype(int)):
            steps = round(most * amount / fits[at].flops)
            found.append(Planned(fits[at], steps, neural.seconds_of(steps, fits[at].flops, fits[at].updated)))
    return found


def sweep(
    root: Path, dataset: str, config: Config, budget_s: float, given: Collection[str],
    start: Callable[[Config], AbstractContextManager[Run]],
) -> list[dict[str, Any]]:  # fmt: skip
    """Make the runs; a row for each: sizes, steps, and what it ended with.

    Parameters
    ----------
    start : makes the run of one training.

    Raises
    ------
    UsageError, ConfigError : as `planned`.
    """
    from gyral.train.trainer import train

    title, rows = folder.title_of(folder.find(root, dataset)), []
    for each in planned(root, dataset, config, budget_s, given):
        one = with_values(each.sized.config, {"train.steps": each.steps})
        with start(one) as run:
            card = train(root, dataset, one, run, budget_s=budget_s, name=f"{title}-sweep")
        found = next(entry for entry in card.candidates if entry["chosen"])
        counted = {name: card.training["scale"][name] for name in ("N", "D", "C")}
        rows.append({"model": card.model, **each.sized.values, **counted, card.metric: found[card.metric]})
    return rows
