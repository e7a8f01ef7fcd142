"""The collector in process: what an answer says is so, and what is refused is refused before it costs anything."""

import asyncio
import gzip
import hashlib
import json
import time

import pytest

from gyral.config.sections import Key
from gyral.event import scan
from gyral.event.codec import decode_payload
from gyral.ingest import collector as collectors
from gyral.keys import new_key
from gyral.log.sqlite import LogError, SqliteLog


def event(number, **fields):
    return {"event_id": f"e{number}", "event_time": 1_700_000_000_000 + number, "kind": "click", "subject": "u", **fields}


def dumps(*events):
    return json.dumps(events).encode()


def test_an_answer_counts_and_the_log_has_what_it_counts(world):
    it = world()
    ((status, answer, _),) = it.post(dumps(event(1), event(2), event(1), event(3, kind=""), {"event_id": "x"}))
    assert status == 200
    assert answer == {"accepted": 2, "duplicate": 1, "quarantined": {"missing_kind": 1, "missing_time": 1}}
    entries = list(it.log.read(it.collector.partition, 0))
    assert [entry.num_rows for entry in entries] == [5]
    assert decode_payload(entries[0].payload)["quarantine"]["reason"].to_pylist() == ["missing_kind", "missing_time"]
    done = it.run_drain()
    assert (done.accepted, done.duplicate, done.quarantined) == (2, 1, {"missing_kind": 1, "missing_time": 1})
    assert it.ids() == ["e1", "e2"]


def test_a_duplicate_is_told_wherever_the_first_one_is(world):
    it = world()
    told = it.post(dumps(event(1)), dumps(event(1), event(2)))
    assert sum(answer["accepted"] for _, answer, _ in told) == 2
    assert it.post(dumps(event(1), event(3)))[0][1] == {"accepted": 1, "duplicate": 1, "quarantined": {}}  # in the log
    it.run_drain()
    assert it.post(dumps(event(3), event(4)))[0][1] == {"accepted": 1, "duplicate": 1, "quarantined": {}}  # in the lake
    it.run_drain()
    it.close()
    later = world()  # another process, later
    assert later.post(dumps(event(4), event(5)))[0][1] == {"accepted": 1, "duplicate": 1, "quarantined": {}}
    later.run_drain()
    assert later.ids() == ["e1", "e2", "e3", "e4", "e5"]


def test_requests_that_come_at_once_share_a_batch_and_get_their_own_answers(world, monkeypatch):
    it = world()
    real = it.log.submit
    monkeypatch.setattr(it.log, "submit", lambda *args: (time.sleep(0.05), real(*args))[1])
    bodies = [dumps(event(2 * number), event(2 * number + 1)) if number % 5 else b"broken" for number in range(50)]
    told = it.post(*bodies)
    assert [status for status, _, _ in told] == [200 if number % 5 else 400 for number in range(50)]
    assert all(answer["accepted"] == 2 for status, answer, _ in told if status == 200)
    assert it.log.end(it.collector.partition) <= 4
    it.run_drain()
    assert len(it.ids()) == 80


def test_a_retry_of_a_batch_with_bad_events_quarantines_them_once(world):
    it = world()
    body = dumps(event(1), {"no": "event"}, {"no": "event"})
    for _ in range(3):
        it.post(body)
    it.post(body, idempotency_key="another batch")
    it.run_drain()
    table = it.lake.snapshot("quarantine").read().to_pylist()
    assert len(table) == 4 and {row["reason"] for row in table} == {"unknown_field"}
    assert all(json.loads(row["raw"]) == {"no": "event"} and row["source"] == "http" for row in table)


def test_what_no_check_found_is_refused_to_whoever_sent_it(world, monkeypatch):
    it = world()
    real = scan.to_columns

    def strict(events, now):
        if any(event.kind == "poison" for event in events):
            raise OverflowError("date value out of range")
        return real(events, now)

    monkeypatch.setattr(scan, "to_columns", strict)
    monkeypatch.setattr(scan, "LOADED", scan.Loaded())
    told = it.post(dumps(event(1)), dumps(event(2, kind="poison")), dumps(event(3)))
    assert [status for status, _, _ in told] == [200, 400, 200] and "out of range" in told[1][1]["error"]["why"]
    it.run_drain()
    assert it.ids() == ["e1", "e3"]


def test_small_bodies_that_grow_are_not_all_unpacked_at_once(world, monkeypatch):
    monkeypatch.setattr(collectors, "GROUP_DECODED_BYTES", 1_000_000)
    it = world()
    real = it.log.submit
    monkeypatch.setattr(it.log, "submit", lambda *args: (time.sleep(0.2), real(*args))[1])
    bodies = [gzip.compress(dumps(event(number, props={"x": "y" * 900_000}))) for number in range(12)]
    told = it.post(*bodies, content_encoding="gzip")
    statuses = [status for status, _, _ in told]
    refused = [answer["error"]["why"] for _, answer, _ in told if "error" in answer]
    assert set(statuses) == {200, 429} and "too much came at once" in refused
    it.run_drain()
    assert len(it.ids()) == statuses.count(200)


