"""Who answers a request from an event loop, and what comes of it: here an engine in a thread of its own, one a version.

The thread sleeps while there is nothing to do. All parts of a step cross into the loop by one call, because waking a loop from
another thread costs 20 µs and a part in a list nothing: what is told of a token is cheap when many texts grow at once.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import msgspec

from gyral.http import Receive, Refused
from gyral.model.family import Servable, Told
from gyral.serve.engine import Ask, Engine, Part
from gyral.serve.guard import GONE
from gyral.serve.openai.errors import body_of
from gyral.serve.openai.wire import Wrong

IDLE_S = 5.0
"""How long the thread sleeps at most; it is woken before when something comes."""
CLOSE_TIMEOUT_S = 10.0


class Wanted(NamedTuple):
    """One request of a model.

    Attributes
    ----------
    model : that answers, which is in `slot`; `is_pinned`: that version and no other, since it was named.
    deadline_s : seconds that are left.
    key : requests of one key have a beginning in common; empty: nobody knows.
    """

    model: Servable
    slot: str
    path: str
    body: bytes
    deadline_s: float
    is_stream: bool = False
    is_pinned: bool = False
    key: bytes = b""


class Asks(Protocol):
    """Who answers: engines here (`Runners`), or copies in other processes (`copies.Copies`)."""

    def ask(self, wanted: Wanted) -> Feed:
        """Have a request answered; called in the loop.

        Raises
        ------
        Wrong : it is not even tried.
        """

    def tidy(self, served: Callable[[], Mapping[str, str]]) -> None:
        """Let go of what is neither served (slot → model) nor waited for; called after each answer."""

    def close(self) -> None:
        """Answer nothing more; may be called twice."""


class Feed:
    """Parts of one ask as they come. Lives in the loop.

    Parameters
    ----------
    drop : called with its id when nobody waits for it any more.

    Attributes
    ----------
    model : name of the model that answers, known with the first part at the latest.
    prompt_tokens : that are read for it, as soon as it was let in; 0: nobody says.
    on_read : told of them, once.
    """

    def __init__(self, drop: Callable[[int], None], id: int, model: str) -> None:
        self._drop, self.id, self.model = drop, id, model
        self._parts: list[Part] = []
        self._waiter: asyncio.Future[None] | None = None
        self.is_over = False
        self.prompt_tokens = 0
        self.on_read: Callable[[int], None] = lambda _: None

    async def next(self) -> list[Part]:
        """All parts that came since the last call, one at least; none when the ask was given up."""
        if not self._parts and not self.is_over:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        parts, self._parts = self._parts, []
        return parts

    def put(self, part: Part) -> None:
        """One that is empty only tells that the ask was let in: of another worker again, where the first one died."""
        if not part.body and not part.is_last:
            if not self.prompt_tokens:
                self.prompt_tokens = part.props.get("prompt_tokens", 0)
                self.on_read(self.prompt_tokens)
            return
        self._parts.append(part)
        self.is_over = part.is_last
        self._wake()

    def give_up(self) -> None:
        """Nobody waits for it any more; may be called twice, and when it is over."""
        if not self.is_over:
            self.is_over = True
            self._parts.clear()
            self._drop(self.id)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


async def gone(receive: Receive, feed: Feed) -> None:
    """Give an ask up when its client goes."""
    while (await receive())["type"] != "http.disconnect":
        pass
    feed.give_up()


async def told_by(asks: Asks, wanted: Wanted, receive: Receive) -> Told:
    """The whole answer of somebody else, in the form that a family's own route gives it.

    Raises
    ------
    Refused : it is an error, or the client has gone.
    """
    feed = asks.ask(wanted)
    watch = asyncio.ensure_future(gone(receive, feed))
    try:
        parts = await feed.next()
    finally:
        watch.cancel()
        feed.give_up()
    if not parts:
        raise Refused(GONE, "nobody waits for the answer")
    body, props = msgspec.json.decode(parts[-1].body), dict(parts[-1].props)
    if parts[-1].status != 200:
        told, again = body["error"], props.get("retry_after")
        headers = ((b"retry-after", again.encode()),) if again else ()
        raise Refused(parts[-1].status, told["what"], why=told["why"], hint=told["hint"], headers=headers)
    return Told(body, props.pop("kind", "answer"), props.pop("subject", None), props.pop("object", None), props)


class Runners:
    """The engines of a server's models, each in its thread.

    Parameters
    ----------
    engine : makes what answers for a model; called once a version, in its thread.
    note : told what an engine raises.
    """

    def __init__(self, engine: Callable[[Servable], Engine], note: Callable[[str], None] | None = None) -> None:
        self._engine, self._note = engine, note
        self._runners: dict[str, Runner] = {}

    def ask(self, wanted: Wanted) -> Feed:
        """Hand it to the engine of its model."""
        model = wanted.model
        runner = self._runners.get(model.name)
        if runner is None:
            runner = self._runners[model.name] = Runner(lambda: self._engine(model), model.name, self._note)
        return runner.ask(wanted.path, wanted.body, wanted.deadline_s, wanted.is_stream)

    def tidy(self, served: Callable[[], Mapping[str, str]]) -> None:
        """End the engines of versions that are no longer served, once nobody waits for them."""
        if len(self._runners) > 1:
            models = set(served().values())
            for name in [name for name, each in self._runners.items() if name not in models and each.is_idle]:
                self._runners.pop(name).close()

    def close(self) -> None:
        """End them all; may be called twice."""
        for runner in self._runners.values():
            runner.close()


class Runner:
    """Makes an engine when it is asked, and runs it until it is closed.

    Parameters
    ----------
    version : of the model.
    note : told what the engine raises.
    """

    def __init__(self, make: Callable[[], Engine], version: str, note: Callable[[str], None] | None = None) -> None:
        self._make, self._version, self._note = make, version, note
        self._ids = itertools.count(1)
        self._feeds: dict[int, Feed] = {}
        self._inbox: deque[Ask | int] = deque()
        self._running: set[int] = set()
        self._something, self._closing = threading.Event(), False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name=f"engine {version}", daemon=True)
        self._thread.start()

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits for anything."""
        return not self._feeds

    def ask(self, path: str, body: bytes, deadline_s: float, is_stream: bool) -> Feed:
        """Hand a request to the engine; called in the loop."""
        self._loop = asyncio.get_running_loop()
        feed = Feed(self.drop, next(self._ids), self._version)
        self._feeds[feed.id] = feed
        self._inbox.append(Ask(feed.id, path, body, deadline_s, self._version, is_stream))
        self._something.set()
        return feed

    def drop(self, id: int) -> None:
        """Take it back from the engine."""
        self._feeds.pop(id, None)
        self._inbox.append(id)
        self._something.set()

    def close(self) -> None:
        """End the thread, within the step that it is in; may be called twice.

        Returns after `CLOSE_TIMEOUT_S` at the latest: a step that takes longer ends with the process.
        """
        self._closing = True
        self._something.set()
        self._thread.join(CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        engine: Engine | None = None
        while not self._closing:
            self._something.clear()
            try:
                if engine is None and self._inbox:
                    engine = self._make()
                self._take(engine)
                parts = engine.step() if engine is not None else []
            except Exception as error:  # it is in no known state: whoever waits is told, and the thread lives on
                self._tell(f"serve    an engine failed: {type(error).__name__}: {error}")
                parts = self._failed(engine)
            if parts:
                for part in parts:
                    if part.is_last:
                        self._running.discard(part.id)
                    if part.props.get("failed"):
                        self._tell(f"serve    a request could not be answered: {part.props['failed']}")
                self._hand_over(parts)
            if not self._running and not self._inbox:
                self._something.wait(IDLE_S)
        if engine is not None:
            engine.close()

    def _take(self, engine: Engine | None) -> None:
        while self._inbox:
            each = self._inbox.popleft()
            if isinstance(each, Ask):
                self._running.add(each.id)
                if engine is not None:
                    engine.submit(each)
            else:
                self._running.discard(each)
                if engine is not None:
                    engine.cancel(each)

    def _failed(self, engine: Engine | None) -> list[Part]:
        """Who waits is told; those who came meanwhile too where there is no engine."""
        if engine is None:
            self._take(None)
        refused = body_of(Wrong(500, "the model could not answer", hint="the server's log says why"), "")
        parts = [Part(id, 500, refused) for id in self._running]
        for part in parts:
            if engine is not None:
                engine.cancel(part.id)
        return parts

    def _hand_over(self, parts: list[Part]) -> None:
        try:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._deliver, parts)
        except RuntimeError:  # the loop has ended, and with it whoever waited
            self._closing = True

    def _deliver(self, parts: list[Part]) -> None:
        for part in parts:
            feed = self._feeds.get(part.id)
            if feed is not None:
                if part.is_last:
                    del self._feeds[part.id]
                feed.put(part)

    def _tell(self, text: str) -> None:
        if self._note is not None:
            self._note(text)
