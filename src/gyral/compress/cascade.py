"""Variants that may be asked first: how sure an answer has to be for the model itself not to be asked, too.

Both answer the same questions, which were kept aside; those where the variant is wrong and the model right are what a cascade
costs (`gyral.model.cascade`). What was kept aside has also told which variants are allowed, by another measure, and, where
training kept the best step, which step that was: with `train.keep = "last"` nothing was chosen by it but the threshold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from gyral.model import card as cards
from gyral.model.card import Variant
from gyral.model.cascade import Cascade, calibrate
from gyral.model.family import Twin
from gyral.model.naming import Judged


def calibrated(twin: Twin, rows: Sequence[Variant], folders: Mapping[str, Path], max_regret: float) -> list[Variant]:
    """The rows, those on the front or chosen for somebody with their cascade, where the family's answers say how sure they are.

    Parameters
    ----------
    folders : of each variant, by how it was made.
    """
    judged = getattr(twin, "judged", None)
    large: Judged | None = judged(twin.weights) if judged is not None else None
    if large is None or not len(large.is_right):
        return list(rows)
    found = []
    for row in rows:
        cascade = None
        if row.to and (row.is_front or row.tiers):
            small = judged(cards.read_weights(folders[row.to]))  # type: ignore[misc]
            cascade = _held(small, large, max_regret)
        found.append(msgspec.structs.replace(row, cascade=cascade))
    return found


def _held(small: Judged, large: Judged, max_regret: float) -> Cascade:
    found = calibrate(small.confidence, small.is_right, large.is_right, max_regret=max_regret)
    return msgspec.structs.replace(found, path=large.path, given=dict(large.given))
