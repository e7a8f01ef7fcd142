import json

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gyral.errors import InputError
from gyral.event.codec import decode_payload, encode_payload, json_objects, row_ids
from gyral.event.schema import EVENT, QUARANTINE


def event_batch(ids):
    rows = [{"event_id": each, "event_time": 1, "ingest_time": 2, "kind": "click"} for each in ids]
    return pa.RecordBatch.from_pylist(rows, schema=EVENT)


def test_a_payload_carries_events_and_quarantine_together():
    bad = pa.RecordBatch.from_pylist(
        [{"event_id": "q", "ingest_time": 1, "reason": "bad_time", "raw": b"\xff"}], schema=QUARANTINE
    )
    tables = decode_payload(encode_payload(event_batch(["a", "b"]), bad))
    assert tables["events"]["event_id"].to_pylist() == ["a", "b"]
    assert tables["quarantine"]["raw"].to_pylist() == [b"\xff"]
    assert list(decode_payload(encode_payload(event_batch([])))) == []


@pytest.mark.parametrize("damage", [b"", b"\x00", b"not msgpack at all"])
def test_damaged_payloads_are_an_error_not_a_crash(damage):
    with pytest.raises(InputError):
        decode_payload(damage)
    whole = encode_payload(event_batch(["a"] * 100))
    with pytest.raises(InputError):
        decode_payload(whole[: len(whole) // 2])


cells = st.one_of(st.none(), st.text(st.characters(blacklist_categories=("Cs",)), max_size=5))


@given(st.lists(st.tuples(cells, st.one_of(st.none(), st.integers(-5, 5))), min_size=1, max_size=20))
def test_json_objects_agree_with_json(rows):
    encoded = json_objects(
        {'na"me': pa.array([row[0] for row in rows], pa.string()), "n": pa.array([row[1] for row in rows], pa.int64())}
    )
    for text, (name, number) in zip(encoded.to_pylist(), rows, strict=True):
        wanted = {key: value for key, value in (('na"me', name), ("n", number)) if value is not None}
        assert json.loads(text) == wanted


def test_row_ids_depend_on_source_and_row_only():
    whole = row_ids("digest", 0, 1000).to_pylist()
    assert row_ids("digest", 600, 400).to_pylist() == whole[600:]
    assert len(set(whole)) == 1000
    assert set(row_ids("other", 0, 1000).to_pylist()).isdisjoint(whole)
    assert all(len(each) == 32 and int(each, 16) >= 0 for each in whole)


def test_a_batch_whose_stream_holds_nothing_is_none():
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, pa.schema([("a", pa.string())])):
        pass
    empty = msgspec.msgpack.encode({"events": sink.getvalue().to_pybytes(), "quarantine": b"", "format": 1})
    with pytest.raises(InputError, match="cannot be decoded"):
        decode_payload(empty)
