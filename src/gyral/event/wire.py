"""Events as devices send them: JSON arrays or lines, decoded so that one bad event is one quarantined event.

This is the authority on what is bad and why; `scan` reads what is common faster and asks here about the rest. A batch is first
decoded whole (0.5 µs an event); only where that fails is it split and each event decoded for itself (0.7 µs), so that the good
ones pass and each bad one is known by its reason. `props` stay the bytes that came. Making columns costs as much as decoding
when thousands of events are made into one batch, and four times as much for a hundred: whoever collects should put requests
together first. Logging the JSON and making columns later was tried: that decodes twice and writes four times more.
"""

from __future__ import annotations

import contextlib
import hashlib
import operator
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, NamedTuple

import msgspec
import pyarrow as pa
from msgspec import Meta

from gyral.event.clock import TIMESTAMP, parse_times
from gyral.event.schema import EVENT, MAX_NAME_CHARS

Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARS)]
Optional = Annotated[str, Meta(max_length=MAX_NAME_CHARS)] | None
_FIRST_MS, _LIMIT_MS = -62_135_596_800_000, 253_402_300_799_000
Moment = Annotated[datetime, Meta(tz=True)] | Annotated[float, Meta(gt=_FIRST_MS, lt=_LIMIT_MS)] | int
NO_PROPS = msgspec.Raw()


