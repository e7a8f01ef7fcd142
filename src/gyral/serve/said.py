"""`POST /v1/feedback`: what people say of an answer becomes an event that names the request it answers.

    {"request_id": "0198…", "verdict": "chosen", "object": "twitter/1f994.png"}
    {"request_id": "0198…", "verdict": "rejected", "object": "22423"}
    {"request_id": "0198…", "verdict": "corrected", "text": "what it should have said"}

One, or a list. It goes the way of every event: a 200 means that it is on the disk, sent again it is the same event, and keys
and limits are those of `POST /v1/events`. Whether the request is one that was answered is looked at when the feedback is used,
because the answer may still be on its way into the log.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from gyral.http import AsgiApp, Receive, Refused, Scope, Send, allow, read_body, routed

EXAMPLE = '{"request_id": "0198…", "verdict": "chosen", "object": "…"}'


class Said(msgspec.Struct, frozen=True, omit_defaults=True):
    """What somebody said of one answer."""

    request_id: Annotated[str, Meta(min_length=1, max_length=64)]
    verdict: Literal["chosen", "rejected", "corrected"]
    object: Annotated[str, Meta(max_length=1024)] = ""
    text: Annotated[str, Meta(max_length=1 << 20)] = ""
    subject: Annotated[str, Meta(max_length=1024)] = ""
    language: Annotated[str, Meta(max_length=64)] = ""


class FeedbackRoute:
    """The route; it hands events on.

    Parameters
    ----------
    collector, to : application that takes events, and its path.

    Attributes
    ----------
    on_said : told what was said, before it is an event.
    """

    path = "/v1/feedback"

    def __init__(self, collector: AsgiApp, to: str, max_body_bytes: int) -> None:
        self._collector, self._to, self._limit = collector, to, max_body_bytes
        self._decoder = msgspec.json.Decoder(Said | list[Said])
        self.on_said: Callable[[Sequence[Said]], None] = lambda _: None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await routed(self._route, scope, receive, send)

    async def _route(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        if path != self.path:
            raise Refused(404, f"there is nothing at `{path[:200]}`", hint=f"POST {self.path}")
        allow(scope, "POST")
        try:
            said = self._decoder.decode(await read_body(scope, receive, self._limit))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Refused(400, "the body is no feedback", why=str(error), hint=f"send {EXAMPLE}") from None
        now, every = datetime.now(UTC).isoformat(), said if isinstance(said, list) else [said]
        self.on_said(every)
        body = msgspec.json.encode([event_of(each, now) for each in every])
        headers = [
            each for each in scope["headers"] if each[0] not in (b"content-type", b"content-length", b"content-encoding")
        ]
        headers += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        message = {"type": "http.request", "body": body, "more_body": False}

        async def again() -> dict[str, Any]:
            return message

        await self._collector({**scope, "path": self._to, "raw_path": self._to.encode(), "headers": headers}, again, send)


def event_of(said: Said, now: str) -> dict[str, Any]:
    """The event that feedback becomes; the same words of the same answer are the same event."""
    told = hashlib.sha256(msgspec.json.encode(said)).hexdigest()[:32]
    props: dict[str, Any] = {"request_id": said.request_id, "verdict": said.verdict}
    props |= {name: value for name, value in (("text", said.text), ("language", said.language)) if value}
    fields = {"event_id": told, "event_time": now, "kind": f"feedback_{said.verdict}", "schema_id": "feedback", "props": props}
    fields["subject"] = said.subject or said.request_id  # an event has somebody it is of; who is not named is only who asked
    return fields | ({"object": said.object} if said.object else {})
