"""The family `my_plugin`: what is met most at an hour of the day, learned by counting.

A family says how one kind of model is stored, loaded, asked and measured; the trainer of the same name makes its weights. Two
candidates compete on the last fifth of the events, which neither has seen: counts by the hour, and counts of the whole day. The
better one is then fitted on everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Meta

from gyral.config import Config
from gyral.lake.dataset import Dataset
from gyral.model import card as cards
from gyral.model.card import Weights
from gyral.model.family import Route, Told
from gyral.run import Run
from gyral.train.fitted import Fitted

METRIC = "hit_at_3"
HELD_OUT = 0.2
ROUTE = "/v1/my_plugin"


class Ask(msgspec.Struct, frozen=True):
    """Body of a request. What is not so is answered with 400 before the model sees it."""

    hour: Annotated[int, Meta(ge=0, le=23)]
    k: Annotated[int, Meta(ge=1, le=100)] = 3
    model: Annotated[str, Meta(max_length=256)] | None = None


class Visited(msgspec.Struct, frozen=True):
    """Body of an answer, with what the server adds."""

    request_id: str
    model: str
    hour: int
    items: list[str]


def fit(root: Path, data: Dataset, config: Config, run: Run, budget_s: float) -> Fitted:
    """Let the candidates compete, fit the winner on everything: the hook `trainer`.

    Parameters
    ----------
    budget_s : seconds that it may take; counting needs none of them.
    """
    rows = data.require("interactions", "this family").read()
    past, rest = _split(rows)
    scores = {by_hour: _hits(_counted(past, by_hour), rest) for by_hour in (True, False)}
    best = max(scores, key=scores.__getitem__)
    candidates = []
    for by_hour, score in scores.items():
        name = "by the hour" if by_hour else "whole day"
        candidates.append({"name": name, METRIC: score, "chosen": by_hour is best})
        run.metric(candidate=name, hit_at_3=score)
    return Fitted(_counted(rows, best), None, candidates, f"the last {HELD_OUT:.0%} of the events: {len(rest):,}")


class Popular:
    """A loaded model: gyral calls it from one thread."""

    def __init__(self, folder: Path) -> None:
        card = cards.read_card(folder)
        self.name = card.model
        self.card: dict[str, Any] = msgspec.to_builtins(card)
        self._weights = cards.read_weights(folder)
        self.routes: Mapping[str, Route] = {
            ROUTE: Route(Ask, self.answer, '{"hour": 8, "k": 3}', is_pure=True, response=Visited)
        }

    def answer(self, ask: Ask) -> Told:
        """The body that goes back, and the event that the log keeps of it."""
        items = _ranked(self._weights, ask.hour)[: ask.k]
        body = {"hour": ask.hour, "items": items}
        return Told(body, "my_plugin_answer", None, items[0] if items else None, body)

    def warm(self) -> None:
        """Do what would make the first request slow."""


class Twin:
    """Stands in for a model where quality is measured: it has not learned the last part, on which it is asked."""

    def __init__(self, data: Dataset, weights: Weights) -> None:
        past, self._rest = _split(data.read())
        self.weights = _counted(past, bool(weights.settings["by_hour"]))

    def measure(self, weights: Weights) -> float:
        """`METRIC` of these weights, which may be smaller ones."""
        return _hits(weights, self._rest)


class Family:
    """How the kind is loaded and measured: the hook `family`."""

    name = "my_plugin"
    metric = METRIC
    of_events = True
    """`gyral train FILE` ingests the file's events first."""
    matrices = ("counts",)
    """What `gyral compress --to int8` makes smaller."""

    def load(self, folder: Path) -> Popular:
        """Read a model's folder."""
        return Popular(folder)

    def twin(self, data: Dataset, weights: Weights, seed: int, folder: Path) -> Twin:
        """Fit the same without the last part."""
        return Twin(data, weights)

    def erase(self, folder: Path, subject: str) -> bool:
        """Counts know nobody by name."""
        return False


FAMILY = Family()


def _split(rows: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The events before and after the cut; a dataset is sorted by time."""
    cut = int(len(rows) * (1 - HELD_OUT))
    return rows.slice(0, cut), rows.slice(cut)


def _counted(rows: pa.Table, by_hour: bool) -> Weights:
    """`counts` float32 [24 or 1, objects]."""
    names = sorted(pc.unique(rows["object"]).to_pylist())
    places = pc.index_in(rows["object"], pa.array(names, pa.string())).to_numpy()
    counts = np.zeros((24 if by_hour else 1, len(names)), np.float32)
    np.add.at(counts, (_hours(rows) % len(counts), places), 1)
    return Weights({"counts": counts}, {"objects": names, "by_hour": by_hour})


def _ranked(weights: Weights, hour: int) -> list[str]:
    """Objects, the most met at this hour first."""
    counts = weights.arrays["counts"].astype(np.float32)
    if "counts_scale" in weights.arrays:  # int8: a scale a row
        counts *= weights.arrays["counts_scale"][:, None]
    order = np.argsort(-counts[hour % len(counts)], kind="stable")
    return [weights.settings["objects"][place] for place in order.tolist()]


def _hits(weights: Weights, rows: pa.Table) -> float:
    """Share of events whose object is among the first three of their hour."""
    best = [set(_ranked(weights, hour)[:3]) for hour in range(24)]
    hours, objects = _hours(rows).tolist(), rows["object"].to_pylist()
    return sum(name in best[hour] for hour, name in zip(hours, objects, strict=True)) / max(1, len(objects))


def _hours(rows: pa.Table) -> np.ndarray:
    """The hour of the day of each event, UTC."""
    return np.asarray(pc.hour(rows["event_time"]).to_numpy())
