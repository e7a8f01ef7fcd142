"""One copy of a language model in a worker process: what it writes, and the routes that its family has, behind one engine.

Texts grow in the worker's own thread, one pass of the batch a step. A text that is scored, or completed by the family's own
route, takes as long as it takes, so those are answered one after the other by a thread beside it, as where the server itself
answers. Memory of pages is each copy's own: `decode.kv_bytes` holds for each.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from gyral.config.sections import Decode
from gyral.errors import InputError
from gyral.model.family import Servable
from gyral.serve.engine import Ask, Engine, OneShot, Part
from gyral.serve.job import in_set
from gyral.serve.models import Several, about, load
from gyral.serve.openai.engines import Engines
from gyral.serve.packaged import packaged
from gyral.serve.wire import MODEL

COPY = "gyral.serve.openai.copy:open_copy"
"""As a `Job` names it."""
STEP_S = 0.005
"""How long a step waits for the thread beside it where nothing is being written; asks come in between."""


class Copy:
    """Writes with one engine and answers the other routes with another, in a thread of its own.

    Parameters
    ----------
    writer : of OpenAI's routes.
    others : of the paths in `routes`.
    """

    def __init__(self, version: str, writer: Engine, others: OneShot, routes: frozenset[str]) -> None:
        self.version, self._writer, self._others, self._routes = version, writer, others, routes
        self._writing: set[int] = set()
        self._asked: set[int] = set()
        self._line: queue.SimpleQueue[tuple[Ask, float] | None] = queue.SimpleQueue()
        self._told: queue.SimpleQueue[Part] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._answer, name=f"beside {version}", daemon=True)
        self._thread.start()

    def submit(self, ask: Ask) -> None:
        """Hand it to whom it is for."""
        if ask.path in self._routes:
            self._asked.add(ask.id)
            self._line.put((ask, time.monotonic() + ask.deadline_s))
        else:
            self._writing.add(ask.id)
            self._writer.submit(ask)

    def cancel(self, id: int) -> None:
        """Nobody waits for it; what the thread has begun it ends, and nobody is told."""
        self._asked.discard(id)
        if id in self._writing:
            self._writing.discard(id)
            self._writer.cancel(id)

    def step(self) -> list[Part]:
        """One pass of the batch, and what the thread has answered meanwhile."""
        parts = self._writer.step() if self._writing else []
        for part in parts:
            if part.is_last:
                self._writing.discard(part.id)
        if self._asked:
            parts = parts + self._heard(0.0 if self._writing or parts else STEP_S)
        return parts

    def close(self) -> None:
        """Let go of the weights; may be called twice."""
        self._line.put(None)
        self._writer.close()

    def _heard(self, wait_s: float) -> list[Part]:
        parts: list[Part] = []
        try:
            parts.append(self._told.get(timeout=wait_s) if wait_s else self._told.get_nowait())
            while True:
                parts.append(self._told.get_nowait())
        except queue.Empty:
            pass
        parts = [part for part in parts if part.id in self._asked]
        self._asked.difference_update(part.id for part in parts)
        return parts

    def _answer(self) -> None:
        """The thread."""
        while (each := self._line.get()) is not None:
            ask, until = each
            if ask.id not in self._asked:
                continue
            left_s = until - time.monotonic() if until != math.inf else math.inf
            self._others.submit(ask._replace(deadline_s=left_s))
            for part in self._others.step():
                self._told.put(part)
        self._others.close()


def open_copy(source: str, version: str, options: dict[str, Any]) -> Engine:
    """The engine of `NAME@N`, or of a set, of language models in a project folder; or of the one in a package.

    Parameters
    ----------
    options : `decode`, how they write; `package`, the source of a model that is in no project, whatever the version is called.

    Raises
    ------
    InputError : one of them is no language model.  GyralError : it cannot be loaded.
    """
    engines = _engines(source, msgspec.json.encode(options.get("decode", {})))
    if options.get("package"):
        return _copy(version, packaged(options["package"], print).default, engines)
    loaded: dict[str, Servable] = {}
    copies: dict[str, Engine] = {}
    for name, each in in_set(version).items():
        model = loaded[each] = loaded.get(each) or load(Path(source), each)
        if model.card.get("family") != "lm":
            hint = "leave it out, or have the server itself answer: `serve.workers = 0`"
            raise InputError(f"`{each}` is no language model, and is served beside one by workers", hint=hint)
        copies[name] = _copy(each, model, engines)
    if not copies:
        raise InputError("no version is named", hint="write `name@number`")
    return next(iter(copies.values())) if len(copies) == 1 else Several(version, copies)


@lru_cache(1)
def _engines(source: str, decode: bytes) -> Engines:
    """One for all versions, since they share a small model that guesses ahead."""
    return Engines(msgspec.json.decode(decode, type=Decode), Path(source))


def _copy(version: str, model: Servable, engines: Engines) -> Copy:
    routes = dict(model.routes)
    routes[MODEL] = about(model, routes)
    return Copy(version, engines(model), OneShot(model, routes, version=version), frozenset(routes))
