"""Ranking metrics, full ranking only: every object of the catalogue competes, none is sampled.

Shapes: B subjects, k places.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SMALLER_IS_BETTER = ("loss", "bits_per_byte", "perplexity", "error")
"""Ends of the names of metrics of which less is better; of all others more is."""


def ranking_metrics(ranked_Bk: np.ndarray, relevant: Sequence[np.ndarray], k: int = 10) -> dict[str, np.ndarray]:
    """Score ranked objects against what each subject really met.

    Parameters
    ----------
    ranked_Bk : object codes, best first, −1 where an answer was shorter.
    relevant : for each subject the distinct codes it met; objects no model knows may be in it and count as missed.

    Returns
    -------
    `ndcg` (binary gain, log2 discount, normalised by the ideal of min(k, objects met)), `recall` (share of the objects met that
    is in the first k) and `hit` (1 if any is), each float64 [B].

    Source: Järvelin and Kekäläinen, Cumulated gain-based evaluation of IR techniques, ACM TOIS 2002.
    """
    ranked_Bk = ranked_Bk[:, :k]
    discount = 1.0 / np.log2(np.arange(2, k + 2))
    ideal = np.concatenate([[np.inf], np.cumsum(discount)])
    counts = np.array([len(each) for each in relevant], dtype=np.int64)
    owner = np.repeat(np.arange(len(relevant)), counts)
    width = 1 + max(int(ranked_Bk.max(initial=-1)), max((int(each.max(initial=-1)) for each in relevant), default=-1))
    met = np.sort(owner * width + (np.concatenate(relevant) if len(relevant) else np.zeros(0, dtype=np.int64)))
    keys = np.arange(len(relevant))[:, None] * width + ranked_Bk
    place = np.minimum(np.searchsorted(met, keys), max(len(met) - 1, 0))
    found = (met[place] == keys) & (ranked_Bk >= 0) if len(met) else np.zeros(keys.shape, dtype=bool)
    gained = (found * discount[: ranked_Bk.shape[1]]).sum(axis=1)
    hits = found.sum(axis=1)
    return {
        "ndcg": gained / ideal[np.minimum(counts, k)],
        "recall": hits / np.maximum(counts, 1),
        "hit": (hits > 0).astype(np.float64),
    }


def area_under_roc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Share of pairs (yes, no) in which the yes has the higher score, ties counted half; nan without both.

    Source: Mann and Whitney 1947, by the sum of ranks.
    """
    order = np.argsort(scores, kind="stable")
    ranked = scores[order]
    begins = np.r_[True, ranked[1:] != ranked[:-1]]
    group = np.cumsum(begins) - 1
    sizes = np.bincount(group)
    mean_rank = np.cumsum(sizes) - (sizes - 1) / 2
    ranks = mean_rank[group]
    num_yes = int(labels.sum())
    num_no = len(labels) - num_yes
    if num_yes == 0 or num_no == 0:
        return float("nan")
    return float((ranks[labels[order]].sum() - num_yes * (num_yes + 1) / 2) / (num_yes * num_no))
