"""Simulated devices: what each one is, who is asked in a round, who answers and when.

All is drawn from (seed, round, device), so a round is the same on any number of workers, and the same whether other rounds ran
before. The clock is simulated: a device downloads the model, computes, uploads; a round ends when enough have answered, at the
latest at the deadline. Speeds vary by a factor drawn anew each time (log-normal, σ .5).

Links are those of the slower, the middle and the faster third of phones in mobile networks, memory what an app gets in the
background; they are round values to be replaced by one's own (`[train.federated.tiers]`), not measured ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gyral.config.training import Federated, Tier
from gyral.errors import ConfigError

MIXED = {
    "small": Tier(0.3, memory_mb=50, targets_per_s=50, down_mbit=4, up_mbit=1, available=0.5, dropout=0.2),
    "middle": Tier(0.5, memory_mb=200, targets_per_s=300, down_mbit=20, up_mbit=5, available=0.7, dropout=0.1),
    "large": Tier(0.2, memory_mb=1_000, targets_per_s=2_000, down_mbit=100, up_mbit=20, available=0.9, dropout=0.05),
}
IDEAL = {"ideal": Tier(1.0, memory_mb=1e6, targets_per_s=1e9, down_mbit=1e6, up_mbit=1e6)}
JITTER = 0.5
COPIES = 3
"""Of the model, that a device holds: the server's, its own, a gradient."""


@dataclass(frozen=True)
class Round:
    """Who takes part.

    Attributes
    ----------
    asked : devices that got the model, ascending.
    answered : of these, who is in time.
    late : who answers, but later.
    gone : who vanishes.
    seconds : after which each of `asked` has answered, or would have.
    lasts_s : until the round is closed.
    """

    asked: np.ndarray
    answered: np.ndarray
    late: np.ndarray
    gone: np.ndarray
    seconds: dict[int, float]
    lasts_s: float


class Fleet:
    """All devices.

    Parameters
    ----------
    targets : events that each one learns from, int64 [N].
    num_bytes : of the model as it is sent down, and of an update as it is sent up.
    """

    def __init__(self, told: Federated, targets: np.ndarray, seed: int, num_bytes: tuple[int, int], model_bytes: int) -> None:
        self.tiers = tiers_of(told)
        self._told, self._targets, self._seed, self._bytes = told, targets, seed, num_bytes
        shares = np.cumsum([tier.share for tier in self.tiers.values()])
        drawn = np.random.default_rng((seed, 2)).random(len(targets)) * shares[-1]
        self.tier = np.searchsorted(shares, drawn, side="right").clip(max=len(shares) - 1)
        self.fits = self._of("memory_mb") * 1e6 >= COPIES * model_bytes
        if not self.fits.any():
            hint = "a smaller `recommend.history_width`, or other `tiers`"
            raise ConfigError(f"{COPIES} copies of the model, {model_bytes:,} bytes each, fit into no device", hint=hint)
        self.is_private = told.noise > 0 or told.epsilon > 0

    @property
    def share(self) -> float:
        """Probability at which a device that is there is asked, where each is on its own: q."""
        return float(min(1.0, self._told.cohort / max((self._of("available") * self.fits).sum(), 1e-9)))

    @property
    def expected(self) -> float:
        """Answers of a round on average, late ones included; a number that does not depend on who took part."""
        return float((self.share * self._of("available") * (1 - self._of("dropout")) * self.fits).sum())

    def round(self, number: int) -> Round:
        """Who takes part in a round."""
        rng = np.random.default_rng((self._seed, number, 3))
        is_there = (rng.random(len(self.tier)) < self._of("available")) & self.fits
        luck = rng.random(len(self.tier))
        if self.is_private:
            asked = np.flatnonzero(is_there & (luck < self.share))
        else:
            wanted = int(np.ceil(self._told.cohort * self._told.over))
            there = np.flatnonzero(is_there)
            asked = np.sort(there[np.argsort(luck[there], kind="stable")[:wanted]])
        speed, lost = np.exp(JITTER * rng.standard_normal(len(self.tier))), rng.random(len(self.tier))
        down, up = self._bytes
        needed_s = 8e-6 * (down / self._of("down_mbit") + up / self._of("up_mbit"))
        needed_s = (needed_s + self._targets * self._told.local_steps / self._of("targets_per_s")) * speed
        is_gone = lost[asked] < self._of("dropout")[asked]
        coming = asked[~is_gone]
        in_time = coming[needed_s[coming] <= self._told.deadline_s]
        lasts_s = self._told.deadline_s if len(in_time) < len(asked) else float(needed_s[asked].max(initial=0.0))
        if not self.is_private and len(in_time) >= self._told.cohort:
            in_time = in_time[np.argsort(needed_s[in_time], kind="stable")[: self._told.cohort]]
            lasts_s = float(needed_s[in_time].max())
        answered = np.sort(in_time)
        late = np.setdiff1d(coming, answered)
        return Round(
            asked, answered, late, asked[is_gone], dict(zip(asked.tolist(), needed_s[asked].tolist(), strict=True)), lasts_s
        )

    def _of(self, name: str) -> np.ndarray:
        values: np.ndarray = np.array([getattr(tier, name) for tier in self.tiers.values()])[self.tier]
        return values


def tiers_of(told: Federated) -> Mapping[str, Tier]:
    """The classes of a fleet."""
    if told.fleet == "ideal":
        return IDEAL
    return told.tiers or MIXED
