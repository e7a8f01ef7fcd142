"""int8 weights, with the loss measured on events the measured model has not learned.

The shipped model has learned everything, so it cannot be tested. Its twin can: the same hyper-parameters fitted without the
last part of the events, asked about that part before and after quantization. The relative loss of the twin is the card's
number, and above the limit nothing is published.
"""

from __future__ import annotations

from pathlib import Path

from gyral import plugins
from gyral.config import Config
from gyral.errors import QualityError, UsageError
from gyral.lake import dataset as datasets
from gyral.model import card as cards
from gyral.model import inputs as model_inputs
from gyral.model.card import Card, Compression
from gyral.model.holdout import hold_out, measure
from gyral.model.recommender import Recommender, Spec, fit_with, quantize
from gyral.run import Run


def int8(model: Recommender) -> Recommender:
    """The compressor `int8`: one symmetric scale a row."""
    return quantize(model)


def compress(root: Path, name: str, config: Config, run: Run) -> Card:
    """Make `<name>-<to>@n` of a model and measure what that costs.

    Raises
    ------
    NotFound : no such model, or its dataset is gone.
    UsageError : the model is compressed already.
    QualityError : the relative loss is above `compress.max_loss`; nothing is published.
    """
    to, max_loss = config.compress.to, config.compress.max_loss
    shrink = plugins.find("compressor", to)
    folder = cards.find(root, name)
    card = cards.read_card(folder)
    run.reads("model", card.model)
    if card.compression is not None:
        raise UsageError(f"`{card.model}` is compressed already", hint=f"compress `{card.compression.from_model}` instead")
    arrays, settings = cards.read_weights(folder)
    data = datasets.find(root, card.dataset)
    run.reads("dataset", data.name)
    meter = run.meter("steps", 3)
    _, interactions = model_inputs.encode(data.read())
    spec = Spec(**settings["spec"])
    split = hold_out(interactions, repeats=spec.repeats, seed=card.seed)
    twin = fit_with(split.before, spec)
    meter.update(1)
    before, after = (measure(each, split)[card.metric] for each in (twin, shrink(twin)))
    meter.update(2)
    loss = max(0.0, (before - after) / before) if before > 0 else 0.0
    if loss > max_loss:
        raise QualityError(
            f"{to} would lose {100 * loss:.2f} % of {card.metric} ({before:.4f} → {after:.4f})",
            where=card.model,
            why=f"the limit is {100 * max_loss:.2f} %",
            hint=f"allow it with `--max-loss {loss:.3f}`, or serve `{card.model}` as it is",
        )
    smaller = shrink(Recommender(arrays, settings))
    card.compression = Compression(
        to=to,
        from_model=card.model,
        metric_before=round(before, 6),
        metric_after=round(after, 6),
        relative_loss=round(loss, 6),
        max_loss=max_loss,
        bytes_before=sum(each.nbytes for each in arrays.values()),
        bytes_after=sum(each.nbytes for each in smaller.arrays.values()),
        measured_on=f"{card.measured_on}, by a twin that had not learned it",
    )
    card.run = run.number
    base = f"{card.model.partition('@')[0]}-{to}"
    cards.publish(root, base, smaller.arrays, smaller.meta, model_inputs.load(folder), card)
    meter.update(3)
    made = card.compression
    run.writes("model", card.model)
    run.summarize(to=to, bytes_before=made.bytes_before, bytes_after=made.bytes_after, relative_loss=made.relative_loss)
    run.note(
        f"compress {card.model}: {made.bytes_before / 1e6:.1f} → {made.bytes_after / 1e6:.1f} MB, "
        f"{card.metric} {before:.4f} → {after:.4f}"
    )
    return card
