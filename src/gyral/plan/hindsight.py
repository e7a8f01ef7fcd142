"""What a plan would have said of each run that is done, from the runs before it, beside what the run took.

Nothing has to be kept for it: `--plan` answers from records, and the records up to any run are still there.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from gyral.plan.figure import Figure, Plan
from gyral.plan.kinds import KINDS
from gyral.plan.past import among, foretold, records

MOST = 60


class Hindsight(NamedTuple):
    """One run: its kind and size, what would have been said, and what it took, each by name."""

    run: int
    kind: str
    size: float
    told: Plan
    took: dict[str, float]

    def off(self, name: str) -> float:
        """By what share the plan was off; above 0: it said too much."""
        return self.told[name].value / self.took[name] - 1

    def is_inside(self, name: str) -> bool:
        """Whether the run is within the interval."""
        low, high = self.told[name].interval
        return low <= self.took[name] <= high


def hindsight(root: Path) -> list[Hindsight]:
    """Of a project's runs, the newest first; a kind's first run is told by the sheet alone."""
    found, done = [], list(records(root))
    for kind in KINDS:
        runs = among(done, kind)
        for place, each in enumerate(runs):
            told = foretold(kind, each.size, runs[:place])
            found.append(Hindsight(each.run, kind.name, each.size, {name: told[name] for name in each.took}, each.took))
    return sorted(found, key=lambda each: -each.run)[:MOST]


def score(found: list[Hindsight], name: str) -> dict[str, float | int | None]:
    """Of those that were told from earlier runs: how many, how far off in the middle, what share was inside."""
    told = [each for each in found if name in each.took and _is_own(each.told[name])]
    offs = sorted(abs(each.off(name)) for each in told)
    inside = sum(each.is_inside(name) for each in told) / len(told) if told else None
    return {"runs": len(told), "median_off": offs[len(offs) // 2] if offs else None, "inside": inside}


def _is_own(figure: Figure) -> bool:
    return figure.by == "calibrated"
