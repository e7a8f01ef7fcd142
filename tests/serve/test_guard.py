"""Keys hold for every route that asks a model, and everything is counted, also where the server's process answers."""

import asyncio
import hashlib
import json
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gyral.config.sections import Caller, Serve
from gyral.http import Refused, reply
from gyral.serve.app import App
from gyral.serve.metrics import EDGES_S, MAX_ROUTES, Histogram, Metrics
from gyral.serve.slots import Slots
from gyral.serve.stats import Stats

from .test_app import call

KEY = ((b"authorization", b"Bearer secret"),)


@pytest.fixture
def app(made):
    async def other(scope, receive, send):
        await reply(send, 200, b"{}")

    slots = Slots(made.root, "shop-int8", lambda text: None)
    caller = Caller(name="one", sha256=hashlib.sha256(b"secret").hexdigest(), requests_per_s=0.001, burst_s=3_600)
    yield App(slots, Serve(keys=[caller]), mounts={"/pages": other}, models={"/v1/chat": other})
    slots.close()


def test_nobody_asks_a_model_without_a_key_and_what_is_spent_is_spent(app):
    body = json.dumps({"subject": "17850"}).encode()
    asked = [("POST", "/v1/recommend", body), ("POST", "/v1/chat/completions", b"{}"), ("GET", "/v1/model", b"")]
    for method, path, sent in asked:
        status, headers, told = call(app, method, path, sent)
        assert status == 401 and headers[b"www-authenticate"] == b"Bearer" and b"wants a key" in told
        assert call(app, method, path, sent, KEY)[0] == 200
    assert call(app, "GET", "/pages/a")[0] == 200 == call(app, "GET", "/healthz")[0]
    statuses = [call(app, "POST", path, body, KEY)[0] for path in ("/v1/recommend", "/v1/chat/completions") for _ in range(2)]
    assert statuses == [200, 200, 429, 429]  # 3.6 of them in an hour, and the last was begun before it was spent
    with pytest.raises(Refused, match="wants a key"):
        route = app.hot()["/v1/recommend"]

        class Asked:
            header = staticmethod(lambda name: b"")

        Asked.body = body
        route.handle(Asked)
    families = text_string_to_metric_families(call(app, "GET", "/metrics")[2].decode())
    found = {(each.name, *sorted(each.labels.values())): each.value for family in families for each in family.samples}
    assert (
        found["gyral_requests_total", "/v1/recommend", "200"] == 3
        and found["gyral_requests_total", "/v1/recommend", "401"] == 2
    )
    assert found["gyral_requests_total", "/v1/chat/completions", "429"] == 2


def test_paths_that_clients_think_up_are_counted_together(app):
    for number in range(MAX_ROUTES + 20):
        assert call(app, "GET", f"/v1/chat/{number}")[0] == 401
    assert len(app.metrics.seconds) == MAX_ROUTES + 1
    assert app.metrics.statuses["/v1/chat/0", 401] == 1 and app.metrics.statuses["other", 401] == 20


def test_quantiles_are_upper_edges_of_what_was_seen():
    histogram = Histogram(EDGES_S)
    assert histogram.quantile(0.5) != histogram.quantile(0.5)
    for value in [0.0009] * 98 + [0.5, 1_000.0]:
        histogram.add(value)
    assert histogram.quantile(0.5) == pytest.approx(1e-3) and histogram.quantile(0.99) == pytest.approx(10**-0.2)
    assert histogram.quantile(1.0) == float("inf") and sum(histogram.counts) == 100


def test_a_line_is_of_what_came_since_the_last_one_and_idle_servers_write_none():
    metrics = Metrics()
    stats = Stats(metrics, lambda: {"waiting": 3})
    for _ in range(9):
        metrics.answered("/a", 200, 0.0095)
    metrics.answered("/b", 503, 0.5)
    metrics.batch("x", 9, 0.01)
    line = stats.line()
    assert line["requests"] == 10 and line["statuses"] == {"200": 9, "503": 1} and line["waiting"] == 3
    assert line["latency_ms"] == [(10.0, 9), (631.0, 1)] and line["p50_ms"] == 10.0 and line["p99_ms"] == 631.0
    assert line["batches"] == {"x": [(16.0, 1)]} and line["answered_by"] == {"x": 9}
    metrics.answered("/a", 200, 0.1)
    line = stats.line()
    assert line["requests"] == 11 and line["p50_ms"] == line["p99_ms"] == 100.0
    assert stats.line()["p50_ms"] is None

    async def idle():
        lines = []
        task = asyncio.create_task(stats.keep(lines.append))
        await asyncio.sleep(2.2)
        assert lines == []
        metrics.answered("/a", 200, 0.1)
        end = time.monotonic() + 20
        while not lines and time.monotonic() < end:
            await asyncio.sleep(0.05)
        task.cancel()
        assert len(lines) == 1

    asyncio.run(idle())
