from __future__ import annotations

import numpy as np

from gyral.law.runs import RunTable

RHO, WORTH = 0.6, (1.0, 0.5, 0.2)


def mixed_loss(size: np.ndarray, tokens_mD: np.ndarray, rho: float = RHO, worth: tuple[float, ...] = WORTH) -> np.ndarray:
    """Chinchilla's law of tokens of each domain, none of which repeats."""
    data = (tokens_mD**rho @ np.array(worth)) ** (1 / rho)
    return np.asarray(1.8 + 480 * size**-0.35 + 2080 * data**-0.37)


def repeated(tokens: np.ndarray, unique: np.ndarray | float) -> np.ndarray:
    """Muennighoff et al., 2305.16264, equation 5, as it is written there."""
    unique = np.minimum(unique, 1e300)
    times = np.maximum(tokens / unique - 1, 0)
    return np.asarray(np.minimum(tokens, unique) + unique * 15.39 * (1 - np.exp(-times / 15.39)))


def blended(seed: int = 0, sigma: float = 0.0, rows: int = 90, spread: float = 1.0) -> RunTable:
    """Runs of many sizes, amounts and mixtures of `web`, `code` and `chat`."""
    rng = np.random.default_rng(seed)
    size, data = np.exp(rng.uniform(np.log(1e7), np.log(1e9), rows)), np.exp(rng.uniform(np.log(1e9), np.log(1e11), rows))
    weights = rng.dirichlet(np.full(len(WORTH), spread), rows)
    loss = mixed_loss(size, weights * data[:, None]) * np.exp(rng.normal(0, sigma, rows))
    columns = {f"w:{name}": weights[:, d] for d, name in enumerate(("web", "code", "chat"))}
    return RunTable({"N": size, "D": data, "C": 6 * size * data, **columns}, loss, np.arange(rows).astype(str))
