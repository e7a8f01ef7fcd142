"""What a token of each domain is worth, from runs of several sizes, amounts of data and mixtures.

One law through all of them, L = E + A N^-α + B D'^-β, where D' = D (Σ_d s_d w_d^ρ)^(1/ρ) is the data in tokens of the table's
mean mixture. ρ < 1 makes a domain's first tokens worth more than its last; with ρ = 1 it is the effective-data law of
`mixture_forms`, whose best mixture is one domain alone. D' grows with D in proportion, so a table whose D is replaced by D'
is an ordinary table of sizes and data: all forms, their weights and their bootstraps stay as they are.

Weights of rows are taken as they are, and rows that repeat their data are left out: a table tells how much of the data differs,
not how much of each domain.

Letters: n rows, D domains, P parameters.

**Source**: constant elasticity of substitution, Arrow et al., Review of Economics and Statistics 43 (1961), as the way domains
add up; that one law holds over sizes, data and mixtures, Shukor et al., 2507.09404.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from gyral.errors import InputError
from gyral.law.descent import squares
from gyral.law.intervals import drawn
from gyral.law.mixture import checked_weights
from gyral.law.runs import DOMAIN, RunTable

HEAD = 6
"""Parameters before those of domains: log E, log A, log B, log α, log β, and ρ."""
STARTS = (-0.5, 1.5)
"""Of ρ, before it is bent into its bounds."""
LEAST_RHO, MOST_RHO = 0.02, 0.98
PULL = 1e-6
"""How much half a parameter's square distance from its start counts, against half a row's square log residual."""
ROUNDS, BEND = 4, 1.345
"""Of reweighting, and from how many deviations on a row counts less (Huber's)."""
LEAST_SPREAD = 0.02
"""Standard deviation that weights must have in every direction: below it domains cannot be told apart."""


@dataclass(frozen=True)
class Worth:
    """What data is worth.

    Attributes
    ----------
    table : rows as they are, of which the law is.
    weights_nD : of its rows.
    theta_P : as fitted; `by_domain` and `rho` are what it says.
    """

    table: RunTable
    domains: tuple[str, ...]
    weights_nD: np.ndarray
    theta_P: np.ndarray

    @property
    def rho(self) -> float:
        """How well domains stand in for each other: 1 is wholly."""
        return float(_rho(self.theta_P[HEAD - 1]))

    @property
    def by_domain(self) -> np.ndarray:
        """s of each domain, D, so that the mean mixture of the rows is worth 1."""
        worth = np.exp(self.theta_P[HEAD:] - self.theta_P[HEAD:].max())
        return np.asarray(worth / (worth @ self.weights_nD.mean(axis=0) ** self.rho))

    def tokens(self, tokens_mD: np.ndarray) -> np.ndarray:
        """Data of so many tokens of each domain, in tokens of the mean mixture, m."""
        return np.asarray((tokens_mD**self.rho @ self.by_domain) ** (1 / self.rho))

    @property
    def told(self) -> RunTable:
        """The table with its data in tokens of the mean mixture."""
        data = self.tokens(self.weights_nD * self.table.columns["D"][:, None])
        columns = {name: column for name, column in self.table.columns.items() if name != "D_unique"}
        return replace(self.table, columns={**columns, "D": data})

    def bootstraps(self, num: int, seed: int = 0) -> list[Worth]:
        """The same from rows that count otherwise, those of one run together."""
        rows = _Rows.of(self.table, self.weights_nD)
        found = [rows.fitted(self.theta_P[None], count)[0] for count in drawn(self.table.run, num, seed)]
        return [replace(self, theta_P=theta) for theta in found]


def domains_of(table: RunTable) -> tuple[str, ...]:
    """Domains whose weights a table has, by name."""
    return tuple(name.removeprefix(DOMAIN) for name in table.columns if name.startswith(DOMAIN))


def fit(table: RunTable) -> Worth:
    """Fit what domains are worth.

    Raises
    ------
    InputError : the table cannot tell: it has too few rows or domains, or domains that do not vary apart from each other.
    """
    table.read_by(("N", "D"))
    domains = domains_of(table)
    if "D_unique" in table.columns:
        table = table.taken(table.columns["D_unique"] >= table.columns["D"] * 0.999)
    weights = checked_weights(np.stack([table.columns[DOMAIN + name] for name in domains], axis=1), domains)
    parameters = HEAD + len(domains) - 1
    if len(table) <= parameters:
        why = f"{len(table)} rows whose data is not repeated, {parameters} parameters"
        raise InputError("worths of domains cannot be fitted", where=table.source, why=why, hint="more runs on other mixtures")
    _check_spread(weights, domains, table)
    rows = _Rows.of(table, weights)
    theta, _ = rows.fitted(rows.starts(), np.ones(len(table)))
    return Worth(table, domains, weights, theta)


def _check_spread(weights_nD: np.ndarray, domains: tuple[str, ...], table: RunTable) -> None:
    """Weights sum to 1, so along (1, …, 1) they have no spread; in every other direction they must have some."""
    off = (weights_nD - weights_nD.mean(axis=0)) / np.sqrt(len(weights_nD))
    _, spread, axes = np.linalg.svd(np.vstack([off, np.ones(len(domains))]), full_matrices=False)
    if spread[-1] >= LEAST_SPREAD:
        return
    named = [domains[i] for i in sorted(np.argsort(-np.abs(axes[-1]))[:2])]
    what = f"the worth of `{named[0]}` and of `{named[1]}` cannot be told apart"
    why = "their weights hardly vary apart from each other"
    raise InputError(what, where=table.source, why=why, hint=f"runs with more `{named[0]}` at the cost of `{named[1]}` alone")


def _rho(bent: float | np.ndarray) -> np.ndarray:
    return np.asarray(LEAST_RHO + (MOST_RHO - LEAST_RHO) / (1 + np.exp(-bent)))


@dataclass(frozen=True)
class _Rows:
    """Logarithms, sizes and data about their means."""

    size_n: np.ndarray
    data_n: np.ndarray
    log_nD: np.ndarray
    has_nD: np.ndarray
    y_n: np.ndarray

    @staticmethod
    def of(table: RunTable, weights_nD: np.ndarray) -> _Rows:
        size, data = np.log(table.columns["N"]), np.log(table.columns["D"])
        logs = np.log(np.where(weights_nD > 0, weights_nD, 1.0))
        return _Rows(size - size.mean(), data - data.mean(), logs, weights_nD > 0, np.log(table.loss))

    def starts(self) -> np.ndarray:
        low = float(self.y_n.min())
        head = [low - 0.5, low - 1.5, low - 1.5, np.log(0.35), np.log(0.35)]
        return np.array([[*head, bent, *np.zeros(self.log_nD.shape[1])] for bent in STARTS])

    def fitted(self, starts_SP: np.ndarray, count_n: np.ndarray) -> tuple[np.ndarray, float]:
        """The best from several starts: least squares of log residuals, reweighted as Huber's."""
        pull = np.full(starts_SP.shape[1], PULL)
        best, least = starts_SP[0], np.inf
        for start in starts_SP:
            theta, root, value = start, np.sqrt(count_n), np.inf
            for _ in range(ROUNDS):
                theta, value = squares(partial(self._off, root_n=root), theta, starts_SP[0], pull)
                r = np.abs(self._off(theta, np.ones(len(self.y_n)))[0])
                scale = max(1.4826 * float(np.median(r)), 1e-9)
                root = np.sqrt(count_n * np.minimum(1.0, BEND * scale / np.maximum(r, 1e-300)))
            if value < least:
                best, least = theta, value
        if not np.isfinite(least):
            raise InputError("worths of domains cannot be fitted", hint="are the losses and the columns those of runs?")
        return best, least

    def _off(self, theta_P: np.ndarray, root_n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weighted log residuals and their derivatives."""
        alpha, beta, rho = np.exp(theta_P[3]), np.exp(theta_P[4]), _rho(theta_P[5])
        part = np.where(self.has_nD, np.exp(theta_P[HEAD:] + rho * self.log_nD), 0.0)
        total = part.sum(axis=1)
        share, log_total = part / total[:, None], np.log(total)
        floor = np.full(len(self.y_n), np.exp(theta_P[0]))
        by_size = np.exp(theta_P[1] - alpha * self.size_n)
        mixed = self.data_n + log_total / rho
        by_data = np.exp(theta_P[2] - beta * mixed)
        loss = floor + by_size + by_data
        bend = (rho - LEAST_RHO) * (MOST_RHO - rho) / (MOST_RHO - LEAST_RHO)
        of_rho = -beta * ((share * self.log_nD).sum(axis=1) / rho - log_total / rho**2) * bend
        columns = [
            floor, by_size, by_data, -alpha * self.size_n * by_size, -beta * mixed * by_data, of_rho * by_data,
            *(-(beta / rho) * share * by_data[:, None]).T,
        ]  # fmt: skip
        return root_n * (np.log(loss) - self.y_n), (root_n / loss)[:, None] * np.stack(columns, axis=1)
