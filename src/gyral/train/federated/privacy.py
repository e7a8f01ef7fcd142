"""What somebody who sees every model of a run can learn of one device: (ε, δ), by the accountant of Opacus.

The mechanism: each round every device takes part with probability q, on its own (Poisson); updates are no longer than a limit;
Gaussian noise of `noise` limits is added to their sum, which is divided by a number that does not depend on who took part. Two
sets of devices are neighbours where one has one device more, with all of its events. The server is trusted to add the noise; it
sees sums without it.

Opacus rather than dp-accounting: the latter takes attrs < 24, which our other tools are past. For noise 1, q .1, 100 rounds and
δ 1e-5 its accountant of privacy loss distributions says 7.06, the older Rényi bound 7.90.

Source: Gopi, Lee and Wutschitz, Numerical composition of differential privacy, NeurIPS 2021; McMahan et al., ICLR 2018.
"""

from __future__ import annotations

import warnings
from typing import Any

from gyral.errors import ConfigError, MissingExtra

SEARCHED = (0.05, 200.0)
"""Noise that is looked for between."""
TOLERANCE = 0.005


def epsilon_of(noise: float, share: float, rounds: int, delta: float) -> float:
    """The ε of a run.

    Parameters
    ----------
    noise : standard deviation of what is added to a sum, in limits of one device.
    share : q, in (0, 1].

    Raises
    ------
    ConfigError : without noise there is no ε.  MissingExtra : there is no `opacus`.
    """
    if noise <= 0:
        raise ConfigError("without noise nothing is private", where="train.federated.noise", hint="set it, or `epsilon`")
    accountant = _accountant()
    accountant.history = [(noise, share, rounds)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return float(accountant.get_epsilon(delta=delta))
        except (RuntimeError, ValueError) as error:
            why = f"the accountant gives up: {error}"
            raise ConfigError(f"noise of {noise:g} is too little to be accounted", why=why, hint="raise it") from None


def noise_for(epsilon: float, share: float, rounds: int, delta: float) -> float:
    """The least noise, to half a percent, with which a run stays within ε.

    Raises
    ------
    ConfigError : no noise that can be accounted is enough.
    """
    low, high = SEARCHED
    if epsilon_of(high, share, rounds, delta) > epsilon:
        raise ConfigError(
            f"no noise up to {high:g} gives an ε of {epsilon:g}",
            where="train.federated.epsilon",
            hint="a larger ε, or fewer rounds",
        )
    while high / low > 1 + TOLERANCE:
        middle = (low * high) ** 0.5
        try:
            is_enough = epsilon_of(middle, share, rounds, delta) <= epsilon
        except ConfigError:
            is_enough = False
        low, high = (low, middle) if is_enough else (middle, high)
    return high


def _accountant() -> Any:
    try:
        from opacus.accountants import PRVAccountant
    except ImportError:
        raise MissingExtra("opacus", "federated", "accounting for privacy") from None
    return PRVAccountant()
