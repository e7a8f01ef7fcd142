import contextlib
import itertools
import json
import time
import uuid

from gyral.event.codec import decode_payload
from gyral.ingest.drain import Drain
from gyral.lake.table import Lake
from gyral.log.sqlite import LogError, SqliteLog
from gyral.log.writer import Gone
from gyral.serve import feedback
from gyral.serve.feedback import Impression, Impressions, RequestIds


def impression(number):
    shown = (["a", "b"], [2.0, 1 / 3])
    return Impression(f"id-{number:05d}", 1_600_000_000_000_000 + number, "s", "fr", "shop@1", "default", 2, *shown)


def impressions_in(log):
    entries = [entry for name in log.partitions() for entry in log.read(name, log.start(name))]
    return [row for entry in entries for row in decode_payload(entry.payload)["events"].to_pylist()]


def test_every_impression_reaches_the_log_and_the_lake(tmp_path):
    impressions = Impressions(Lake(tmp_path), print)
    for number in range(2_500):
        impressions.add(impression(number))
    impressions.close()
    assert (impressions.appended, impressions.dropped) == (2_500, 0)
    with SqliteLog(tmp_path / "lake" / "log") as log:
        rows = impressions_in(log)
        assert [row["event_id"] for row in rows] == [f"id-{number:05d}" for number in range(2_500)]
        assert rows[0]["kind"] == "impression" and rows[0]["object"] == "a"
        assert json.loads(rows[0]["props"]) == {
            "model": "shop@1", "slot": "default", "k": 2, "items": ["a", "b"], "scores": [2.0, 0.333333],
        }  # fmt: skip
        assert rows[0]["country"] == "fr"
        assert Drain(Lake(tmp_path), log, 1_000).run().accepted == 2_500


def test_while_requests_keep_coming_groups_stay_large(tmp_path):
    lake = Lake(tmp_path)
    impressions = Impressions(lake, print)
    until = time.monotonic() + 0.6
    number = 0
    while time.monotonic() < until:
        impressions.add(impression(number := number + 1))
        time.sleep(0.0005)
    impressions.close()
    with SqliteLog(lake.log_folder) as log:
        sizes = [entry.num_rows for name in log.partitions() for entry in log.read(name, log.start(name))]
    assert sum(sizes) == number and len(sizes) <= 0.6 / feedback.GROUP_S + 2


def test_two_servers_of_one_project_write_two_partitions(tmp_path):
    one, two = Impressions(Lake(tmp_path), print), Impressions(Lake(tmp_path), print)
    one.add(impression(1))
    two.add(impression(2))
    one.close()
    two.close()
    with SqliteLog(tmp_path / "lake" / "log") as log:
        assert [log.end(name) for name in log.partitions()] == [1, 1]


def test_a_server_forgets_in_its_log_what_the_lake_has(tmp_path, monkeypatch):
    monkeypatch.setattr(feedback, "TRIM_EVERY_S", 0.0)
    lake = Lake(tmp_path)
    impressions = Impressions(lake, print)
    impressions.add(impression(1))
    with SqliteLog(lake.log_folder) as log:
        deadline = time.monotonic() + 10
        while not impressions_in(log):
            assert time.monotonic() < deadline
        time.sleep(0.2)
        assert len(impressions_in(log)) == 1  # nothing goes before the lake has it
        assert Drain(lake, log, 1_000).run().accepted == 1
        while True:
            assert time.monotonic() < deadline
            with contextlib.suppress(Gone):  # it went between a look at where the log begins and the reading
                if not impressions_in(log):
                    break
            time.sleep(0.01)
    impressions.close()


def test_a_log_that_refuses_is_counted_and_told_once_and_stops_nobody(tmp_path, monkeypatch):
    notes = []
    impressions = Impressions(Lake(tmp_path), notes.append)

    def refuse(*_args):
        raise LogError("the disk is full")

    monkeypatch.setattr(impressions._log, "append", refuse)
    for number in range(10):
        impressions.add(impression(number))
    impressions.close()
    assert impressions.dropped == 10 and len(notes) == 1


def test_what_cannot_be_encoded_is_lost_alone(tmp_path):
    notes = []
    impressions = Impressions(Lake(tmp_path), notes.append)
    impressions.add(impression(1)._replace(objects=[object()]))
    deadline = time.monotonic() + 10
    while not impressions.dropped:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    impressions.add(impression(2))
    impressions.close()
    assert (impressions.appended, impressions.dropped) == (1, 1) and len(notes) == 1


def test_more_than_may_wait_is_dropped_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(feedback, "MAX_WAITING", 3)
    monkeypatch.setattr(feedback, "GROUP_S", 60)
    impressions = Impressions(Lake(tmp_path), print)
    for number in range(10):
        impressions.add(impression(number))
    impressions.close()
    impressions.close()
    assert (impressions.appended, impressions.dropped) == (3, 7)


def test_request_ids_are_unique_and_ordered_in_time(monkeypatch):
    clock = itertools.count(1_700_000_000_000_000_000, 1_000)
    monkeypatch.setattr(feedback.time, "time_ns", lambda: next(clock))
    ids, others = RequestIds(), RequestIds()
    made = [ids.next() for _ in range(100_000)]
    assert made == sorted(made) and len({*made, *(others.next() for _ in range(100_000))}) == 200_000
    parsed = [uuid.UUID(each) for each in made[:20_000:997]]
    assert {(each.version, each.variant) for each in parsed} == {(7, uuid.RFC_4122)}
    assert parsed[0].int >> 80 == 1_700_000_000_000
