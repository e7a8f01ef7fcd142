"""Schemas, clocks and device classes, from the log to the table."""

import json

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gyral.config import Config, Ingest
from gyral.config.sections import Device
from gyral.errors import ConfigError
from gyral.event.codec import encode_payload
from gyral.event.schema import EVENT, TABLES
from gyral.event.wire import check_json, to_columns
from gyral.ingest import refine
from gyral.ingest.drain import Drain
from gyral.ingest.schemas import register
from gyral.lake import registry as module
from gyral.lake.registry import Field, Registry, fields_of
from gyral.lake.table import Lake
from gyral.log.sqlite import SqliteLog
from gyral.run import Run

NOW_US = 1_790_000_000_000_000
TEN_YEARS_MS = 10 * 365 * 86_400_000


def events(*rows):
    """Columns of events as devices send them."""
    sent = [{"event_time": NOW_US // 1000, "kind": "k", "subject": "s", **row} for row in rows]
    checked = check_json(json.dumps(sent).encode())
    assert checked.bad == []
    return to_columns(checked.events, NOW_US)


class World:
    def __init__(self, root, **settings):
        self.root, self.config = root, Config(**settings)
        self.lake = Lake(root)
        self.number = 0

    def send(self, *rows):
        with SqliteLog(self.lake.log_folder) as log:
            for row in rows:
                self.number += 1
                row.setdefault("event_id", f"e{self.number}")
            batch = events(*rows)
            log.append(log.free_partition("events"), f"{self.number}", encode_payload(batch), batch.num_rows)
            return Drain.of(self.lake, log, self.config).run()

    def register(self, text, name="schemas.toml"):
        (self.root / name).write_text(text)
        with Run.start(self.root, "ingest", self.config) as run:
            return register(self.root, self.config, run, self.root / name)

    def rows(self, *columns):
        found = self.lake.snapshot("events").read(["event_id", *columns])
        return {row.pop("event_id"): tuple(row.values()) for row in found.to_pylist()}


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_fields_of_a_registered_schema_become_typed_columns_and_props_stay(world):
    world.register('[shop]\namount = "number"\npaid = "boolean"\nat = "time"\n"Über" = { type = "text", column = "ueber" }\n')
    props = {"amount": 2.5, "paid": True, "at": "2026-01-02T03:04:05Z", "Über": "ja", "more": [1]}
    world.send({"schema_id": "shop", "props": props}, {"schema_id": "shop", "props": {"amount": "two", "Über": 12}}, {})
    assert world.rows("amount", "paid", "ueber", "promoted") == {
        "e1": (2.5, True, "ja", 4), "e2": (None, None, "12", 4), "e3": (None, None, None, None),
    }  # fmt: skip
    assert world.rows("at")["e1"][0].isoformat() == "2026-01-02T03:04:05+00:00"
    assert json.loads(world.rows("props")["e1"][0]) == props
    assert world.lake.snapshot("events").count("amount > 2") == 1


def test_events_that_came_before_their_schema_are_promoted_when_it_arrives(world):
    for number in range(6):
        world.send({"schema_id": "late", "props": {"n": number}}, {"schema_id": "other", "props": {"n": number}})
    before = world.rows("props", "src_offset", "ingest_time")
    assert set(world.rows("promoted").values()) == {(None,)}
    assert world.register('[late]\nn = "number"\n') == {"registered": 1, "known": 0}
    assert world.rows("n") == {f"e{2 * n + 1}": (float(n),) for n in range(6)} | {f"e{2 * n + 2}": (None,) for n in range(6)}
    assert world.rows("props", "src_offset", "ingest_time") == before
    assert world.lake.snapshot("events").facts.rows == 12
    assert world.lake.snapshot("events").facts.counts["schema_id"] == {"late": 6, "other": 6}
    world.send({"schema_id": "late", "props": {"n": 7, "m": "x"}})
    world.register('[late]\nm = "text"\n[other]\nn = "number"\n')  # grows
    assert world.rows("n", "m", "promoted")["e13"] == (7.0, "x", 2)
    assert world.rows("n")["e12"] == (5.0,) and world.lake.snapshot("events").count("n IS NULL") == 0


def test_an_event_that_was_promoted_late_is_still_known(world):
    world.send({"event_id": "x", "schema_id": "late", "props": {"n": 1}})
    world.register('[late]\nn = "number"\n')
    done = world.send({"event_id": "x", "schema_id": "late", "props": {"n": 2}})
    assert (done.accepted, done.duplicate, world.rows("n")) == (0, 1, {"x": (1.0,)})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('[a]\nn = "text"\n', "promoted to `n` as number already"),
        ('[b]\nn = "text"\n', "of another type"),
        ('[b]\nm = "nmber"\n', "did you mean `number`"),
        ('[b]\nsubject = "text"\n', "cannot be the name"),
        ('[b]\n"Total Sum" = "number"\n', "cannot be the name"),
        ('[b]\nm = { typ = "number" }\n', "cannot be read"),
        ("x = 1\n", "no schema"),
        ("[b\n", "cannot be read"),
    ],
)
def test_a_registration_that_contradicts_is_refused_whole(world, text, why):
    world.register('[a]\nn = "number"\n')
    with pytest.raises(ConfigError) as error:
        world.register('[good]\nz = "text"\n' + text if text.startswith("[b]") else text)
    assert why in f"{error.value.what} {error.value.why}"
    assert set(world.lake.registry().by_schema) == {"a"}


