from __future__ import annotations

import numpy as np
import pytest

from gyral.law import gaussian


def _rows(num: int = 60, domains: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.full(domains, 0.6), num)
    return weights, 3 + np.exp(-4 * weights[:, 0]) + 0.5 * np.sqrt(weights[:, 1]) + 0.01 * rng.standard_normal(num)


def test_the_gradient_is_that_of_the_evidence() -> None:
    weights, loss = _rows()
    y = (loss - loss.mean()) / loss.std()
    rng = np.random.default_rng(1)
    prior = np.zeros(6)
    theta = np.concatenate([rng.normal(0.3, 0.4, 4), [0.2, -1.5]])
    _, slope = gaussian._evidence(np.sqrt(weights), y, theta, prior)
    for p, unit in enumerate(np.eye(6) * 1e-5):
        above, below = (gaussian._evidence(np.sqrt(weights), y, theta + sign * unit, prior)[0] for sign in (1, -1))
        assert slope[p] == pytest.approx((above - below) / 2e-5, rel=1e-5, abs=1e-5)


def test_evidence_and_prediction_are_those_of_plain_matrices() -> None:
    # the formulas of Rasmussen and Williams with a double loop for the kernel
    weights, loss = _rows(20)
    y = (loss - loss.mean()) / loss.std()
    theta = np.array([0.1, 0.4, 0.9, 0.2, 0.3, -1.2])
    x, rate = np.sqrt(weights), np.exp(-theta[:4])
    kernel = np.empty((20, 20))
    for i in range(20):
        for j in range(20):
            r = np.sqrt(5) * np.linalg.norm((x[i] - x[j]) * rate)
            kernel[i, j] = np.exp(0.6) * (1 + r + r * r / 3) * np.exp(-r)
    full = kernel + (np.exp(-2.4) + gaussian.LEAST_NOISE) * np.eye(20)
    value, _ = gaussian._evidence(x, y, theta, theta)
    assert value == pytest.approx(0.5 * y @ np.linalg.solve(full, y) + 0.5 * np.linalg.slogdet(full)[1], rel=1e-9)
    process = gaussian.GaussianProcess(weights, loss, theta, gaussian._alpha(x, y, theta, np.ones(20)), loss.mean(), loss.std())
    told = loss.mean() + loss.std() * kernel @ np.linalg.solve(full, y)
    assert process.predict(weights) == pytest.approx(told, rel=1e-9)


def test_a_row_counted_twice_is_a_row_written_twice() -> None:
    weights, loss = _rows(30)
    process = gaussian.fit(weights, loss)
    count = np.array([2.0] * 10 + [1.0] * 10 + [0.0] * 10)
    where = np.repeat(np.arange(30), count.astype(int))
    x = np.sqrt(weights[where])
    alpha = gaussian._alpha(x, (loss[where] - process.middle) / process.scale, process.theta_P, np.ones(len(where)))
    asked = np.random.default_rng(3).dirichlet(np.ones(4), 9)
    told = process.middle + process.scale * gaussian._kernel(np.sqrt(asked), x, process.theta_P)[0] @ alpha
    assert process.refitted(count).predict(asked) == pytest.approx(told, rel=1e-7)


def test_a_domain_that_moves_nothing_gets_a_great_length() -> None:
    weights, loss = _rows(120)
    lengths = gaussian.fit(weights, loss).theta_P[:4]
    assert max(lengths[0], lengths[1]) + 1 < min(lengths[2], lengths[3])