class WireEvent(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """One event on the wire. `event_time` is RFC 3339 with a zone, or epoch milliseconds."""

    event_id: Name
    event_time: Moment
    kind: Name
    subject: Name
    object: Optional = None
    session: Optional = None
    device_class: Optional = None
    app: Optional = None
    language: Optional = None
    country: Optional = None
    schema_id: Optional = None
    consent: Optional = None
    props: msgspec.Raw = NO_PROPS


NAMES = WireEvent.__struct_fields__
REQUIRED = ("event_id", "event_time", "kind", "subject")
_TEXTS = [name for name in NAMES if name not in ("event_time", "props")]
_events, _event = msgspec.json.Decoder(list[WireEvent]), msgspec.json.Decoder(WireEvent)
_split = msgspec.json.Decoder(list[msgspec.Raw])
_any = msgspec.json.Decoder()
_field = {name: operator.attrgetter(name) for name in NAMES}


class Bad(NamedTuple):
    """What could not become an event."""

    raw: bytes
    reason: str


class Checked(NamedTuple):
    """A body after the look at each event: the good ones and the bad ones."""

    events: list[WireEvent]
    bad: list[Bad]


class Malformed(ValueError):
    """A body that is no list of anything: none of it can be kept apart from the rest."""


def check_json(body: bytes) -> Checked:
    """Check a JSON array of events, or lines of one event each.

    Raises
    ------
    Malformed : it is neither; the text says where it breaks.
    """
    body = body.strip()
    if not body.startswith(b"["):
        return _check_each(b"", _lines(body))
    try:
        events = _events.decode(body)
        if _are_texts(body) and all(map(_has_good_props, events)) and all(map(_has_good_time, events)):
            return Checked(events, [])
    except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
        pass
    try:
        raws = _split.decode(body)
    except (ValueError, RecursionError) as error:
        raise Malformed(str(error)) from None
    return _check_each(body, [bytes(raw) for raw in raws])


def to_columns(events: list[WireEvent], ingest_us: int) -> pa.RecordBatch:
    """Make columns of events that came in at one moment; shape (events, 14)."""
    columns = {name: pa.array(list(map(_field[name], events)), pa.string()) for name in _TEXTS}
    columns["event_time"] = _times([event.event_time for event in events])
    if columns["event_time"].null_count:
        raise ValueError("a time passed the check and is none")
    columns["ingest_time"] = pa.repeat(pa.scalar(ingest_us, pa.int64()), len(events)).cast(TIMESTAMP)
    props = [None if event.props is NO_PROPS else bytes(event.props) for event in events]
    columns["props"] = pa.array([None if each == b"null" else each for each in props], pa.binary()).cast(pa.string())
    return pa.RecordBatch.from_arrays([columns[field.name] for field in EVENT], schema=EVENT)


def bad_rows(bad: list[Bad], batch: hashlib.blake2b, source: str, ingest_us: int) -> list[dict[str, Any]]:
    """Rows for quarantine; their ids are made of the batch and their place in it, so that a retry makes them again."""
    moment = pa.scalar(ingest_us, TIMESTAMP)
    rows = []
    for number, (raw, reason) in enumerate(bad):
        digest = batch.copy()
        digest.update(b"/%d" % number)
        rows.append({"event_id": digest.hexdigest(), "ingest_time": moment, "reason": reason, "source": source, "raw": raw})
    return rows


def _lines(body: bytes) -> list[bytes]:
    if not body.startswith(b"{"):
        raise Malformed("it begins with neither `[` nor `{`")
    lines = body.splitlines()
    if not lines[0].rstrip().endswith(b"}"):
        with contextlib.suppress(ValueError, RecursionError):  # one event over several lines
            _any.decode(body)
            return [body]
    return lines


def _check_each(whole: bytes, raws: list[bytes]) -> Checked:
    good: list[WireEvent] = []
    bad: list[Bad] = []
    for raw in raws:
        if whole or raw.strip():
            event = check_event(raw)
            if isinstance(event, str):
                bad.append(Bad(raw, event))
            else:
                good.append(event)
    return Checked(good, bad)


def check_event(raw: bytes) -> WireEvent | str:
    """The event, or why it is none."""
    try:
        event = _event.decode(raw)
    except msgspec.ValidationError as error:
        return _reason(str(error))
    except (ValueError, RecursionError):
        return "bad_json"
    if not _are_texts(raw):
        return "bad_json"
    if not _has_good_time(event):
        return "bad_time"
    return event if _has_good_props(event) else "bad_props"


def _are_texts(body: bytes) -> bool:
    """Whether all bytes are UTF-8, those of props too, which nobody decoded."""
    if body.isascii():
        return True
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def _has_good_props(event: WireEvent) -> bool:
    props = event.props
    return props is NO_PROPS or memoryview(props)[0] == 0x7B or bytes(props) == b"null"


def _has_good_time(event: WireEvent) -> bool:
    moment = event.event_time
    if type(moment) is datetime:
        return 1 < moment.year < 9999  # with its offset, an end of the calendar may be no time in UTC
    return type(moment) is not int or _FIRST_MS < moment < _LIMIT_MS


def _reason(message: str) -> str:
    """Name what msgspec says: `missing_x`, `bad_x`, `too_long:x`, `unknown_field`; times are `missing_time` and `bad_time`."""
    missing = re.search(r"missing required field `(\w+)`", message)
    if missing:
        return f"missing_{missing[1]}".replace("event_time", "time")
    place = re.search(r"at `\$\.(\w+)", message)
    if place:
        kind = "too_long:" if "length <=" in message else "missing_" if "length >=" in message else "bad_"
        return f"{kind}{place[1]}".replace("event_time", "time")
    return "unknown_field" if "unknown field" in message else "bad_json"


def _times(moments: Sequence[Any]) -> pa.Array:
    """One column of datetimes and epoch numbers, mixed or not."""
    kinds = {type(moment) for moment in moments}
    if datetime not in kinds:
        return parse_times(pa.array([float(moment) for moment in moments], pa.float64()))
    if len(kinds) == 1:
        return pa.array(moments, TIMESTAMP)
    numbers = pa.array([None if isinstance(moment, datetime) else float(moment) for moment in moments], pa.float64())
    texts = pa.array([moment if isinstance(moment, datetime) else None for moment in moments], TIMESTAMP)
    return pa.compute.coalesce(texts, parse_times(numbers))
