"""Raw ASGI for the hot routes: bodies up to a limit, JSON answers, errors in four parts. What every server of gyral shares.

A route that is asked thousands of times a second is a function of `scope, receive, send`; pages use a framework.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Route = Callable[[str, Scope, Receive, Send], Awaitable[None]]
Header = tuple[bytes, bytes]

JSON: Header = (b"content-type", b"application/json")
_GONE: MutableMapping[str, Any] = {"type": "http.disconnect"}


class Refused(Exception):
    """A request that gets an error and nothing else.

    Parameters
    ----------
    status : of the answer.
    what, why, hint : its error, which also says where.
    headers : further ones of the answer.
    """

    def __init__(self, status: int, what: str, why: str = "", hint: str = "", headers: tuple[Header, ...] = ()) -> None:
        super().__init__(what)
        self.status, self.what, self.why, self.hint, self.headers = status, what, why, hint, headers


def allow(scope: Scope, method: str) -> None:
    """Refuse other methods; `HEAD` is a `GET` whose body the server leaves out."""
    if scope["method"] != method and (scope["method"], method) != ("HEAD", "GET"):
        headers = ((b"allow", method.encode()),)
        raise Refused(405, f"`{scope['method']}` is not allowed here", hint=f"use {method}", headers=headers)


def header(scope: Scope, name: bytes) -> bytes:
    """Value of a header, empty when it was not sent."""
    return next((value for key, value in scope["headers"] if key == name), b"")


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """Read a body up to a limit in bytes.

    A length that lies or a chunk that is none ends like a client that goes: some servers say `disconnect`, others raise. It is
    answered all the same, because the client may still read, and some make a 500 of no answer.
    """
    length = header(scope, b"content-length")
    if length.isdigit() and (len(length) > 18 or int(length) > limit):
        raise Refused(413, f"the body has more than {limit:,} bytes", hint=f"at most {limit:,} are taken")
    parts: list[bytes] = []
    size = 0
    while True:
        try:
            message = await receive()
        except Exception:
            message = _GONE
        if message["type"] == "http.disconnect":
            raise Refused(400, "the body ended early or is not framed as HTTP", hint="check `content-length`")
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise Refused(413, f"the body has more than {limit:,} bytes", hint=f"at most {limit:,} are taken")
        if not message.get("more_body"):
            return part if not parts else b"".join([*parts, part])
        parts.append(part)


async def reply(send: Send, status: int, body: bytes, *headers: Header) -> None:
    """Send a whole JSON answer."""
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [JSON, length, *headers]})
    await send({"type": "http.response.body", "body": body})


async def _refuse(send: Send, refused: Refused, path: str) -> None:
    """Send the error of a request that was refused."""
    error = {"what": refused.what, "where": path[:200], "why": refused.why, "hint": refused.hint}
    with contextlib.suppress(OSError, RuntimeError):  # nobody may be there to be told
        await reply(send, refused.status, msgspec.json.encode({"error": error}), *refused.headers)


async def routed(route: Route, scope: Scope, receive: Receive, send: Send) -> Refused | None:
    """Let a server's routes answer one request; what they refuse is told to the client, and returned."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
    elif scope["type"] == "http":
        path = scope["path"]
        try:
            if path == "/healthz":
                allow(scope, "GET")
                await reply(send, 200, b'{"status":"ok"}')
            else:
                await route(path, scope, receive, send)
        except Refused as refused:
            await _refuse(send, refused, path)
            return refused
    return None


async def _lifespan(receive: Receive, send: Send) -> None:
    """Answer the server's start and stop."""
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return
