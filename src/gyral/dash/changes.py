"""What says that a page is out of date: a stream of server-sent events, and the script that follows it.

The stream carries no data of the project: it names the state of the folder (a digest of when its records changed and how long
they are), and the script asks for the page again, as a person would. So a page has one source, and its twin is unchanged.
Looking at the newest 200 runs takes 2.5 ms and is shared: however many follow, once a second. A stream ends with its client,
with the server, and after ten minutes, when a browser comes again by itself; beyond `MAX_STREAMS` one is refused, and the page
is reloaded by hand.

The script stands in the page, and the policy allows it by its digest: nothing else runs, whatever a name in the data says.

**Source**: WHATWG HTML, 9.2 "Server-sent events"; CSP level 3, 2.3.1 (hashes).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import time
from pathlib import Path
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from gyral.run import FOLDER as RUNS
from gyral.run import numbers

ADDRESS = "changes"
FOLDERS = ("models", "datasets", "laws", "live", "lake")
FILES = ("lineage.json", "metrics.jsonl", "faults.jsonl")
SCRIPT = (Path(__file__).parent / "templates" / "live.js").read_text(encoding="utf-8")
DIGEST = "sha256-" + base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
"""As a policy names the script."""

MAX_STREAMS = 32
MOST_RUNS = 200
"""An older one that still runs is seen by what changes beside it."""
LOOK_S = 1.0
ALIVE_S = 15.0
"""After so long without a change a comment is sent, by which a proxy sees that the stream is alive."""
LIFE_S = 600.0
RETRY_MS = 3_000
HEADERS = {"content-type": "text/event-stream", "cache-control": "no-store", "x-content-type-options": "nosniff",
           "x-accel-buffering": "no"}  # fmt: skip


class Changes:
    """The stream of one project folder, an ASGI application.

    Parameters
    ----------
    root : the project folder; it is only looked at.
    look_s : seconds between two looks.
    """

    def __init__(self, root: Path, look_s: float = LOOK_S) -> None:
        self._root = root
        self._look_s = look_s
        self._looked, self._state = -look_s, ""
        self.num_streams = 0

    def state(self) -> str:
        """The state of the folder, at most `look_s` old: another text, when something has changed."""
        now = time.monotonic()
        if now - self._looked >= self._look_s:
            self._state, self._looked = _state_of(self._root), now
        return self._state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Tell the state, and each that follows, until the client, the server or the time ends."""
        if self.num_streams >= MAX_STREAMS:
            what = {"what": f"{MAX_STREAMS} pages are followed already", "hint": "reload the page to see what is new"}
            await JSONResponse(what, 503, headers={"retry-after": "60"})(scope, receive, send)
            return
        if scope["method"] != "GET":  # HEAD has no end to wait for
            await Response(headers=HEADERS)(scope, receive, send)
            return
        self.num_streams += 1
        ends = _ends(scope, receive)
        try:
            headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await self._tell(send, ends)
            await send({"type": "http.response.body", "body": b""})
        except OSError:  # the client has gone
            pass
        finally:
            self.num_streams -= 1
            for each in ends:
                each.cancel()

    async def _tell(self, send: Send, ends: list[asyncio.Future[Any]]) -> None:
        told, begun = "", time.monotonic()
        spoke, words = begun, f"retry: {RETRY_MS}\n\n"
        while True:
            state = await asyncio.to_thread(self.state)
            if state != told:
                told, words = state, f"{words}id: {state}\ndata: {state}\n\n"
            elif time.monotonic() - spoke >= ALIVE_S:
                words = ":\n\n"
            if words:
                await send({"type": "http.response.body", "body": words.encode(), "more_body": True})
                spoke, words = time.monotonic(), ""
            over, _ = await asyncio.wait(ends, timeout=self._look_s, return_when=asyncio.FIRST_COMPLETED)
            if over or time.monotonic() - begun >= LIFE_S:
                return


def _ends(scope: Scope, receive: Receive) -> list[asyncio.Future[Any]]:
    """What ends a stream: the client goes, or the server, which tells it through the scope where it is gyral's own."""

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    ends: list[asyncio.Future[Any]] = [asyncio.ensure_future(gone())]
    draining = (scope.get("extensions") or {}).get("gyral.draining")
    if draining is not None:
        ends.append(asyncio.ensure_future(draining.wait()))
    return ends


def _state_of(root: Path) -> str:
    """A digest of when the records of the newest runs and the lists changed, and how long they are."""
    digest = hashlib.blake2b(digest_size=9)
    paths = [str(root / folder) for folder in FOLDERS] + [str(root / "lake" / "log")]
    runs = str(root / RUNS)
    paths += [f"{runs}/{number}/{file}" for number in numbers(root)[-MOST_RUNS:] for file in FILES]
    for path in paths:
        try:
            found = os.stat(path)
        except OSError:
            continue
        digest.update(f"{path}\0{found.st_mtime_ns}\0{found.st_size}\n".encode())
    return digest.hexdigest()
