"""The seam between who carries requests and who computes answers: `Ask` in, `Part` out, one `Engine` that steps.

One seam for one-shot work (recommend, encode: a step is a batch) and continuous work (language: a step is one iteration of
decoding, and an ask gets many parts). Who owns the loop decides when to step, so a batch is whatever has come since the last
step: it grows under load and costs nothing without, and needs no timer. This file imports nothing heavy: a back end with
packages of its own runs it in another Python.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from gyral.errors import GyralError, InputError, UsageError

if TYPE_CHECKING:
    from gyral.model.family import Route, Servable, Told

MAX_BATCH = 64


class Ask(NamedTuple):
    """One request on its way to a worker.

    Attributes
    ----------
    id : of the gateway, unique while the worker lives.
    path : route, e.g. `/v1/completions`.
    body : JSON as the client sent it, already validated by the gateway.
    deadline_s : seconds left when it was sent; inf: none.
    version : model version that must answer, "" for the newest.
    variant : which of the models of that version, "" for the first.
    key : asks of one key go to one worker as far as its load allows; empty: to the one with the fewest.
    """

    id: int
    path: str
    body: bytes
    deadline_s: float = math.inf
    version: str = ""
    is_stream: bool = False
    variant: str = ""
    key: bytes = b""


class Part(NamedTuple):
    """An answer, or one event of a stream.

    Attributes
    ----------
    status : 200, or the error's.
    props : what the log keeps; whoever carries the part adds `version` and `worker`, those that computed it. An `opening` part
        says nothing yet of the answer: who asks again gets another. Without a body it only tells `prompt_tokens` of an ask
        that was let in. `elsewhere` marks a refusal of who has no time for it, where another might.
    """

    id: int
    status: int
    body: bytes
    is_last: bool = True
    props: dict[str, Any] = {}


class Engine(Protocol):
    """Computes answers with one version of a model; called from one thread."""

    version: str

    def submit(self, ask: Ask) -> None:
        """Take an ask; never blocks, answers only by `step`."""

    def cancel(self, id: int) -> None:
        """Nobody waits for it any more: no part of it follows. Unknown ids are fine."""

    def step(self) -> list[Part]:
        """One batch, or one iteration of decoding; [] if there is nothing to do."""

    def close(self) -> None:
        """Let go of the weights; may be called twice."""


def failed(id: int, status: int, what: str, *, why: str = "", hint: str = "") -> Part:
    """A last part that is an error, in the four parts that every error of gyral has."""
    error = {"what": what, "where": "", "why": why, "hint": hint}
    return Part(id, status, msgspec.json.encode({"error": error}), True, {})


class _Waiting(NamedTuple):
    ask: Ask
    until: float


class OneShot:
    """An engine of a loaded model whose every ask has one answer.

    Asks of one route form a batch, oldest first. What a batch raises is one request's fault at most, so its requests are then
    answered one by one: only the bad ones get an error.

    Parameters
    ----------
    routes : path → how it is asked; those of the model by default.
    note : told of what a model raises that is not the client's fault.
    """

    def __init__(
        self, model: Servable, routes: Mapping[str, Route] | None = None, *, version: str = "",
        max_batch: int = MAX_BATCH, note: Callable[[str], None] = print,
    ) -> None:  # fmt: skip
        self.version = version or model.name
        self._name = model.name
        routes = model.routes if routes is None else routes
        self._routes = {path: (msgspec.json.Decoder(route.request), route) for path, route in routes.items()}
        self._max_batch, self._note = max_batch, note
        self._encoder = msgspec.json.Encoder()
        self._waiting: dict[str, deque[_Waiting]] = {path: deque() for path in self._routes}
        self._known: set[int] = set()
        self._refused: list[Part] = []

    def submit(self, ask: Ask) -> None:
        """Put it in line."""
        line = self._waiting.get(ask.path)
        if line is None:
            hint = f"it is asked at {', '.join(self._routes) or 'nothing'}"
            self._refused.append(failed(ask.id, 404, f"`{self._name}` is not asked at `{ask.path[:200]}`", hint=hint))
            return
        self._known.add(ask.id)
        line.append(_Waiting(ask, time.monotonic() + ask.deadline_s))

    def cancel(self, id: int) -> None:
        """It is skipped when its turn comes."""
        self._known.discard(id)

    def step(self) -> list[Part]:
        """Answer one batch: of the route whose first ask has waited longest."""
        parts, self._refused = self._refused, []
        lines = [(line[0].ask.id, path) for path, line in self._waiting.items() if line]
        if not lines:
            return parts
        path = min(lines)[1]
        line, decoder = self._waiting[path], self._routes[path][0]
        now = time.monotonic()
        asks: list[Ask] = []
        requests: list[Any] = []
        while line and len(asks) < self._max_batch:
            ask, until = line.popleft()
            if ask.id not in self._known:
                continue
            self._known.discard(ask.id)
            if until < now:
                parts.append(failed(ask.id, 504, "the deadline passed before its turn came", hint="more time, or fewer asks"))
                continue
            try:
                requests.append(decoder.decode(ask.body))
                asks.append(ask)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                example = self._routes[path][1].example
                parts.append(failed(ask.id, 400, "the body is not a request", why=str(error), hint=f"send {example}"))
        if asks:
            parts += self._answered(path, asks, requests)
        return parts

    def close(self) -> None:
        """Forget the model."""
        self._routes = {}
        self._waiting.clear()

    def _answered(self, path: str, asks: list[Ask], requests: list[Any]) -> list[Part]:
        together = self._routes[path][1].together
        if together is not None and len(asks) > 1:
            try:
                told = together(requests)
                if len(told) != len(asks):
                    raise ValueError(f"{len(told)} answers to {len(asks)} requests")
                return [self._part(ask, each) for ask, each in zip(asks, told, strict=True)]
            except Exception as error:  # which of them did it comes out one by one
                if not isinstance(error, InputError | UsageError):
                    self._note(f"serve    a batch of {len(asks)} at `{path}` failed: {type(error).__name__}: {error}")
        return [self._alone(path, ask, request) for ask, request in zip(asks, requests, strict=True)]

    def _alone(self, path: str, ask: Ask, request: Any) -> Part:
        try:
            return self._part(ask, self._routes[path][1].answer(request))
        except (InputError, UsageError) as error:  # what the client sent, or this model is not asked
            return failed(ask.id, 400, error.what, why=error.why, hint=error.hint)
        except Exception as error:  # the model's fault, not the client's
            said = str(error) if not isinstance(error, GyralError) else error.what
            self._note(f"serve    a request at `{path}` could not be answered: {type(error).__name__}: {said}")
            return failed(ask.id, 500, "the model could not answer", hint="the worker's log says why")

    def _part(self, ask: Ask, told: Told) -> Part:
        props = {"kind": told.kind, "subject": told.subject, "object": told.object, **told.props, "model": self._name}
        if told.confidence is not None:
            props["confidence"] = round(told.confidence, 9)
        return Part(ask.id, 200, self._encoder.encode({"model": self._name, **told.body}), True, props)
