"""An engine in its thread: parts come in order, an engine that fails tells everybody who waits, nobody spins."""

import asyncio
import json
import threading
import time

import pytest

from gyral.serve.engine import Part
from gyral.serve.openai.app import OpenAi
from gyral.serve.openai.runner import Runner, Runners


class Counts:
    """An engine that answers each ask with three parts, and fails when it is asked to."""

    version, is_held = "m@1", False

    def __init__(self):
        self.asks, self.cancelled, self.steps, self.is_closed = {}, [], 0, False

    def submit(self, ask):
        self.asks[ask.id] = (0, ask)

    def cancel(self, id):
        self.cancelled.append(id)
        self.asks.pop(id, None)

    def step(self):
        self.steps += 1
        parts = []
        for id, (number, ask) in list(self.asks.items()):
            if ask.body == b"fail":
                raise ValueError("no")
            if ask.body == b"wait" or self.is_held:
                time.sleep(0.001)
                continue
            self.asks[id] = (number + 1, ask)
            parts.append(Part(id, 200, b"%d" % number, number == 2))
            if number == 2:
                del self.asks[id]
        return parts

    def close(self):
        self.is_closed = True


@pytest.fixture
def engine():
    return Counts()


@pytest.fixture
def runner(engine):
    told = []
    found = Runner(lambda: engine, engine.version, told.append)
    found.told = told
    yield found
    found.close()
    assert engine.is_closed and not found._thread.is_alive()


async def whole(feed):
    parts = []
    while not parts or not parts[-1].is_last:
        parts += await feed.next()
    return parts


def test_parts_come_in_order_and_to_whom_they_belong(runner):
    async def ask():
        feeds = [runner.ask("/p", b"%d" % number, 1e9, True) for number in range(50)]
        return [await asyncio.wait_for(whole(feed), 10) for feed in feeds]

    for found in asyncio.run(ask()):
        assert [part.body for part in found] == [b"0", b"1", b"2"] and len({part.id for part in found}) == 1
    assert runner.is_idle


def test_an_engine_that_fails_tells_who_waits_and_lives_on(runner, engine):
    async def ask():
        waiting, failing = runner.ask("/p", b"wait", 1e9, False), runner.ask("/p", b"fail", 1e9, False)
        told = [await asyncio.wait_for(feed.next(), 10) for feed in (waiting, failing)]
        return told, await asyncio.wait_for(whole(runner.ask("/p", b"x", 1e9, False)), 10)

    told, after = asyncio.run(ask())
    assert [part.status for parts in told for part in parts] == [500, 500]
    assert json.loads(told[0][0].body)["error"]["type"] == "server_error"
    assert len(after) == 3 and "ValueError: no" in runner.told[0]


def test_who_gives_up_is_taken_back_and_an_idle_engine_sleeps(runner, engine):
    async def ask():
        feed = runner.ask("/p", b"wait", 1e9, False)
        waiting = asyncio.ensure_future(feed.next())
        await asyncio.sleep(0.02)
        feed.give_up()
        feed.give_up()
        assert await asyncio.wait_for(waiting, 5) == [] and runner.is_idle
        while not engine.cancelled:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.02)
        before = engine.steps
        await asyncio.sleep(0.1)
        return feed.id, engine.steps - before

    id, steps = asyncio.run(ask())
    assert engine.cancelled == [id] and steps <= 1


def test_an_engine_that_cannot_be_made_tells_who_waits_and_is_tried_again(engine):
    failures, told = [ValueError("no memory"), ValueError("no memory")], []

    def make():
        if failures:
            raise failures.pop()
        return engine

    async def ask():
        return [await asyncio.wait_for(runner.ask("/p", b"x", 1e9, False).next(), 10) for _ in range(3)]

    runner = Runner(make, "m@1", told.append)
    try:
        statuses = [parts[0].status for parts in asyncio.run(ask())]
    finally:
        runner.close()
    assert statuses == [500, 500, 200] and "no memory" in told[0] and len(told) == 2


class Model:
    card, routes = {"family": "lm"}, {}

    def __init__(self, name):
        self.name = name


class Slots:
    """One slot, whose model changes."""

    def __init__(self):
        self.model = Model("m@1")

    def get(self, slot):
        return self.model

    def names(self):
        return {"default": self.model.name}

    def loaded_at(self, slot):
        return 0.0


def test_a_version_answers_to_its_end_and_is_closed_after_it():
    engines, slots = {}, Slots()

    def make(model):
        engines[model.name] = Counts()
        engines[model.name].is_held = model.name == "m@1"
        return engines[model.name]

    def running():
        return {each.name for each in threading.enumerate() if each.name.startswith("engine m@")}

    async def post(app):
        body, sent = [{"type": "http.request", "body": b'{"model": "m", "prompt": "x"}'}], []

        async def receive():
            return body.pop() if body else await asyncio.Event().wait()

        async def send(message):
            sent.append(message)

        await app({"type": "http", "method": "POST", "path": "/v1/completions", "headers": []}, receive, send)
        return sent[0]["status"], dict(sent[0]["headers"])[b"x-model-version"]

    async def ask():
        runners = Runners(make)
        app = OpenAi(slots, 1 << 16, runners)
        old = asyncio.ensure_future(post(app))
        while "m@1" not in engines or not engines["m@1"].asks:
            await asyncio.sleep(0.001)
        slots.model = Model("m@2")
        assert await asyncio.wait_for(post(app), 10) == (200, b"2")
        assert running() == {"engine m@1", "engine m@2"} and not old.done()
        engines["m@1"].is_held = False
        assert await asyncio.wait_for(old, 10) == (200, b"1")
        assert running() == {"engine m@2"} and engines["m@1"].is_closed
        runners.close()

    asyncio.run(ask())
    assert not running()
