"""Features join as of the time of each interaction, against plain Python over all events."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gyral.config import Config, Curate
from gyral.config.sections import Feature
from gyral.curate.interactions import curate
from gyral.errors import ConfigError
from gyral.event.codec import encode_payload
from gyral.event.wire import check_json, to_columns
from gyral.ingest.drain import Drain
from gyral.lake.table import Lake
from gyral.log.sqlite import SqliteLog
from gyral.run import Run

HOUR_US = 3_600_000_000
START_US = 1_790_000_000_000_000


def fill(root, rows):
    """Events by (hour they happened, hour they came in, kind, subject, object, props)."""
    lake = Lake(root)
    with SqliteLog(lake.log_folder) as log:
        for number, (happened, came, kind, subject, object_, props) in enumerate(rows):
            event = {"event_id": f"e{number}", "event_time": (START_US + happened * HOUR_US) // 1000, "kind": kind}
            event |= {"subject": subject, "object": object_, "props": props}
            batch = to_columns(check_json(json.dumps([event]).encode()).events, START_US + came * HOUR_US)
            log.append("events-a", str(number), encode_payload(batch), 1)
        Drain(lake, log, 1_000).run()


def made(root, *features, **more):
    config = Config(curate=Curate(features=list(features), **more))
    with Run.start(root, "curate", config) as run:
        return curate(root, "x", config, run)


def hour(moment):
    return round((moment.timestamp() * 1e6 - START_US) / HOUR_US)


def test_what_had_happened_and_come_in_by_then_is_used_and_nothing_else(tmp_path):
    fill(
        tmp_path,
        [
            (0, 0, "plan", "u", None, {"plan": "free", "seats": 1}),
            (5, 5, "plan", "u", None, {"plan": "pro", "seats": 3}),
            (2, 9, "plan", "u", None, {"plan": "late"}),  # came in too late for most
            (5, 12, "plan", "u", None, {"plan": "corrected", "seats": 4}),  # the same time again: a correction
            *((at, at, "buy", "u", "o", {}) for at in (1, 3, 6, 10, 13)),
            (1, 1, "buy", "other", "o", {}),
            (7, 7, "price", "shop", "o", {"amount": 2.5}),
        ],
    )
    plan = Feature(kind="plan", take={"plan": "props.plan", "seats": "props.seats"})
    price = Feature(kind="price", take={"price": "props.amount", "seller": "subject"}, on="object")
    data = made(tmp_path, plan, price)
    rows = {(row["subject"], hour(row["event_time"])): row for row in data.read().to_pylist()}
    assert {key: row["plan"] for key, row in rows.items()} == {
        ("u", 1): "free", ("u", 3): "free", ("u", 6): "pro", ("u", 10): "pro", ("u", 13): "corrected", ("other", 1): None,
    }  # fmt: skip
    assert rows["u", 13]["seats"] == 4 and (rows["u", 10]["price"], rows["u", 6]["price"]) == (2.5, None)
    assert rows["u", 10]["seller"] == "shop" and data.manifest.dropped == {"missing_object": 4, "feature": 1}
    assert data.manifest.select["features"] == "plan, price"


def test_what_was_imported_later_can_go_by_when_it_came_in(tmp_path, capsys):
    fill(tmp_path, [(0, 50, "plan", "u", None, {"plan": "free"}), (1, 50, "buy", "u", "o", {}), (2, 49, "buy", "u", "o", {})])
    assert made(tmp_path, Feature(kind="plan", take={"plan": "props.plan"})).read()["plan"].to_pylist() == [None, None]
    assert 'known = "ingest_time"' in capsys.readouterr().err
    feature = Feature(kind="plan", take={"plan": "props.plan"}, known="ingest_time")
    assert made(tmp_path, feature).read()["plan"].to_pylist() == ["free", None]


@pytest.mark.parametrize(
    ("take", "what"),
    [({"a": "subjct"}, "which events do not have"), ({"country": "props.x"}, "two columns would be `country`")],
)
def test_features_that_cannot_be_are_refused(tmp_path, take, what):
    fill(tmp_path, [(1, 1, "buy", "u", "o", {})])
    with pytest.raises(ConfigError, match=what):
        made(tmp_path, Feature(kind="plan", take=take))


def test_a_feature_that_nobody_sent_is_a_column_of_nothing(tmp_path):
    fill(tmp_path, [(1, 1, "buy", "u", "o", {})])
    assert made(tmp_path, Feature(kind="plan", take={"plan": "props.plan"})).read()["plan"].to_pylist() == [None]


moments = st.tuples(st.integers(0, 6), st.integers(0, 4))
rows_of = st.lists(st.tuples(moments, st.sampled_from("uv"), st.booleans()), min_size=1, max_size=14)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows_of)
def test_any_order_of_arrival_agrees_with_plain_python(tmp_path_factory, given_rows):
    events = [
        (happened, happened + delay, "plan" if is_plan else "buy", who, None if is_plan else f"o{number}", {"n": number})
        for number, ((happened, delay), who, is_plan) in enumerate(given_rows)
    ]
    events.append((9, 9, "buy", "u", "always", {}))
    root = tmp_path_factory.mktemp("asof")
    fill(root, events)
    data = made(root, Feature(kind="plan", take={"n": "props.n"})).read().to_pylist()
    plans = [each for each in events if each[2] == "plan"]
    bought = [each for each in events if each[2] == "buy"]
    assert len(data) == len(bought)
    for row in data:
        (happened, who) = next((each[0], each[3]) for each in bought if each[4] == row["object"])
        known = [each for each in plans if each[3] == who and each[0] <= happened and each[1] <= happened]
        want = max(known, key=lambda each: (each[0], each[1], each[5]["n"]), default=None)
        assert row["n"] == (None if want is None else want[5]["n"])
