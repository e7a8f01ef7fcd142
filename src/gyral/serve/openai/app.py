"""OpenAI's routes as an ASGI application: looks requests through, hands them to an engine, puts its parts on the wire.

No torch, no tokens: a part of a stream is JSON from the engine, and `id`, `object`, `created`, `model` are put before it as
bytes. Parts that wait together leave together. A client that goes takes its ask with it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from gyral.event.clock import now_us
from gyral.http import AsgiApp, Header, Receive, Refused, Scope, Send, allow, header, read_body, reply
from gyral.model.card import made_from
from gyral.model.family import Servable
from gyral.serve.engine import Part
from gyral.serve.feedback import Impressions, Logged, RequestIds
from gyral.serve.guard import ACCOUNT
from gyral.serve.openai.again import Again, Look, feed_of
from gyral.serve.openai.errors import as_openai, body_of
from gyral.serve.openai.runner import Asks, Feed, Wanted, gone
from gyral.serve.openai.wire import CHAT, COMPLETIONS, EMBEDDINGS, MODELS, Body, Wrong, beginning, decode
from gyral.serve.scheduling.quota import Account

PATHS = (COMPLETIONS, CHAT, EMBEDDINGS, MODELS)
_STREAM: tuple[Header, ...] = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
_PREFIX = {COMPLETIONS: "cmpl", CHAT: "chatcmpl", EMBEDDINGS: "embd"}
_OBJECT = {COMPLETIONS: "text_completion", CHAT: "chat.completion", EMBEDDINGS: "list"}
_EVENT = {COMPLETIONS: "text_completion", CHAT: "chat.completion.chunk"}


class Models(Protocol):
    """The models of a server: `gyral.serve.slots.Slots`."""

    def get(self, slot: str | None) -> Servable | None: ...

    def names(self) -> dict[str, str]: ...

    def loaded_at(self, slot: str) -> float: ...


class OpenAi:
    """OpenAI's routes over the language models of a server.

    Parameters
    ----------
    slots : the models; a request names a slot, a model `name@n`, or `name` for the version of it that is loaded.
    asks : who answers: engines in this process, or copies in others.
    impressions : where answers are logged, None to log nothing.
    deadline_s : of requests that name none.
    alike : least cosine of questions of which one is told the other's answer; 0: none is.
    """

    def __init__(
        self, slots: Models, max_body_bytes: int, asks: Asks, impressions: Impressions | None = None,
        deadline_s: float = math.inf, alike: float = 0.0,
    ) -> None:  # fmt: skip
        self._slots, self._limit, self._asks, self._deadline_s = slots, max_body_bytes, asks, deadline_s
        self._impressions = impressions
        self._again = Again(alike, asks) if alike else None
        self._ids = RequestIds()

    @property
    def mounts(self) -> Mapping[str, AsgiApp]:
        """Where it belongs in a server."""
        return dict.fromkeys(PATHS, self)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._route(scope["path"], scope, receive, send)
        except Refused as refused:
            await _refuse(send, refused.status, body_of(refused, scope["path"]), *refused.headers)

    async def _route(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        account: Account | None = scope.get(ACCOUNT)
        if path == MODELS or path.startswith(MODELS + "/"):
            allow(scope, "GET")
            await reply(send, 200, msgspec.json.encode(self._listed(path.removeprefix(MODELS).strip("/"), account)))
            return
        if path not in PATHS:
            hint = ", ".join(f"`POST {each}`" for each in PATHS[:3])
            raise Wrong(404, f"there is nothing at `{path[:200]}`", code="unknown_url", hint=hint)
        allow(scope, "POST")
        body = await read_body(scope, receive, self._limit)
        request = decode(path, body)
        slot, model = self._model(request.model, account)
        is_stream = bool(getattr(request, "stream", False))
        is_pinned, until = request.model == model.name, time.monotonic() + self._left_s(scope)
        wanted = Wanted(model, slot, path, body, until - time.monotonic(), is_stream, is_pinned, beginning(request))
        look = None
        if self._again is not None:
            look = await self._again.look(wanted, request, header(scope, b"authorization"))
            wanted = wanted._replace(deadline_s=until - time.monotonic())
        feed = feed_of(look) if look is not None and look.told is not None else self._asks.ask(wanted)
        if account is not None:
            feed.on_read = lambda num: account.spend(tokens=num)
        watch = asyncio.ensure_future(gone(receive, feed))
        request_id = f"{_PREFIX[path]}-{self._ids.next()}"
        try:
            props = await self._answer(path, request, request_id, feed, send, look, account)
        finally:
            watch.cancel()
            feed.give_up()
            self._asks.tidy(self._slots.names)
        if props is not None and self._impressions is not None:
            kind = "embedding" if path == EMBEDDINGS else "completion"
            told = {"model": feed.model, "slot": slot, **props}
            self._impressions.add(Logged(request_id, now_us(), kind, getattr(request, "user", None), None, None, told))

    async def _answer(
        self, path: str, request: Body, request_id: str, feed: Feed, send: Send, look: Look | None, account: Account | None
    ) -> dict[str, Any] | None:
        """Put the answer on the wire, and charge for it; what the log keeps of it, None where there was none."""
        parts = await feed.next()
        if not parts:
            return None
        first = parts[0]
        version = feed.model.rpartition("@")[2].encode()
        alike: tuple[Header, ...] = look.headers if look is not None else ()
        headers = ((b"x-model-version", version), (b"x-request-id", request_id.encode()), *alike)
        if first.status != 200:
            again = first.props.get("retry_after")
            later: tuple[Header, ...] = ((b"retry-after", again.encode()),) if again else ()
            await _refuse(send, first.status, as_openai(first.status, first.body, path), *headers, *later)
            return None
        is_stream = bool(getattr(request, "stream", False))
        told: dict[str, Any] = {"id": request_id, "object": (_EVENT if is_stream else _OBJECT)[path]}
        told |= {"created": int(time.time()), "model": request.model}
        if path == EMBEDDINGS:
            del told["id"], told["created"]
        head = msgspec.json.encode(told)[:-1] + b","
        if not is_stream:
            if look is not None:
                look.keep(first, request_id, feed.model)
            _charge(account, feed, first.props)
            await reply(send, 200, head + first.body[1:], *headers)
            return first.props
        return await _stream(send, b"data: " + head, parts, feed, headers, path, account)

    def _left_s(self, scope: Scope) -> float:
        """Seconds that the client gives it, from `x-deadline-ms`."""
        given = header(scope, b"x-deadline-ms")
        if not given:
            return self._deadline_s
        if not given.isdigit() or len(given) > 12:
            raise Wrong(
                400, "`x-deadline-ms` is no number of milliseconds", "x-deadline-ms", "invalid_value", hint="send digits"
            )
        return int(given) / 1e3

    def _named(self) -> dict[str, str]:
        """Name that a request may use → slot. A slot's own name wins, then the default slot's model."""
        found: dict[str, str] = {}
        slots = self._slots.names()
        for slot in sorted(slots, key=lambda each: (each == "default", each)):
            model = self._slots.get(slot)
            if model is not None and model.card.get("family") == "lm":
                found[model.name] = found[model.name.partition("@")[0]] = slot
        return found | {slot: slot for slot in slots if slot in set(found.values())}

    def _model(self, name: str, account: Account | None) -> tuple[str, Servable]:
        named = self._named()
        slot = named.get(name)
        model = self._slots.get(slot) if slot is not None else None
        if slot is None or model is None:
            known = ", ".join(f"`{each}`" for each in self._of(named, account)) or "none: no language model is served"
            what = f"The model `{name}` does not exist"
            raise Wrong(404, what, "model", "model_not_found", hint=f"there is {known}")
        if account is not None:
            try:
                account.check(model.name, made_from(model.card))
            except Refused as refused:
                raise Wrong(403, refused.what, "model", "model_not_found", hint=refused.hint) from None
        return slot, model

    def _of(self, named: dict[str, str], account: Account | None) -> dict[str, str]:
        """Of the names, those of models that a caller may ask."""
        if account is None:
            return named
        mine = account.of(self._slots.names(), self._made_from)
        return {name: slot for name, slot in named.items() if slot in mine}

    def _made_from(self, slot: str) -> str:
        model = self._slots.get(slot)
        return made_from(model.card) if model is not None else ""

    def _listed(self, name: str, account: Account | None) -> dict[str, Any]:
        named = self._of(self._named(), account)
        listed = [
            {"id": each, "object": "model", "created": int(self._slots.loaded_at(slot)), "owned_by": "gyral"}
            for each, slot in named.items()
        ]
        if not name:
            return {"object": "list", "data": listed}
        self._model(name, account)
        return next(each for each in listed if each["id"] == name)


async def _stream(
    send: Send, before: bytes, parts: list[Part], feed: Feed, headers: tuple[Header, ...], path: str, account: Account | None
) -> dict[str, Any] | None:
    """Send parts as server-sent events until the last one; who goes before pays what was read, and a token for each event."""
    await send({"type": "http.response.start", "status": 200, "headers": [*_STREAM, *headers]})
    made = 0
    while parts:
        made += len(parts)
        events = [
            before + part.body[1:] if part.status == 200 else b"data: " + as_openai(part.status, part.body, path)
            for part in parts
        ]
        last = parts[-1]
        if last.is_last:
            events.append(b"data: [DONE]")
        try:
            await send({"type": "http.response.body", "body": b"\n\n".join(events) + b"\n\n", "more_body": not last.is_last})
        except (OSError, RuntimeError):  # nobody reads any more
            break
        if last.is_last:
            _charge(account, feed, last.props, made)
            return last.props if last.status == 200 else None
        parts = await feed.next()
    _charge(account, feed, {}, made)
    return None


def _charge(account: Account | None, feed: Feed, props: Mapping[str, Any], made: int = 0) -> None:
    """Take an answer's tokens from its caller's, beside those of the prompt, which were taken when it was let in.

    Parameters
    ----------
    made : of a stream that did not come to its end: what was written at least, as nothing says how much.
    """
    if account is not None:
        told = props.get("prompt_tokens", 0) + props.get("tokens", 0)
        account.spend(tokens=told - feed.prompt_tokens if told else made)


async def _refuse(send: Send, status: int, body: bytes, *headers: Header) -> None:
    try:
        await reply(send, status, body, *headers)
    except (OSError, RuntimeError):  # nobody may be there to be told
        return
