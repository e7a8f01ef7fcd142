"""The laws: which columns they read, what their parameters are called, where those may lie, and how rows are laid out.

| form | law | source |
|---|---|---|
| `power` | L = A x^-γ | Hestness et al., 1712.00409 |
| `power_floor` | L = E + A x^-γ | Henighan et al., 2010.14701 |
| `chinchilla` | L = E + A N^-α + B D^-β | Hoffmann et al., 2203.15556, approach 3 |
| `tied` | the same with α = β | Muennighoff et al., 2305.16264 |
| `overtraining` | L = E + (a + b M^-η) N^-η with M = D / N: `tied` in other words | Gadre et al., 2403.08540 |
| `kaplan` | L = ((Nc / N)^(α_N / α_D) + Dc / D)^α_D | Kaplan et al., 2001.08361, equation 1.5 |
| `crossed` | L = E + A N^-α + B D^-β + G N^-α D^-β | cross terms as in Farseer, 2506.10972; ours is the plainest |
| `m4` | (L - E) / (L0 - L)^κ = A x^-γ | Alabdulmohsin et al., 2209.06640 |
| `broken` | L = E + A x^-c0 (1 + (x / d)^(1 / f))^(-c1 f) | Caballero et al., 2210.14891 |
| `data_constrained` | `chinchilla` of N' and D', which saturate as data repeats | Muennighoff et al., 2305.16264, eq. 5 to 7 |
| `routing` | lg L = a lg N + b lg Ê + c lg N lg Ê + d, Ê the saturated number of experts | Clark et al., 2202.01169 |
| `link` | error = ε - k exp(-γ L) | Gadre et al., 2403.08540, equation 5 |

x is compute C where a table has no other column. N: parameters; D: tokens, examples or interactions; C: FLOPs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gyral.errors import InputError, did_you_mean
from gyral.law import kernel
from gyral.law import special_kernel as codes
from gyral.law.runs import Columns


class Parameter(NamedTuple):
    """One parameter as it is fitted and as it is told.

    Attributes
    ----------
    low, high : bounds while fitting.
    is_log : fitted as its natural logarithm, told itself.
    grid : values of a nonlinear one that starts are looked for at; empty: it is the height of a term.
    scale : of what is told over what is fitted: laws that are written in log10 are fitted in natural logarithms.
    """

    name: str
    low: float
    high: float
    is_log: bool = False
    grid: tuple[float, ...] = ()
    scale: float = 1.0

    def told(self, value: np.ndarray | float) -> np.ndarray:
        """From as it is fitted to as it is told."""
        return np.exp(value) if self.is_log else self.scale * np.asarray(value)


def _height(name: str, low: float = -20.0, high: float = 60.0) -> Parameter:
    return Parameter(name, low, high, True)


def _exponent(name: str, points: int, high: float = 2.0) -> Parameter:
    return Parameter(name, 0.0, high, False, tuple(np.geomspace(0.02, min(high, 1.6), points).tolist()))


class Form(NamedTuple):
    """One law.

    Attributes
    ----------
    axes : columns that it reads; `x` stands for the one that is asked for.
    rows : columns → n × M, as `code` reads them.
    linear : for each term which parameter is the logarithm of its height; empty where the law is no sum of terms.
    """

    name: str
    axes: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    rows: Callable[[Columns], np.ndarray]
    code: int = codes.SUM
    linear: tuple[int, ...] = ()

    @property
    def low(self) -> np.ndarray:
        """Least values, P."""
        return np.array([each.low for each in self.parameters])

    @property
    def high(self) -> np.ndarray:
        """Greatest values, P."""
        return np.array([each.high for each in self.parameters])

    @property
    def names(self) -> tuple[str, ...]:
        """Of the parameters."""
        return tuple(each.name for each in self.parameters)

    def told(self, theta_P: np.ndarray) -> np.ndarray:
        """Parameters (…, P) as they are told."""
        columns = [each.told(theta_P[..., p]) for p, each in enumerate(self.parameters)]
        return np.stack(columns, axis=-1)

    def fitted(self, told: Mapping[str, float]) -> np.ndarray:
        """Parameters as they are fitted, from those that are told."""
        values = [told[each.name] for each in self.parameters]
        return np.array(
            [math.log(v) if each.is_log else v / each.scale for v, each in zip(values, self.parameters, strict=True)]
        )

    def loss(self, theta_P: np.ndarray, columns: Columns) -> np.ndarray:
        """What the law says of these columns, n."""
        return np.exp(kernel.predicted(self.code, theta_P, self.rows(columns)))


def _terms(terms: Sequence[Mapping[int, str | float]], num: int) -> Callable[[Columns], np.ndarray]:
    """Rows of a sum of terms: of each term, parameter → what it multiplies: a number, or minus the logarithm of a column."""

    def rows(columns: Columns) -> np.ndarray:
        size = len(next(iter(columns.values())))
        out = np.zeros((size, len(terms), num))
        for k, term in enumerate(terms):
            for p, what in term.items():
                out[:, k, p] = -np.log(columns[what]) if isinstance(what, str) else what
        return out.reshape(size, -1)

    return rows


def _logs(*names: str) -> Callable[[Columns], np.ndarray]:
    return lambda columns: np.ascontiguousarray(np.stack([np.log(columns[name]) for name in names], axis=1))


def _routed(columns: Columns) -> np.ndarray:
    return np.ascontiguousarray(np.stack([np.log(columns["N"]), columns["experts"]], axis=1))


_E, _A, _B = _height("E", -20.0, 20.0), _height("A"), _height("B")
_FORMS = [
    Form("power", ("x",), (_A, _exponent("gamma", 64)), _terms([{0: 1, 1: "x"}], 2), linear=(0,)),
    Form("power_floor", ("x",), (_E, _A, _exponent("gamma", 64)), _terms([{0: 1}, {1: 1, 2: "x"}], 3), linear=(0, 1)),
    Form(
        "chinchilla",
        ("N", "D"),
        (_E, _A, _B, _exponent("alpha", 40), _exponent("beta", 40)),
        _terms([{0: 1}, {1: 1, 3: "N"}, {2: 1, 4: "D"}], 5),
        linear=(0, 1, 2),
    ),
    Form(
        "tied",
        ("N", "D"),
        (_E, _A, _B, _exponent("alpha", 64)),
        _terms([{0: 1}, {1: 1, 3: "N"}, {2: 1, 3: "D"}], 4),
        linear=(0, 1, 2),
    ),
    Form(
        "overtraining",
        ("N", "D"),
        (_E, _height("a"), _height("b"), _exponent("eta", 64)),
        _terms([{0: 1}, {1: 1, 3: "N"}, {2: 1, 3: "D"}], 4),
        linear=(0, 1, 2),
    ),
    Form(
        "crossed",
        ("N", "D"),
        (_E, _A, _B, _height("G"), _exponent("alpha", 28), _exponent("beta", 28)),
        _terms([{0: 1}, {1: 1, 4: "N"}, {2: 1, 5: "D"}, {3: 1, 4: "N", 5: "D"}], 6),
        linear=(0, 1, 2, 3),
    ),
    Form(
        "kaplan",
        ("N", "D"),
        (_height("Nc", 0, 120), _height("Dc", 0, 120), _exponent("alpha_N", 24), _exponent("alpha_D", 24)),
        _logs("N", "D"),
        codes.KAPLAN,
    ),
    Form(
        "m4",
        ("x",),
        (_E, _height("L0-E", -12, 8), _height("A", -20, 120), _exponent("gamma", 12, 4.0), Parameter("kappa", 0.0, 6.0)),
        _logs("x"),
        codes.SATURATING,
    ),
    Form(
        "broken",
        ("x",),
        (
            _E, _A, Parameter("c0", -0.5, 2.0), Parameter("c1", -2.0, 4.0), Parameter("d", 0.0, 80.0, True),
            Parameter("f", -5.0, 3.0, True),
        ),
        _logs("x"),
        codes.BROKEN,
    ),
    Form(
        "data_constrained",
        ("N", "D", "D_unique"),
        (
            _E, _A, _B, _exponent("alpha", 12), _exponent("beta", 12), Parameter("R_D", -3.0, 12.0, True),
            Parameter("R_N", -3.0, 12.0, True),
        ),
        _logs("N", "D", "D_unique"),
        codes.CONSTRAINED,
    ),
    Form(
        "routing",
        ("N", "experts"),
        (
            Parameter("a", -2.0, 0.0), Parameter("b", -2.0, 1.0), Parameter("c", -0.5, 0.5, scale=math.log(10)),
            Parameter("d", -10.0, 10.0, scale=1 / math.log(10)),
            Parameter("E_start", 0.0, 5.0, True), Parameter("E_max", 1.0, 14.0, True),
        ),
        _routed,
        codes.ROUTED,
    ),
    Form(
        "link",
        ("L",),
        (Parameter("epsilon", -6.0, 3.0, True), Parameter("k", -12.0, 30.0, True), Parameter("gamma", -6.0, 4.0, True)),
        lambda columns: np.ascontiguousarray(columns["L"][:, None]),
        codes.LINK,
    ),
]  # fmt: skip
FORMS: dict[str, Form] = {each.name: each for each in _FORMS}


def find(name: str) -> Form:
    """A law by name.

    Raises
    ------
    InputError : there is none.
    """
    if name not in FORMS:
        raise InputError(f"there is no form `{name}`", hint=did_you_mean(name, FORMS) or ", ".join(FORMS))
    return FORMS[name]
