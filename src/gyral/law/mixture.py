"""From the weights of domains to the loss of each target: three laws, weighted by how well they rank what was held out.

A mixture is chosen by rank, so rank is what a law is weighed by: each of `MEMBERS` is fitted without a fold of the rows and
ranks that fold; its share is 1 / (1 - ρ)², for each target apart. Nothing but training rows enters. Where some rows of a second
scale are there, ρ is that of all first-scale laws on those rows, and a line carries predictions over to its losses.

On 512 runs of the Pile the process that assumes no form has most of the weight, and alone ranks as well as all three, at 1M
parameters (ρ .993) and at 60M (.988). Whether it does so further away is not known here; the two laws that have a form are what
a second scale can turn to. Trees as a fourth member would add .0002. 13 targets take half a CPU-minute, nine tenths of it the
processes', with one thread of BLAS: on a busy machine more of them wait for each other (`OPENBLAS_NUM_THREADS=1`).

Letters: n rows, D domains, T targets, M members.

**Source**: Liu et al. (RegMix), 2407.01492, for ranking mixtures by many small runs; Wolpert, Neural Networks 5 (1992), for
weighing by held-out predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from gyral.errors import InputError, did_you_mean
from gyral.law import gaussian, mixture_forms

NUM_FOLDS = 4
LEAST_ROWS = 12
MOST_OFF = 0.02
"""Weights of a row may miss 1 by so much (tables are rounded)."""
LEAST_MISSED = 1e-3
"""1 - ρ below this counts as this: no table of a few hundred rows tells such ranks apart."""


class Member(Protocol):
    """A fitted law of one target."""

    def predict(self, weights_mD: np.ndarray) -> np.ndarray:
        """Losses, m."""

    def refitted(self, count_n: np.ndarray) -> Member:
        """The same with each row counted so many times."""


def _parametric(name: str) -> Callable[[np.ndarray, np.ndarray], Member]:
    return lambda weights_nD, loss_n: mixture_forms.fit(name, weights_nD, loss_n)


MEMBERS: dict[str, Callable[[np.ndarray, np.ndarray], Member]] = {
    "gaussian_process": gaussian.fit,
    "effective_data": _parametric("effective_data"),
    "exponential": _parametric("exponential"),
}


@dataclass(frozen=True)
class MixtureLaw:
    """What a table of mixtures says.

    Attributes
    ----------
    weights_nD, loss_nT : the rows; weights sum to 1.
    names : of the members.
    members : T × M.
    agreement_TM : Spearman's ρ of each with what was held out, or with the second scale.
    share_TM : weight of each member; a target's sum to 1.
    residual_nT : observed minus predicted for rows that the prediction did not see: held out, or of the second scale.
    line_T2 : slope and offset from the first scale's losses to those that are told; 1 and 0 where there is no second scale.
    """

    domains: tuple[str, ...]
    targets: tuple[str, ...]
    weights_nD: np.ndarray
    loss_nT: np.ndarray
    names: tuple[str, ...]
    members: tuple[tuple[Member, ...], ...]
    agreement_TM: np.ndarray
    share_TM: np.ndarray
    residual_nT: np.ndarray
    line_T2: np.ndarray

    def predict(self, weights_mD: np.ndarray, only: Sequence[int] | None = None) -> np.ndarray:
        """Losses m × T, or of the targets of these numbers.

        Raises
        ------
        InputError : weights are negative, do not sum to 1, or are of other domains.
        """
        weights = checked_weights(weights_mD, self.domains)
        chosen = range(len(self.targets)) if only is None else only
        told = [self.line_T2[t, 0] * self._of_first_scale(weights, t) + self.line_T2[t, 1] for t in chosen]
        return np.stack(told, axis=1)

    def _of_first_scale(self, weights_mD: np.ndarray, t: int) -> np.ndarray:
        used = [m for m in range(len(self.names)) if self.share_TM[t, m] > 0]
        return np.asarray(sum(self.share_TM[t, m] * self.members[t][m].predict(weights_mD) for m in used))

    def refitted(self, count_n: np.ndarray, only: Sequence[int]) -> MixtureLaw:
        """The law with each row counted so many times, members of the targets in `only` refitted; shares stay."""
        members = list(self.members)
        for t in only:
            members[t] = tuple(each.refitted(count_n) for each in members[t])
        return replace(self, members=tuple(members))

    def effects(self, weights_D: np.ndarray, step: float = 0.01) -> np.ndarray:
        """What each domain does, D × T: change of loss as its weight grows by `step`, all others giving in proportion."""
        here = checked_weights(weights_D[None], self.domains)
        D = len(self.domains)
        moved = (1 - step) * here + step * np.eye(D)
        told = self.predict(np.concatenate([here, moved]))
        return np.asarray(told[1:] - told[0])


def fit(
    weights_nD: np.ndarray,
    loss_nT: np.ndarray,
    domains: Sequence[str] = (),
    targets: Sequence[str] = (),
    *,
    second: tuple[np.ndarray, np.ndarray] | None = None,
    members: Sequence[str] = tuple(MEMBERS),
    seed: int = 0,
    on_target: Callable[[int, int], None] | None = None,
) -> MixtureLaw:
    """Fit the law of a table of mixtures.

    Parameters
    ----------
    second : mixtures and losses (of the same targets) of a larger scale: at least twelve rows.
    seed : of the folds.
    on_target : called with how many targets are done, of how many.

    Raises
    ------
    InputError : rows cannot be used, or are too few.
    """
    loss_nT = np.asarray(loss_nT, np.float64)
    loss_nT = loss_nT[:, None] if loss_nT.ndim == 1 else loss_nT
    domains = tuple(domains) or tuple(f"domain {i + 1}" for i in range(np.shape(weights_nD)[1]))
    targets = tuple(targets) or tuple(f"target {t + 1}" for t in range(loss_nT.shape[1]))
    weights_nD = checked_weights(weights_nD, domains)
    _check(weights_nD, loss_nT, targets)
    if second is not None:
        second = checked_weights(second[0], domains), np.asarray(second[1], np.float64).reshape(len(second[0]), -1)
        _check(*second, targets)
    fold_n = np.random.default_rng(seed).permutation(len(weights_nD)) % NUM_FOLDS
    T, M = len(targets), len(members)
    fitted: list[tuple[Member, ...]] = []
    agreement, share, residuals = np.empty((T, M)), np.empty((T, M)), []
    line = np.tile([1.0, 0.0], (T, 1))
    for t in range(T):
        fitted.append(tuple(MEMBERS[name](weights_nD, loss_nT[:, t]) for name in members))
        if second is None:
            observed = loss_nT[:, t]
            told_Mn = np.stack([_held_out(MEMBERS[name], weights_nD, observed, fold_n) for name in members])
        else:
            observed = second[1][:, t]
            told_Mn = np.stack([each.predict(second[0]) for each in fitted[t]])
        agreement[t] = [spearman(told_n, observed) for told_n in told_Mn]
        share[t] = shares(agreement[t])
        stacked = share[t] @ told_Mn
        if second is not None:
            line[t] = _line(stacked, observed)
        residuals.append(observed - line[t, 0] * stacked - line[t, 1])
        if on_target is not None:
            on_target(t + 1, T)
    rows = np.stack(residuals, axis=1)
    return MixtureLaw(domains, targets, weights_nD, loss_nT, tuple(members), tuple(fitted), agreement, share, rows, line)


def shares(agreement_M: np.ndarray) -> np.ndarray:
    """Weights from ranks' agreement: 1 / (1 - ρ)²."""
    missed = np.maximum(1 - agreement_M, LEAST_MISSED)
    return np.asarray(missed**-2 / (missed**-2).sum())


