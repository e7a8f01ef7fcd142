"""The application in process: what it answers, and that no input makes a 500."""

import asyncio
import json

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gyral.config.sections import DeviceTier, Serve
from gyral.http import Refused
from gyral.serve.app import App
from gyral.serve.slots import Slots


@pytest.fixture(scope="module")
def app(made):
    slots = Slots(made.root, "shop-int8", lambda text: None)

    async def pages(scope, receive, send):
        await send({"type": "http.response.start", "status": 299, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})

    yield App(slots, Serve(max_body_bytes=2_000, max_k=50), mounts={"/pages": pages})
    slots.close()


def call(app, method, path, body=b"", headers=(), chunks=None, query=b""):
    """One request; returns status, headers and body."""
    parts = chunks if chunks is not None else [body]
    messages = [
        {"type": "http.request", "body": part, "more_body": number < len(parts) - 1} for number, part in enumerate(parts)
    ]
    sent = []

    async def receive():
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": list(headers), "query_string": query}
    asyncio.run(app(scope, receive, send))
    return reply(sent)


def reply(sent):
    if not sent:
        return None, {}, b""
    return sent[0]["status"], dict(sent[0]["headers"]), b"".join(message["body"] for message in sent[1:])


def ask(app, **request):
    status, headers, body = call(app, "POST", "/v1/recommend", json.dumps(request).encode())
    return status, headers, json.loads(body)


def test_the_fast_handler_answers_as_the_application_does(app):
    class Asked:
        body = json.dumps({"subject": "17850", "k": 5}).encode()
        header = staticmethod(lambda name: b"")

    route = app.hot()["/v1/recommend"]
    answer = route.handle(Asked)
    _, headers, expected = ask(app, subject="17850", k=5)
    got = json.loads(answer.body)
    assert got.pop("request_id") != expected.pop("request_id") and got == expected
    assert dict(answer.headers)[b"x-model-version"] == headers[b"x-model-version"]
    assert (route.methods, route.max_body_bytes) == (("POST",), 2_000)
    Asked.body = b"{"
    with pytest.raises(Refused) as told:
        route.handle(Asked)
    assert told.value.status == 400


def test_an_answer_has_all_its_parts(app):
    status, headers, answer = ask(app, subject="17850", k=5, context={"country": "United Kingdom", "unknown": [1]})
    assert status == 200 and headers[b"x-model-version"] == b"1"
    assert answer["model"] == "shop-int8@1" and answer["known"] is True and answer["subject"] == "17850"
    assert len(answer["items"]) == 5 and set(answer["items"][0]) == {"object", "score", "title"}
    ids = {ask(app, subject="x")[2]["request_id"] for _ in range(50)}
    assert len(ids) == 50


def test_context_and_slots_change_the_answer(app):
    def objects(**request):
        return [item["object"] for item in ask(app, **request)[2]["items"]]

    assert objects(subject="17850") != objects(subject="13047") != objects(subject="nobody")
    assert objects(subject="17850", model="popularity") == objects(subject="nobody", model="popularity")
    assert objects(subject="nobody", context={"recent": ["22423"]}) != objects(subject="nobody")


@pytest.mark.parametrize(
    ("request_", "status", "what"),
    [
        ({"subject": "x", "k": 0}, 400, "not a request"),
        ({"subject": "x", "k": 51}, 400, "`k` is 51"),
        ({"subject": 7}, 400, "not a request"),
        ({"k": 7}, 400, "not a request"),
        ({"subject": "x" * 1025}, 400, "not a request"),
        ({"subject": "x", "model": "best"}, 404, "no model `best`"),
        ({"subject": "x", "context": {"recent": "22423"}}, 400, "not a request"),
    ],
)
def test_a_wrong_request_is_told_in_four_parts(app, request_, status, what):
    got, _, answer = ask(app, **request_)
    assert got == status and what in answer["error"]["what"]
    assert set(answer["error"]) == {"what", "where", "why", "hint"} and answer["error"]["hint"]


def test_methods_paths_and_sizes(app):
    assert call(app, "GET", "/v1/recommend")[0] == 405
    assert call(app, "GET", "/v1/recommend")[1][b"allow"] == b"POST"
    assert call(app, "POST", "/healthz")[0] == 405
    assert call(app, "GET", "/nothing")[0] == 404
    assert call(app, "POST", "/v1/recommend", headers=[(b"content-length", b"9999")])[0] == 413
    assert call(app, "POST", "/v1/recommend", chunks=[b" " * 900] * 3)[0] == 413
    assert call(app, "POST", "/v1/recommend", headers=[(b"content-length", b"9" * 5_000)])[0] == 413
    assert call(app, "GET", "/pages/x")[::2] == (299, b"/pages/x")
    assert call(app, "GET", "/pagesx")[0] == 404
    assert call(app, "GET", "/healthz")[0] == 200


