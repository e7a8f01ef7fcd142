"""What a verb takes, from what it took: a line from committed benchmarks, moved to where this project's own runs lie.

A `Line` is a part that does not depend on size and a part that does. Runs of this machine move it as a whole: each says by what
factor it was off, and counts by how sure that is. So one run already gives a rate, several give the bend that a line has not,
and the shape of what was never run here is that of the benchmark: both parts fitted to two runs of nearly one size would say
anything at ten times that.

How sure: two runs of one size differ by `NOISE`, and a run of another size tells less (`DRIFT` for each factor of e). CPU
seconds of a run that was kept waiting tell less, too, as each interruption costs some (ingest of 150,000 rows: .68 to .71 s at
a load of 9, .67 to .95 at 13): their variance is taken to grow with how many there were, as the clock's seconds over the
processor's, and the sheet counts as one more run, known to its factor `off`. Before, one run of .98 s had the next one told 43
% over. Of seconds by the clock the sheet knows nothing: waiting is what they measure.

The interval holds four of five: the next run's own noise, what the runs leave unknown, and how far they are from each other.
"""

from __future__ import annotations

import contextlib
import math
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from gyral.errors import GyralError
from gyral.plan.figure import FOUR_OF_FIVE, Figure, Plan
from gyral.run import Lineage, numbers, read_lineage

NOISE = {"time": 0.35, "processor": 0.15, "memory": 0.06}
"""By what share two runs of one size differ, on two cores shared with others at a load of 6 to 20: clock time most."""
DRIFT = 0.1
MOST_RUNS = 200
"""The newest runs that are looked at."""


class Line(NamedTuple):
    """`fixed + each · size`, in `unit`; four of five machines are within a factor `off` of it."""

    fixed: float
    each: float
    unit: str
    off: float

    def at(self, size: float) -> float:
        return self.fixed + self.each * size


class Kind(NamedTuple):
    """One kind of run.

    Attributes
    ----------
    size_of : rows, documents or bytes of a run that is done; None: it is of another kind.
    lines : of `time`, `processor` and `memory`.
    why : what the lines were measured by.
    """

    name: str
    verb: str
    size_of: Callable[[Lineage], float | None]
    lines: dict[str, Line]
    why: str


class Point(NamedTuple):
    """One figure of a run that is done.

    Attributes
    ----------
    crowd : of CPU seconds how many passed by the clock for each of them, 1 or more; else 1.
    """

    run: int
    size: float
    took: float
    crowd: float = 1.0


class Seen(NamedTuple):
    """A run that is done: its size, and what it took by the name of a line."""

    run: int
    size: float
    took: dict[str, float]

    def point(self, name: str) -> Point:
        """What it took by one name."""
        crowd = max(self.took.get("time", 0.0) / self.took[name], 1.0) if name == "processor" else 1.0
        return Point(self.run, self.size, self.took[name], crowd)


def seen(root: Path, kind: Kind) -> list[Seen]:
    """A project's runs of a kind, on a machine like this one, the oldest first."""
    return among(records(root), kind)


def among(lineages: Iterable[Lineage], kind: Kind) -> list[Seen]:
    """The runs of a kind among records."""
    return [found for each in lineages if (found := seen_of(kind, each)) is not None]


def seen_of(kind: Kind, lineage: Lineage) -> Seen | None:
    """A run, if it is of this kind and says what it took."""
    if lineage.verb != kind.verb or lineage.status != "done" or lineage.parent is not None or not _is_like_this(lineage):
        return None
    size = kind.size_of(lineage)
    took = {"time": lineage.elapsed_s, "processor": lineage.cpu_s, "memory": float(lineage.peak_bytes)}
    took = {name: value for name, value in took.items() if value > 0}
    return Seen(lineage.run, size, took) if size and took else None


def foretold(kind: Kind, size: float, runs: Sequence[Seen]) -> Plan:
    """What a run of a size takes: `time` (by the clock), `processor` and `memory`."""
    return {name: at(line, size, [each.point(name) for each in runs if name in each.took], NOISE[name], kind.why,
                     is_sheet_run=name == "processor") for name, line in kind.lines.items()}  # fmt: skip


def at(line: Line, size: float, runs: Sequence[Point], noise: float, why: str, is_sheet_run: bool = False) -> Figure:
    """A line at a size, moved by runs; `is_sheet_run`: the line as it is counts as one of them."""
    value = line.at(size)
    if not runs:
        return Figure(value, line.unit, "sheet", why, value / line.off, value * line.off)
    logs = [math.log(each.took / line.at(each.size)) for each in runs]
    sure = [1 / (noise**2 * each.crowd + (DRIFT * math.log(size / each.size)) ** 2) for each in runs]
    known = sum(sure) + ((FOUR_OF_FIVE / math.log(line.off)) ** 2 if is_sheet_run else 0.0)
    moved = sum(log * each for log, each in zip(logs, sure, strict=True)) / known
    middle = sum(log * each for log, each in zip(logs, sure, strict=True)) / sum(sure)
    spread = sum(each * (log - middle) ** 2 for log, each in zip(logs, sure, strict=True)) / sum(sure)
    wide = math.exp(FOUR_OF_FIVE * math.sqrt(noise**2 + 1 / known + spread))
    found = value * math.exp(moved)
    return Figure(found, line.unit, "calibrated", named(each.run for each in runs), found / wide, found * wide)


def named(runs: Iterator[int] | Sequence[int]) -> str:
    """`runs 3, 5 of this project`, of many the last ones."""
    every = sorted(runs)
    listed = ", ".join(str(each) for each in every[-4:])
    more = f"{len(every) - 4} more and " if len(every) > 4 else ""
    return f"{'run' if len(every) == 1 else 'runs'} {more}{listed} of this project"


def records(root: Path) -> Iterator[Lineage]:
    """What the newest runs of a project say of themselves, the oldest first."""
    for number in numbers(root)[-MOST_RUNS:]:
        with contextlib.suppress(GyralError, OSError):  # damaged, or no folder
            yield read_lineage(root, number)


def _is_like_this(lineage: Lineage) -> bool:
    """Whether it was a machine of as many cores of the same kind, as far as the run says."""
    told = lineage.machine
    same_cores = told.get("cores", os.cpu_count()) == os.cpu_count()
    return same_cores and told.get("processor", platform.machine()) == platform.machine()
