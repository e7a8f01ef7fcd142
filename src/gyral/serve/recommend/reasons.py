"""Why an object is in an answer: what of a history spoke for it, in the model's own terms.

The closed form is a sum over what was met, so each term's share of the positive ones is exact, before popularity multiplies it
for all alike. Where only vectors are known, the shares are those of positive cosines, which says what is near and not how the
net added it up; the answer says which of the two it is (`by`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gyral.model.recommender import MAX_SCORED_HISTORY, Recommender


class Reasons:
    """Shares of what was met in what is shown.

    Parameters
    ----------
    vectors_VD : by which closeness is told where the model is no sum.
    """

    def __init__(self, model: Recommender, vectors_VD: np.ndarray | None) -> None:
        self._model, self._vectors_VD = model, vectors_VD
        self._row_of = np.full(model.num_objects, -1, np.int64)
        self._row_of[model.arrays["head"]] = np.arange(len(model.arrays["head"]))

    def of(
        self, shown: np.ndarray, subject: int, recent: np.ndarray | None, most: int
    ) -> tuple[str, list[list[tuple[int, float]]]]:
        """How shares were found (`terms` or `cosine`), and of each shown object up to `most` codes met with their shares."""
        met, weights = self._model.history(subject, recent)
        met, weights = met[:MAX_SCORED_HISTORY], weights[:MAX_SCORED_HISTORY]
        by = "terms" if "item_item" in self._model.arrays and not self._is_net_alone else "cosine"
        if not len(met) or (by == "cosine" and self._vectors_VD is None):
            return by, [[] for _ in shown]
        parts_HK = self._terms(shown, subject, recent, met, weights) if by == "terms" else self._cosines(shown, met)
        parts_HK = np.maximum(parts_HK, 0)
        total_K = np.maximum(parts_HK.sum(axis=0), 1e-12)
        told = []
        for column in range(len(shown)):
            best = np.argsort(-parts_HK[:, column], kind="stable")[:most]
            shares = [(int(met[at]), round(float(parts_HK[at, column] / total_K[column]), 4)) for at in best]
            told.append([each for each in shares if each[1] > 0])
        return by, told

    @property
    def _is_net_alone(self) -> bool:
        return "net" in self._model.meta and not float(self._model.meta.get("closed", 0))

    def _terms(
        self, shown: np.ndarray, subject: int, recent: np.ndarray | None, met: np.ndarray, weights: np.ndarray
    ) -> np.ndarray:
        """w(h) · B[h, i], and for the last one met the Markov term, for what is met again the repeat term; [H, K]."""
        arrays, spec = self._model.arrays, self._model.spec
        rows_H, rows_K = self._row_of[met], self._row_of[shown]
        inside_HK = (rows_H >= 0)[:, None] & (rows_K >= 0)[None]
        said_HK = self._model.tables["item_item"].dense(np.maximum(rows_H, 0))[:, np.maximum(rows_K, 0)]
        parts_HK = np.where(inside_HK, weights[:, None] * said_HK.astype(np.float64), 0)
        if "transition" in arrays:
            if recent is not None and len(recent):
                last = int(recent[-1])
            else:
                last = int(arrays["last"][subject]) if "last" in arrays else int(met[0])
            for at in np.flatnonzero((met == last) & (rows_H >= 0)):
                row = rows_H[at]
                moved_K = spec.markov * self._model.tables["transition"].dense(np.array([row]))[0, np.maximum(rows_K, 0)]
                parts_HK[at] += np.where(rows_K >= 0, moved_K, 0)
        if spec.repeats and spec.repeat:
            parts_HK += spec.repeat * weights[:, None] * (met[:, None] == shown[None])
        return parts_HK

    def _cosines(self, shown: np.ndarray, met: np.ndarray) -> np.ndarray:
        vectors_VD = self._vectors_VD if self._vectors_VD is not None else np.zeros((self._model.num_objects, 1))
        return np.asarray(vectors_VD[met] @ vectors_VD[shown].T)


def why(
    sources: dict[str, int],
    rules: tuple[str, ...],
    because: list[tuple[int, float]],
    by: str,
    names: list[str],
    propensity: float,
) -> dict[str, Any]:
    """As data in the answer: places in each source from 1 on, rules that acted, and what was met with its share."""
    told: dict[str, Any] = {"sources": sources}
    if rules:
        told["rules"] = list(rules)
    if because:
        told["because"] = [{"object": names[code], "share": share} for code, share in because]
        told["by"] = by
    if propensity < 1:
        told["propensity"] = round(propensity, 6)
    return told
