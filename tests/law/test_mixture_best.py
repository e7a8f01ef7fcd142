from __future__ import annotations

import numpy as np
import pytest

from gyral.errors import InputError
from gyral.law import mixture
from gyral.law.mixture_best import Limits, best, capped, drawn, entropy, improve

DOMAINS = ("web", "books", "code", "mail")
WORTH = np.array([1.0, 2.0, 0.3, 0.05])


def _loss(weights: np.ndarray) -> np.ndarray:
    """Convex: what a domain brings shrinks as there is more of it."""
    return np.asarray(3 + (WORTH / (weights + 0.05)).sum(axis=1) * 0.05)


def _truth() -> np.ndarray:
    # the multiplier's condition, by hand: worth / (r + .05)² is the same for all that are not 0
    root = np.sqrt(WORTH)
    weights = np.zeros(4)
    used = np.arange(4)
    while True:
        level = (1 + 0.05 * len(used)) / root[used].sum()
        weights[:] = 0
        weights[used] = root[used] * level - 0.05
        if (weights >= 0).all():
            return weights
        used = used[weights[used] > 0]


@pytest.fixture(scope="module")
def law() -> mixture.MixtureLaw:
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.full(4, 0.8), 120)
    loss = np.stack([_loss(weights), 4 - weights[:, 2]], axis=1) + 0.003 * rng.standard_normal((120, 2))
    return mixture.fit(weights, loss, DOMAINS, ("text", "code"), members=("effective_data", "gaussian_process"))


def test_local_moves_end_at_the_least() -> None:
    found = improve(_loss, np.full(4, 0.25), Limits(np.ones(4)))
    assert found == pytest.approx(_truth(), abs=0.01)


def test_the_best_mixture_is_found_through_a_law_of_noisy_runs(law: mixture.MixtureLaw) -> None:
    found = best(law, {"text": 1}, num_bootstraps=20)
    weights = np.array([found.weights[name] for name in DOMAINS])
    least = float(_loss(_truth()[None])[0])
    assert weights.sum() == pytest.approx(1)
    assert float(_loss(weights[None])[0]) - least < 0.01
    assert found.loss_80.holds(float(_loss(weights[None])[0]))
    assert found.sure == 1
    assert all(low <= high for low, high in found.weights_80.values())
    # what is worth most helps most, what is worth nothing takes room
    assert next(iter(found.effects)) == "books"
    assert list(found.effects)[-1] in ("mail", "code")
    near = np.array([found.neighbour_weights[name] for name in DOMAINS])
    apart = np.abs(law.weights_nD - weights).sum(axis=1) / 2
    assert found.apart == pytest.approx(apart.min())
    assert np.abs(near - law.weights_nD[found.neighbour - 1]).max() == 0
    assert found.neighbour_loss == pytest.approx(law.loss_nT[found.neighbour - 1, 0])


def test_the_search_starts_from_the_best_of_what_was_drawn_and_measured(
    law: mixture.MixtureLaw, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gyral.law import mixture_best

    monkeypatch.setattr(mixture_best, "improve", lambda value, start, *_: start)
    measured = law.predict(law.weights_nD)[:, 0].min()
    assert best(law, {"text": 1}, num_bootstraps=1).loss <= measured
    monkeypatch.setattr(mixture_best, "NUM_DRAWN", 1)
    assert best(law, {"text": 1}, num_bootstraps=1).loss == pytest.approx(measured, abs=1e-6)


def test_what_is_aimed_at_decides(law: mixture.MixtureLaw) -> None:
    assert best(law, {"code": 1}, num_bootstraps=2).weights["code"] > 0.95
    both = best(law, {"code": 1, "text": 3}, num_bootstraps=2)
    assert both.loss == pytest.approx(0.25 * both.by_target["code"] + 0.75 * both.by_target["text"])


def test_caps_and_entropy_are_kept(law: mixture.MixtureLaw) -> None:
    found = best(law, {"code": 1}, caps={"code": 0.4, "web": 0.2}, least_entropy=1.2, num_bootstraps=2)
    weights = np.array([found.weights[name] for name in DOMAINS])
    assert weights[2] <= 0.4 + 1e-6
    assert weights[0] <= 0.2 + 1e-6
    assert entropy(weights[None])[0] >= 1.2 - 1e-6
    assert weights[2] == pytest.approx(0.4, abs=0.02)


def test_limits_change_as_little_as_is_enough() -> None:
    limits = Limits(np.array([0.5, 1, 1, 1]), 1.0)
    told = limits.kept(np.array([[0.9, 0.1, 0, 0], [0.3, 0.3, 0.2, 0.2]]))
    assert limits.hold(told).all()
    assert entropy(told[:1])[0] == pytest.approx(1.0, abs=1e-3)
    assert told[1] == pytest.approx([0.3, 0.3, 0.2, 0.2])
    assert capped(np.array([0.8, 0.1, 0.1, 0]), np.array([0.4, 1, 0.15, 1])) == pytest.approx([0.4, 0.45, 0.15, 0])


def test_draws_lie_around_the_natural_mixture() -> None:
    natural = np.array([0.7, 0.2, 0.1, 0.0])
    weights = drawn(natural, 4_000, np.random.default_rng(0))
    assert np.isfinite(weights).all()
    assert weights.sum(axis=1) == pytest.approx(np.ones(4_000))
    assert weights.mean(axis=0) == pytest.approx(natural, abs=0.03)


@pytest.mark.parametrize(
    ("asked", "what"),
    [
        ({"caps": {"web": 0.1, "books": 0.1, "code": 0.1, "mail": 0.1}}, "no mixture keeps these caps"),
        ({"least_entropy": 1.5}, "no mixture is so broad"),
        ({"caps": {"wen": 0.1}}, "there is no domain `wen`"),
        ({"aim": {"cod": 1}}, "there is no target `cod`"),
        ({"aim": {"code": 0}}, "no target is wanted"),
        ({"natural": {"web": 0.4}}, "are no mixture"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said(law: mixture.MixtureLaw, asked, what: str) -> None:
    with pytest.raises(InputError) as error:
        best(law, **asked)
    assert what in error.value.what


def test_the_same_seed_gives_the_same_answer(law: mixture.MixtureLaw) -> None:
    one, other = (best(law, num_bootstraps=3, seed=5) for _ in range(2))
    assert one.as_json() == other.as_json()
    assert isinstance(one.as_json()["loss_80"], list)