def test_a_log_that_refuses_acknowledges_nothing(world, monkeypatch):
    it = world()

    def refuse(*_):
        raise LogError("the disk is full")

    real = it.log.submit
    monkeypatch.setattr(it.log, "submit", refuse)
    ((status, answer, headers),) = it.post(dumps(event(1)))
    assert status == 503 and "the disk is full" in answer["error"]["why"] and headers[b"retry-after"] == b"5"
    monkeypatch.setattr(it.log, "submit", real)
    assert it.post(dumps(event(1)))[0][1]["accepted"] == 1


@pytest.mark.parametrize(
    ("settings", "what"),
    [({"min_free_bytes": 1 << 60}, "disk has only"), ({"max_lag_bytes": 1}, "wait for the lake")],
)
def test_what_could_not_be_stored_soon_is_refused_and_an_operator_is_told(world, monkeypatch, settings, what):
    monkeypatch.setattr(collectors, "LOOK_EVERY_S", 0.0)
    it = world(**settings)
    for number in range(100):  # the look is taken beside the requests
        ((status, answer, headers),) = it.post(dumps(event(number)))
        if status != 200:
            break
    assert status == 429 and what in answer["error"]["why"] and int(headers[b"retry-after"]) >= 1
    assert len(it.notes) == 1 and what in it.notes[0]


def test_what_the_lake_has_is_no_lag_though_the_log_still_has_it(world, monkeypatch):
    monkeypatch.setattr(collectors, "LOOK_EVERY_S", 0.0)
    it = world(max_lag_bytes=100_000_000)
    for number in range(10):
        it.post(dumps(event(number)))
    whole = it.collector._lag_bytes()
    monkeypatch.setattr(it.log, "trim", lambda *_: 0)
    it.run_drain()
    assert it.log.end(it.collector.partition) - it.log.start(it.collector.partition) == 10
    assert whole > 10_000 and it.collector._lag_bytes() == 0
    it.post(dumps(event(11)))
    assert 0 < it.collector._lag_bytes() <= whole // 5


def test_batches_fit_into_a_log_that_takes_small_ones_only(world, monkeypatch):
    monkeypatch.setattr(SqliteLog, "largest_bytes", 100_000)
    it = world()
    sizes, real = [], it.log.submit
    monkeypatch.setattr(it.log, "submit", lambda *args: (sizes.append(len(args[2])), real(*args))[1])
    bodies = [dumps(*(event(100 * body + number) for number in range(100))) for body in range(40)]
    assert {status for status, _, _ in it.post(*bodies)} == {200}
    assert len(sizes) > 5 and max(sizes) < 100_000
    large = dumps(*(event(number) for number in range(900)))
    assert len(large) > 50_000 and it.post(large)[0][0] == 413
    packed = {it.post(gzip.compress(body), content_encoding="gzip")[0][0] for body in bodies[:5]}
    assert packed == {200} and max(sizes) < 100_000


def test_a_queue_that_is_full_says_so_at_once(world, monkeypatch):
    it = world(max_waiting=3)
    real = it.log.submit
    monkeypatch.setattr(it.log, "submit", lambda *args: (time.sleep(0.2), real(*args))[1])
    told = it.post(*[dumps(event(number)) for number in range(20)])
    statuses = [status for status, _, _ in told]
    assert set(statuses) == {200, 429} and statuses.count(200) >= 3
    it.run_drain()
    assert len(it.ids()) == statuses.count(200)


def test_keys_and_their_rates(world):
    secret, digest = new_key()
    other, other_digest = new_key()
    assert digest == hashlib.sha256(secret.encode()).hexdigest()
    it = world(keys=[Key("phone", digest, events_per_s=10), Key("tv", other_digest.upper(), bytes_per_s=300)])
    for headers in ({}, {"authorization": "Bearer nope"}, {"authorization": secret}, {"authorization": f"Basic {secret}"}):
        ((status, _, sent),) = it.post(dumps(event(1)), **headers)
        assert status == 401 and sent[b"www-authenticate"] == b"Bearer"
    phone, tv = ({"authorization": f"Bearer {each}"} for each in (secret, other))
    assert it.post(dumps(*map(event, range(30)), {"x": 1}), **phone)[0][0] == 200
    ((status, answer, sent),) = it.post(dumps(event(31)), **phone)
    assert status == 429 and "`phone` has spent its events" in answer["error"]["what"] and int(sent[b"retry-after"]) >= 1
    assert it.post(dumps(*map(event, range(40, 50))), **tv)[0][0] == 200
    assert "bytes" in it.post(dumps(event(51)), **tv)[0][1]["error"]["what"]
    time.sleep(2.2)
    assert it.post(dumps(event(31)), **phone)[0][0] == 200
    it.run_drain()
    assert it.lake.snapshot("quarantine").read(["source"])["source"].to_pylist() == ["phone"]


def test_other_paths_and_methods(world):
    it = world()

    async def ask(method, path):
        sent = []

        async def send(message):
            sent.append(message)

        await it.collector({"type": "http", "method": method, "path": path, "headers": []}, None, send)
        return sent[0]["status"]

    asked = (("GET", "/healthz"), ("GET", "/v1/events"), ("POST", "/v1/nothing"))
    asked = (("GET", "/healthz"), ("GET", "/v1/events"), ("POST", "/v1/nothing"))
    assert [asyncio.run(ask(*each)) for each in asked] == [200, 405, 404]
