"""One-shot engines: batches, the bad one among them, deadlines, cancelling."""

import json
import math

import msgspec
import pytest

from gyral.errors import InputError
from gyral.model.family import Route, Told
from gyral.serve.engine import Ask, OneShot


class Root(msgspec.Struct):
    """Body of a test."""

    x: float


class Model:
    """Takes square roots; the batch function fails as a whole if one number is negative."""

    name = "roots@1"
    card = {}

    def __init__(self):
        self.sizes = []
        self.routes = {"/root": Route(Root, self.one, '{"x": 4}'), "/other": Route(Root, self.one, '{"x": 4}')}

    def one(self, request):
        if request.x == 13:
            raise RuntimeError("a bug")
        if request.x < 0:
            raise InputError("no root", hint="not below 0")
        return Told({"root": math.sqrt(request.x)}, "root", props={"x": request.x})

    def batch(self, requests):
        self.sizes.append(len(requests))
        return [self.one(each) for each in requests]

    def warm(self):
        pass


@pytest.fixture
def model():
    return Model()


@pytest.fixture
def engine(model):
    model.routes["/root"] = model.routes["/root"]._replace(together=model.batch)
    return OneShot(model, max_batch=4, note=lambda _: None)


def ask(id, x, path="/root", deadline_s=math.inf):
    return Ask(id, path, json.dumps({"x": x}).encode(), deadline_s)


def test_what_has_come_is_a_batch_and_every_answer_is_its_own(model, engine):
    for n in range(10):
        engine.submit(ask(n, n * n))
    parts = [engine.step() for _ in range(4)]
    assert [len(each) for each in parts] == [4, 4, 2, 0] and model.sizes == [4, 4, 2]
    for part in [*parts[0], *parts[1], *parts[2]]:
        assert part.status == 200 and part.is_last
        assert json.loads(part.body) == {"model": "roots@1", "root": float(part.id)}
        assert part.props == {"kind": "root", "subject": None, "object": None, "x": part.id**2, "model": "roots@1"}


def test_a_bad_one_fails_alone(model, engine):
    for n, x in enumerate([4, -1, 13, 9]):
        engine.submit(ask(n, x))
    parts = engine.step()
    assert [part.status for part in parts] == [200, 400, 500, 200] and model.sizes == [4]
    error = json.loads(parts[1].body)["error"]
    assert error == {"what": "no root", "where": "", "why": "", "hint": "not below 0"}
    assert "bug" not in parts[2].body.decode()


def test_bodies_that_are_none_are_refused_and_the_others_go_on(engine):
    engine.submit(Ask(1, "/root", b"{"))
    engine.submit(Ask(2, "/root", b'{"x": "four"}'))
    engine.submit(Ask(3, "/root", b"\xff\xfe"))
    engine.submit(Ask(4, "/nowhere", b"{}"))
    engine.submit(Ask(5, "/root", b"[" * 100_000))
    engine.submit(ask(6, 4))
    parts = {part.id: part for part in engine.step() + engine.step()}
    assert {id: part.status for id, part in parts.items()} == {1: 400, 2: 400, 3: 400, 4: 404, 5: 400, 6: 200}
    assert b"/root, /other" in parts[4].body and b'send {\\"x\\": 4}' in parts[1].body


def test_what_is_cancelled_or_too_late_is_not_computed(model, engine):
    for n in range(3):
        engine.submit(ask(n, 4))
    engine.submit(ask(3, 4, deadline_s=-0.001))
    engine.cancel(1)
    engine.cancel(99)
    assert sorted((part.id, part.status) for part in engine.step()) == [(0, 200), (2, 200), (3, 504)]
    assert model.sizes == [2] and engine.step() == [] and not engine._known


def test_routes_take_turns_by_age(model, engine):
    engine.submit(ask(1, 4, "/other"))
    for n in range(2, 8):
        engine.submit(ask(n, 4))
    engine.submit(ask(8, 4, "/other"))
    assert [[part.id for part in engine.step()] for _ in range(3)] == [[1, 8], [2, 3, 4, 5], [6, 7]]


def test_a_batch_function_that_loses_answers_is_not_believed(model):
    model.routes["/root"] = model.routes["/root"]._replace(together=lambda requests: [model.one(requests[0])])
    engine = OneShot(model, note=lambda _: None)
    for n in range(3):
        engine.submit(ask(n, n * n))
    assert [json.loads(part.body)["root"] for part in engine.step()] == [0, 1, 2]
