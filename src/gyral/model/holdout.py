"""The last part of what was learned, held out: candidates are chosen on it, and compression is measured on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gyral.model.metrics import ranking_metrics
from gyral.model.recommender import Interactions, Recommender

K = 10
HELD_OUT = 0.2
MAX_ASKED = 2_000


@dataclass(frozen=True)
class Split:
    """The learned events in two: `before` is fitted, `after` is asked about. `asked` are subject codes, `met` their objects."""

    before: Interactions
    after: Interactions
    asked: np.ndarray
    met: list[np.ndarray]


def hold_out(data: Interactions, *, repeats: bool, seed: int, share: float = HELD_OUT) -> Split:
    """Cut off the last part of the events by time; at most `MAX_ASKED` subjects of it are asked about."""
    cut = data.time[int(len(data) * (1 - share))] if len(data) else 0
    before, after = data.where(data.time < cut), data.where(data.time >= cut)
    pairs = np.unique(np.stack([after.subject.astype(np.int64), after.object.astype(np.int64)]), axis=1)
    if not repeats and len(before):
        width = data.num_objects
        seen = np.unique(before.subject.astype(np.int64) * width + before.object)
        pairs = pairs[:, ~np.isin(pairs[0] * width + pairs[1], seen)]
    asked, first = np.unique(pairs[0], return_index=True)
    met = np.split(pairs[1], first[1:]) if len(asked) else []
    if len(asked) > MAX_ASKED:
        kept = np.sort(np.random.default_rng(seed).choice(len(asked), MAX_ASKED, replace=False))
        asked, met = asked[kept], [met[place] for place in kept]
    return Split(before, after, asked, met)


def hold_out_last(data: Interactions, back: int = 1) -> Split:
    """Leave one out: each subject's `back`-th last event is asked about, and those before it are fitted."""
    order = np.argsort(data.subject, kind="stable")
    counts = np.bincount(data.subject, minlength=data.num_subjects)
    left = np.empty(len(data), dtype=np.int64)  # events of the subject that are later
    left[order] = np.cumsum(counts)[data.subject[order]] - 1 - np.arange(len(data))
    after = data.where((left == back - 1) & (counts[data.subject] > back))
    by_subject = np.argsort(after.subject, kind="stable")
    asked, met = after.subject[by_subject].astype(np.int64), after.object[by_subject].astype(np.int64)
    return Split(data.where(left >= back), after, asked, list(met[:, None]))


def measure(model: Recommender, split: Split) -> dict[str, float]:
    """Ask a model about the held-out part: mean `ndcg_at_10`, `recall_at_10`, `hit_at_10`, full ranking."""
    country = np.full(split.after.num_subjects, -1, dtype=np.int64)
    country[split.after.subject[::-1]] = split.after.country[::-1]
    ranked = model.recommend_many(split.asked, K, country[split.asked])
    values = ranking_metrics(ranked, split.met, K)
    return {f"{name}_at_{K}": float(each.mean()) if len(each) else 0.0 for name, each in values.items()}
