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
from datetime import UTC, datetime
from typing import Any, cast
from urllib.parse import parse_qs

import msgspec

from gyral.config.sections import Serve
from gyral.errors import InputError, UsageError
from gyral.event.clock import now_us
from gyral.http import AsgiApp, Header, Receive, Refused, Scope, Send, allow, header, read_body, reply, routed
from gyral.model.family import Answer, Item, Recommends, Route, Servable
from gyral.serve.feedback import Impression, Impressions, Logged, RequestIds
from gyral.serve.guard import GONE, Guard
from gyral.serve.http1.answer import Response
from gyral.serve.http1.request import Request
from gyral.serve.http1.request import Route as Hot
from gyral.serve.metrics import Metrics
from gyral.serve.mounts import Mounts
from gyral.serve.packaged import Packaged
from gyral.serve.slots import DEFAULT, Slots
from gyral.serve.wire import POPULARITY, Recommend


class Recommended(msgspec.Struct):
    """Its answer."""

    request_id: str
    model: str
    subject: str
    known: bool
    items: list[Item]


class App:
    """The application of one server.

    Parameters
    ----------
    slots : the models.
    impressions : where answers are logged, None to log nothing.
    mounts : path prefix → ASGI application for all other paths; the longest prefix wins. It sees the whole path.
    note : told when a model raises instead of answering.
    models : further mounts, that ask models: whoever may not ask the server's routes may not ask them.
    """

    def __init__(
        self,
        slots: Slots | Packaged,
        config: Serve,
        impressions: Impressions | None = None,
        mounts: Mapping[str, AsgiApp] | None = None,
        note: Callable[[str], None] | None = None,
        models: Mapping[str, AsgiApp] | None = None,
    ) -> None:
        self._slots = slots
        self._config = config
        self._impressions = impressions
        self.metrics = Metrics()
        self.guard = Guard(config, self.metrics, note or (lambda _: None))
        guarded = {prefix: self.guard.around(each) for prefix, each in (models or {}).items()}
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
            self.guard.check(header(scope, b"authorization"))
            await reply(send, 200, self._encoder.encode(self._describe(scope)))
        elif (route := self._slots.default.routes.get(path)) is not None:
            allow(scope, "POST")
            body = await read_body(scope, receive, self._config.max_body_bytes)
            await self._guarded(path, route, body, scope, send)
        else:
            routes = ", ".join(f"POST {each}" for each in self._slots.default.routes) or "POST /v1/recommend"
            await self._mounts.find(path, f"{routes}, GET /v1/model, GET /healthz")(scope, receive, send)

    async def _guarded(self, path: str, route: Route, body: bytes, scope: Scope, send: Send) -> None:
        began, status = time.monotonic(), GONE
        account = self.guard.begin(path, header(scope, b"authorization"), len(body), began)
        try:
            self.guard.tier(lambda name: header(scope, name))
            await self._ask(path, route, body, send)
            status = 200
        except Refused as refused:
            status = refused.status
            raise
        finally:
            self.guard.end(account, path, status, began, header(scope, b"traceparent"))

    async def _ask(self, path: str, route: Route, body: bytes, send: Send) -> None:
        """A route that the family has: decoded here, answered in a thread of its own, so that the others go on."""
        try:
            request = msgspec.json.decode(body, type=route.request)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Refused(400, "the body is not a request", why=str(error), hint=f"send {route.example}") from None
        slot = getattr(request, "model", None) or DEFAULT
        model = self._model(slot)
        if path not in model.routes:
            raise Refused(404, f"`{model.name}` is not asked at `{path}`", hint=_asked_at(model))
        try:
            told = await asyncio.get_running_loop().run_in_executor(self._worker, model.routes[path].answer, request)
        except (InputError, UsageError) as error:  # what the client sent, or this model is not asked
            raise Refused(400, error.what, why=error.why, hint=error.hint) from None
        except Exception as error:  # a family's fault, not the client's
            raise self._failed(error) from None
        request_id = self._ids.next()
        if self._impressions is not None:
            props = {"model": model.name, "slot": slot, **told.props}
            if told.confidence is not None:
                props["confidence"] = round(told.confidence, 9)
            self._impressions.add(Logged(request_id, now_us(), told.kind, told.subject, told.object, None, props))
        answered = {"request_id": request_id, "model": model.name, **told.body}
        await reply(send, 200, self._encoder.encode(answered), (b"x-model-version", model.name.rpartition("@")[2].encode()))

    def answer(self, request: Recommend) -> Recommended:
        """Answer one decoded request, and log the impression."""
        if request.k > self._config.max_k:
            raise Refused(400, f"`k` is {request.k:,}", hint=f"at most {self._config.max_k:,}")
        slot = request.model or DEFAULT
        model = self._model(slot)
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
            return self._recommended(body)
        except Refused as refused:
            status = refused.status
            raise
        finally:
            self.guard.end(account, "/v1/recommend", status, began, header(b"traceparent"))

    def _recommended(self, body: bytes) -> tuple[bytes, Header]:
        try:
            request = self._decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            hint = '{"subject": "17850", "k": 10, "context": {"country": "France"}}'
            raise Refused(400, "the body is not a request", why=str(error), hint=f"send {hint}") from None
        try:
            answered = self.answer(request)
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

    def _model(self, slot: str) -> Servable:
        model = self._slots.get(None if slot == POPULARITY else slot)
        if model is None:
            listed = ", ".join(f"`{name}`" for name in self._slots.names())
            raise Refused(404, f"there is no model `{slot}` here", hint=f"leave `model` out, or use one of {listed}")
        return model

    def _describe(self, scope: Scope) -> dict[str, Any]:
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        slot = query.get("slot", [DEFAULT])[0]
        model = self._model(slot)
        loaded_at = datetime.fromtimestamp(self._slots.loaded_at(DEFAULT if slot == POPULARITY else slot), UTC)
        impressions = self._impressions
        return {
            "model": model.name,
            "family": model.card["family"],
            "learned_until": model.card.get("learned_until"),
            "loaded_at": loaded_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "slots": self._slots.names(),
            "impressions": {"appended": impressions.appended, "dropped": impressions.dropped} if impressions else None,
            "card": model.card,
        }

    def close(self) -> None:
        """End the thread; may be called twice."""
        self._worker.shutdown(cancel_futures=True)
        self.guard.close()


def _asked_at(model: Servable) -> str:
    return f"it is asked at {', '.join(f'`POST {path}`' for path in model.routes)}" if model.routes else ""
