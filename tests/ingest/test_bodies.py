"""Bodies as clients pack them, and what a client could make large."""

import gzip
import json
import random
import tracemalloc

import pyarrow as pa
import pytest

from gyral.http import Refused
from gyral.ingest.bodies import Body, Limits, take

ARROW = b"application/vnd.apache.arrow.stream"
GOOD = {"event_id": "a", "event_time": 1_700_000_000_000, "kind": "click", "subject": "u"}


def taken(body, media=b"application/json", encoding=b"", max_bytes=1_000_000, max_events=100):
    """Columns of the good events, and the bad ones."""
    events, (part,) = take([Body(body, media, encoding)], Limits(max_bytes, max_events, 1 << 30), 5)
    if isinstance(part, Refused):
        raise part
    assert part.rows == slice(0, events.num_rows)
    return events, part.bad


def refused(*args, **options):
    with pytest.raises(Refused) as caught:
        taken(*args, **options)
    return caught.value


def ipc(table, compression=None):
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("encoding", ["", "identity", "gzip", "zstd", "GZIP"])
def test_encodings(encoding):
    body = json.dumps([GOOD]).encode()
    packers = {"gzip": gzip.compress, "zstd": lambda data: pa.compress(data, "zstd", asbytes=True)}
    packed = packers.get(encoding.lower(), bytes)(body)
    events, bad = taken(packed, encoding=encoding.encode())
    assert events["event_id"].to_pylist() == ["a"] and bad == []


@pytest.mark.parametrize(
    ("body", "encoding", "status"),
    [
        (gzip.compress(b"[" + b" " * 50_000_000), b"gzip", 413),
        (pa.compress(b"[" + b" " * 50_000_000, "zstd", asbytes=True), b"zstd", 413),
        (gzip.compress(b"[]")[:-3], b"gzip", 400),
        (b"no gzip", b"gzip", 400),
        (b"no zstd", b"zstd", 400),
        (b"[]", b"br", 415),
    ],
    ids=["gzip bomb", "zstd bomb", "torn gzip", "no gzip", "no zstd", "unknown"],
)
def test_what_cannot_be_unpacked_or_grows_too_large(body, encoding, status):
    assert refused(body, encoding=encoding).status == status


def test_bombs_of_one_moment_are_unpacked_one_after_the_other():
    """What a refusal was raised over must not live as long as the refusal."""
    size = 4 << 20
    bomb = Body(gzip.compress(b" " * (2 * size)), b"application/json", b"gzip")
    tracemalloc.start()
    try:
        _, parts = take([bomb] * 8, Limits(size, 100, 1 << 30), 5)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [part.status for part in parts] == [413] * 8
    assert held < size / 4 and peak < 3 * size


def test_too_many_events():
    assert refused(json.dumps([GOOD] * 101).encode()).status == 413
    assert refused(ipc(pa.Table.from_pylist([GOOD] * 101)), ARROW).status == 413


def test_arrow_columns_of_every_usual_type():
    table = pa.table(
        {
            "event_id": ["a", "b", "c"],
            "event_time": pa.array([1, 2, 3], pa.timestamp("ms")),
            "kind": pa.array(["k", "k", "k"]).dictionary_encode(),
            "subject": pa.array(["x", "y", "z"], pa.large_string()),
            "object": pa.array([1, 2, None]),
            "props": pa.array([{"n": 1}, None, {"n": None}]),
        }
    )
    rows = taken(ipc(table), ARROW)[0].to_pylist()
    assert [row["object"] for row in rows] == ["1", "2", None]
    assert [row["props"] and json.loads(row["props"]) for row in rows] == [{"n": 1}, None, {}]
    assert [row["event_time"].microsecond for row in rows] == [1000, 2000, 3000]


def test_arrow_rows_that_are_bad_are_told_one_by_one():
    rows = [
        GOOD,
        {**GOOD, "event_id": None},
        {**GOOD, "subject": ""},
        {**GOOD, "event_id": "d", "event_time": None},
        {**GOOD, "event_id": "e", "kind": "k" * 1025},
        {**GOOD, "event_id": "f", "props": "{"},
        {**GOOD, "event_id": "g", "props": '{"x": 1}'},
    ]
    kinds = [(name, pa.int64() if name == "event_time" else pa.string()) for name in (*GOOD, "props")]
    events, bad = taken(ipc(pa.Table.from_pylist(rows, pa.schema(kinds))), ARROW)
    assert events["event_id"].to_pylist() == ["a", "g"]
    told = ["missing_event_id", "missing_subject", "missing_time", "too_long:kind", "bad_props"]
    assert [each.reason for each in bad] == told
    assert json.loads(bad[-1].raw) == {**GOOD, "event_id": "f", "props": "{"}


@pytest.mark.parametrize(
    ("table", "why"),
    [
        (pa.table({"event_id": ["a"]}), "columns missing"),
        (pa.Table.from_pylist([{**GOOD, "extra": 1}]), "extra"),
        (pa.Table.from_pylist([{**GOOD, "subject": [1]}]), "not text"),
    ],
    ids=["missing", "unknown", "nested"],
)
def test_arrow_tables_that_are_no_events(table, why):
    assert why in refused(ipc(table), ARROW).why


def test_bodies_of_all_kinds_that_came_together_keep_their_parts():
    def events(*names):
        return [{**GOOD, "event_id": name} for name in names]

    bodies = [
        Body(json.dumps(events("a", "b")).encode(), b"application/json", b""),
        Body(ipc(pa.Table.from_pylist(events("c", "d", ""))), ARROW, b""),
        Body(b"broken", b"", b""),
        Body(gzip.compress(json.dumps([{}, *events("e")]).encode()), b"", b"gzip"),
        Body(b"[]", b"", b""),
        Body(json.dumps(events(*"ABCDE")).encode(), b"", b""),
        Body(ipc(pa.Table.from_pylist(events(*"ABCDE"))), ARROW, b""),
    ]
    rows, parts = take(bodies, Limits(1_000_000, 4, 1 << 30), 5)
    assert [part.status for part in parts if isinstance(part, Refused)] == [400, 413, 413]
    found = [
        (rows["event_id"].to_pylist()[part.rows], [bad.reason for bad in part.bad])
        for part in parts
        if not isinstance(part, Refused)
    ]
    assert found == [(["a", "b"], []), (["c", "d"], ["missing_event_id"]), (["e"], ["missing_event_id"]), ([], [])]
    assert rows.num_rows == 5


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_compressed_arrow_buffers_are_refused_before_they_are_read(compression):
    table = pa.Table.from_pylist([GOOD])
    assert "compress the body" in refused(ipc(table, compression), ARROW).why
    coded = table.set_column(2, "kind", table["kind"].dictionary_encode())
    assert "compress the body" in refused(ipc(coded, compression), ARROW).why


def test_broken_arrow_is_refused_or_read_and_never_more():
    """Three thousand mutations of one stream; a crash would end the test run."""
    body = ipc(pa.Table.from_pylist([{**GOOD, "props": '{"a": 1}'}, {**GOOD, "event_id": "b", "props": "["}]))
    chance = random.Random(0)
    for _ in range(3_000):
        broken = bytearray(body)
        for _ in range(chance.randrange(1, 4)):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        try:
            taken(bytes(broken[: chance.randrange(len(broken)) if chance.random() < 0.3 else None]), ARROW)
        except Refused as error:
            assert error.status in (400, 413)
