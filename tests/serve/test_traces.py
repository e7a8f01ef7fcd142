"""Spans of requests, as a collector that speaks OTLP over HTTP receives them."""

import gzip
import http.server
import json
import threading
import time

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from gyral.config.sections import Serve
from gyral.serve.app import App
from gyral.serve.slots import Slots

from .test_app import call
from .test_front import asked, run

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


@pytest.fixture
def collector(monkeypatch):
    """The spans that came, and a server that takes them."""
    spans = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            body = gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                named = {each.key: each.value.string_value for each in resource.resource.attributes}
                spans.extend((named["service.name"], span) for scope in resource.scope_spans for span in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield spans
    server.shutdown()
    server.server_close()


def told(span):
    values = {each.key: each.value for each in span.attributes}
    return {key: value.int_value or value.string_value for key, value in values.items()}


def test_a_request_is_a_span_below_the_callers_and_has_its_times(collector, made):
    slots = Slots(made.root, "shop-int8", lambda text: None)
    app, began = App(slots, Serve()), time.time_ns()
    body = json.dumps({"subject": "17850"}).encode()
    assert call(app, "POST", "/v1/recommend", body, [(b"traceparent", TRACEPARENT.encode())])[0] == 200
    assert call(app, "POST", "/v1/recommend", b"{")[0] == 400
    app.close()
    slots.close()
    (service, good), (_, bad) = collector
    assert service == "gyral" and good.name == "POST /v1/recommend"
    assert good.trace_id.hex() == TRACE and good.parent_span_id.hex() == PARENT
    assert began <= good.start_time_unix_nano <= good.end_time_unix_nano <= time.time_ns()
    assert told(good)["http.response.status_code"] == 200 and told(bad)["http.response.status_code"] == 400
    assert bad.parent_span_id == b"" and bad.trace_id.hex() != TRACE


def test_workers_answers_are_spans_and_a_server_without_a_collector_makes_none(collector, monkeypatch):
    async def test(front):
        assert (await asked(front, traceparent=TRACEPARENT)).status == 200
        late = await asked(front, "/sleep", {"n": 0.4}, x_deadline_ms="100")
        assert late.status == 504
        front.close()

    run(test, Serve())
    first, last = (span for _, span in collector)
    assert (
        first.parent_span_id.hex() == PARENT
        and told(first)["http.route"] == "/add"
        and told(first)["gyral.caller"] == "anybody"
    )
    assert told(last)["http.response.status_code"] == 504 and last.status.code == 2
    assert last.end_time_unix_nano - last.start_time_unix_nano > 50e6
    collector.clear()
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT")
    run(test, Serve())
    assert collector == []
