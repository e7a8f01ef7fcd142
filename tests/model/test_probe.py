"""The linear probe against normal equations and against the condition of an optimum."""

import numpy as np
import torch
import torch.nn.functional as F

from gyral.model.probe import logistic, ridge

RANDOM = np.random.default_rng(0)


def rows(count, classes=3, features=12):
    labels = RANDOM.integers(0, classes, count)
    centers = RANDOM.normal(size=(classes, features)) * 2
    return (centers[labels] + RANDOM.normal(size=(count, features)) * 3 + 5).astype(np.float32), labels


def test_ridge_solves_the_normal_equations():
    x, y = rows(400)
    found = ridge(x, y, penalties=(0.01,))
    scaled = (x - x.mean(0)) / x.std(0, ddof=1)
    gram = scaled.T.astype(np.float64) @ scaled
    told = np.linalg.solve(gram + 0.01 * np.trace(gram) / 12 * np.eye(12), scaled.T @ (np.eye(3)[y] - np.eye(3)[y].mean(0)))
    assert np.abs(found.weight.numpy() - told).max() < 1e-4
    assert np.abs(found.bias.numpy() - np.eye(3)[y].mean(0)).max() < 1e-4


def test_logistic_regression_ends_at_an_optimum():
    x, y = rows(400)
    found = logistic(x, y, decays=(1e-2,), iterations=300)
    scaled = torch.from_numpy((x - x.mean(0)) / x.std(0, ddof=1))
    weight = found.weight.clone().requires_grad_()
    (F.cross_entropy(scaled @ weight + found.bias, torch.from_numpy(y)) + 1e-2 * (weight**2).sum()).backward()
    assert weight.grad.abs().max() < 1e-4


def test_the_penalty_is_chosen_where_features_are_too_many():
    labels = RANDOM.integers(0, 2, 600)
    x = RANDOM.normal(size=(600, 300)).astype(np.float32)
    x[:, 0] += 2 * labels
    kept = slice(0, 300), slice(300, 600)
    for fit in (ridge, logistic):
        accuracies = {
            each: fit(x[kept[0]], labels[kept[0]], **{"penalties" if fit is ridge else "decays": each}).accuracy(
                x[kept[1]], labels[kept[1]]
            )
            for each in ((1e-6,), (1e-6, 1e-2, 1.0))
        }
        assert accuracies[1e-6, 1e-2, 1.0] > accuracies[1e-6,]


def test_a_feature_that_never_changes_says_nothing():
    x, y = rows(100)
    x[:, 3] = 7
    found = ridge(x, y)
    assert torch.isfinite(found.weight).all() and found.accuracy(x, y) > 0.5
