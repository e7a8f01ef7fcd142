"""The language models that worker processes write with, as the server sees them: what there is, who is asked, what came of it.

No torch here and no tokens. Requests that begin alike go to the same copy as far as its load allows (`serve.choosing`), since
that one has read the beginning already. Which version answers is known when it does: what was asked before a swap is answered
by the version before, to its end, and a request that names a version gets that one.

A chat's first event says nothing yet, so it waits here for the second: a copy that dies before has another asked in its place,
an error before the first token has its status, and both events leave in one write. What is lost is an early sign of life.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from typing import Any, cast

from gyral.model.card import made_from
from gyral.model.family import Route, Servable
from gyral.model.lm_routes import Answers, routes_of
from gyral.serve.about import told_by
from gyral.serve.engine import Ask, Part
from gyral.serve.following import SLOT, Following
from gyral.serve.job import in_set
from gyral.serve.metrics import Gauge
from gyral.serve.openai.runner import Feed, Wanted
from gyral.serve.openai.wire import Wrong
from gyral.serve.pool import Full, Pool
from gyral.serve.slots import DEFAULT


class Elsewhere:
    """A language model that others hold: its name, its card, and how it is asked."""

    def __init__(self, name: str, card: dict[str, Any]) -> None:
        self.name, self.card = name, card
        self.routes: Mapping[str, Route] = routes_of(cast(Answers, None))  # which nobody asks here: `told_by` does

    def warm(self) -> None:
        """Whoever holds it did."""


@dataclass
class Count:
    """What one worker did, through all its deaths: answers, and tokens read, found in its memory, and written."""

    answers: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    tokens: int = 0


class Copies:
    """Slots of a server, and who answers for them.

    Parameters
    ----------
    pool : ready; its workers run `copy.open_copy`.
    following : names newer sets of versions; None where there is one model for good, which is called `name`.
    note : told of versions that answer, and of those that cannot.
    """

    def __init__(
        self, pool: Pool, following: Following | None = None, name: str = "", note: Callable[[str], None] = print
    ) -> None:
        self._pool, self._following, self._name, self._note = pool, following, name, note
        self._next = 0
        self._openings: dict[int, Part] = {}
        self._cards: dict[str, dict[str, Any]] = {}
        self._version = ""
        self._slots: dict[str, Elsewhere] = {}
        self._since: dict[str, float] = {}
        self._counts: dict[int, Count] = {}
        self._of_set = lru_cache(256)(self._model_of)

    @property
    def default(self) -> Servable:
        """The model of the default slot, which is always there."""
        return self._now()[DEFAULT]

    def get(self, slot: str | None) -> Servable | None:
        """The model of a slot, None when there is no such slot."""
        return self._now().get(slot or DEFAULT)

    def names(self) -> dict[str, str]:
        """Slot → model."""
        return {slot: each.name for slot, each in sorted(self._now().items())}

    def loaded_at(self, slot: str = DEFAULT) -> float:
        """When the slot's model began to answer, seconds since the epoch; 0 when there is no such slot."""
        return self._since.get(slot, 0.0)

    def ask(self, wanted: Wanted) -> Feed:
        """Have a copy asked.

        Raises
        ------
        Wrong : 503, when all are down and too many wait already.
        """
        self._next = id = self._next + 1
        variant, version = self._variant(wanted.slot), self._pool.versions.current if wanted.is_pinned else ""
        feed = Feed(self._drop, id, wanted.model.name)
        key = variant.encode() + b"\0" + wanted.key if wanted.key else b""
        ask = Ask(id, wanted.path, wanted.body, wanted.deadline_s, version, wanted.is_stream, variant, key)
        try:
            self._pool.ask(ask, partial(self._heard, feed, variant))
        except Full as error:
            more = {"why": error.why, "hint": error.hint, "headers": ((b"retry-after", b"1"),)}
            raise Wrong(503, error.what, None, "overloaded", **more) from None
        return feed

    def tidy(self, served: Callable[[], Mapping[str, str]]) -> None:
        """The pool forgets what is old."""

    def close(self) -> None:
        """The pool is closed by who opened it."""

    async def learn(self) -> None:
        """Ask the workers for the cards of what they hold; once they are ready, and after each swap.

        Raises
        ------
        ServeError : they do not say.
        """
        cards = {}
        for slot, each in self._now().items():
            self._next += 1
            cards[each.name] = (await told_by(self._pool, self._next, self._variant(slot))).card
        self._cards, self._version = cards, ""

    async def follow(self) -> None:
        """Have the newest versions answer, for ever."""
        if self._following is not None:
            await self._following.follow(self._pool, self._swapped)

    async def _swapped(self, version: str) -> None:
        await self.learn()

    def state(self) -> dict[str, Any]:
        """How it is now, for the run's record."""
        loads = self._pool.loads()
        return {
            "waiting": self._pool.in_flight - sum(each.asks for each in loads),
            "in_flight": self._pool.in_flight,
            "workers": [each._asdict() | asdict(self._count(each.number)) for each in loads],
        }

    def gauges(self) -> dict[str, Gauge]:
        """The same for `/metrics`."""
        workers = self.state()["workers"]
        models = [each.name.rpartition("@") for each in self._now().values() if not self._name]

        def of_workers(field: str) -> dict[str, float]:
            return {str(each["number"]): each[field] for each in workers}

        return {
            "gyral_waiting": Gauge("requests that wait for a worker", "", {"": self.state()["waiting"]}),
            "gyral_in_flight": Gauge("requests that have no answer yet", "", {"": self._pool.in_flight}),
            "gyral_worker_in_flight": Gauge("requests that it has", "worker", of_workers("asks")),
            "gyral_worker_resident_bytes": Gauge("memory", "worker", of_workers("resident_bytes")),
            "gyral_worker_busy": Gauge("share of the time that it computes", "worker", of_workers("busy")),
            "gyral_worker_deaths": Gauge("how often it was replaced", "worker", of_workers("deaths"), True),
            "gyral_worker_answers": Gauge("requests that it answered", "worker", of_workers("answers"), True),
            "gyral_worker_tokens": Gauge("tokens that it wrote", "worker", of_workers("tokens"), True),
            "gyral_worker_prompt_tokens": Gauge("tokens of prompts", "worker", of_workers("prompt_tokens"), True),
            "gyral_worker_cached_tokens": Gauge("of those, read before", "worker", of_workers("cached_tokens"), True),
            "gyral_model_version": Gauge("of the models that answer", "model", {name: float(n) for name, _, n in models}),
        }

    def _heard(self, feed: Feed, variant: str, part: Part) -> None:
        props = part.props
        version, worker = props.pop("version", ""), props.pop("worker", -1)
        if version:
            feed.model = self._of_set(version, variant)
        if props.pop("opening", False) and not part.is_last:
            if part.body:
                self._openings[part.id] = part
            else:
                feed.put(part)
            return
        opening = self._openings.pop(part.id, None)
        if opening is not None and part.status == 200:
            feed.put(opening)
        if part.is_last:
            if part.status == 200 and worker >= 0:
                count = self._count(worker)
                count.answers += 1
                count.prompt_tokens += props.get("prompt_tokens", 0)
                count.cached_tokens += props.get("cached_tokens", 0)
                count.tokens += props.get("tokens", 0) if "prompt_tokens" in props else 0
            elif part.status == 503:
                props.setdefault("retry_after", "1")
        feed.put(part)

    def _drop(self, id: int) -> None:
        self._openings.pop(id, None)
        self._pool.cancel(id)

    def _count(self, worker: int) -> Count:
        return self._counts.setdefault(worker, Count())

    def _now(self) -> dict[str, Elsewhere]:
        """Slot → model, of the set in use: it changes in the turn of the loop in which the workers are told."""
        version = self._pool.versions.current
        if version != self._version:
            self._version = version
            named = in_set(version)
            first = next(iter(named))
            models = {DEFAULT if each == first else each.removeprefix(SLOT): one for each, one in named.items()}
            if self._name:
                models = {DEFAULT: self._name}
            before = self._slots
            self._slots = {
                slot: Elsewhere(name, self._cards.get(name) or self._assumed(slot, name)) for slot, name in models.items()
            }
            for slot, each in self._slots.items():
                if slot not in before or before[slot].name != each.name:
                    self._since[slot] = time.time()
        return self._slots

    def _assumed(self, slot: str, name: str) -> dict[str, Any]:
        """The card of a version that has just begun to answer, until its workers tell it: compressed from what the one before
        was, whichever version of that."""
        before = self._slots.get(slot)
        is_next = before is not None and before.name.partition("@")[0] == name.partition("@")[0]
        base = made_from(before.card).partition("@")[0] if before is not None and is_next else ""
        return {"family": "lm", "model": name, **({"compression": {"from": base}} if base else {})}

    def _variant(self, slot: str) -> str:
        """The name in a set of what is in a slot; the first one needs none."""
        return "" if slot == DEFAULT else f"{SLOT}{slot}"

    def _model_of(self, version: str, variant: str) -> str:
        """The model of a set that answered."""
        if self._name:
            return self._name
        models = in_set(version)
        return models.get(variant) or next(iter(models.values()))
