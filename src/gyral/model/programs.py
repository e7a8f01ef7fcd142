"""A model as one function of tensors: what other programs are given, and some real inputs to compare answers on.

| family | asked with | answers |
|---|---|---|
| `lm` | `tokens` [B, T], each row from the beginning of a text | `logits` [B, T, V] |
| `vision` | `pixels` [B, S, S, C], 0 to 255 | `vector` [B, E] of length one |
| `recommender` | what its net wants of `subjects`, `countries`, `objects`, `times`, `sizes` | `scores` [B, V] of all objects |

The function holds what the family does around its net (positions, scaling of pixels), so that whoever runs it elsewhere gives
it what this project would give. A language model is the whole sequence at once, without a cache. Inputs are text and pictures
of the model's dataset, and histories that lie in a recommender; where the dataset is gone they are drawn by a seed, and the
comparison says so.

Shapes: B rows, T positions, V vocabulary or objects, S side in pixels, C channels, E width of a vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gyral.config.training import Lm
from gyral.errors import GyralError, InputError
from gyral.lake import dataset as datasets
from gyral.model import card as cards
from gyral.model import decoder, picture_rows, texts
from gyral.model.card import Card
from gyral.model.decoder import Decoder
from gyral.model.embedder import Embedder
from gyral.model.exported import Port
from gyral.model.family import recommender_of
from gyral.model.nets.asked import Asked
from gyral.model.neural_recommender import NeuralRecommender
from gyral.model.quant.packing import divided
from gyral.model.stream import Stream

SAMPLES = (1, 3, 8)
"""Rows of the batches that answers are compared on."""
LONGEST, NUMBERS = 256, 1 << 24
"""Tokens of a row, and logits of a batch, at most."""
MOST_PICTURES = 12

Sample = tuple[np.ndarray, ...]


class Program(NamedTuple):
    """A function of tensors.

    Attributes
    ----------
    module : called with the inputs in their order, as tensors.
    samples : inputs of several batches, of several sizes.
    on : where they come from.
    foretells : the first input is tokens, and the output logits of the tokens that follow.
    limits : largest size of each free dim.
    """

    module: nn.Module
    inputs: tuple[Port, ...]
    output: Port
    samples: list[Sample]
    on: str
    foretells: bool
    limits: dict[str, int]

    @torch.no_grad()
    def run(self, sample: Sample) -> np.ndarray:
        """The model's own answer, float32."""
        found: np.ndarray = self.module(*(torch.from_numpy(each) for each in sample)).float().numpy()
        return found


class Foretold(nn.Module):
    """Tokens → logits; positions are counted here."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, tokens: Tensor) -> Tensor:
        found: Tensor = self.net(tokens, torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape[0], -1))
        return found


class Seen(nn.Module):
    """Pixels as they come from a file → vectors."""

    def __init__(self, embedder: Embedder) -> None:
        super().__init__()
        self.model = embedder.model
        self._vector = embedder.vectors

    def forward(self, pixels: Tensor) -> Tensor:
        return self._vector(pixels.float().permute(0, 3, 1, 2).div(127.5).sub(1))


class Scored(nn.Module):
    """What subjects met → scores of all objects; a net that does not look at an input has no such input."""

    def __init__(self, net: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.net, self.names = net, tuple(names)

    def forward(self, first: Tensor, second: Tensor, third: Tensor, fourth: Tensor | None = None) -> Tensor:
        given = [each for each in (first, second, third, fourth) if each is not None]
        named = dict(zip(self.names, given, strict=True))
        asked = Asked(*(named.get(name, first) for name in ("subjects", "countries", "objects", "times", "sizes")))
        found: Tensor = self.net.score(asked)  # type: ignore[operator]
        return found


_WANTED = {
    "sequence": ("objects", "times", "sizes"),
    "two_tower": ("subjects", "countries", "objects", "sizes"),
    "history": ("objects", "times", "sizes"),
}


def program_of(root: Path, folder: Path) -> Program:
    """A model folder as a function.

    Raises
    ------
    InputError : its family, or this model of it, is no function of tensors alone.
    """
    card = cards.read_card(folder)
    made = {"lm": _of_lm, "vision": _of_vision, "recommender": _of_recommender}.get(card.family)
    if made is None:
        why = f"a {card.family} answers from tables that change while it is served"
        raise InputError(f"`{card.model}` cannot be exported", why=why, hint="export an `lm`, `vision` or `recommender`")
    return made(root, folder, card)


def _of_lm(root: Path, folder: Path, card: Card) -> Program:
    found = decoder.read(folder).dense()
    if found.shape.experts:
        why = "which experts a token goes to is decided by its numbers, and no format here holds that"
        raise InputError(f"`{card.model}` cannot be exported", why=why, hint="export a model without experts")
    documents, on = _documents(root, folder, card, found)
    longest = max(2, min(LONGEST, NUMBERS // (max(SAMPLES) * found.shape.vocab)))
    samples: list[Sample] = []
    at = 0
    for rows in SAMPLES:
        some = [documents[(at + row) % len(documents)] for row in range(rows)]
        at += rows
        length = min(min(len(each) for each in some), found.length, longest)
        samples.append((np.stack([each[:length] for each in some]).astype(np.int64),))
    inputs = (Port("tokens", "int64", ["B", "T"]),)
    limits = {"B": 1 << 16, "T": found.length}
    output = Port("logits", "float32", ["B", "T", found.shape.vocab])
    return Program(Foretold(found.build()), inputs, output, samples, on, True, limits)


def _documents(root: Path, folder: Path, card: Card, found: Decoder) -> tuple[list[np.ndarray], str]:
    """Tokens of some documents, the end of a text before each; several tokens each."""
    stream = held_out_text(root, folder, found)
    if stream is not None:
        rows, _ = stream.rows(np.zeros(1, np.int64), len(stream))
        parts = [np.concatenate([[found.end], each]) for each in np.split(rows[0, 1:], stream.ends[:-1]) if len(each) > 1]
        parts.sort(key=len, reverse=True)
        if parts:
            return parts[: sum(SAMPLES)], f"text of `{card.dataset}` that was kept aside"
    random = np.random.default_rng(card.seed)
    length = min(found.length, LONGEST) + 1
    drawn = [np.concatenate([[found.end], random.integers(found.shape.vocab, size=length)]) for _ in range(sum(SAMPLES))]
    return drawn, "tokens drawn by its seed: its dataset is not here"


def held_out_text(root: Path, folder: Path, found: Decoder) -> Stream | None:
    """Text of a model's dataset that it has not learned, in its tokens; None where the dataset is gone."""
    settings = cards.read_weights(folder).settings
    share, size = settings.get("held_out", (Lm().held_out, Lm().held_out_bytes))
    try:
        data = datasets.find(root, cards.read_card(folder).dataset)
        stream = texts.opened(data, Lm(held_out=share, held_out_bytes=min(int(size), 1 << 18)), found).held_out
    except GyralError:
        return None
    return stream if len(stream) else None


