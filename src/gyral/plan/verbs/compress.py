"""`gyral compress MODEL --plan`: bytes of each variant by its shapes, what it is likely to lose, time and memory."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from gyral import plugins
from gyral.config import Config
from gyral.errors import GyralError, UsageError
from gyral.model import card as cards
from gyral.plan.figure import Figure, Plan
from gyral.plan.kinds import COMPRESS
from gyral.plan.past import foretold, seen
from gyral.plan.product import scaled
from gyral.plan.sizes import bytes_as, bytes_of, losses, shapes_of
from gyral.plan.verbs import Asked

TIMED_S = Figure(6.0, "s", "assumed", "a process that loads a variant and answers", 2.0, 20.0)


def plan(root: Path, config: Config, asked: Asked) -> tuple[Plan, None]:
    """What a target, or all that tiers would have tried, would weigh, lose and take.

    Raises
    ------
    NotFound : there is no such model.  UsageError : it is compressed already, or a target is not known.
    InputError : it cannot be read.
    """
    folder = cards.find(root, asked.what)
    card = cards.read_card(folder)
    if card.compression is not None:
        raise UsageError(f"`{card.model}` is compressed already", hint=f"compress `{card.compression.from_model}` instead")
    family = plugins.find("family", card.family)
    weights = shapes_of(folder)
    size = bytes_of(weights)
    targets = [config.compress.to]
    if config.compress.tiers:
        targets = config.compress.tried or list(getattr(family, "tried", ())) or targets
    measured = _lost(root, card.family)
    told: Plan = {"as it is": Figure(float(size), "bytes", "counted", "by its file's header")}
    for to in targets:
        told[to] = bytes_as(to, weights, family.matrices)
        lost = losses(measured, to)
        told[f"{to} loses"] = lost._replace(why=f"share of {card.metric}; {lost.why}")
    for name, each in foretold(COMPRESS, float(size), seen(root, COMPRESS)).items():
        told[name] = each
        if config.compress.tiers and name != "memory":
            many = scaled(each, float(len(targets)))
            more = scaled(TIMED_S, float(len(targets) + 1))
            low, high = (one + two for one, two in zip(many.interval, more.interval, strict=True))
            why = f"{len(targets)} variants made, and timed in processes of their own"
            told[name] = Figure(many.value + more.value, each.unit, "assumed", why, low, high)
    return told, None


def _lost(root: Path, family: str) -> dict[str, list[float]]:
    """Target → relative losses of this project's models of a family."""
    found: dict[str, list[float]] = defaultdict(list)
    folder = root / cards.FOLDER
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        try:
            card = cards.read_card(path)
        except GyralError:  # not a model, or damaged
            continue
        if card.family == family and card.compression is not None:
            found[card.compression.to].append(card.compression.relative_loss)
        elif card.family == family:
            for each in card.variants:
                if each.to and each.quality is not None:
                    found[each.to].append(each.relative_loss)
    return found