def spearman(one_n: np.ndarray, other_n: np.ndarray) -> float:
    """Rank correlation, ties at their middle rank; 0 where one of them does not vary."""
    a, b = _ranks(one_n), _ranks(other_n)
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt(a @ a * (b @ b)))
    return float(a @ b) / size if size > 0 else 0.0


def _ranks(values_n: np.ndarray) -> np.ndarray:
    _, where, many = np.unique(values_n, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(many) - (many - 1) / 2)[where])


def _held_out(
    of: Callable[[np.ndarray, np.ndarray], Member], weights_nD: np.ndarray, loss_n: np.ndarray, fold_n: np.ndarray
) -> np.ndarray:
    told = np.empty(len(loss_n))
    for fold in range(NUM_FOLDS):
        out = fold_n == fold
        told[out] = of(weights_nD[~out], loss_n[~out]).predict(weights_nD[out])
    return told


def _line(told_n: np.ndarray, observed_n: np.ndarray) -> np.ndarray:
    """Slope and offset of the least squares; the slope is not negative."""
    spread = told_n - told_n.mean()
    slope = max(0.0, float(spread @ observed_n) / max(float(spread @ spread), 1e-300))
    return np.array([slope, float(observed_n.mean()) - slope * float(told_n.mean())])


def checked_weights(weights_nD: np.ndarray, domains: Sequence[str]) -> np.ndarray:
    """Weights of rows, each scaled to sum to 1.

    Raises
    ------
    InputError : they are negative, sum to something else, or are of other domains.
    """
    weights = np.atleast_2d(np.asarray(weights_nD, np.float64))
    if weights.shape[1] != len(domains):
        raise InputError(
            f"a mixture has {weights.shape[1]} weights",
            why=f"there are {len(domains)} domains",
            hint="a weight for each domain",
        )
    if len(domains) < 2:
        raise InputError("one domain is no mixture", hint="a column of weights for each domain, `w:NAME`")
    total = weights.sum(axis=1)
    wrong = np.flatnonzero(~np.isfinite(total) | (weights < 0).any(axis=1) | (np.abs(total - 1) > MOST_OFF))
    if len(wrong):
        row = int(wrong[0])
        why = f"they sum to {total[row]:g}; the least is {weights[row].min():g}"
        hint = "weights are shares of tokens, not percentages; all domains must be named"
        raise InputError(f"weights of row {row + 1} are no mixture", why=why, hint=hint)
    return np.asarray(weights / total[:, None])


