"""Engines of published models: loaded from the project's folder, touched and warm, whatever their family is.

What a gateway has answered together is one *set*: the model with its variants, and the slots beside it. A set is written
`NAME=MODEL@N` with spaces between, so a swap of any of them is a swap of the set, and no answer is of a mixture.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import msgspec

from gyral import plugins
from gyral.config.rerank import Rerank
from gyral.errors import GyralError, InputError, NotFound, ServeError
from gyral.http.operations import document
from gyral.model import card as cards
from gyral.model.family import Recommends, Route, Servable, Told
from gyral.serve import described
from gyral.serve.about import About
from gyral.serve.engine import MAX_BATCH, Ask, Engine, OneShot, Part
from gyral.serve.job import in_set
from gyral.serve.recommend.pipeline import dressing
from gyral.serve.wire import EXAMPLE, MODEL, POPULARITY, RECOMMEND, Recommend, Recommended

MAX_K = 10_000
KEPT_ITEMS = 100
"""Of an answer, what the log keeps at most."""


class Nothing(msgspec.Struct):
    """A body that asks nothing."""


class Several:
    """Models of one set behind one seam: an ask goes to the one that it names, or to the first.

    Parameters
    ----------
    engines : name in the set → engine.
    """

    def __init__(self, version: str, engines: Mapping[str, Engine]) -> None:
        self.version = version
        self._engines = dict(engines)
        self._first = next(iter(self._engines.values()))
        self._of: dict[int, Engine] = {}
        self._busy: dict[Engine, int] = {}

    def submit(self, ask: Ask) -> None:
        """Hand it on; a variant that this set has no more is answered by the first."""
        engine = self._engines.get(ask.variant, self._first)
        self._of[ask.id] = engine
        self._busy[engine] = self._busy.get(engine, 0) + 1
        engine.submit(ask)

    def cancel(self, id: int) -> None:
        """Nobody waits for it."""
        if id in self._of:
            self._of[id].cancel(id)
            self._end(id)

    def step(self) -> list[Part]:
        """One batch of each that was asked."""
        parts: list[Part] = []
        for engine in list(self._busy):
            parts += engine.step()
        for part in parts:
            if part.is_last:
                self._end(part.id)
        return parts

    def close(self) -> None:
        """Let go of all."""
        for engine in self._engines.values():
            engine.close()

    def _end(self, id: int) -> None:
        engine = self._of.pop(id, None)
        if engine is not None:
            self._busy[engine] -= 1
            if not self._busy[engine]:
                del self._busy[engine]


def open_model(source: str, version: str, options: dict[str, Any]) -> Engine:
    """The engine of `NAME@N`, or of a set, in a project folder.

    Parameters
    ----------
    options : `max_batch`, requests a step at most; `rerank`, the rules between a recommender's scores and its answers.

    Raises
    ------
    NotFound : there is no such version.  GyralError : it cannot be loaded.
    """
    root = Path(source)
    dress = dressing(msgspec.convert(options.get("rerank", {}), Rerank), root)
    loaded: dict[str, Servable] = {}
    engines: dict[str, Engine] = {}
    for name, each in in_set(version).items():
        model = loaded.get(each) or load(root, each)
        loaded[each] = model
        served = dress(model) if dress is not None else model
        routes = dict(served.routes) or {RECOMMEND: recommending(cast(Recommends, served), int(options.get("max_k", MAX_K)))}
        routes[MODEL] = about(served, routes)
        engines[name] = OneShot(served, routes, version=each, max_batch=int(options.get("max_batch", MAX_BATCH)))
    if not engines:
        raise InputError("no version is named", hint="write `name@number`")
    return next(iter(engines.values())) if len(engines) == 1 else Several(version, engines)


def load(root: Path, version: str) -> Servable:
    """A published version, warm.

    Raises
    ------
    NotFound : there is no such version.  GyralError : it cannot be loaded.
    """
    folder = cards.find(root, version)
    if folder.name != version:
        raise NotFound(f"`{version}` is not a version", where=str(folder.parent), hint="write `name@number`")
    try:
        model: Servable = plugins.find("family", cards.read_card(folder).family).load(folder)
        model.warm()
    except GyralError:
        raise
    except Exception as error:  # whatever a family does to a damaged folder
        raise ServeError(f"`{version}` cannot be loaded", why=f"{type(error).__name__}: {error}") from error
    return model


def about(model: Servable, routes: Mapping[str, Route]) -> Route:
    """How a gateway, which loads nothing, learns what the model is and how it is asked."""
    examples = {path: (route.example, route.is_pure) for path, route in routes.items()}
    told = About(model.card, examples, not model.routes, document("", described.by_workers(routes)))
    # a model that learns while it answers has another card each time
    return Route(Nothing, lambda _: Told(msgspec.structs.asdict(told) | {"card": dict(model.card)}, "model"), "{}")


def recommending(model: Recommends, max_k: int = MAX_K) -> Route:
    """The route of a recommender, whose server answers it inline where there are no workers."""

    def answer(request: Recommend) -> Told:
        context: dict[str, Any] = {}
        if request.context is not None:
            context = {"country": request.context.country, "recent": request.context.recent}
        if request.k > max_k:
            raise InputError(f"`k` is {request.k:,}", hint=f"at most {max_k:,}")
        ask = model.popular if request.model == POPULARITY else model.recommend
        told = ask(request.subject, request.k, context)
        items = told.items[:KEPT_ITEMS]
        shown = [item.object for item in items]
        props = {"k": request.k, "items": shown, "scores": [round(item.score, 6) for item in items]}
        if context.get("recent"):
            props["num_recent"] = len(context["recent"])
        props.update(told.props)
        if context.get("country"):
            props["country"] = context["country"]
        body = {"subject": request.subject, "known": told.known, "items": msgspec.to_builtins(told.items)}
        return Told(body, "impression", request.subject, shown[0] if shown else None, props)

    return Route(Recommend, answer, EXAMPLE, response=Recommended)
