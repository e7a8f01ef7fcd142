"""The family `live`: a model's folder that names a folder of changes, and answers that follow it.

`models/<name>@1` holds no weights: a thread follows `live/<name>` (see `places`), puts what came and flips. A frozen copy is a
folder with the arrays in it, which is never changed. `recommend` costs about 0.2 ms at 4,000 objects: scores of all of them by
one product of a matrix and a vector.

How fresh it is: each step of the learner's journal says when its events were acknowledged, and a publication says up to which
step it goes; an event's freshness is the time from the one to the flip that shows the other.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from gyral.lake.dataset import Dataset
from gyral.model import card as cards
from gyral.model.card import Weights
from gyral.model.family import Answer, Item, Route, Twin
from gyral.model.live import erased, places, tables
from gyral.model.live.following import Follower
from gyral.model.live.known import Known
from gyral.params.strings import key_of

POLL_S = 0.02
RECENT_S = 10.0
"""Over which the quantiles that a page shows are taken."""


class Freshness:
    """Seconds from acknowledgement to visibility, an event each.

    A histogram in steps of 10 ms up to a minute, and the last seconds apart.
    """

    BINS = 6_001

    def __init__(self) -> None:
        self._counts = np.zeros(self.BINS, np.int64)
        self._recent: deque[tuple[float, float, int]] = deque()
        self.worst = 0.0

    def add(self, seconds: float, events: int) -> None:
        """Events that became visible just now, so long after they were acknowledged by the clock of who took them."""
        now, seconds = time.monotonic(), max(seconds, 0.0)
        self._counts[min(int(seconds * 100), self.BINS - 1)] += events
        self._recent.append((now, seconds, events))
        self.worst = max(self.worst, seconds)
        while self._recent and self._recent[0][0] < now - RECENT_S:
            self._recent.popleft()

    def told(self) -> dict[str, Any]:
        """Quantiles (upper ends of 10 ms) of everything, and of the last ten seconds."""
        total = int(self._counts.sum())
        if not total:
            return {"events": 0, "p50": None, "p99": None, "max": None, "recent_p50": None, "recent_p99": None}
        ends = np.cumsum(self._counts)
        p50, p99 = (float(np.searchsorted(ends, share * total) + 1) / 100 for share in (0.5, 0.99))
        recent = list(self._recent)
        order = sorted((seconds, events) for _, seconds, events in recent)
        weights = np.cumsum([events for _, events in order]) if order else np.zeros(0)
        last = [
            round(order[int(np.searchsorted(weights, share * weights[-1]))][0], 3) if order else None for share in (0.5, 0.99)
        ]
        return {
            "events": total, "p50": p50, "p99": p99, "max": round(self.worst, 3),
            "recent_p50": last[0], "recent_p99": last[1],
        }  # fmt: skip


class ServableLive:
    """A live recommender or a frozen copy of one."""

    routes: Mapping[str, Route] = {}

    def __init__(self, folder: Path) -> None:
        card = cards.read_card(folder)
        self.name = card.model
        self._card: dict[str, Any] = msgspec.to_builtins(card)
        weights = cards.read_weights(folder)
        settings = weights.settings
        self.freshness = Freshness()
        self._follower: Follower | None = None
        if settings["kind"] == "frozen":
            self.known = Known.of(weights.arrays, settings)
        else:
            self.known = Known(int(settings["dim"]), int(settings["seed"]))
            follower = Follower(places.folder_of(folder.parent.parent, settings["name"]), self.known, self.freshness.add)
            self._follower = follower
            threading.Thread(target=_follow, args=(weakref.ref(follower),), name="live", daemon=True).start()

    @property
    def card(self) -> dict[str, Any]:
        """The card, and of a model that follows how it is just now."""
        if self._follower is None:
            return self._card
        return {**self._card, "live": {"freshness_s": self.freshness.told(), **self._follower.told()}}

    def recommend(self, subject: str, k: int, context: dict[str, Any]) -> Answer:
        """Rank objects for a subject; `context` may hold `recent`, which counts as just met."""
        codes, scores, is_known = self.known.recommend(key_of(subject), k, context.get("recent") or [])
        return Answer(is_known, self._items(codes, scores))

    def popular(self, subject: str, k: int, context: dict[str, Any]) -> Answer:
        """Rank objects by how often everybody met them until now: the baseline."""
        return Answer(key_of(subject) in self.known.pasts, self._items(*self.known.popular(k)))

    def warm(self) -> None:
        """Follow up to now, and answer once."""
        if self._follower is not None:
            self._follower.poll()
        self.recommend("", 10, {})
        self.popular("", 10, {})

    def _items(self, codes: np.ndarray, scores: np.ndarray) -> list[Item]:
        names, titles = self.known.names, self.known.titles
        return [Item(names[code], score, titles[code]) for code, score in zip(codes.tolist(), scores.tolist(), strict=True)]


def _follow(followed: weakref.ref[Follower]) -> None:
    """Poll until nobody holds the model any more: a server swaps models for months, and nobody tells one that it is let go."""
    while (follower := followed()) is not None:
        follower.poll()
        del follower
        time.sleep(POLL_S)


class LiveFamily:
    """Who takes what along next, learned while it is asked."""

    name = "live"
    metric = "recall_at_10"
    matrices: tuple[str, ...] = ()

    def load(self, folder: Path) -> ServableLive:
        """Read a model folder, and follow what it names."""
        return ServableLive(folder)

    def twin(self, data: Dataset, weights: Weights, seed: int, folder: Path) -> Twin:
        """There is none: it is measured while it is asked."""
        raise NotImplementedError("a live model is not compressed")

    def erase(self, folder: Path, subject: str) -> bool:
        """Take a subject's rows out of a frozen copy, or out of the tables that a live model follows."""
        weights = cards.read_weights(folder)
        if weights.settings["kind"] != "frozen":
            return erased.erase(places.folder_of(folder.parent.parent, weights.settings["name"]), subject)
        keys = weights.arrays["keys"]
        stays = keys != key_of(subject)
        if stays.all():
            return False
        arrays = {name: array[stays] if len(array) == len(keys) and name in _BY_SUBJECT else array for name, array in
                  weights.arrays.items()}  # fmt: skip
        cards.write_weights(folder, Weights(arrays, weights.settings))
        return True


_BY_SUBJECT = ("keys", tables.SUBJECT, tables.PAST)
LIVE = LiveFamily()
