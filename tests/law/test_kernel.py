from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gyral.law import kernel
from gyral.law.forms import FORMS, Form


def columns(size: int = 30, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    n, d = 10 ** rng.uniform(6, 10, size), 10 ** rng.uniform(8, 12, size)
    return {
        "N": n,
        "D": d,
        "D_unique": np.minimum(d, 10 ** rng.uniform(8, 11, size)),
        "C": 6 * n * d,
        "x": 6 * n * d,
        "experts": rng.integers(1, 512, size).astype(float),
        "L": rng.uniform(2, 5, size),
    }


TRUTH = {
    "power": {"A": 30.0, "gamma": 0.05},
    "power_floor": {"E": 1.5, "A": 300.0, "gamma": 0.12},
    "chinchilla": {"E": 1.8, "A": 480.0, "B": 2080.0, "alpha": 0.35, "beta": 0.37},
    "tied": {"E": 1.8, "A": 170.0, "B": 290.0, "alpha": 0.28},
    "overtraining": {"E": 1.8, "a": 170.0, "b": 290.0, "eta": 0.28},
    "crossed": {"E": 1.7, "A": 400.0, "B": 900.0, "G": 20_000.0, "alpha": 0.34, "beta": 0.33},
    "kaplan": {"Nc": 8.8e13, "Dc": 5.4e13, "alpha_N": 0.076, "alpha_D": 0.095},
    "m4": {"E": 1.6, "L0-E": 4.0, "A": 2e5, "gamma": 0.25, "kappa": 1.4},
    "broken": {"E": 1.5, "A": 90.0, "c0": 0.08, "c1": 0.2, "d": 1e19, "f": 0.7},
    "data_constrained": {"E": 1.8, "A": 480.0, "B": 2080.0, "alpha": 0.35, "beta": 0.37, "R_D": 15.0, "R_N": 5.0},
    "routing": {"a": -0.08, "b": -0.12, "c": 0.01, "d": 1.1, "E_start": 2.4, "E_max": 218.0},
    "link": {"epsilon": 0.86, "k": 2.2, "gamma": 0.72},
}


def plainly(name: str, p: dict[str, float], c: dict[str, np.ndarray]) -> np.ndarray:
    """Each law as its paper writes it."""
    n, d, x = c["N"], c["D"], c["x"]
    if name == "power":
        return p["A"] * x ** -p["gamma"]
    if name == "power_floor":
        return p["E"] + p["A"] * x ** -p["gamma"]
    if name == "chinchilla":
        return p["E"] + p["A"] * n ** -p["alpha"] + p["B"] * d ** -p["beta"]
    if name == "tied":
        return p["E"] + p["A"] * n ** -p["alpha"] + p["B"] * d ** -p["alpha"]
    if name == "overtraining":
        return p["E"] + (p["a"] + p["b"] * (d / n) ** -p["eta"]) * n ** -p["eta"]
    if name == "crossed":
        both = n ** -p["alpha"] * d ** -p["beta"]
        return p["E"] + p["A"] * n ** -p["alpha"] + p["B"] * d ** -p["beta"] + p["G"] * both
    if name == "kaplan":
        return ((p["Nc"] / n) ** (p["alpha_N"] / p["alpha_D"]) + p["Dc"] / d) ** p["alpha_D"]
    if name == "broken":
        return p["E"] + p["A"] * x ** -p["c0"] * (1 + (x / p["d"]) ** (1 / p["f"])) ** (-p["c1"] * p["f"])
    if name == "data_constrained":
        unique = c["D_unique"]
        g = p["alpha"] * p["A"] / (p["beta"] * p["B"])
        most = (g * unique ** p["beta"]) ** (1 / p["alpha"])
        base, over = np.minimum(n, most), np.maximum(n / most - 1, 0)
        n2 = base * (1 + p["R_N"] * -np.expm1(-over / p["R_N"]))
        d2 = unique * (1 + p["R_D"] * -np.expm1(-np.maximum(d / unique - 1, 0) / p["R_D"]))
        return p["E"] + p["A"] * n2 ** -p["alpha"] + p["B"] * d2 ** -p["beta"]
    if name == "routing":
        inner = 1 / (1 / p["E_start"] - 1 / p["E_max"])
        experts = 1 / (1 / (c["experts"] - 1 + inner) + 1 / p["E_max"])
        ln, le = np.log10(n), np.log10(experts)
        return 10 ** (p["a"] * ln + p["b"] * le + p["c"] * ln * le + p["d"])
    assert name == "link"
    return p["epsilon"] - p["k"] * np.exp(-p["gamma"] * c["L"])


@pytest.mark.parametrize("name", [each for each in FORMS if each != "m4"])
def test_a_law_is_what_its_paper_writes(name: str) -> None:
    form = FORMS[name]
    told = form.loss(form.fitted(TRUTH[name]), columns())
    np.testing.assert_allclose(told, plainly(name, TRUTH[name], columns()), rtol=1e-12)


def test_the_implicit_law_holds_where_it_is_solved() -> None:
    p, c = TRUTH["m4"], columns()
    told = FORMS["m4"].loss(FORMS["m4"].fitted(p), c)
    most = p["E"] + p["L0-E"]
    np.testing.assert_allclose((told - p["E"]) / (most - told) ** p["kappa"], p["A"] * c["x"] ** -p["gamma"], rtol=1e-9)


@pytest.mark.parametrize("name", list(FORMS))
@pytest.mark.parametrize("is_log", [True, False])
def test_derivatives_are_those_of_small_differences(name: str, is_log: bool) -> None:
    form, c = FORMS[name], columns(12)
    theta = form.fitted(TRUTH[name])
    x, P = np.ascontiguousarray(form.rows(c)), len(theta)
    y = np.log(form.loss(theta, c)) + np.random.default_rng(1).normal(0, 0.01, 12)
    w, g = np.ones(12), np.empty(P)
    kernel._sums(form.code, theta, x, y, w, math.inf, is_log, True, g, np.empty((P, P)), np.empty((P, P)))

    def value(at: np.ndarray) -> float:
        return kernel._sums(form.code, at, x, y, w, math.inf, is_log, False, g.copy(), np.empty((P, P)), np.empty((P, P)))

    for p in range(P):
        step = np.zeros(P)
        step[p] = 1e-5 * max(1.0, abs(theta[p]))
        slope = (value(theta + step) - value(theta - step)) / (2 * step[p])
        assert g[p] == pytest.approx(slope, rel=2e-4, abs=1e-9), form.names[p]


@given(st.integers(0, 10_000), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_heights_are_the_best_that_are_not_negative(seed: int, num: int) -> None:
    rng = np.random.default_rng(seed)
    term, w = rng.uniform(0.1, 2, (12, num)) * rng.choice([1.0, 1.0, 5.0], num), rng.uniform(0.5, 2, 12)
    found, value = kernel.heights(term, w)
    assert (found >= 0).all()
    assert value == pytest.approx(float((w * (term @ found - 1) ** 2).sum()), abs=1e-9)
    for chosen in itertools.product([0, 1], repeat=num):  # the least over every set of terms, by numpy
        keep = np.flatnonzero(chosen)
        if len(keep):
            root = np.sqrt(w)
            c = np.linalg.lstsq(term[:, keep] * root[:, None], root, rcond=None)[0]
            if (c >= 0).all():
                assert value <= float((w * (term[:, keep] @ c - 1) ** 2).sum()) + 1e-9


def recovered(form: Form, sigma: float) -> dict[str, float]:
    from gyral.law.fit import fit, rows_of

    c = columns(200, 3)
    loss = form.loss(form.fitted(TRUTH[form.name]), c) * np.exp(np.random.default_rng(4).normal(0, sigma, 200))
    return fit(form, rows_of(form, c, loss)).parameters


@pytest.mark.parametrize("name", [each for each in FORMS if each not in ("m4", "broken", "data_constrained", "crossed")])
def test_without_noise_the_truth_is_found(name: str) -> None:
    for parameter, value in recovered(FORMS[name], 0.0).items():
        assert value == pytest.approx(TRUTH[name][parameter], rel=2e-3), parameter


@pytest.mark.parametrize("name", ["m4", "broken", "data_constrained", "crossed"])
def test_laws_whose_parameters_stand_in_for_each_other_still_fit(name: str) -> None:
    from gyral.law.fit import fit, rows_of

    form, c = FORMS[name], columns(200, 3)
    loss = form.loss(form.fitted(TRUTH[name]), c)
    found = fit(form, rows_of(form, c, loss))
    assert np.abs(np.log(found.predict(c) / loss)).max() < 2e-3