def _check(weights_nD: np.ndarray, loss_nT: np.ndarray, targets: Sequence[str]) -> None:
    if len(loss_nT) != len(weights_nD) or loss_nT.shape[1] != len(targets):
        why = f"{len(weights_nD)} mixtures; losses are {loss_nT.shape[0]} × {loss_nT.shape[1]}, targets {len(targets)}"
        raise InputError("mixtures and losses do not belong together", why=why)
    if len(loss_nT) < LEAST_ROWS:
        why = f"{len(loss_nT)} rows; three a domain are a start"
        raise InputError("too few mixtures for a law", why=why, hint=f"train {LEAST_ROWS} or more small models")
    wrong = np.argwhere(~np.isfinite(loss_nT) | (loss_nT <= 0))
    if len(wrong):
        row, t = map(int, wrong[0])
        what = f"`{targets[t]}` is {loss_nT[row, t]:g} in row {row + 1}"
        raise InputError(what, hint="leave out rows of runs that diverged")


def aim_of(targets: Sequence[str], weights: Mapping[str, float] | None = None) -> np.ndarray:
    """What is wanted, T: weights of targets by name, which sum to 1; all alike where none is given.

    Raises
    ------
    InputError : a name is no target, or weights are not positive.
    """
    if not weights:
        return np.full(len(targets), 1 / len(targets))
    for name, value in weights.items():
        if name not in targets:
            raise InputError(f"there is no target `{name}`", hint=did_you_mean(name, targets))
        if not value >= 0:
            raise InputError(f"the weight of target `{name}` is {value:g}", hint="weights are 0 or more")
    aim = np.array([float(weights.get(name, 0.0)) for name in targets])
    if not 0 < aim.sum() < np.inf:
        raise InputError("no target is wanted", hint="at least one weight above 0")
    return np.asarray(aim / aim.sum())
