"""Events on the wire against Python's own JSON."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gyral.event import wire
from gyral.event.wire import Malformed, check_json, to_columns

GOOD = {"event_id": "a", "event_time": 1_700_000_000_000, "kind": "click", "subject": "u"}


def dumps(*events):
    return json.dumps(events).encode()


def reasons(body):
    return [bad.reason for bad in check_json(body).bad]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"event_id": None}, "bad_event_id"),
        ({"event_id": ""}, "missing_event_id"),
        ({"subject": 5}, "bad_subject"),
        ({"kind": "k" * 1025}, "too_long:kind"),
        ({"object": "o" * 1025}, "too_long:object"),
        ({"event_time": "yesterday"}, "bad_time"),
        ({"event_time": "2024-01-01T00:00:00"}, "bad_time"),
        ({"event_time": True}, "bad_time"),
        ({"event_time": 10**15}, "bad_time"),
        ({"event_time": "0001-01-01T00:00:00+14:00"}, "bad_time"),
        ({"event_time": "9999-12-31T23:59:59-14:00"}, "bad_time"),
        ({"event_time": 1e300}, "bad_time"),
        ({"event_time": -(10**30)}, "bad_time"),
        ({"props": [1]}, "bad_props"),
        ({"props": "text"}, "bad_props"),
        ({"evnt_time": 1}, "unknown_field"),
    ],
)
def test_one_bad_event_is_one_bad_event_whatever_is_around_it(change, reason):
    bad = {**GOOD, **change}
    events = GOOD, bad, {**GOOD, "event_id": "c"}
    for body in (dumps(*events), b"\n".join(map(dumps_one, events))):
        checked = check_json(body)
        assert ids(checked) == ["a", "c"] and [each.reason for each in checked.bad] == [reason]
        assert json.loads(checked.bad[0].raw) == bad


def ids(checked):
    return [event.event_id for event in checked.events]


def columns(*events):
    return to_columns(check_json(dumps(*events)).events, 0)


def dumps_one(event):
    return json.dumps(event).encode()


@pytest.mark.parametrize("name", wire.REQUIRED)
def test_what_is_missing_is_named(name):
    left = {key: value for key, value in GOOD.items() if key != name}
    assert reasons(dumps(left)) == [f"missing_{name}".replace("event_time", "time")]


@pytest.mark.parametrize(
    "raw",
    [b"3", b"null", b'{"event_id":', b'{"a":1,}', b'{"event_id":"\xff"}', b"{" * 50_000, b'{"event_id":"\\ud800","kind":1}'],
)
def test_a_line_that_is_no_event_leaves_the_others(raw):
    checked = check_json(dumps_one(GOOD) + b"\n" + raw + b"\r\n\n" + dumps_one({**GOOD, "event_id": "b"}) + b"\n")
    assert ids(checked) == ["a", "b"] and [each.raw for each in checked.bad] == [raw]


def test_bytes_in_props_that_are_no_text_are_found():
    raw = dumps_one({**GOOD, "props": {"x": "y"}}).replace(b"y", b"\xff")
    assert reasons(b"[" + raw + b"]") == reasons(raw) == ["bad_json"]


@pytest.mark.parametrize("body", [b"[1, 2", b"[{]", b"text", b"", b"<xml/>", b"\xff\xfe", b"[" * 100_000])
def test_a_body_that_is_no_list_is_refused_whole(body):
    with pytest.raises(Malformed):
        check_json(body)


def test_one_event_over_several_lines_is_one_event():
    assert ids(check_json(json.dumps(GOOD, indent=2).encode())) == ["a"]


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        (1_700_000_000_123, datetime(2023, 11, 14, 22, 13, 20, 123_000, UTC)),
        (1_700_000_000_123.5, datetime(2023, 11, 14, 22, 13, 20, 123_500, UTC)),
        (1_700_000_000, datetime(2023, 11, 14, 22, 13, 20, 0, UTC)),
        ("2023-11-14T23:13:20.000001+01:00", datetime(2023, 11, 14, 22, 13, 20, 1, UTC)),
        ("1969-12-31T23:59:59Z", datetime(1969, 12, 31, 23, 59, 59, 0, UTC)),
    ],
)
def test_times_in_both_forms_and_mixed(moment, expected):
    event, other = {**GOOD, "event_time": moment}, {**GOOD, "event_id": "z", "event_time": "2020-01-01T00:00:00Z"}
    assert columns(event)["event_time"].to_pylist() == [expected]
    assert columns(event, other)["event_time"].to_pylist() == [expected, datetime(2020, 1, 1, tzinfo=UTC)]


TEXT = st.text(st.characters(blacklist_categories=("Cs",)), max_size=8)
SCALAR = st.none() | st.booleans() | st.integers(-5, 5) | TEXT
JSON = st.recursive(SCALAR, lambda inner: st.lists(inner, max_size=3), max_leaves=4)
EVENTS = st.fixed_dictionaries(
    {
        "event_id": TEXT,
        "event_time": st.integers(-(10**13), 3 * 10**14) | st.just("2024-02-29T01:02:03Z") | TEXT,
        "kind": TEXT | st.integers(),
        "subject": TEXT,
    },
    optional={"object": TEXT | st.none(), "language": TEXT, "props": st.dictionaries(TEXT, JSON, max_size=3) | JSON},
)


@settings(max_examples=200, deadline=None)
@given(st.lists(EVENTS, max_size=6), st.booleans())
def test_every_event_of_a_body_is_kept_or_told(events, ascii_only):
    body = json.dumps(events, ensure_ascii=ascii_only).encode()
    checked = check_json(body)
    assert len(checked.events) + len(checked.bad) == len(events)
    assert [json.loads(bad.raw) for bad in checked.bad] == [each for each in events if not is_good(each)]
    kept = [each for each in events if is_good(each)]
    assert [each["event_id"] for each in kept] == ids(checked)
    rows = to_columns(checked.events, 7).to_pylist()
    for row, event in zip(rows, kept, strict=True):
        assert {name: row[name] for name in ("event_id", "kind", "subject", "object", "language")} == {
            name: event.get(name) for name in ("event_id", "kind", "subject", "object", "language")
        }
        assert (json.loads(row["props"]) if row["props"] is not None else None) == event.get("props")


def is_good(event):
    when, props = event["event_time"], event.get("props")
    in_range = not isinstance(when, str) and -62_135_596_800_000 < when < 253_402_300_799_000
    has_time = in_range or when == "2024-02-29T01:02:03Z"
    has_names = all(isinstance(event[name], str) and event[name] for name in ("event_id", "kind", "subject"))
    return has_names and has_time and (props is None or isinstance(props, dict))