def _of_vision(root: Path, folder: Path, card: Card) -> Program:
    weights = cards.read_weights(folder)
    embedder = Embedder.of(_dense(weights))
    shape = embedder.shape
    try:
        data = datasets.find(root, card.dataset)
        pixels = picture_rows.read(data, shape.side, shape.channels)[0].pixels[:MOST_PICTURES]
        on = f"pictures of `{card.dataset}`"
    except GyralError:
        size = (MOST_PICTURES, shape.side, shape.side, shape.channels)
        pixels = np.random.default_rng(card.seed).integers(256, size=size).astype(np.uint8)
        on = "pixels drawn by its seed: its dataset is not here"
    samples: list[Sample] = [(pixels[np.arange(at, at + rows) % len(pixels)],) for at, rows in enumerate(SAMPLES)]
    inputs = (Port("pixels", "uint8", ["B", shape.side, shape.side, shape.channels]),)
    module = Seen(embedder)
    width = module(torch.from_numpy(samples[0][0])).shape[1]
    return Program(module, inputs, Port("vector", "float32", ["B", int(width)]), samples, on, False, {"B": 1 << 16})


def _dense(weights: cards.Weights) -> cards.Weights:
    """Without matrices in few bits."""
    arrays, packed = divided(weights)
    settings = {name: value for name, value in weights.settings.items() if name != "packed"}
    return cards.Weights({**arrays, **{name: each.dense() for name, each in packed.items()}}, settings)


def _of_recommender(root: Path, folder: Path, card: Card) -> Program:
    model = recommender_of(cards.read_weights(folder))
    kind = model.meta.get("net", "")
    if not isinstance(model, NeuralRecommender) or kind not in _WANTED:
        why = "it sorts what counts of events say, which are no tensors" if kind else "it answers in closed form, from counts"
        hint = "export what was trained by `--set train.task=sequence`, `two_tower` or `history`"
        raise InputError(f"`{card.model}` cannot be exported", why=why, hint=hint)
    wanted = _WANTED[kind]
    samples = [tuple(each[name] for name in wanted) for each in _asked(model, card.seed)]
    dims: dict[str, list[int | str]] = {"objects": ["B", "T"], "times": ["B", "T"]}
    inputs = tuple(Port(name, "int64", dims.get(name, ["B"])) for name in wanted)
    output = Port("scores", "float32", ["B", model.num_objects])
    limits = {"B": 1 << 16, "T": int(model.shape.length)}
    return Program(Scored(model.net, wanted), inputs, output, samples, "histories that the model knows", False, limits)


def _asked(model: NeuralRecommender, seed: int) -> list[dict[str, np.ndarray]]:
    """Subjects with a history, as the model is asked about them."""
    known = np.flatnonzero(np.diff(model.sequences.indptr))
    random = np.random.default_rng(seed)
    drawn = random.choice(known, sum(SAMPLES), replace=len(known) < sum(SAMPLES))
    found, at = [], 0
    for rows in SAMPLES:
        subjects = drawn[at : at + rows]
        at += rows
        met = [model.sequences.last(int(each), model.shape.length) for each in subjects]
        sizes = np.array([len(objects) for objects, _ in met], np.int64)
        given = {name: np.zeros((rows, int(sizes.max())), np.int64) for name in ("objects", "times")}
        for row, pair in enumerate(met):
            for name, values in zip(("objects", "times"), pair, strict=True):
                given[name][row, : sizes[row]] = values
        whole: dict[str, Any] = {**given, "sizes": sizes, "subjects": subjects.astype(np.int64)}
        countries = random.integers(-1, getattr(model.shape, "countries", 0), rows)
        found.append({**whole, "countries": countries})
    return found


def nats_of(tokens_BT: np.ndarray, logits_BTV: np.ndarray) -> tuple[float, int]:
    """Nats that tokens take after those before them, and how many are foretold."""
    logits, targets = torch.from_numpy(logits_BTV[:, :-1]).float(), torch.from_numpy(tokens_BT[:, 1:])
    found = F.cross_entropy(logits.reshape(-1, logits.shape[-1]).double(), targets.reshape(-1), reduction="sum")
    return float(found), targets.numel()
