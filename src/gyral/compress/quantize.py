"""int8 weights, with the loss measured on events the measured model has not learned.

The shipped model has learned everything, so it cannot be tested. Its twin can: the same hyper-parameters fitted without the
last part of the events, asked about that part before and after quantization. The relative loss of the twin is the card's
number, and above the limit nothing is published.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gyral import plugins
from gyral.compress import chain
from gyral.config import Config
from gyral.errors import QualityError, UsageError
from gyral.lake import dataset as datasets
from gyral.model import card as cards
from gyral.model import inputs as model_inputs
from gyral.model.card import Card, Compression, Weights
from gyral.model.family import Family
from gyral.model.metrics import SMALLER_IS_BETTER
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


def compress(root: Path, name: str, config: Config, run: Run) -> Card:
    """Make `<name>-<to>@n` of a model and measure what that costs.

    Raises
    ------
    NotFound : no such model, or its dataset is gone.
    UsageError : the model is compressed already.
    QualityError : the relative loss is above `compress.max_loss`; nothing is published.
    """
    to, max_loss = config.compress.to, config.compress.max_loss
    chain.parts_of(to)
    folder = cards.find(root, name)
    card = cards.read_card(folder)
    run.reads("model", card.model)
    if card.compression is not None:
        raise UsageError(f"`{card.model}` is compressed already", hint=f"compress `{card.compression.from_model}` instead")
    family: Family = plugins.find("family", card.family)
    weights = cards.read_weights(folder)
    data = datasets.find(root, card.dataset)
    run.reads("dataset", data.name)
    meter = run.meter("steps", 3)
    twin = family.twin(data, weights, card.seed, folder)
    meter.update(1)
    shrunk = chain.shrunk(to, twin, twin.weights, family)
    before, after = twin.measure(twin.weights), twin.measure(shrunk)
    meter.update(2)
    loss = relative_loss(card.metric, before, after)
    if loss > max_loss:
        raise QualityError(
            f"{to} would lose {100 * loss:.2f} % of {card.metric} ({before:.4f} → {after:.4f})",
            where=card.model,
            why=f"the limit is {100 * max_loss:.2f} %",
            hint=f"allow it with `--max-loss {loss:.3f}`, or serve `{card.model}` as it is",
        )
    smaller = chain.finished(twin, shrunk if twin.weights is weights else chain.shrunk(to, twin, weights, family))
    card.compression = Compression(
        to=to,
        from_model=card.model,
        metric_before=round(before, 6),
        metric_after=round(after, 6),
        relative_loss=round(loss, 6),
        max_loss=max_loss,
        bytes_before=sum(each.nbytes for each in weights.arrays.values()),
        bytes_after=sum(each.nbytes for each in smaller.arrays.values()),
        measured_on=f"{card.measured_on}, by a twin that had not learned it",
    )
    card.run = run.number
    base = f"{card.model.partition('@')[0]}-{chain.folder_part(to)}"
    inputs = model_inputs.load(folder) if (folder / model_inputs.FILE).exists() else None
    cards.publish(root, base, smaller, inputs, card, _further_files(folder))
    meter.update(3)
    made = card.compression
    run.writes("model", card.model)
    run.summarize(to=to, bytes_before=made.bytes_before, bytes_after=made.bytes_after, relative_loss=made.relative_loss)
    run.note(
        f"compress {card.model}: {made.bytes_before / 1e6:.1f} → {made.bytes_after / 1e6:.1f} MB, "
        f"{card.metric} {before:.4f} → {after:.4f}"
    )
    return card


def _further_files(folder: Path) -> dict[str, bytes]:
    """A tokenizer, names of pictures: what lies beside the weights and is the same for any of them."""
    own = {cards.WEIGHTS, "card.json", model_inputs.FILE}
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file() and path.name not in own}
