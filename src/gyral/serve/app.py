"""The ASGI application: two hot routes in raw ASGI, everything else handed to what is mounted.

`POST /v1/recommend` is also a fast handler, which gyral's own server asks without ASGI's dictionaries and tasks. A request is
answered inline on the event loop, because an answer costs about 0.1 ms and a hop to a thread costs as much. Every error is JSON
in four parts; no input makes a 500. What a family raises does, without its trace, and is noted once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, cast

import msgspec

from gyral.config.sections import Serve
from gyral.errors import InputError, UsageError
from gyral.event.clock import now_us
from gyral.http import AsgiApp, Header, Receive, Refused, Scope, Send, allow, header, read_body, reply, routed
from gyral.model.card import made_from
from gyral.model.family import Answer, Recommends, Route, Servable
from gyral.serve.about import asked_slot, described, no_such
from gyral.serve.feedback import Impression, Impressions, Logged, RequestIds
from gyral.serve.guard import GONE, Guard
from gyral.serve.http1.answer import Response
from gyral.serve.http1.request import Request
from gyral.serve.http1.request import Route as Hot
from gyral.serve.metrics import Metrics
from gyral.serve.mounts import Mounts
from gyral.serve.openai.errors import body_of
from gyral.serve.openai.runner import Asks, Wanted, told_by
from gyral.serve.scheduling.quota import Account
from gyral.serve.slots import DEFAULT
from gyral.serve.wire import EXAMPLE, POPULARITY, Recommend, Recommended, number_of


class Holds(Protocol):
    """Named slots of models, one of them the default: `Slots`, `Packaged`, `openai.copies.Copies`."""

    @property
    def default(self) -> Servable: ...

    def get(self, slot: str | None) -> Servable | None: ...

    def names(self) -> dict[str, str]: ...

    def loaded_at(self, slot: str = DEFAULT) -> float: ...


class App:
    """The application of one server.

    Parameters
    ----------
    slots : the models.
    impressions : where answers are logged, None to log nothing.
    mounts : path prefix → ASGI application for all other paths; the longest prefix wins. It sees the whole path.
    note : told when a model raises instead of answering.
    models : further mounts, OpenAI's routes: whoever may not ask the server's routes may not ask them.
    asks : who answers the families' routes where that is not this process.
    """

    def __init__(
        self,
        slots: Holds,
        config: Serve,
        impressions: Impressions | None = None,
        mounts: Mapping[str, AsgiApp] | None = None,
        note: Callable[[str], None] | None = None,
        models: Mapping[str, AsgiApp] | None = None,
        asks: Asks | None = None,
    ) -> None:
        self._slots, self._asks = slots, asks
        self._config = config
        self._impressions = impressions
        self.metrics = Metrics()
        self.guard = Guard(config, self.metrics, note or (lambda _: None))
        guarded = {prefix: self.guard.around(each, body_of) for prefix, each in (models or {}).items()}
        self._mounts = Mounts({**(mounts or {}), **guarded, "/metrics": self.metrics})
        self._note = note
        self._noted = ""
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="answers")
        self._ids = RequestIds()
        self._decoder = msgspec.json.Decoder(Recommend)
        self._encoder = msgspec.json.Encoder()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await routed(self._route, scope, receive, send)

    async def _route(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        if path == "/v1/recommend":
            allow(scope, "POST")
            asked = await read_body(scope, receive, self._config.max_body_bytes)
            body, version = self._recommend(asked, lambda name: header(scope, name))
            await reply(send, 200, body, version)
        elif path == "/v1/model":
            allow(scope, "GET")
            account = self.guard.check(header(scope, b"authorization"))
            await reply(send, 200, self._described(asked_slot(scope), account))
        elif (route := self._slots.default.routes.get(path)) is not None:
            allow(scope, "POST")
            body = await read_body(scope, receive, self._config.max_body_bytes)
            await self._guarded(path, route, body, scope, receive, send)
        else:
            routes = ", ".join(f"POST {each}" for each in self._slots.default.routes) or "POST /v1/recommend"
            await self._mounts.find(path, f"{routes}, GET /v1/model, GET /healthz")(scope, receive, send)

    async def _guarded(self, path: str, route: Route, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        began, status = time.monotonic(), GONE
        account = self.guard.begin(path, header(scope, b"authorization"), len(body), began)
        try:
            self.guard.tier(lambda name: header(scope, name))
            await self._ask(path, route, body, scope, receive, send, account)
            status = 200
        except Refused as refused:
            status = refused.status
            raise
        finally:
            self.guard.end(account, path, status, began, header(scope, b"traceparent"))

    async def _ask(
        self, path: str, route: Route, body: bytes, scope: Scope, receive: Receive, send: Send, account: Account
    ) -> None:
        """A route that the family has: decoded here, answered in a thread of its own or by another process."""
        try:
            request = msgspec.json.decode(body, type=route.request)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Refused(400, "the body is not a request", why=str(error), hint=f"send {route.example}") from None
        slot = getattr(request, "model", None) or DEFAULT
        model = self._model(slot, account)
        if path not in model.routes:
            raise Refused(404, f"`{model.name}` is not asked at `{path}`", hint=_asked_at(model))
        try:
            if self._asks is None:
                told = await asyncio.get_running_loop().run_in_executor(self._worker, model.routes[path].answer, request)
            else:
                left_s = number_of(header(scope, b"x-deadline-ms"), self._config.deadline_ms, "x-deadline-ms") / 1e3
                told = await told_by(self._asks, Wanted(model, slot, path, body, left_s), receive)
        except Refused:
            raise
        except (InputError, UsageError) as error:  # what the client sent, or this model is not asked
            raise Refused(400, error.what, why=error.why, hint=error.hint) from None
        except Exception as error:  # a family's fault, not the client's
            raise self._failed(error) from None
        account.spend(tokens=told.props.get("prompt_tokens", 0) + told.props.get("tokens", 0))
        request_id = self._ids.next()
        if self._impressions is not None:
            props = {"model": model.name, "slot": slot, **told.props}
            if told.confidence is not None:
                props["confidence"] = round(told.confidence, 9)
            self._impressions.add(Logged(request_id, now_us(), told.kind, told.subject, told.object, None, props))
        answered = {"request_id": request_id, "model": model.name, **told.body}
        version = (b"x-model-version", answered["model"].rpartition("@")[2].encode())
        await reply(send, 200, self._encoder.encode(answered), version)

    def answer(self, request: Recommend, account: Account | None = None) -> Recommended:
        """Answer one decoded request, and log the impression."""
        if request.k > self._config.max_k:
            raise Refused(400, f"`k` is {request.k:,}", hint=f"at most {self._config.max_k:,}")
        slot = request.model or DEFAULT
        model = self._model(slot, account)
        if model.routes:
            raise Refused(404, f"`{model.name}` recommends nothing", hint=_asked_at(model))
        context: dict[str, Any] = {}
        if request.context is not None:
            context = {"country": request.context.country, "recent": request.context.recent}
        answer: Answer
        if slot == POPULARITY:
            answer = cast(Recommends, model).popular(request.subject, request.k, context)
        else:
            answer = cast(Recommends, model).recommend(request.subject, request.k, context)
        request_id = self._ids.next()
        if self._impressions is not None:
            shown, scores = [item.object for item in answer.items], [item.score for item in answer.items]
            country, recent = context.get("country"), context.get("recent", ())
            self._impressions.add(
                Impression(
                    request_id,
                    now_us(),
                    request.subject,
                    country,
                    model.name,
                    slot,
                    request.k,
                    shown,
                    scores,
                    len(recent),
                    answer.props,
                )
            )
        return Recommended(request_id, model.name, request.subject, answer.known, answer.items)

    def hot(self) -> dict[str, Hot]:
        """The fast handlers, by path; the application answers these paths as well."""

        def recommend(request: Request) -> Response:
            body, version = self._recommend(request.body, request.header)
            return Response(body, headers=(version,))

        return {"/v1/recommend": Hot(recommend, ("POST",), self._config.max_body_bytes)}

    def _recommend(self, body: bytes, header: Callable[[bytes], bytes]) -> tuple[bytes, Header]:
        began, status = time.monotonic(), 200
        account = self.guard.begin("/v1/recommend", header(b"authorization"), len(body), began)
        try:
            self.guard.tier(header)
            return self._recommended(body, account)
        except Refused as refused:
            status = refused.status
            raise
        finally:
            self.guard.end(account, "/v1/recommend", status, began, header(b"traceparent"))

    def _recommended(self, body: bytes, account: Account) -> tuple[bytes, Header]:
        try:
            request = self._decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Refused(400, "the body is not a request", why=str(error), hint=f"send {EXAMPLE}") from None
        try:
            answered = self.answer(request, account)
        except Refused:
            raise
        except Exception as error:  # a family's fault, not the client's
            raise self._failed(error) from None
        return self._encoder.encode(answered), (b"x-model-version", answered.model.rpartition("@")[2].encode())

    def _failed(self, error: Exception) -> Refused:
        told = f"serve    a request could not be answered: {type(error).__name__}: {error}"
        if self._note is not None and told != self._noted:
            self._noted = told
            self._note(told)
        return Refused(500, "the model could not answer", hint="the server's log says why")

    def _model(self, slot: str, account: Account | None) -> Servable:
        model = self._slots.get(None if slot == POPULARITY else slot)
        if model is None:
            names = self._slots.names()
            raise no_such(slot, account.of(names, self._made_from) if account is not None else names)
        if account is not None:
            account.check(model.name, made_from(model.card))
        return model

    def _made_from(self, slot: str) -> str:
        model = self._slots.get(None if slot == POPULARITY else slot)
        return made_from(model.card) if model is not None else ""

    def _described(self, slot: str, account: Account) -> bytes:
        model, loaded_at = self._model(slot, account), self._slots.loaded_at(DEFAULT if slot == POPULARITY else slot)
        return described(model.name, model.card, loaded_at, account.of(self._slots.names(), self._made_from), self._impressions)

    def close(self) -> None:
        """End the thread; may be called twice."""
        self._worker.shutdown(cancel_futures=True)
        self.guard.close()


def _asked_at(model: Servable) -> str:
    return f"it is asked at {', '.join(f'`POST {path}`' for path in model.routes)}" if model.routes else ""
