"""A lake whose topic is made anew, cut by retention, or away: an error that says so, and never a row too few or too many."""

import contextlib
import importlib.util
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from gyral.config.sections import Collect
from gyral.event.codec import encode_payload
from gyral.event.wire import check_json, to_columns
from gyral.ingest.collector import Collector
from gyral.ingest.drain import Drain
from gyral.lake.commit import LakeError
from gyral.lake.table import Lake
from gyral.log import kafka
from gyral.log.kafka import KafkaLog
from gyral.log.writer import Gone, LogError
from gyral.model.live import tables as live
from gyral.serve.feedback import Impressions, Logged
from gyral.train.online import Met, Online
from gyral.train.online_visits import Limits, Visits

Producer = pytest.importorskip("confluent_kafka").Producer
pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]
PART = "kafka-events-0"
_spec = importlib.util.spec_from_file_location("stand_in", Path(__file__).parents[1] / "live" / "stand_in.py")
stand_in = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(stand_in)


def payload(numbers):
    rows = [{"event_id": f"e{n}", "event_time": 1_700_000_000_000 + n, "kind": "click", "subject": "u"} for n in numbers]
    return encode_payload(to_columns(check_json(json.dumps(rows).encode()).events, 0))


def fill(log, *batches):
    for numbers in batches:
        log.append(PART, f"b{numbers[0]}", payload(numbers), len(numbers))


def ids(root):
    return sorted(int(each[1:]) for each in Lake(root).snapshot("events").read(["event_id"])["event_id"].to_pylist())