def test_of_two_registrations_that_race_the_earlier_wins():
    registry = Registry([Field("a", "n", "n", "number"), Field("a", "n", "n", "text"), Field("b", "m", "n", "text")])
    assert registry.fields == [Field("a", "n", "n", "number")]
    assert fields_of({"a": {"n": "number"}}, "")[0] in registry.fields


def test_columns_have_an_end(monkeypatch):
    monkeypatch.setattr(module, "MAX_COLUMNS", 2)
    registry = Registry([Field("a", name, name, "number") for name in "bcd"])
    assert list(registry.columns) == ["b", "c"]


def test_a_clock_that_cannot_be_right_is_kept_and_not_gone_by(tmp_path):
    phone = {"phone": Device(skew_s=60, offline_s=86_400), "default": Device(skew_s=600)}
    world = World(tmp_path, devices=phone)
    now = NOW_US // 1000
    cases = {  # event: (class, how far its clock says it is from now in ms, whether that is believed)
        "now": ("phone", 0, True), "ahead": ("phone", 61_000, False), "offline": ("phone", -86_000_000, True),
        "behind": ("phone", -TEN_YEARS_MS, False), "tv ahead": ("tv", 599_000, True), "tv years": ("tv", TEN_YEARS_MS, False),
        "history": (None, -TEN_YEARS_MS, True),
    }  # fmt: skip
    sent = [{"event_id": name, "device_class": each[0], "event_time": now + each[1]} for name, each in cases.items()]
    world.send(*sent)
    assert world.send(*sent).duplicate == len(cases)  # whatever the clocks say
    adjusted = {name: adjusted for name, (adjusted,) in world.rows("event_time_adjusted").items()}
    assert {name for name, each in adjusted.items() if each is None} == {name for name, each in cases.items() if each[2]}
    assert {round(each.timestamp() * 1e6) for each in adjusted.values() if each} == {NOW_US}
    facts = world.lake.snapshot("events").facts
    assert (facts.devices["phone"].ahead, facts.devices["phone"].behind, facts.devices["tv"].ahead) == (1, 1, 1)
    assert facts.last_us == NOW_US + 599_000_000


def test_a_lake_made_before_a_column_existed_gets_it(tmp_path, monkeypatch):
    old = pa.schema([field for field in TABLES["events"] if field.name not in ("event_time_adjusted", "promoted")])
    lake = Lake(tmp_path)
    with monkeypatch.context() as patch:
        patch.setitem(TABLES, "events", old)
        lake.open("events").commit(
            pa.Table.from_batches([refine.placed(events({"event_id": "old"}), "p", 0, "events")]), {"p": 1}
        )
    world = World(tmp_path)
    world.send({"event_id": "new"})
    assert world.rows("event_time_adjusted", "promoted") == {"old": (None, None), "new": (None, None)}
    assert lake.snapshot("events").schema.names == TABLES["events"].names


def test_a_storm_of_schemas_loses_no_row_and_the_registry_converges(tmp_path):
    """300 schemas of which a fifth come after their events, in any order; every row is there and typed in the end."""
    world = World(tmp_path, ingest=Ingest(commit_rows=500))
    order = [(7 * number) % 300 for number in range(300)]
    for start in range(0, 300, 60):
        part = order[start : start + 60]
        known = [number for number in part if number % 5]
        world.register("".join(f'[s{n}]\nf{n % 50} = "number"\n' for n in known), f"known{start}.toml")
        world.send(*({"schema_id": f"s{n}", "props": {f"f{n % 50}": n + copy}} for n in part for copy in range(3)))
    assert world.lake.snapshot("events").count("promoted IS NULL") == 60 * 3
    world.register("".join(f'[s{n}]\nf{n % 50} = "number"\n' for n in range(300)), "all.toml")
    rows = world.lake.snapshot("events").read(["schema_id", "promoted", *(f"f{n}" for n in range(50))]).to_pylist()
    found = sorted((int(row["schema_id"][1:]), row[f"f{int(row['schema_id'][1:]) % 50}"]) for row in rows)
    assert found == sorted((n, float(n + copy)) for n in range(300) for copy in range(3))
    assert {row["promoted"] for row in rows} == {1} and len(world.lake.registry().fields) == 300


values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=4),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.dictionaries(st.sampled_from("xyz"), values)), max_size=9))
def test_promotion_agrees_with_reading_each_row(rows):
    registry = Registry([Field("a", "x", "x", "number"), Field("b", "y", "x", "number"), Field("b", "z", "t", "text")])
    given = [{"event_id": str(n), "schema_id": schema, "props": json.dumps(props)} for n, (schema, props) in enumerate(rows)]
    zeros = {"event_time": 0, "ingest_time": 0, "kind": "k"}
    batch = pa.RecordBatch.from_pylist([{**zeros, **each} for each in given], schema=EVENT)
    out = refine.promoted(pa.Table.from_batches([refine.placed(batch, "p", 0, "events")]), registry)
    for (schema, props), row in zip(rows, out.to_pylist(), strict=True):
        number = props.get({"a": "x", "b": "y"}.get(schema, ""))
        is_number = isinstance(number, int | float) and not isinstance(number, bool)
        assert row.get("x") == (float(number) if is_number else None)
        text = props.get("z") if schema == "b" else None
        assert (row.get("t") is None) == (text is None) and (not isinstance(text, str) or row["t"] == text)
        assert row["promoted"] == {"a": 1, "b": 2}.get(schema)
