from __future__ import annotations

import numpy as np

from gyral.law.forms import FORMS
from gyral.law.runs import RunTable


def table(seed: int = 0, sigma: float = 0.002, form: str = "chinchilla", sizes: int = 7) -> RunTable:
    """Runs that obey a law but for noise."""
    n, d = np.meshgrid(np.geomspace(1e6, 1e9, sizes), np.geomspace(1e8, 1e11, sizes))
    columns = {"N": n.ravel(), "D": d.ravel(), "C": 6 * n.ravel() * d.ravel()}
    told = {
        "chinchilla": {"E": 1.8, "A": 480.0, "B": 2080.0, "alpha": 0.35, "beta": 0.37},
        "kaplan": {"Nc": 8.8e13, "Dc": 5.4e13, "alpha_N": 0.076, "alpha_D": 0.095},
    }[form]
    law = FORMS[form]
    loss = law.loss(law.fitted(told), columns) * np.exp(np.random.default_rng(seed).normal(0, sigma, len(columns["N"])))
    return RunTable(columns, loss, np.arange(len(loss)).astype(str))
