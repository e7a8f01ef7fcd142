"""The mixture with the least predicted loss: where it lies, how sure that is, and what was measured near it.

Candidates are drawn around the natural mixture (Dirichlet, from close to it to far), with the measured ones among them; the
best few are improved by moving weight from one domain to another, by ever smaller steps. A search over a fitted law finds
where the law is too hopeful, too: so a bootstrap tells how far the answer moves, how often it beats the natural mixture, and
the nearest mixture that was really trained stands beside it, with how far away it is.

Limits hold for every candidate: caps (a domain that has so many tokens only, or must not be repeated), and a least entropy,
which keeps a mixture broad. Weight above a cap goes to the others in proportion; a mixture that is too narrow is blended with
the broadest one that the caps allow, as little as is enough.

**Source**: Liu et al. (RegMix), 2407.01492, section 3.3, for the search by simulation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from gyral.errors import InputError, did_you_mean
from gyral.law.intervals import Interval, percentiles
from gyral.law.mixture import MixtureLaw, aim_of, checked_weights

NUM_DRAWN, NUM_IMPROVED, NUM_FINALISTS = 4_096, 3, 256
STEPS = (0.08, 0.04, 0.02, 0.01, 0.005)
MOST_MOVES = 40
"""Of one step."""
AGAIN_STEPS, AGAIN_MOVES = (0.04, 0.01), 6
"""Of each bootstrap, from the best."""
LEAST_WEIGHT = 1e-4
"""Less of a domain is told as none."""
CONCENTRATIONS = (1.0, 200.0)
"""Of the Dirichlet draws; a domain's share of it is its natural weight."""
LEAST_NATURAL = 0.005


@dataclass(frozen=True)
class Limits:
    """What a mixture must keep.

    Attributes
    ----------
    caps_D : most weight of each domain.
    entropy : least, in nats.
    """

    caps_D: np.ndarray
    entropy: float = 0.0

    @property
    def broadest(self) -> np.ndarray:
        """The mixture of greatest entropy within the caps."""
        return capped(np.full(len(self.caps_D), 1 / len(self.caps_D)), self.caps_D)

    def check(self) -> None:
        """Raises InputError where no mixture keeps them."""
        if (self.caps_D < 0).any() or not self.caps_D.sum() >= 1 - 1e-9:
            raise InputError(
                "no mixture keeps these caps", why=f"they sum to {self.caps_D.sum():g}", hint="caps must sum to 1 or more"
            )
        most = float(entropy(self.broadest[None])[0])
        if self.entropy > most + 1e-9:
            why = f"the broadest mixture has {most:.3f} nats, {self.entropy:g} are asked"
            raise InputError("no mixture is so broad", why=why, hint="a lower least entropy, or wider caps")

    def kept(self, weights_mD: np.ndarray) -> np.ndarray:
        """The mixtures, changed as little as makes them keep the limits."""
        weights = np.stack([capped(row, self.caps_D) for row in weights_mD]) if (self.caps_D < 1).any() else weights_mD
        if self.entropy <= 0:
            return weights
        broad = self.broadest
        low, high = np.zeros(len(weights)), np.ones(len(weights))  # entropy is concave along the line to the broadest
        for _ in range(30):
            middle = (low + high) / 2
            is_enough = entropy((1 - middle[:, None]) * weights + middle[:, None] * broad) >= self.entropy
            low, high = np.where(is_enough, low, middle), np.where(is_enough, middle, high)
        blended = (1 - high[:, None]) * weights + high[:, None] * broad
        return np.where((entropy(weights) >= self.entropy)[:, None], weights, blended)

    def hold(self, weights_mD: np.ndarray) -> np.ndarray:
        """Which mixtures keep them, m."""
        return np.asarray((weights_mD <= self.caps_D + 1e-9).all(axis=1) & (entropy(weights_mD) >= self.entropy - 1e-9))


