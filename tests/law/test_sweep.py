from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gyral.law.choose import choose
from gyral.law.runs import RunTable
from gyral.law.sweep import stops

from .swept import table


def rules(found: RunTable, form: str = "auto", **more: object) -> set[str]:
    return {each.rule for each in stops(choose(found, form), **more)}  # type: ignore[arg-type]


def test_a_good_sweep_has_none() -> None:
    rows = []
    for flops in np.geomspace(1e18, 1e21, 7):
        best = 0.5 * (flops / 6) ** 0.51
        rows += [(n, flops / 6 / n, flops) for n in best * np.geomspace(0.1, 10, 9)]
    n, d, c = (np.array(column) for column in zip(*rows, strict=True))
    loss = (1.8 + 480 * n**-0.35 + 2080 * d**-0.37) * np.exp(np.random.default_rng(0).normal(0, 0.001, len(n)))
    assert rules(RunTable({"N": n, "D": d, "C": c}, loss, np.arange(len(n)).astype(str))) == set()


def test_minima_at_the_edge_ask_for_the_size_beyond() -> None:
    rows = [(n, f / 6 / n, f) for f in np.geomspace(1e19, 1e21, 5) for n in (f / 6) ** 0.51 * np.geomspace(2, 8, 5)]
    n, d, c = (np.array(column) for column in zip(*rows, strict=True))
    swept = RunTable({"N": n, "D": d, "C": c}, 1.8 + 480 * n**-0.35 + 2080 * d**-0.37, np.arange(25).astype(str))
    found = next(each for each in stops(choose(swept, "chinchilla")) if each.rule == "edge")
    assert "5 of 5 budgets" in found.what and found.next.startswith("N = ")
    assert float(found.next.split()[2]) < n[-5:].min()


def test_one_size_is_named() -> None:
    d = np.geomspace(1e8, 1e12, 12)
    found = RunTable({"N": np.full(12, 1e8), "D": d, "C": 6e8 * d}, 2 + 2080 * d**-0.37, np.arange(12).astype(str))
    assert "one size" in rules(found, "tied")


def test_little_compute_is_named() -> None:
    whole = table()
    near = whole.columns["C"] > whole.columns["C"].max() / 30
    assert "budgets" in rules(whole.taken(near), "tied")


def test_noise_that_hides_the_law_is_named() -> None:
    assert "noise" in rules(table(0, 0.4), "power_floor")
    assert "noise" not in rules(table(0, 0.002), "chinchilla")


def test_a_target_too_far_is_named_with_a_run_on_the_way() -> None:
    far = {"N": np.array([1e12]), "D": np.array([1e14])}
    found = [each for each in stops(choose(table(), "chinchilla"), far) if each.rule == "far"]
    assert found and "decades" in found[0].what
    assert "far" not in rules(table(), "chinchilla", target={"N": np.array([1e10]), "D": np.array([1e12])})


def test_a_floor_that_no_run_shows_is_named() -> None:
    n, d = np.meshgrid(np.geomspace(1e6, 1e8, 6), np.geomspace(1e8, 1e10, 6))
    columns = {"N": n.ravel(), "D": d.ravel(), "C": 6 * n.ravel() * d.ravel()}
    loss = 40 * columns["N"] ** -0.1 + 30 * columns["D"] ** -0.1
    assert "bound" in rules(RunTable(columns, loss, np.arange(36).astype(str)), "chinchilla")


def test_conflicting_optima_are_named() -> None:
    from gyral.law.fit import Optimum

    law = choose(table(), "chinchilla")
    best = law.best
    other = Optimum(best.theta * np.array([0.5, 1, 1, 1, 1]), best.objective * 1.0001)
    members = (law.members[0]._replace(fitted=best._replace(optima=(*best.optima[:1], other))),)
    assert "optima" in {each.rule for each in stops(replace(law, members=members))}


def test_a_wide_exponent_is_named() -> None:
    assert "wide" in rules(table(), "chinchilla", width=0.3)


def minima(at_edge: int, budgets: int) -> RunTable:
    """Budgets whose best size is in the middle but for some where it is the largest."""
    n = np.tile([1e7, 3e7, 9e7], budgets)
    c = np.repeat(np.geomspace(1e17, 1e20, budgets), 3)
    loss = np.repeat(np.geomspace(4, 3, budgets), 3) * np.tile([1.02, 1.0, 1.01], budgets)
    loss[2 : 3 * at_edge : 3] *= 0.97
    return RunTable({"N": n, "D": c / 6 / n, "C": c}, loss, np.arange(len(n)).astype(str))


@pytest.mark.parametrize(("at_edge", "budgets", "holds"), [(0, 8, False), (2, 8, False), (3, 8, True), (2, 7, True)])
def test_more_than_a_quarter_of_minima_at_the_edge_are_too_many(at_edge: int, budgets: int, holds: bool) -> None:
    assert ("edge" in rules(minima(at_edge, budgets), "tied")) is holds


@pytest.mark.parametrize(
    ("rule", "below", "above"),
    [("foretelling", 0.0195, 0.0205), ("wide", 0.145, 0.155), ("far", 2.95, 3.05), ("noise", 0.47, 0.53)],
)
def test_a_rule_holds_from_its_threshold_on(rule: str, below: float, above: float) -> None:
    law = choose(table(), "chinchilla")
    most, left = float(law.table.axis().max()), float(np.std(np.log(law.table.loss)))
    for value, holds in ((below, False), (above, True)):
        if rule == "foretelling":
            found = stops(replace(law, members=(law.members[0]._replace(error=value),)))
        elif rule == "noise":
            said = {**law.table.columns, "noise": law.table.loss * value * left}
            found = stops(replace(law, table=replace(law.table, columns=said)))
        elif rule == "far":
            found = stops(law, {"N": np.array([1e9]), "D": np.array([most * 10**value / 6e9])})
        else:
            found = stops(law, width=value)
        assert (rule in {each.rule for each in found}) is holds, value


@pytest.mark.parametrize(("budgets", "decades", "holds"), [(4, 1.6, False), (3, 1.6, True), (4, 1.4, True)])
def test_four_budgets_over_a_decade_and_a_half_are_enough(budgets: int, decades: float, holds: bool) -> None:
    rows = [(n, c / 6 / n, c) for c in np.geomspace(1e18, 1e18 * 10**decades, budgets) for n in (1e7, 3e7, 1e8, 3e8)]
    n, d, c = (np.array(column) for column in zip(*rows, strict=True))
    loss = 1.8 + 480 * n**-0.35 + 2080 * d**-0.37
    assert ("budgets" in rules(RunTable({"N": n, "D": d, "C": c}, loss, np.arange(len(n)).astype(str)), "tied")) is holds
