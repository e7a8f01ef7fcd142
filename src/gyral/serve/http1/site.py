"""What all connections of one server share: routes, limits, deadlines, the date, and the buffer that they read into.

One buffer for all works because what is read is parsed before anything else runs; 10,000 open connections hold none of their
own. It also bounds how much of a pipeline is taken in at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from gyral.http import AsgiApp, Refused
from gyral.http.origins import Origins
from gyral.serve.http1.answer import date_line
from gyral.serve.http1.attempts import Attempts
from gyral.serve.http1.limits import KIB, Limits
from gyral.serve.http1.request import Request, Route, Told
from gyral.serve.http1.waits import Waits

if TYPE_CHECKING:
    from gyral.serve.http1.connection import Connection

BUFFER_BYTES = 64 * KIB
_TOO_MUCH = Refused(503, "too much is being sent at once", hint="send it again", headers=((b"retry-after", b"1"),))


def _nothing(request: Request) -> Told:
    raise Refused(404, f"there is nothing at `{request.path[:200]}`")


class Site:
    """What a server answers, and whom it waits for.

    Parameters
    ----------
    app : answers every path that has no route; None: 404.
    routes : path → fast handler.
    note : told when a handler or the application raises.
    origins : which web pages may ask; None: nobody looks.
    """

    def __init__(
        self,
        app: AsgiApp | None,
        routes: Mapping[str, Route],
        limits: Limits,
        note: Callable[[str], None] | None,
        scheme: str = "http",
        origins: Origins | None = None,
    ) -> None:
        self.origins = origins
        self.attempts = Attempts()
        self.app = app
        self.routes = {path.encode(): route for path, route in routes.items()}
        self.other = None if app is not None else Route(_nothing, ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"))
        self.limits = limits
        self.scheme = scheme
        self.state: dict[str, Any] = {}
        self.loop = asyncio.get_running_loop()
        self.view = memoryview(bytearray(BUFFER_BYTES))
        self.connections: set[Connection] = set()
        self.held_bytes = 0
        """Of bodies whose requests are not answered yet."""
        self.is_draining = False
        self.draining = asyncio.Event()
        self.extensions: dict[str, Any] = {"gyral.draining": self.draining}
        self.idle: Waits[Connection] = Waits(limits.idle_timeout_s)
        self.head: Waits[Connection] = Waits(limits.head_timeout_s)
        self.body: Waits[Connection] = Waits(limits.body_timeout_s)
        self.writing: Waits[Connection] = Waits(limits.write_timeout_s)
        self.linger: Waits[Connection] = Waits(limits.linger_s)
        self._note = note or logging.getLogger("gyral.http1").error
        self._noted = ""
        self.date = date_line()
        self._date_due = self.loop.time() + 0.5
        self._timer: asyncio.TimerHandle | None = None

    def note(self, request: Request, error: BaseException) -> None:
        """Tell of a failure; the same one after the other once."""
        told = f"http     `{request.method} {request.path[:200]}` failed: {type(error).__name__}: {error}"
        if told != self._noted:
            self._noted = told
            self._note(told)

    def make_room(self, sender: Connection) -> None:
        """Bodies are too much: who has not sent a piece of one for longest is told to come again.

        Raises
        ------
        Refused : that is the sender.
        """
        while self.held_bytes > self.limits.max_held_bytes:
            slowest = next(iter(self.body), sender)
            if slowest is sender:
                raise _TOO_MUCH
            self.body.drop(slowest)
            slowest.break_off(_TOO_MUCH)

    def let_go(self, request: Request) -> None:
        """Its body is needed no longer; may be called twice."""
        self.held_bytes -= request.held
        request.held = 0

    def tick(self) -> None:
        """End the waits whose time is up, and come again."""
        now = self.loop.time()
        if now >= self._date_due:
            self.date = date_line()
            self._date_due = now + 0.5
        for waits in (self.writing, self.linger):
            for each in waits.late(now):
                each.abort()
        for waits in (self.head, self.body):
            for each in waits.late(now):
                each.time_out()
        for each in self.idle.late(now):
            each.part()
        self._timer = self.loop.call_later(self.limits.tick_s(), self.tick)

    async def drain(self, timeout_s: float) -> int:
        """Answer what was asked, close every connection; how many had to be cut off when the time was up."""
        self.is_draining = True
        self.draining.set()
        deadline = self.loop.time() + timeout_s
        for each in list(self.connections):
            each.part()
        while self.connections and self.loop.time() < deadline:
            await asyncio.sleep(0.01)
        cut = list(self.connections)
        work = [each.abort() for each in cut]
        pending = [task for task in work if task is not None and not task.done()]
        if pending:
            await asyncio.wait(pending, timeout=0.5)
        for _ in range(3):  # the loop calls `connection_lost` of those that were aborted
            await asyncio.sleep(0)
        return len(cut)

    def close(self) -> None:
        """Look after deadlines no longer."""
        with contextlib.suppress(AttributeError):
            self._timer.cancel()  # type: ignore[union-attr]