@dataclass(frozen=True)
class Best:
    """The answer.

    Attributes
    ----------
    weights, weights_80 : of each domain, and where four of five bootstraps have them.
    loss, loss_80 : aimed-at mean of the targets' losses, and where four of five such runs end.
    natural, natural_loss : what it is held against.
    sure : share of bootstraps in which it is better than the natural mixture.
    by_target : predicted loss of each target.
    neighbour : number of the nearest measured row (from 1); `neighbour_loss` as it was measured, at the first scale.
    apart : weight that would have to move from the neighbour to the best, 0 to 1.
    effects : change of the aimed-at loss as a domain gets a hundredth more, at the natural mixture; most helpful first.
    """

    weights: dict[str, float]
    weights_80: dict[str, Interval]
    loss: float
    loss_80: Interval
    natural: dict[str, float]
    natural_loss: float
    sure: float
    by_target: dict[str, float]
    neighbour: int
    neighbour_weights: dict[str, float]
    neighbour_loss: float
    neighbour_predicted: float
    apart: float
    effects: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        told = dict(vars(self))
        told["weights_80"] = {name: list(each) for name, each in self.weights_80.items()}
        told["loss_80"] = list(self.loss_80)
        return told


def best(
    law: MixtureLaw,
    aim: dict[str, float] | None = None,
    *,
    natural: dict[str, float] | None = None,
    caps: dict[str, float] | None = None,
    least_entropy: float = 0.0,
    num_bootstraps: int = 40,
    seed: int = 0,
) -> Best:
    """Search the mixtures.

    Parameters
    ----------
    aim : weight of each target; all alike where none is given.
    natural : shares of tokens that there are; the mean of the rows where none is given.
    caps : most weight of single domains.
    least_entropy : in nats.

    Raises
    ------
    InputError : a name is unknown, or no mixture keeps the limits.
    """
    rng, aim_T = np.random.default_rng(seed), aim_of(law.targets, aim)
    only = np.flatnonzero(aim_T).tolist()
    limits = Limits(_named(law, caps, np.ones(len(law.domains))), least_entropy)
    limits.check()
    usual = law.weights_nD.mean(axis=0)
    natural_D = checked_weights(_named(law, natural, usual if natural is None else np.zeros(len(usual)))[None], law.domains)[0]

    def value(weights_mD: np.ndarray, of: MixtureLaw = law) -> np.ndarray:
        return np.asarray(of.predict(weights_mD, only) @ aim_T[only])

    pool = limits.kept(np.concatenate([natural_D[None], law.weights_nD, drawn(natural_D, NUM_DRAWN, rng)]))
    loss_m = value(pool)
    order = np.argsort(loss_m, kind="stable")
    improved = [improve(value, pool[i], limits) for i in order[:NUM_IMPROVED]]
    found = _without_crumbs(min(improved, key=lambda each: float(value(each[None])[0])), limits)
    finalists = np.concatenate([found[None], limits.kept(natural_D[None]), np.stack(improved), pool[order[:NUM_FINALISTS]]])
    choices, losses, won = [], [], []
    off_n = law.residual_nT[:, only] @ aim_T[only]
    for _ in range(num_bootstraps):
        count = rng.multinomial(len(law.weights_nD), np.full(len(law.weights_nD), 1 / len(law.weights_nD)))
        other = law.refitted(count.astype(np.float64), only)
        told = value(finalists, other)
        begin = finalists[int(told.argmin())]
        choices.append(improve(partial(value, of=other), begin, limits, AGAIN_STEPS, AGAIN_MOVES))
        losses.append(told[0] + rng.choice(off_n, 25))
        won.append(told[0] < told[1])
    apart_n = np.abs(law.weights_nD - found).sum(axis=1) / 2
    near = int(apart_n.argmin())
    effects = law.effects(natural_D) @ aim_T
    names = law.domains
    return Best(
        dict(zip(names, map(float, found), strict=True)),
        {name: percentiles(np.array(choices)[:, i], 0.8) for i, name in enumerate(names)},
        float(value(found[None])[0]),
        percentiles(np.concatenate(losses), 0.8),
        dict(zip(names, map(float, natural_D), strict=True)),
        float(value(natural_D[None])[0]),
        float(np.mean(won)),
        dict(zip(law.targets, map(float, law.predict(found[None])[0]), strict=True)),
        near + 1,
        dict(zip(names, map(float, law.weights_nD[near]), strict=True)),
        float(law.loss_nT[near] @ aim_T),
        float(value(law.weights_nD[[near]])[0]),
        float(apart_n[near]),
        {names[i]: float(effects[i]) for i in np.argsort(effects)},
    )


