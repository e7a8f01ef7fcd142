"""int8 weights, with the loss measured on events the measured model has not learned.

The shipped model has learned everything, so it cannot be tested. Its twin can: the same hyper-parameters fitted without the
last part of the events, asked about that part before and after quantization. The relative loss of the twin is the card's
number, and above the limit nothing is published.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from gyral import plugins
from gyral.compress import chain
from gyral.config import Config
from gyral.errors import QualityError, UsageError
from gyral.lake import dataset as datasets
from gyral.model import card as cards
from gyral.model import inputs as model_inputs
from gyral.model.card import Card, Compression, Weights
from gyral.model.family import Family, Twin
from gyral.model.inputs import Inputs
from gyral.model.metrics import SMALLER_IS_BETTER
from gyral.progress import number
from gyral.run import Run


def int8(weights: Weights, matrices: Sequence[str]) -> Weights:
    """The compressor `int8`: matrices [M, N] as int8 with one symmetric scale a row, float32 [M], under `<name>_scale`."""
    arrays = dict(weights.arrays)
    for name in matrices:
        if name in arrays and arrays[name].dtype != np.int8:
            scale = np.abs(arrays[name]).max(axis=1, initial=0.0) / 127
            scale = np.where(scale > 0, scale, 1.0).astype(np.float32)
            arrays[name] = np.rint(arrays[name] / scale[:, None]).astype(np.int8)
            arrays[f"{name}_scale"] = scale
    return Weights(arrays, {**weights.settings, "bits": 8})


def relative_loss(metric: str, before: float, after: float) -> float:
    """How much worse `after` is, as a share of `before`; 0 where it is better."""
    lost = after - before if metric.endswith(SMALLER_IS_BETTER) else before - after
    return max(0.0, lost / before) if before > 0 else 0.0


class Source(NamedTuple):
    """A model that is to be compressed, and what stands in for it where quality is measured."""

    folder: Path
    card: Card
    weights: Weights
    family: Family
    twin: Twin

    def made(self, to: str) -> tuple[Weights, float]:
        """What is published, and the metric of the twin in the same form."""
        shrunk = chain.shrunk(to, self.twin, self.twin.weights, self.family)
        after = self.twin.measure(shrunk)
        same = self.twin.weights is self.weights
        return chain.finished(self.twin, shrunk if same else chain.shrunk(to, self.twin, self.weights, self.family)), after


def opened(root: Path, name: str, run: Run) -> Source:
    """Read a model and its data.

    Raises
    ------
    NotFound : no such model, or its dataset is gone.
    UsageError : it is compressed already.
    """
    folder = cards.find(root, name)
    card = cards.read_card(folder)
    run.reads("model", card.model)
    if card.compression is not None:
        raise UsageError(f"`{card.model}` is compressed already", hint=f"compress `{card.compression.from_model}` instead")
    family: Family = plugins.find("family", card.family)
    weights = cards.read_weights(folder)
    data = datasets.find(root, card.dataset)
    run.reads("dataset", data.name)
    return Source(folder, card, weights, family, family.twin(data, weights, card.seed, folder))


def compress(root: Path, name: str, config: Config, run: Run) -> Card:
    """Make `<name>-<to>@n` of a model and measure what that costs.

    Raises
    ------
    NotFound : no such model, or its dataset is gone.
    UsageError : the model is compressed already, or the target is not for it.
    QualityError : the relative loss is above `compress.max_loss`; nothing is published.
    """
    to, max_loss = config.compress.to, config.compress.max_loss
    chain.parts_of(to)
    meter = run.meter("steps", 3)
    source = opened(root, name, run)
    meter.update(1)
    before = source.twin.measure(source.twin.weights)
    smaller, after = source.made(to)
    meter.update(2)
    metric, model = source.card.metric, source.card.model
    loss = relative_loss(metric, before, after)
    if loss > max_loss:
        raise QualityError(
            f"{to} would lose {100 * loss:.2f} % of {metric} ({before:.4f} → {after:.4f})",
            where=model,
            why=f"the limit is {100 * max_loss:.2f} %",
            hint=f"allow it with `--max-loss {math.ceil(1000 * loss) / 1000:.3f}`, or serve `{model}` as it is",
        )
    card = published(root, source, to, smaller, (before, after), max_loss, run)
    meter.update(3)
    return card


def published(
    root: Path, source: Source, to: str, smaller: Weights, measured: tuple[float, float], max_loss: float, run: Run
) -> Card:
    """Publish a variant, whose metric was measured before and after."""
    before, after = measured
    card = msgspec.structs.replace(source.card)
    made = card.compression = Compression(
        to=to,
        from_model=source.card.model,
        metric_before=round(before, 6),
        metric_after=round(after, 6),
        relative_loss=round(relative_loss(card.metric, before, after), 6),
        max_loss=max_loss,
        bytes_before=sum(each.nbytes for each in source.weights.arrays.values()),
        bytes_after=sum(each.nbytes for each in smaller.arrays.values()),
        measured_on=f"{card.measured_on}, by a twin that had not learned it",
    )
    card.run = run.number
    cards.publish(root, variant_name(source.card, to), smaller, *further(source.folder, card))
    run.writes("model", card.model)
    run.summarize(to=to, bytes_before=made.bytes_before, bytes_after=made.bytes_after, relative_loss=made.relative_loss)
    run.note(
        f"compress {card.model}: {number(made.bytes_before / 1e6)} → {number(made.bytes_after / 1e6)} MB, "
        f"{card.metric} {before:.4f} → {after:.4f}"
    )
    return card


def variant_name(card: Card, to: str) -> str:
    """What a variant of a model is called."""
    return f"{card.model.partition('@')[0]}-{chain.folder_part(to)}"


def further(folder: Path, card: Card) -> tuple[Inputs | None, Card, dict[str, bytes]]:
    """What lies beside the weights and is the same for any of them: the vocabulary, the card, a tokenizer, names."""
    inputs = model_inputs.load(folder) if (folder / model_inputs.FILE).exists() else None
    own = {cards.WEIGHTS, "card.json", model_inputs.FILE}
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file() and path.name not in own}
    return inputs, card, files
