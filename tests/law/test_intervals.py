from __future__ import annotations

import numpy as np

from gyral.law import intervals
from gyral.law.fit import fit, rows_of
from gyral.law.forms import find
from gyral.law.intervals import Interval

TRUTH = {"E": 1.8, "A": 480.0, "B": 2080.0, "alpha": 0.35, "beta": 0.37}
FORM = find("chinchilla")


def simulated(seed: int, sigma: float = 0.004, size: int = 10) -> tuple[dict[str, np.ndarray], np.ndarray]:
    n, d = np.meshgrid(np.geomspace(1e7, 1e10, size), np.geomspace(1e9, 1e12, size))
    columns = {"N": n.ravel(), "D": d.ravel()}
    noise = np.random.default_rng(seed).standard_t(4, len(columns["N"])) * sigma
    return columns, FORM.loss(FORM.fitted(TRUTH), columns) * np.exp(noise)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    held = {name: 0 for name in (*TRUTH, "a")}
    for seed in range(60):
        columns, loss = simulated(seed)
        rows = rows_of(FORM, columns, loss)
        found = fit(FORM, rows)
        told = FORM.told(intervals.bootstrap(found, rows, np.arange(len(loss)).astype(str), 200, seed))
        for p, name in enumerate(FORM.names):
            held[name] += intervals.percentiles(told[:, p], 0.9).holds(TRUTH[name])
        share = told[:, 4] / (told[:, 3] + told[:, 4])
        held["a"] += intervals.percentiles(share, 0.9).holds(0.37 / 0.72)
    # 54 of 60 are expected; a right interval is outside 46 to 60 in one of 500 tries
    assert all(46 <= count <= 60 for count in held.values()), held


def test_rows_of_one_run_are_drawn_together() -> None:
    run = np.array(["a", "b", "a", "c", "b", "a"])
    drawn = intervals.drawn(run, 500, 1)
    assert (drawn[:, 0] == drawn[:, 2]).all() and (drawn[:, 1] == drawn[:, 4]).all()
    assert not (drawn[:, 0] == drawn[:, 3]).all()
    np.testing.assert_allclose(drawn[:, [0, 1, 3]].mean(axis=1), 1)


def test_checkpoints_of_one_run_are_no_evidence_of_their_own() -> None:
    """Twenty noisy copies of ten runs: apart they seem to say more than they do."""
    rng = np.random.default_rng(0)
    n = np.geomspace(1e7, 1e10, 10)
    columns = {"N": np.repeat(n, 20), "D": np.repeat(rng.permutation(np.geomspace(1e9, 1e12, 10)), 20)}
    off = np.repeat(rng.normal(0, 0.01, 10), 20)
    loss = FORM.loss(FORM.fitted(TRUTH), columns) * np.exp(off + rng.normal(0, 0.0005, 200))
    form = find("tied")
    rows = rows_of(form, columns, loss)
    found = fit(form, rows)
    width = {}
    for name, run in {"apart": np.arange(200).astype(str), "together": np.repeat(np.arange(10), 20).astype(str)}.items():
        ci = intervals.of_parameters(found, intervals.bootstrap(found, rows, run, 400))["alpha"]
        width[name] = ci.high - ci.low
    assert width["together"] > 1.8 * width["apart"]


def test_a_profile_and_a_bootstrap_say_about_the_same() -> None:
    columns, loss = simulated(7)
    rows = rows_of(FORM, columns, loss)
    found = fit(FORM, rows)
    by_draws = intervals.of_parameters(found, intervals.bootstrap(found, rows, np.arange(len(loss)).astype(str), 1_000))[
        "alpha"
    ]
    by_profile, at, value = intervals.profile(found, rows, "alpha")
    assert (
        at[value.argmin()] == np.float64(found.parameters["alpha"])
        or abs(at[value.argmin()] - found.parameters["alpha"]) < 1e-6
    )
    width = [each.high - each.low for each in (by_draws, by_profile)]
    assert 0.4 < width[1] / width[0] < 2.5
    assert isinstance(by_profile, Interval) and by_profile.holds(found.parameters["alpha"])