def improve(
    value: Callable[[np.ndarray], np.ndarray],
    start_D: np.ndarray,
    limits: Limits,
    steps: tuple[float, ...] = STEPS,
    most_moves: int = MOST_MOVES,
) -> np.ndarray:
    """Move weight between pairs of domains for as long as that helps, by each of `steps`."""
    here, least = start_D, float(value(start_D[None])[0])
    D = len(start_D)
    pairs = np.array([(i, j) for i in range(D) for j in range(D) if i != j])
    for step in steps:
        for _ in range(most_moves):
            size = np.minimum(step, here[pairs[:, 0]])
            moved = np.tile(here, (len(pairs), 1))
            moved[np.arange(len(pairs)), pairs[:, 0]] -= size
            moved[np.arange(len(pairs)), pairs[:, 1]] += size
            moved = moved[(size > 1e-6) & limits.hold(moved)]
            if not len(moved):
                break
            told = value(moved)
            if not told.min() < least - 1e-9:
                break
            here, least = moved[told.argmin()], float(told.min())
    return here


def _without_crumbs(weights_D: np.ndarray, limits: Limits) -> np.ndarray:
    kept = np.where(weights_D < LEAST_WEIGHT, 0.0, weights_D)
    kept = kept / kept.sum()
    return kept if limits.hold(kept[None])[0] else weights_D


def drawn(natural_D: np.ndarray, num: int, rng: np.random.Generator) -> np.ndarray:
    """Mixtures around the natural one, num × D, from near to far."""
    base = np.maximum(natural_D, LEAST_NATURAL)
    concentration = np.exp(rng.uniform(math.log(CONCENTRATIONS[0]), math.log(CONCENTRATIONS[1]), num))
    shape = concentration[:, None] * base / base.sum()
    # the logarithm of a gamma of a small shape: of one with 1 more, and a uniform to the power of 1 / shape
    logs = np.log(rng.gamma(shape + 1)) + np.log(rng.random(shape.shape)) / shape
    gamma = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(gamma / gamma.sum(axis=1, keepdims=True))


def capped(weights_D: np.ndarray, caps_D: np.ndarray) -> np.ndarray:
    """A mixture within caps: what is above goes to the others in proportion, evenly where they have nothing."""
    found = np.minimum(weights_D, caps_D)
    for _ in range(len(caps_D) + 1):
        rest = 1 - found.sum()
        if rest <= 1e-12:
            break
        free = found < caps_D - 1e-15
        share = np.where(free, found, 0.0)
        share = share / share.sum() if share.sum() > 1e-12 else free / max(1, free.sum())
        found = np.minimum(found + rest * share, caps_D)
    return np.asarray(found / found.sum())


def entropy(weights_mD: np.ndarray) -> np.ndarray:
    """In nats, m."""
    return -np.asarray((weights_mD * np.log(np.maximum(weights_mD, 1e-300))).sum(axis=1))


def _named(law: MixtureLaw, told: dict[str, float] | None, usual_D: np.ndarray) -> np.ndarray:
    found = np.array(usual_D, np.float64)
    for name, value in (told or {}).items():
        if name not in law.domains:
            raise InputError(f"there is no domain `{name}`", hint=did_you_mean(name, law.domains))
        found[law.domains.index(name)] = value
    return found