def ingest(root, topic, *more):
    command = [sys.executable, "-m", "gyral", "ingest", "--root", str(root), "--from", topic, *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def topic(cluster):
    return cluster.topic("events")


@pytest.fixture
def started():
    made = []
    yield made
    for process in made:
        process.kill()
        process.communicate()


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("num_new", [0, 2, 3, 7], ids=["empty", "shorter", "as long", "longer"])
def test_a_topic_made_anew_under_its_old_name(cluster, topic, tmp_path, num_new):
    lake = Lake(tmp_path)
    with KafkaLog(topic) as log:
        fill(log, range(5), range(5, 10), range(10, 15))
        assert Drain(lake, log, 100).run().accepted == 15
    cluster.do("topic_delete", "events")
    cluster.topic("events")
    with KafkaLog(topic) as log:
        fill(log, *([number] for number in range(100, 100 + num_new)))
        drain = Drain(lake, log, 100)
        for _ in range(2):
            told = "the log is older than the lake" if num_new < 3 else "it was made anew under its old name"
            with pytest.raises(LakeError, match=told):
                drain.run()
    done = ingest(tmp_path, topic)
    assert done.communicate(timeout=60)[1].count("hint:") == 1 and done.returncode == 1
    assert ids(tmp_path) == list(range(15))


def test_a_topic_that_is_the_same_is_not_taken_for_another(cluster, topic, tmp_path):
    """Also where all of its newest batch was there before, was no event, or is gone."""
    lake = Lake(tmp_path)
    count = 0
    for numbers in (range(5), range(5), range(5, 7), [6], range(4, 9)):
        with KafkaLog(topic) as log:
            fill(log, numbers)
            count += Drain(lake, log, 100).run().accepted
            assert Drain(lake, log, 100).run().accepted == 0
    for body in (b"garbage", b"", b'{"event_id": "e9", "event_time": 1700000000000, "kind": "k", "subject": "u"}'):
        producer = Producer({"bootstrap.servers": cluster.address})
        producer.produce("events", body, partition=0)
        producer.flush(10)
        with KafkaLog(topic) as log:
            count += Drain(lake, log, 100).run().accepted
    cluster.delete_before("events", 8)
    with KafkaLog(topic) as log:
        fill(log, [10])
        count += Drain(lake, log, 100).run().accepted
    assert count == 11 and ids(tmp_path) == list(range(11))


def test_a_topic_made_anew_while_its_broker_was_away_from_a_drain_that_lives(cluster, topic, tmp_path, monkeypatch):
    monkeypatch.setattr(kafka, "TIMEOUT_S", 2.0)
    lake = Lake(tmp_path)
    with KafkaLog(topic, {"reconnect.backoff.max.ms": 100}) as log:
        fill(log, range(5))
        drain = Drain(lake, log, 100)
        assert drain.run().accepted == 5
        cluster.all("down")
        with pytest.raises(LogError, match="does not answer"):
            drain.is_behind()
        cluster.do("topic_delete", "events")
        cluster.topic("events")
        cluster.all("up")
        with KafkaLog(topic) as other:
            fill(other, [100], [101])
        with pytest.raises(LakeError, match="made anew"):
            for _ in range(20):
                with contextlib.suppress(LogError):  # connections come back; librdkafka itself may see that it was cut
                    assert drain.run().accepted == 0
    assert ids(tmp_path) == list(range(5))


def test_what_retention_took_before_the_lake_had_it_is_told(cluster, topic, tmp_path, started):
    lake = Lake(tmp_path)
    with KafkaLog(topic) as log:
        fill(log, range(5), range(5, 10))
        assert Drain(lake, log, 100).run().accepted == 10
        fill(log, range(10, 15), range(15, 20), range(20, 25))
        cluster.delete_before("events", 4)
        for _ in range(2):
            with pytest.raises(Gone, match="batches 2 to 3 of the log partition `kafka-events-0` are gone"):
                Drain(lake, log, 100).run()
    for more in ((), ("--follow",)):
        started.append(ingest(tmp_path, topic, *more))
        errors = started[-1].communicate(timeout=60)[1]
        assert started[-1].returncode == 1 and "retention took them before the lake had them" in errors
        assert "send them again" in errors.splitlines()[-1]
    assert ids(tmp_path) == list(range(10))


def test_retention_of_what_the_lake_has_is_of_no_account(cluster, topic, tmp_path):
    lake = Lake(tmp_path)
    with KafkaLog(topic) as log:
        fill(log, range(5), range(5, 10))
        assert Drain(lake, log, 100).run().accepted == 10
        cluster.delete_before("events", 2)
        assert Drain(lake, log, 100).run().accepted == 0
        fill(log, range(10, 15))
        assert Drain(lake, log, 100).run().accepted == 5
    assert ids(tmp_path) == list(range(15))


def test_batches_that_are_stored_twice_are_rows_once(cluster, topic, tmp_path, monkeypatch):
    """What a producer was not told of in time is there, and is sent again."""
    monkeypatch.setattr(kafka, "TIMEOUT_S", 3.0)
    with KafkaLog(topic) as log:
        fill(log, [7])
        cluster.do("broker_set_rtt", cluster.leader("events"), 9_000)
        with pytest.raises(LogError, match="not acknowledged"):
            fill(log, range(5))
        cluster.do("broker_set_rtt", cluster.leader("events"), 0)
        fill(log, range(5))
        wait_for(lambda: log.end(PART) == 3)
        done = Drain(Lake(tmp_path), log, 100).run()
    assert (done.accepted, done.duplicate) == (6, 5) and ids(tmp_path) == [0, 1, 2, 3, 4, 7]


def test_a_learner_over_a_topic_learns_each_event_once_and_waits_for_brokers_that_are_away(
    cluster, topic, tmp_path, monkeypatch
):
    monkeypatch.setattr(kafka, "TIMEOUT_S", 2.0)

    def opened(log):
        return Online(log, tmp_path, met, Visits(tables, Limits()), step_s=0.001)

    def met(batch):
        people = batch.column("subject").to_pylist()
        return Met(people, ["o"] * len(people), [""] * len(people), np.zeros(len(people), np.int64), Counter())

    def learned(num):
        end = time.monotonic() + 20
        while online.events < num and time.monotonic() < end:
            online.step()
        return online.events == num == sum(row[0] for row in tables.rows[live.SEEN].values())

    tables = stand_in.StandIn()
    with KafkaLog(topic, {"reconnect.backoff.max.ms": 100}) as log:
        online = opened(log)
        fill(log, range(5), range(3, 8))
        producer = Producer({"bootstrap.servers": cluster.address})
        producer.produce("events", b'{"event_id": "e9", "event_time": 1700000000000, "kind": "k", "subject": "u"}', partition=0)
        producer.flush(10)
        assert learned(9) and online.dropped == {"known": 2}
        cluster.all("down")
        assert online.step() is None and "does not answer" in online.trouble
        cluster.all("up")
        fill(log, range(20, 25))
        assert learned(14) and not online.trouble
        online.close()
        again = opened(log)
        again.recover()
        assert again.step() is None and again.offsets == {PART: 4}
        again.close()


def test_a_collector_asks_no_broker_how_far_the_lake_is_behind(cluster, topic, tmp_path, monkeypatch):
    monkeypatch.setattr(kafka, "TIMEOUT_S", 3.0)
    with KafkaLog(topic) as log:
        collector = Collector(Lake(tmp_path), log, Collect(), None, print)
        collector.partition = PART
        cluster.all("down")
        began = time.monotonic()
        assert collector._lag_bytes() == 0 and time.monotonic() - began < 1
        collector.close()


def test_what_a_server_answered_goes_to_the_topic_and_into_the_lake(cluster, topic, tmp_path):
    lake = Lake(tmp_path)
    with KafkaLog(topic) as log:
        fill(log, range(3))
        impressions = Impressions(lake, print, KafkaLog(topic))
        for number in range(5):
            impressions.add(Logged(f"r{number}", 1_700_000_000_000_000, "impression", "u", None, None, {}))
        impressions.close()
        assert Drain(lake, log, 100).run().kinds == {"click": 3, "impression": 5} and not (lake.log_folder).exists()


def test_following_waits_for_brokers_that_are_away(cluster, topic, tmp_path, started):
    process = ingest(tmp_path, topic, "--follow", "--json", "--set", 'kafka.options={"reconnect.backoff.max.ms"=200}')
    started.append(process)
    assert "follows" in process.stderr.readline()
    with KafkaLog(topic, {"reconnect.backoff.max.ms": 200}) as log:
        for round_ in range(3):
            fill(log, range(10 * round_, 10 * round_ + 10))
            wait_for(lambda: Lake(tmp_path).exists("events") and len(ids(tmp_path)) == 10 * round_ + 10)  # noqa: B023
            cluster.all("down")
            time.sleep(1)
            cluster.all("up")
        fill(log, range(30, 40))
        wait_for(lambda: len(ids(tmp_path)) == 40)
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and json.loads(out.splitlines()[-1])["accepted"] == 40, errors
    assert ids(tmp_path) == list(range(40))


def test_following_that_waits_for_a_broker_can_be_stopped_at_once(cluster, topic, tmp_path, started):
    with KafkaLog(topic) as log:
        fill(log, range(5))
    process = ingest(tmp_path, topic, "--follow", "--json")
    started.append(process)
    assert "follows" in process.stderr.readline()
    wait_for(lambda: Lake(tmp_path).exists("events") and len(ids(tmp_path)) == 5)
    cluster.all("down")
    time.sleep(2)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and time.monotonic() - began < 10 and "continue with" in errors
