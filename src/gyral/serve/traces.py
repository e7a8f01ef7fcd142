"""A span of each request for OpenTelemetry, where the environment names a collector (`OTEL_EXPORTER_OTLP_ENDPOINT`).

Written when the request is over, with the times it had, so a request that nobody samples costs a look at its `traceparent`.
Service name, sampling, batches and headers are OpenTelemetry's own variables (`OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER`, …).
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from gyral.errors import MissingExtra

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
NAME = "gyral"


class Traces:
    """Where spans go.

    Raises
    ------
    MissingExtra : OpenTelemetry is not installed.
    """

    def __init__(self) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace import SpanKind, Status, StatusCode
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError:
            raise MissingExtra("opentelemetry-sdk", "traces", "traces") from None
        named = {} if "OTEL_SERVICE_NAME" in os.environ else {"service.name": NAME}
        self._provider = TracerProvider(resource=Resource.create(named))
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer(NAME)
        self._parents, self._kind = TraceContextTextMapPropagator(), SpanKind.SERVER
        self._failed = Status(StatusCode.ERROR)

    @classmethod
    def of_environment(cls) -> Traces | None:
        """None where no collector is named."""
        return cls() if any(os.environ.get(each) for each in ENDPOINTS) else None

    def request(self, path: str, status: int, began: float, parent: bytes, attributes: Mapping[str, Any]) -> None:
        """One that is over.

        Parameters
        ----------
        began : monotonic seconds.
        parent : the header `traceparent`.
        """
        end_ns = time.time_ns()
        start_ns = end_ns - int(1e9 * (time.monotonic() - began))
        context = self._parents.extract({"traceparent": parent.decode("latin-1")}) if parent else None
        span = self._tracer.start_span(f"POST {path}", context, self._kind, start_time=start_ns)
        if span.is_recording():
            span.set_attributes({"http.request.method": "POST", "http.route": path, "http.response.status_code": status})
            span.set_attributes(dict(attributes))
            if status >= 500:
                span.set_status(self._failed)
        span.end(end_ns)

    def close(self) -> None:
        """Send what waits."""
        self._provider.shutdown()
