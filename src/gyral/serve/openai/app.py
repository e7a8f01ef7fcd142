"""OpenAI's routes as an ASGI application: looks requests through, hands them to an engine, puts its parts on the wire.

No torch, no tokens: a part of a stream is JSON from the engine, and `id`, `object`, `created`, `model` are put before it as
bytes. Parts that wait together leave together. A client that goes takes its ask with it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from gyral.event.clock import now_us
from gyral.http import AsgiApp, Header, Receive, Refused, Scope, Send, allow, header, read_body, reply
from gyral.model.family import Servable
from gyral.serve.engine import Engine, Part
from gyral.serve.feedback import Impressions, Logged, RequestIds
from gyral.serve.openai.again import Again, Look, feed_of
from gyral.serve.openai.errors import as_openai, body_of
from gyral.serve.openai.runner import Feed, Runner
from gyral.serve.openai.wire import CHAT, COMPLETIONS, EMBEDDINGS, MODELS, Body, Wrong, decode

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
    engine : makes what answers for a model; called once a version, in a thread of its own.
    impressions : where answers are logged, None to log nothing.
    alike : least cosine of questions of which one is told the other's answer; 0: none is.
    """

    def __init__(
        self, slots: Models, max_body_bytes: int, engine: Callable[[Servable], Engine],
        impressions: Impressions | None = None, note: Callable[[str], None] | None = None, alike: float = 0.0,
    ) -> None:  # fmt: skip
        self._slots, self._limit, self._engine = slots, max_body_bytes, engine
        self._impressions, self._note = impressions, note
        self._again = Again(alike) if alike else None
        self._ids = RequestIds()
        self._runners: dict[str, Runner] = {}

    @property
    def mounts(self) -> Mapping[str, AsgiApp]:
        """Where it belongs in a server."""
        return dict.fromkeys(PATHS, self)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._route(scope["path"], scope, receive, send)
        except Refused as refused:
            await _refuse(send, refused.status, body_of(refused, scope["path"]), *refused.headers)

    def close(self) -> None:
        """End the engines; may be called twice."""
        for runner in self._runners.values():
            runner.close()

    async def _route(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        if path == MODELS or path.startswith(MODELS + "/"):
            allow(scope, "GET")
            await reply(send, 200, msgspec.json.encode(self._listed(path.removeprefix(MODELS).strip("/"))))
            return
        if path not in PATHS:
            hint = ", ".join(f"`POST {each}`" for each in PATHS[:3])
            raise Wrong(404, f"there is nothing at `{path[:200]}`", code="unknown_url", hint=hint)
        allow(scope, "POST")
        body = await read_body(scope, receive, self._limit)
        request = decode(path, body)
        slot, model = self._model(request.model)
        is_stream = bool(getattr(request, "stream", False))
        left_s, look = _deadline_s(scope), None
        until = time.monotonic() + left_s
        if self._again is not None:
            who = header(scope, b"authorization")
            look = await self._again.look(path, body, request, who, model.name, self._runner(model), left_s)
        runner = self._runner(model)  # it may have ended meanwhile, with its version
        told = look.told if look is not None else None
        left_s = until - time.monotonic()
        feed = feed_of(told, runner) if told is not None else runner.ask(path, body, left_s, is_stream)
        watch = asyncio.ensure_future(_gone(receive, feed))
        request_id = f"{_PREFIX[path]}-{self._ids.next()}"
        try:
            props = await self._answer(path, request, model, request_id, feed, send, look)
        finally:
            watch.cancel()
            feed.give_up()
            self._end_old()
        if props is not None and self._impressions is not None:
            kind = "embedding" if path == EMBEDDINGS else "completion"
            kept = {"model": model.name, "slot": slot, **props}
            self._impressions.add(Logged(request_id, now_us(), kind, getattr(request, "user", None), None, None, kept))

    async def _answer(
        self, path: str, request: Body, model: Servable, request_id: str, feed: Feed, send: Send, look: Look | None
    ) -> dict[str, Any] | None:
        """Put the answer on the wire; what the log keeps of it, None where there was none."""
        parts = await feed.next()
        if not parts:
            return None
        first = parts[0]
        version = model.name.rpartition("@")[2].encode()
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
                look.keep(first, request_id)
            await reply(send, 200, head + first.body[1:], *headers)
            return first.props
        return await _stream(send, b"data: " + head, parts, feed, headers, path)

    def _runner(self, model: Servable) -> Runner:
        """What runs a model's engine."""
        runner = self._runners.get(model.name)
        if runner is None:
            runner = self._runners[model.name] = Runner(lambda: self._engine(model), model.name, self._note)
        return runner

    def _end_old(self) -> None:
        """End the engines of versions that are no longer served, once nobody waits for them."""
        if len(self._runners) > 1:
            served = set(self._slots.names().values())
            for name in [name for name, each in self._runners.items() if name not in served and each.is_idle]:
                self._runners.pop(name).close()

    def _named(self) -> dict[str, str]:
        """Name that a request may use → slot. A slot's own name wins, then the default slot's model."""
        found: dict[str, str] = {}
        slots = self._slots.names()
        for slot in sorted(slots, key=lambda each: (each == "default", each)):
            model = self._slots.get(slot)
            if model is not None and model.card.get("family") == "lm":
                found[model.name] = found[model.name.partition("@")[0]] = slot
        return found | {slot: slot for slot in slots if slot in set(found.values())}

    def _model(self, name: str) -> tuple[str, Servable]:
        named = self._named()
        slot = named.get(name)
        model = self._slots.get(slot) if slot is not None else None
        if slot is None or model is None:
            known = ", ".join(f"`{each}`" for each in named) or "none: no language model is served"
            what = f"The model `{name}` does not exist"
            raise Wrong(404, what, "model", "model_not_found", hint=f"there is {known}")
        return slot, model

    def _listed(self, name: str) -> dict[str, Any]:
        named = self._named()
        listed = [
            {"id": each, "object": "model", "created": int(self._slots.loaded_at(slot)), "owned_by": "gyral"}
            for each, slot in named.items()
        ]
        if not name:
            return {"object": "list", "data": listed}
        self._model(name)
        return next(each for each in listed if each["id"] == name)


async def _stream(
    send: Send, before: bytes, parts: list[Part], feed: Feed, headers: tuple[Header, ...], path: str
) -> dict[str, Any] | None:
    """Send parts as server-sent events until the last one."""
    await send({"type": "http.response.start", "status": 200, "headers": [*_STREAM, *headers]})
    while parts:
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
            return None
        if last.is_last:
            return last.props if last.status == 200 else None
        parts = await feed.next()
    return None


async def _gone(receive: Receive, feed: Feed) -> None:
    """Give an ask up when its client goes."""
    while (await receive())["type"] != "http.disconnect":
        pass
    feed.give_up()


async def _refuse(send: Send, status: int, body: bytes, *headers: Header) -> None:
    try:
        await reply(send, status, body, *headers)
    except (OSError, RuntimeError):  # nobody may be there to be told
        return


def _deadline_s(scope: Scope) -> float:
    """Seconds that the client gives it, from `x-deadline-ms`."""
    given = header(scope, b"x-deadline-ms")
    if not given:
        return math.inf
    if not given.isdigit() or len(given) > 12:
        raise Wrong(400, "`x-deadline-ms` is no number of milliseconds", "x-deadline-ms", "invalid_value", hint="send digits")
    return int(given) / 1e3
