"""The collector's route, as data (`gyral.http.operations`)."""

from __future__ import annotations

from typing import Any

import msgspec

from gyral.event.wire import WireEvent
from gyral.http.operations import Answer, Operation, Parameter
from gyral.ingest.collector import PATH


class Event(WireEvent, forbid_unknown_fields=False):
    """One event, at its time in RFC 3339 with a zone or epoch milliseconds. One that is not so is quarantined, not refused."""

    props: dict[str, Any] = {}  # type: ignore[assignment]  # read later, on the wire as it is


class Collected(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of it is on the disk: new events, such as were there already, and by reason those that were put aside."""

    accepted: int
    duplicate: int
    quarantined: dict[str, int]


REFUSALS = (401, 403, 415, 429)
"""401: the server has keys, and wants `authorization: Bearer KEY`; 403: the key may not send, or not such events."""


def operations() -> list[Operation]:
    """What a collector answers."""
    example = {
        "event_id": "a-1",
        "event_time": "2026-11-26T12:00:00Z",
        "kind": "purchase",
        "subject": "17850",
        "object": "22423",
    }
    bodies = {
        "application/json": list[Event],
        "application/x-ndjson": str,
        "application/vnd.apache.arrow.stream": bytes,
    }
    encoding = Parameter("content-encoding", "header", str, "`gzip` or `zstd`")
    key = Parameter("idempotency-key", "header", str, "names a batch that may be sent again")
    parameters = (encoding, key)
    answers = {200: Answer(Collected)}
    return [Operation("post", PATH, "Store events", answers, bodies, [example], parameters, REFUSALS)]
