"""The ASGI application: two hot routes in raw ASGI, everything else handed to what is mounted.

A request is answered inline on the event loop, because an answer costs about 0.1 ms and a hop to a thread costs as much. Every
error is JSON in four parts; no input makes a 500. What a family raises does, without its trace, and is noted once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import parse_qs

import msgspec
from msgspec import Meta

from gyral.config import Serve
from gyral.event.clock import now_us
from gyral.model.family import Answer, Item, Servable
from gyral.serve.feedback import Impression, Impressions, RequestIds
from gyral.serve.slots import DEFAULT, POPULARITY, Slots

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

JSON = (b"content-type", b"application/json")
_GONE: MutableMapping[str, Any] = {"type": "http.disconnect"}


class Context(msgspec.Struct):
    """What is known at the moment of the request; anything else in it is ignored."""

    country: Annotated[str, Meta(max_length=256)] | None = None
    recent: Annotated[list[Annotated[str, Meta(max_length=1024)]], Meta(max_length=1_000)] = []


class Recommend(msgspec.Struct):
    """Body of `POST /v1/recommend`."""

    subject: Annotated[str, Meta(max_length=1024)]
    k: Annotated[int, Meta(ge=1)] = 10
    context: Context | None = None
    model: Annotated[str, Meta(max_length=256)] | None = None


class Recommended(msgspec.Struct):
    """Its answer."""

    request_id: str
    model: str
    subject: str
    known: bool
    items: list[Item]


class _Refused(Exception):
    """A request that gets an error and nothing else."""

    def __init__(self, status: int, what: str, why: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.status, self.what, self.why, self.hint = status, what, why, hint


class App:
    """The application of one server.

    Parameters
    ----------
    slots : the models.
    impressions : where answers are logged, None to log nothing.
    mounts : path prefix → ASGI application for all other paths; the longest prefix wins. It sees the whole path.
    note : told when a model raises instead of answering.
    """

    def __init__(
        self,
        slots: Slots,
        config: Serve,
        impressions: Impressions | None = None,
        mounts: Mapping[str, AsgiApp] | None = None,
        note: Callable[[str], None] | None = None,
    ) -> None:
        self._slots = slots
        self._config = config
        self._impressions = impressions
        self._mounts = sorted(
            ((prefix.rstrip("/"), app) for prefix, app in (mounts or {}).items()), key=lambda pair: -len(pair[0])
        )
        self._note = note
        self._noted = ""
        self._ids = RequestIds()
        self._decoder = msgspec.json.Decoder(Recommend)
        self._encoder = msgspec.json.Encoder()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await _lifespan(receive, send)
        if scope["type"] != "http":
            return
        path = scope["path"]
        try:
            if path == "/v1/recommend":
                self._allow(scope, "POST")
                await self._recommend(await self._body(scope, receive), send)
            elif path == "/healthz":
                self._allow(scope, "GET")
                await _reply(send, 200, b'{"status":"ok"}')
            elif path == "/v1/model":
                self._allow(scope, "GET")
                await _reply(send, 200, self._encoder.encode(self._describe(scope)))
            else:
                await self._mounted(path)(scope, receive, send)
        except _Refused as refused:
            await self._refuse(send, refused, path)

    def answer(self, request: Recommend) -> Recommended:
        """Answer one decoded request, and log the impression."""
        if request.k > self._config.max_k:
            raise _Refused(400, f"`k` is {request.k:,}", hint=f"at most {self._config.max_k:,}")
        slot = request.model or DEFAULT
        model = self._model(slot)
        context: dict[str, Any] = {}
        if request.context is not None:
            context = {"country": request.context.country, "recent": request.context.recent}
        answer: Answer
        if slot == POPULARITY:
            answer = model.popular(request.subject, request.k, context)
        else:
            answer = model.recommend(request.subject, request.k, context)
        request_id = self._ids.next()
        if self._impressions is not None:
            shown, scores = [item.object for item in answer.items], [item.score for item in answer.items]
            country, recent = context.get("country"), context.get("recent", ())
            self._impressions.add(
                Impression(
                    request_id, now_us(), request.subject, country, model.name, slot, request.k, shown, scores, len(recent)
                )
            )
        return Recommended(request_id, model.name, request.subject, answer.known, answer.items)

    async def _recommend(self, body: bytes, send: Send) -> None:
        try:
            request = self._decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            hint = '{"subject": "17850", "k": 10, "context": {"country": "France"}}'
            raise _Refused(400, "the body is not a request", why=str(error), hint=f"send {hint}") from None
        try:
            answered = self.answer(request)
        except _Refused:
            raise
        except Exception as error:  # a family's fault, not the client's
            raise self._failed(error) from None
        version = answered.model.rpartition("@")[2].encode()
        await _reply(send, 200, self._encoder.encode(answered), (b"x-model-version", version))

    def _failed(self, error: Exception) -> _Refused:
        told = f"serve    a request could not be answered: {type(error).__name__}: {error}"
        if self._note is not None and told != self._noted:
            self._noted = told
            self._note(told)
        return _Refused(500, "the model could not answer", hint="the server's log says why")

    def _model(self, slot: str) -> Servable:
        model = self._slots.get(None if slot == POPULARITY else slot)
        if model is None:
            listed = ", ".join(f"`{name}`" for name in self._slots.names())
            raise _Refused(404, f"there is no model `{slot}` here", hint=f"leave `model` out, or use one of {listed}")
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

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """Read a body up to the limit.

        A length that lies or a chunk that is none ends like a client that goes: granian says `disconnect`, others raise. It is
        answered all the same, because the client may still read, and granian makes a 500 of no answer.
        """
        limit = self._config.max_body_bytes
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and (len(value) > 18 or int(value) > limit):
                raise _Refused(413, f"the body has more than {limit:,} bytes", hint=f"at most {limit:,} are taken")
        parts: list[bytes] = []
        size = 0
        while True:
            try:
                message = await receive()
            except Exception:
                message = _GONE
            if message["type"] == "http.disconnect":
                raise _Refused(400, "the body ended early or is not framed as HTTP", hint="check `content-length`")
            part = message.get("body", b"")
            size += len(part)
            if size > limit:
                raise _Refused(413, f"the body has more than {limit:,} bytes", hint=f"at most {limit:,} are taken")
            if not message.get("more_body"):
                return part if not parts else b"".join([*parts, part])
            parts.append(part)

    def _allow(self, scope: Scope, method: str) -> None:
        if scope["method"] != method and (scope["method"], method) != ("HEAD", "GET"):
            raise _Refused(405, f"`{scope['method']}` is not allowed here", hint=f"use {method}")

    def _mounted(self, path: str) -> AsgiApp:
        for prefix, app in self._mounts:
            if path == prefix or path.startswith(prefix + "/"):
                return app
        raise _Refused(404, f"there is nothing at `{path[:200]}`", hint="POST /v1/recommend, GET /v1/model, GET /healthz")

    async def _refuse(self, send: Send, refused: _Refused, path: str) -> None:
        error = {"what": refused.what, "where": path[:200], "why": refused.why, "hint": refused.hint}
        allow = ((b"allow", b"POST" if path == "/v1/recommend" else b"GET"),) if refused.status == 405 else ()
        with contextlib.suppress(OSError, RuntimeError):  # nobody may be there to be told
            await _reply(send, refused.status, self._encoder.encode({"error": error}), *allow)


async def _reply(send: Send, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [JSON, length, *headers]})
    await send({"type": "http.response.body", "body": body})


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return
