"""Whether a size may be chosen although the exponent of the best size is not known: what choices cost on budgets held out.

Of each table, every budget (runs of about the same compute, of three sizes or more) above eight runs or more and four times
the least compute: laws are fitted to the runs below it, choose among the sizes that were tried with it, and the loss that the
chosen size really ended with is held against the least of them.

    narrow           the 95 % interval of the exponent is at most .15: never refused by `wide`
    wide_let_pass    it is wider, but four of five bootstraps have the chosen size within .5 % of their best
    wide_refused     it is wider, and they have not

Told of each: how many choices, how far they really were above the best on average and at most, and how many within .5 %.
Tables: gyral's own sweeps with their larger runs.
Command: `benchmarks/law/excess.py`; less than one CPU-minute
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import ROOT, write

from gyral.errors import InputError
from gyral.law import intervals, runs
from gyral.law.allocate import FLAT
from gyral.law.choose import choose
from gyral.law.runs import RunTable
from gyral.law.sweep import MOST_WIDE, budgets
from gyral.train.budget import LIKELY

LAWS = ROOT / "data" / "laws"
LEAST_BELOW, BOOTSTRAPS = 8, 100
OWN = ("lm", "lm_1024", "recommender", "vision")


def own(name: str) -> RunTable:
    """A sweep of gyral's with the larger runs of its kind."""
    paths = sorted(LAWS.glob(f"gyral_{name}*.csv"))
    found = [runs.load(each) for each in paths if name != "lm" or "1024" not in each.name]
    return runs.table_of(pa.concat_tables(found, promote_options="permissive"), {"N": "N_non_embedding"}, name)


def choices(table: RunTable) -> list[dict[str, Any]]:
    """Of each budget that may be held out: the excess foretold, the exponent's width, and what the choice really cost."""
    found, axis = [], table.axis()
    for rows in budgets(table):
        below = axis < axis[rows].min() * (1 - 1e-9)
        if len(set(table.columns["N"][rows].tolist())) < 3 or below.sum() < LEAST_BELOW or axis[rows].min() < 4 * axis.min():
            continue
        try:
            law = choose(table.taken(below))
        except InputError:
            continue
        asked = {name: column[rows] for name, column in table.columns.items() if name in ("N", "D", "D_unique", "C")}
        i = int(law.predict(asked).argmin())
        member = law.members[0]
        theta = intervals.bootstrap(member.fitted, member.rows, law.table.run, BOOTSTRAPS)
        real = table.loss[rows]
        found.append(
            {
                "flops": float(np.median(axis[rows])), "sizes": len(rows), "below": int(below.sum()),
                "width": intervals.width_of_size(member.fitted, theta),
                "foretold": law.excess(asked, i, LIKELY, BOOTSTRAPS),
                "cost": float(real[i] / real.min() - 1), "spread": float(real.max() / real.min() - 1),
            }
        )  # fmt: skip
    return found


def told(cases: list[dict[str, Any]]) -> dict[str, Any]:
    costs = [each["cost"] for each in cases]
    if not costs:
        return {"choices": 0}
    within = sum(cost <= FLAT[-1] for cost in costs)
    return {"choices": len(costs), "mean_cost": float(np.mean(costs)), "most": max(costs), "within": within}


def main() -> None:
    tables = {name: own(name) for name in OWN}
    result: dict[str, Any] = {"tables": {}}
    every = []
    for name, table in tables.items():
        found = choices(table)
        print(name, *found, sep="\n  ", file=sys.stderr, flush=True)
        result["tables"][name] = found
        every += found
    narrow = [each for each in every if each["width"] is None or each["width"] <= MOST_WIDE]  # none: the law has no exponent
    others = [each for each in every if each not in narrow]
    passed = [each for each in others if each["foretold"] <= FLAT[-1]]
    left = [each for each in others if each not in passed]
    write("law_excess", result | {"narrow": told(narrow), "wide_let_pass": told(passed), "wide_refused": told(left)})


if __name__ == "__main__":
    main()
