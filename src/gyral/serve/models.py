"""An engine of a published model: loaded from the project's folder, touched and warm, whatever its family is."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import msgspec

from gyral import plugins
from gyral.errors import GyralError, InputError, NotFound, ServeError
from gyral.model import card as cards
from gyral.model.family import Recommends, Route, Servable, Told
from gyral.serve.app import Recommend
from gyral.serve.engine import MAX_BATCH, OneShot

KEPT_ITEMS = 100
"""Of an answer, what the log keeps at most."""


def open_model(source: str, version: str, options: dict[str, Any]) -> OneShot:
    """The engine of `NAME@N` in a project folder.

    Parameters
    ----------
    options : `max_batch`, requests a step at most.

    Raises
    ------
    NotFound : there is no such version.  GyralError : it cannot be loaded.
    """
    folder = cards.find(Path(source), version)
    if folder.name != version:
        raise NotFound(f"`{version}` is not a version", where=str(folder.parent), hint="write `name@number`")
    try:
        model: Servable = plugins.find("family", cards.read_card(folder).family).load(folder)
        model.warm()
    except GyralError:
        raise
    except Exception as error:  # whatever a family does to a damaged folder
        raise ServeError(f"`{version}` cannot be loaded", why=f"{type(error).__name__}: {error}") from error
    routes = model.routes or {"/v1/recommend": recommending(cast(Recommends, model))}
    return OneShot(model, routes, version=version, max_batch=int(options.get("max_batch", MAX_BATCH)))


def recommending(model: Recommends) -> Route:
    """The route of a recommender, whose server answers it inline where there are no workers."""

    def answer(request: Recommend) -> Told:
        context: dict[str, Any] = {}
        if request.context is not None:
            context = {"country": request.context.country, "recent": request.context.recent}
        if not 1 <= request.k <= 10_000:
            raise InputError(f"`k` is {request.k:,}", hint="at most 10,000")
        told = model.recommend(request.subject, request.k, context)
        items = told.items[:KEPT_ITEMS]
        shown = [item.object for item in items]
        props = {"k": request.k, "items": shown, "scores": [round(item.score, 6) for item in items]}
        body = {"subject": request.subject, "known": told.known, "items": msgspec.to_builtins(told.items)}
        return Told(body, "impression", request.subject, shown[0] if shown else None, props)

    return Route(Recommend, answer, '{"subject": "17850", "k": 10}')
