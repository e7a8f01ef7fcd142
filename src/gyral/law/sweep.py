"""Whether a table of runs can carry a law, and which run to make next.

Each rule is one from which published sweeps have gone wrong; it says what is the matter in numbers and names the run that
would mend it.

| rule | holds when |
|---|---|
| `edge` | the best size of more than a quarter of the budgets is the least or the largest that was tried |
| `foretelling` | what was held out was missed by more than 2 % |
| `noise` | equal runs differ by more than half of what is left to explain |
| `bound` | the floor or an exponent lies at its bound |
| `wide` | the 95 % interval of the exponent of the best size is wider than .15 |
| `optima` | two optima as good as each other say something else of the target |
| `budgets` | there are fewer than four budgets, or less than 1.5 decades of compute |
| `far` | the target is more than three decades beyond the largest run: a range is all that can be said |
| `one size` | all runs are of one size, or saw as much data |
| `units` | numbers of a column look like those of two units |
| `mixture` | what domains are worth cannot be told, or not well enough to weigh them (`allocate` alone) |
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from gyral.law.choose import Law
from gyral.law.runs import Columns, RunTable

MOST_ERROR, MOST_NOISE, MOST_FAR, LEAST_BUDGETS, LEAST_DECADES, MOST_WIDE = 0.02, 0.5, 3.0, 4, 1.5, 0.15
SAME_BUDGET = 0.12
"""Runs whose log10 of compute differs by less are of one budget."""
OF_BOUND = ("E", "alpha", "beta", "gamma", "eta", "alpha_N", "alpha_D")


class Stop(NamedTuple):
    """A reason not to believe a law, and the run that would give a better one."""

    rule: str
    what: str
    next: str

    @property
    def told(self) -> str:
        """As a person reads it."""
        return f"{self.rule}: {self.what}; next: {self.next}"


def budgets(table: RunTable) -> list[np.ndarray]:
    """Rows of each budget, least first: those whose compute is about the same."""
    logs = np.log10(table.axis())
    order = np.argsort(logs, kind="stable")
    groups: list[list[int]] = []
    for i in order:
        if groups and logs[i] - logs[groups[-1][0]] <= SAME_BUDGET:
            groups[-1].append(int(i))
        else:
            groups.append([int(i)])
    return [np.array(group) for group in groups]


def stops(law: Law, target: Columns | None = None, width: float | None = None) -> list[Stop]:
    """All rules that hold.

    Parameters
    ----------
    target : what is to be foretold.
    width : of the 95 % interval of the exponent of the best size, where bootstraps were made.
    """
    table, found = law.table, []
    most = float(table.axis().max())
    has_both = "N" in table.columns and "D" in table.columns
    groups = budgets(table)
    if has_both:
        found += _edges(table, [each for each in groups if len(set(table.columns["N"][each])) >= 3])
    if not math.isnan(law.error) and law.error > MOST_ERROR:
        what = f"what was held out was missed by {law.error:.1%} on average"
        found.append(Stop("foretelling", what, f"a run of {3 * most:.2g} FLOP, which narrows what laws disagree on"))
    left = float(np.std(np.log(table.loss)))
    if law.noise > MOST_NOISE * left:
        what = f"equal runs differ by {law.noise:.2%}, and all runs by {left:.2%}"
        found.append(Stop("noise", what, f"the run of {most:.2g} FLOP with three more seeds, and a larger evaluation"))
    at = [name for name in law.best.at_bound if name in OF_BOUND]
    if at:
        axis = {"E": "more compute", "alpha": "other sizes", "beta": "other amounts of data"}.get(at[0], "other compute")
        what = f"`{at[0]}` of `{law.best.form.name}` lies at its bound"
        found.append(Stop("bound", what, f"runs of {axis}, up to {10 * most:.2g} FLOP"))
    if width is not None and width > MOST_WIDE:
        what = f"the exponent of the best size is known to {width:.2f} only"
        found.append(Stop("wide", what, f"sizes of a third and of three times the best at {most:.2g} FLOP"))
    found += _optima(law, target)
    if len(groups) < LEAST_BUDGETS or table.decades < LEAST_DECADES:
        what = f"{len(groups)} budgets over {table.decades:.1f} decades of compute"
        found.append(Stop("budgets", what, f"a budget of {10 * most:.2g} FLOP, or of {float(table.axis().min()) / 10:.2g}"))
    for name in ("N", "D"):
        if name in table.columns and len(set(table.columns[name])) == 1:
            what = f"all runs have {name} = {table.columns[name][0]:.3g}"
            found.append(Stop("one size", what, f"runs of a third and of three times that {name}"))
    if target is not None:
        reach = float(np.max(law.reach(target)))
        if reach > MOST_FAR:
            what = f"the target lies {reach:.1f} decades beyond the largest run"
            found.append(Stop("far", what, f"a run of {most * 10 ** (reach - MOST_FAR):.2g} FLOP or more"))
    for note in table.notes:
        if note.endswith("of one unit?"):
            found.append(Stop("units", note, "no run: look at the column, or leave rows out"))
    return found


def _edges(table: RunTable, groups: list[np.ndarray]) -> list[Stop]:
    at_edge = []
    for rows in groups:
        size = table.columns["N"][rows]
        best = size[table.loss[rows].argmin()]
        if best in (size.min(), size.max()):
            at_edge.append((float(np.median(table.axis()[rows])), float(best), bool(best == size.max())))
    if len(at_edge) * 4 <= len(groups):
        return []
    compute, best, is_largest = at_edge[-1]
    what = f"the best size is at the edge of what was tried in {len(at_edge)} of {len(groups)} budgets"
    size = best * 2 if is_largest else best / 2
    return [Stop("edge", what, f"N = {size:.2g} at {compute:.2g} FLOP")]


def _optima(law: Law, target: Columns | None) -> list[Stop]:
    best = law.best
    near = [each for each in best.optima[1:] if each.objective <= best.objective * 1.001]
    if not near:
        return []
    asked = law.columns(target) if target is not None else {n: c[-1:] for n, c in _largest(law).items()}
    told = float(best.predict(asked)[0])
    others = [float(best.form.loss(each.theta, asked)[0]) for each in near]
    off = max(abs(math.log(other / told)) for other in others)
    if off <= 0.01:
        return []
    what = f"{len(near) + 1} optima within .1 % differ by {off:.1%} at the target"
    return [Stop("optima", what, f"a run of {10 * float(law.table.axis().max()):.2g} FLOP decides between them")]


def _largest(law: Law) -> Columns:
    """Ten times the compute of the largest run, as it was split."""
    table = law.table
    at = int(table.axis().argmax())
    asked = {name: column[[at]] for name, column in table.columns.items()}
    for name in ("N", "D"):
        if name in asked:
            asked[name] = asked[name] * math.sqrt(10)
    asked.pop("C", None)
    if "N" not in asked:
        asked["C"] = table.axis()[[at]] * 10
    return law.columns(asked)
