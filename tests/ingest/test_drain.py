import threading

import pyarrow as pa

from gyral.event.codec import encode_payload
from gyral.event.schema import EVENT
from gyral.ingest.drain import Drain, Drained
from gyral.lake.table import Lake
from gyral.log.sqlite import SqliteLog


def batch(ids, kind="click"):
    rows = [{"event_id": each, "event_time": 1, "ingest_time": 2, "kind": kind} for each in ids]
    return encode_payload(pa.RecordBatch.from_pylist(rows, schema=EVENT))


def stored(lake):
    return sorted(lake.snapshot("events").read(["event_id"])["event_id"].to_pylist())


def test_the_same_id_in_one_batch_other_batches_and_other_partitions_is_one_event(tmp_path):
    lake = Lake(tmp_path)
    with SqliteLog(lake.log_folder) as log:
        log.append("a", "1", batch(["x", "y", "x"]), 3)
        log.append("a", "2", batch(["y", "z"]), 2)
        log.append("b", "1", batch(["x", "w"]), 2)
        done = Drain(lake, log, 100).run()
        assert (done.accepted, done.duplicate) == (4, 3)
        log.append("b", "2", batch(["w", "v"], kind="other"), 2)
        assert (Drain(lake, log, 100).run().accepted, stored(lake)) == (1, ["v", "w", "x", "y", "z"])
        assert (log.start("a"), log.end("a")) == (2, 2) and list(log.read("a", 2)) == []


def test_an_id_seen_in_an_earlier_commit_of_the_same_drain_is_known(tmp_path):
    lake = Lake(tmp_path)
    with SqliteLog(lake.log_folder) as log:
        for number in range(6):
            log.append("a", str(number), batch([f"e{number}", "again"]), 2)
        done = Drain(lake, log, 2).run()
    assert (done.accepted, done.duplicate) == (7, 5)
    assert len(stored(lake)) == 7


def test_two_drains_at_once_commit_every_event_once(tmp_path):
    lake = Lake(tmp_path)
    log = SqliteLog(lake.log_folder)
    results, errors = [], []
    for number in range(30):
        log.append("a", str(number), batch([f"{number}-{each}" for each in range(20)]), 20)

    def work():
        try:
            results.append(Drain(lake, log, 50).run())
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert errors == []
    assert len(stored(lake)) == len(set(stored(lake))) == 600
    assert sum(done.accepted for done in results) == 600


def test_many_small_commits_are_compacted(tmp_path, monkeypatch):
    monkeypatch.setattr("gyral.lake.snapshot.MAX_FRAGMENTS", 5)
    lake = Lake(tmp_path)
    with SqliteLog(lake.log_folder) as log:
        drain = Drain(lake, log, 1)
        for number in range(20):
            log.append("a", str(number), batch([f"e{number}"]), 1)
            drain.run()
    assert lake.snapshot("events").num_fragments <= 6
    assert len(stored(lake)) == 20


def test_kinds_that_devices_think_up_are_counted_together(tmp_path, monkeypatch):
    monkeypatch.setattr("gyral.ingest.drain.MAX_VALUES", 3)
    lake = Lake(tmp_path)
    with SqliteLog(lake.log_folder) as log:
        drain, done = Drain(lake, log, 4), Drained()
        for part in ("one", "two"):
            for number in range(6):
                log.append("a", f"{part}-{number}", batch([f"{part}-{number}"], kind=f"{part}-{number % 4}"), 1)
            done += drain.run()
    assert done.kinds == {"one-0": 2, "one-1": 2, "one-2": 1, "…": 7}