def test_a_body_in_pieces_is_one_and_a_client_that_goes_is_no_error(app):
    assert call(app, "POST", "/v1/recommend", chunks=[b'{"subj', b'ect": "1785', b'0"}'])[0] == 200
    assert call(app, "POST", "/v1/recommend", chunks=[])[0] == 400


def test_a_body_that_breaks_off_is_the_clients_fault(app):
    sent = []

    async def receive():
        raise RuntimeError("transport")

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/recommend", "headers": [], "query_string": b""}
    asyncio.run(app(scope, receive, send))
    status, _, body = reply(sent)
    assert status == 400 and "ended early" in json.loads(body)["error"]["what"]


def test_a_model_that_raises_is_noted_once_and_its_trace_stays_here(app, monkeypatch):
    def fail(*_args):
        raise KeyError("secret")

    notes = []
    monkeypatch.setattr(app, "_note", notes.append)
    monkeypatch.setattr(type(app._slots.get(None)), "recommend", fail)
    for _ in range(3):
        status, _, answer = ask(app, subject="17850")
        assert status == 500 and answer["error"]["what"] == "the model could not answer"
        assert "secret" not in json.dumps(answer)
    assert len(notes) == 1 and "KeyError" in notes[0]


def test_the_model_describes_itself(app):
    status, _, body = call(app, "GET", "/v1/model")
    told = json.loads(body)
    assert status == 200 and told["model"] == "shop-int8@1" and told["slots"]["popularity"] == "shop-int8@1"
    assert told["card"]["compression"]["to"] == "int8" and told["loaded_at"].endswith("Z")
    assert call(app, "GET", "/v1/model", query=b"x&slot=%70opularity")[0] == 200
    assert call(app, "GET", "/v1/model", query=b"slot=none")[0] == 404


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["subject", "k", "context", "model", "x"]), inner)
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.binary(max_size=200)
    | anything.map(lambda value: json.dumps(value).encode())
    | anything.map(msgspec.msgpack.encode),
    path=st.sampled_from(["/v1/recommend", "/v1/model", "/healthz"]) | st.text(max_size=20).map(lambda text: "/" + text),
    method=st.sampled_from(["GET", "POST", "PUT", "HEAD", "OPTIONS"]),
    query=st.binary(max_size=20),
    length=st.binary(max_size=12),
)
def test_no_input_makes_a_500(app, body, path, method, query, length):
    if path.startswith("/pages"):
        return
    status, headers, answer = call(app, method, path, body, [(b"content-length", length)], query=query)
    assert status in (200, 400, 404, 405, 413)
    json.loads(answer)
    assert int(headers[b"content-length"]) == len(answer)


def test_an_answer_over_http_is_the_answer_in_process(app, made):
    from gyral.model.family import RECOMMENDER

    model = RECOMMENDER.load(made.root / "models" / "shop-int8@1")
    for subject in ("17850", "13047", "nobody"):
        wanted = model.recommend(subject, 10, {"country": "France"})
        got = ask(app, subject=subject, context={"country": "France"})[2]
        assert got["items"] == [msgspec.to_builtins(item) for item in wanted.items] and got["known"] == wanted.known


def test_a_program_that_asks_for_what_is_not_there_gets_no_page(made):
    slots = Slots(made.root, "shop-int8", lambda text: None)

    async def pages(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"<html>"})

    app = App(slots, Serve(), mounts={"/": pages})
    try:
        status, headers, body = call(app, "POST", "/v1/embed", b"{}")
        assert status == 404 and headers[b"content-type"] == b"application/json"
        assert "POST /v1/recommend" in json.loads(body)["error"]["hint"]
        assert call(app, "GET", "/models")[2] == b"<html>"
    finally:
        slots.close()
        app.close()


def test_a_class_of_devices_is_counted_and_one_that_is_not_here_is_told(made):
    slots = Slots(made.root, "shop-int8", lambda text: None)
    app = App(slots, Serve(tiers={"kiosk": DeviceTier(memory_bytes=1)}))
    try:
        for headers, status in (
            ([(b"x-gyral-tier", b"kiosk")], 200),
            ([(b"user-agent", b"Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X)")], 200),
            ([(b"x-gyral-tier", b"kisok")], 400),
        ):
            found, _, body = call(app, "POST", "/v1/recommend", b'{"subject": "17850"}', headers)
            assert found == status
        assert "kiosk" in json.loads(body)["error"]["hint"] and app.metrics.tiers == {"kiosk": 1, "phone": 1}
    finally:
        slots.close()
