"""Variants that may be asked first: how sure an answer has to be for the model itself not to be asked, too.

Both answer the same questions, which were kept aside; those where the variant is wrong and the model right are what a cascade
costs (`gyral.model.cascade`). What was kept aside has also told which variants are allowed, by another measure, and, where
training kept the best step, which step that was: with `train.keep = "last"` nothing was chosen by it but the threshold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from gyral.compress.quantize import Source, relative_loss
from gyral.errors import UsageError
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
        if row.to and (row.is_front or row.tiers or row.model):
            small = judged(cards.read_weights(folders[row.to]))  # type: ignore[misc]
            cascade = _held(small, large, max_regret)
        found.append(msgspec.structs.replace(row, cascade=cascade))
    return found


def trained(root: Path, name: str, source: Source, before: float) -> tuple[Variant, Path]:
    """A smaller model that was trained on the same dataset, as a row that is measured beside the variants, and its folder.

    Raises
    ------
    NotFound : there is no such model.
    UsageError : what it answers cannot be held against what the model answers.
    """
    folder = cards.find(root, name)
    card, whole = cards.read_card(folder), source.card
    if not hasattr(source.twin, "judged"):
        raise UsageError(f"nothing is asked before a {source.family.name}", why="its answers do not say how sure they are")
    if (card.family, card.dataset, card.metric) != (whole.family, whole.dataset, whole.metric):
        told = [f"a {each.family} of `{each.dataset}` by {each.metric}" for each in (card, whole)]
        why = f"it is {told[0]}, `{whole.model}` is {told[1]}"
        raise UsageError(f"`{card.model}` cannot be asked before `{whole.model}`", why=why, hint="train both on one dataset")
    quality = source.twin.measure(cards.read_weights(folder))
    loss = round(relative_loss(whole.metric, before, quality), 6)
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file() and path.name != "card.json")
    return Variant(name, round(quality, 6), loss, size, why="trained to be asked first", model=card.model), folder


def _held(small: Judged, large: Judged, max_regret: float) -> Cascade:
    found = calibrate(small.confidence, small.is_right, large.is_right, max_regret=max_regret)
    return msgspec.structs.replace(found, path=large.path, given=dict(large.given))
