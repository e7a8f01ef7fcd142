from __future__ import annotations

import numpy as np

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
    from dataclasses import replace

    assert "optima" in {each.rule for each in stops(replace(law, members=members))}


def test_a_wide_exponent_is_named() -> None:
    assert "wide" in rules(table(), "chinchilla", width=0.3)
