from __future__ import annotations

import numpy as np
import pytest

from gyral.law.descent import bfgs, squares


def _rosenbrock(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = theta
    return np.array([10 * (y - x * x), 1 - x]), np.array([[-20 * x, 10.0], [-1.0, 0.0]])


def test_both_find_the_bottom_of_a_bent_valley() -> None:
    start = np.array([-1.2, 1.0])
    found, value = squares(_rosenbrock, start, np.zeros(2), np.zeros(2))
    assert found == pytest.approx([1, 1], abs=1e-6)
    assert value < 1e-12

    def smooth(theta: np.ndarray) -> tuple[float, np.ndarray]:
        r, jacobian = _rosenbrock(theta)
        return float(r @ r) / 2, jacobian.T @ r

    found, value = bfgs(smooth, start)
    assert found == pytest.approx([1, 1], abs=1e-3)


def test_a_prior_holds_what_rows_do_not_say() -> None:
    # two parameters, only their sum is seen: ridge regression's answer, from the normal equations
    a = np.ones((5, 2))
    y, pull, prior = np.full(5, 3.0), np.array([0.1, 0.2]), np.array([1.0, -1.0])
    found, _ = squares(lambda theta: (a @ theta - y, a), np.zeros(2), prior, pull)
    exact = np.linalg.solve(a.T @ a + np.diag(pull), a.T @ y + pull * prior)
    assert found == pytest.approx(exact, abs=1e-8)


def test_an_objective_that_is_infinite_somewhere_is_stepped_back_from() -> None:
    def smooth(theta: np.ndarray) -> tuple[float, np.ndarray]:
        if theta[0] <= 2.95:  # the first step goes there
            return np.inf, np.zeros(1)
        return 8 * float(theta[0] - 3 * np.log(theta[0])), 8 * (1 - 3 / theta)

    found, _ = bfgs(smooth, np.array([3.6]))
    assert found[0] == pytest.approx(3, abs=1e-3)
