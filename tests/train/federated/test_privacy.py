"""ε against the closed form of the Gaussian mechanism, which nobody here wrote."""

import sys
from math import erf, exp, sqrt

import pytest

from gyral.errors import ConfigError, MissingExtra
from gyral.train.federated import privacy


def delta_of(epsilon, noise):
    """Balle and Wang, ICML 2018, theorem 8, for one release with sensitivity 1."""

    def below(x):
        return (1 + erf(x / sqrt(2))) / 2

    return below(1 / (2 * noise) - epsilon * noise) - exp(epsilon) * below(-1 / (2 * noise) - epsilon * noise)


@pytest.mark.parametrize(("noise", "rounds"), [(1.0, 1), (4.0, 9), (10.0, 30)])
def test_without_sampling_it_is_the_gaussian_mechanism(noise, rounds):
    pytest.importorskip("opacus")
    told = privacy.epsilon_of(noise, 1.0, rounds, 1e-5)
    at_once = noise / sqrt(rounds)  # rounds of the same noise compose to one with so much less
    assert delta_of(told, at_once) <= 1e-5  # never too small
    assert delta_of(0.98 * told, at_once) > 1e-5  # and hardly too large


def test_noise_for_an_epsilon_keeps_within_it():
    pytest.importorskip("opacus")
    noise = privacy.noise_for(3.0, 0.05, 50, 1e-5)
    assert privacy.epsilon_of(noise, 0.05, 50, 1e-5) <= 3.0 < privacy.epsilon_of(0.98 * noise, 0.05, 50, 1e-5)


def test_without_noise_nothing_is_claimed():
    with pytest.raises(ConfigError, match="nothing is private"):
        privacy.epsilon_of(0.0, 0.1, 10, 1e-5)


def test_without_opacus_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "opacus.accountants", None)
    with pytest.raises(MissingExtra, match="opacus") as error:
        privacy.epsilon_of(1.0, 0.1, 10, 1e-5)
    assert "gyral[federated]" in error.value.hint
