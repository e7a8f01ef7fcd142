"""The log on Kafka against brokers that answer with errors, late, half or not at all.

What was acknowledged is readable at its offset; what was not raised an error and can be sent again; nothing is passed over.
"""

import threading
import time

import pytest

from gyral.log import kafka
from gyral.log.kafka import KafkaLog
from gyral.log.writer import Gone, LogError

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]
PRODUCE, FETCH, LIST_OFFSETS, METADATA = range(4)
PART = "kafka-events-0"
OFTEN = 500
LONGEST_S = 2.0


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(kafka, "TIMEOUT_S", LONGEST_S)


@pytest.fixture
def topic(cluster):
    return cluster.topic("events", 2)


@pytest.fixture
def log(topic):
    with KafkaLog(topic) as made:
        yield made


def append(log, name, size=50):
    """In a bounded time, whatever happens: an append that nobody answers is the worst of all."""
    return log.submit(PART, name, name.encode().ljust(size), 1).result(5 * LONGEST_S)


def names(log, start=0):
    entries = list(log.read(PART, start))
    assert [entry.offset for entry in entries] == list(range(start, start + len(entries)))
    assert all(entry.payload.strip().decode() == entry.batch_id for entry in entries)
    return [entry.batch_id for entry in entries]


def in_the_end(ask):
    """What is answered once brokers answer again: connections come back, and answers that were late are still on their way."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return ask()
        except LogError as error:
            assert not isinstance(error, Gone) and time.monotonic() < deadline


PASSING = [
    "NOT_LEADER_FOR_PARTITION",
    "LEADER_NOT_AVAILABLE",
    "REQUEST_TIMED_OUT",
    "NOT_ENOUGH_REPLICAS",
    "NOT_ENOUGH_REPLICAS_AFTER_APPEND",
    "UNKNOWN_TOPIC_OR_PART",
    "KAFKA_STORAGE_ERROR",
    "UNKNOWN_PRODUCER_ID",
    "_TRANSPORT",
]


@pytest.mark.parametrize("name", PASSING)
def test_an_error_that_passes_is_not_seen(cluster, log, name):
    assert append(log, "a") == 0
    cluster.fail(PRODUCE, name, 2)
    again = [append(log, "b"), append(log, "c")]
    stored = names(log)
    assert [stored[offset] for offset in again] == ["b", "c"]
    assert stored == ["a", "b", "c"] or name == "_TRANSPORT"  # stored before the connection went, and sequences not looked at


@pytest.mark.parametrize("name", ["NOT_LEADER_FOR_PARTITION", "NOT_ENOUGH_REPLICAS", "NOT_ENOUGH_REPLICAS_AFTER_APPEND"])
def test_an_error_that_stays_is_told_in_time_and_the_batch_can_be_sent_again(cluster, log, name):
    append(log, "a")
    cluster.fail(PRODUCE, name, OFTEN)
    with pytest.raises(LogError, match="not acknowledged") as told:
        append(log, "b")
    assert told.value.hint
    cluster.heal(PRODUCE)
    assert (append(log, "b"), names(log)) == (1, ["a", "b"])


LASTING = {
    "OUT_OF_ORDER_SEQUENCE_NUMBER": "send the rest again",
    "DUPLICATE_SEQUENCE_NUMBER": "send the rest again",
    "INVALID_PRODUCER_EPOCH": "send the rest again",
    "PRODUCER_FENCED": "send the rest again",
    "MSG_SIZE_TOO_LARGE": "`ingest.batch_rows`",
    "RECORD_LIST_TOO_LARGE": "`ingest.batch_rows`",
    "INVALID_MSG": "send the rest again",
    "TOPIC_AUTHORIZATION_FAILED": "the right to read",
    "CLUSTER_AUTHORIZATION_FAILED": "the right to read",
    "UNKNOWN": "send the rest again",
}


@pytest.mark.parametrize("name", LASTING)
def test_an_error_that_a_producer_may_not_survive_is_told_and_the_next_append_works(cluster, log, name):
    append(log, "a")
    cluster.fail(PRODUCE, name)
    try:
        first = append(log, "b")
    except LogError as error:
        assert "not acknowledged" in error.what and LASTING[name] in error.hint
        assert error.where == f"kafka://{cluster.address}/events"
        assert append(log, "b") == 1
    else:
        assert name == "INVALID_MSG" and first == 1  # librdkafka sends it again by itself
    assert append(log, "c") == 2 and names(log) == ["a", "b", "c"]


def test_a_producer_that_ends_answers_everybody_who_waits_for_it(cluster, log):
    """One of many threads has the fatal error; the others' batches are on their way."""
    append(log, "a")
    cluster.do("broker_set_rtt", cluster.leader("events"), 300)
    cluster.fail(PRODUCE, "OUT_OF_ORDER_SEQUENCE_NUMBER", 3)
    ended = []

    def work(number):
        while True:
            try:
                ended.append((append(log, f"{number}"), f"{number}"))
                return
            except LogError:
                continue

    threads = [threading.Thread(target=work, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(ended) == 20
    stored = names(log)
    assert all(stored[offset] == name for offset, name in ended)


def test_one_batch_that_is_too_large_harms_no_other(cluster, log, monkeypatch):
    """It is refused here already, while others are on their way."""
    append(log, "a")
    cluster.do("broker_set_rtt", cluster.leader("events"), 300)
    before = log.submit(PART, "b", b"b", 1)
    with pytest.raises(LogError, match="could not be sent") as told:
        append(log, "large", kafka.MAX_MESSAGE_BYTES + 1)
    assert "ingest.batch_rows" in told.value.hint
    after = log.submit(PART, "c", b"c", 1)
    assert (before.result(10), after.result(10)) == (1, 2) and names(log) == ["a", "b", "c"]


TOLD_AT_ONCE = ("TOPIC_AUTHORIZATION_FAILED", "OFFSET_OUT_OF_RANGE", "UNKNOWN")


@pytest.mark.parametrize("request_kind", [FETCH, LIST_OFFSETS, METADATA], ids=["fetch", "list offsets", "metadata"])
@pytest.mark.parametrize(
    "name",
    [
        "OFFSET_OUT_OF_RANGE",
        "NOT_LEADER_FOR_PARTITION",
        "LEADER_NOT_AVAILABLE",
        "UNKNOWN_TOPIC_OR_PART",
        "TOPIC_AUTHORIZATION_FAILED",
        "FENCED_LEADER_EPOCH",
        "KAFKA_STORAGE_ERROR",
        "OFFSET_NOT_AVAILABLE",
        "_TRANSPORT",
        "UNKNOWN",
    ],
)
def test_a_read_is_complete_or_an_error(cluster, topic, name, request_kind):
    """Once, then for as long as it takes; an error of one of two answers made a full partition look empty."""
    with KafkaLog(topic) as log:
        for number in range(20):
            append(log, f"{number}")
        every = [f"{number}" for number in range(20)]
        for times in (1, 2, 3, OFTEN):
            cluster.fail(request_kind, name, times)
            try:
                assert (log.start(PART), log.end(PART)) == (0, 20)
                assert (names(log), names(log, 7)) == (every, every[7:])
                with KafkaLog(topic) as other:
                    assert other.partitions() == log.partitions()
            except Gone:
                raise
            except LogError as error:
                assert error.hint and (times > 1 or name in TOLD_AT_ONCE)
            cluster.heal(request_kind)
        assert in_the_end(lambda: names(log)) == every


def test_a_broker_that_falls_silent_in_the_midst_does_not_keep_what_it_gave(cluster, log, monkeypatch):
    for number in range(6):
        append(log, f"{number}")
    real = log._consumer(0)

    class Silent:
        def __init__(self):
            self.left = 2

        def __getattr__(self, name):
            return getattr(real, name)

        def poll(self, timeout):
            self.left -= 1
            if self.left >= 0:
                return real.poll(timeout)
            time.sleep(timeout)
            return None

    monkeypatch.setattr(kafka, "MORE_S", 0.1)
    with monkeypatch.context() as patched:
        silent = Silent()
        patched.setattr(log, "_consumer", lambda number: silent)
        began = time.monotonic()
        assert names(log) == ["0", "1"] and time.monotonic() - began < LONGEST_S
        with pytest.raises(LogError, match="no answer in time"):
            names(log, 2)
    assert names(log, 2) == ["2", "3", "4", "5"]


def test_what_retention_took_is_told_and_what_is_left_is_read(cluster, log):
    for number in range(20):
        append(log, f"{number}")
    cluster.delete_before("events", 8)
    with pytest.raises(Gone, match=r"batches 3 to 7 of the log partition `kafka-events-0` are gone"):
        list(log.read(PART, 3))
    assert (log.start(PART), log.end(PART)) == (8, 20)
    assert names(log, 8) == [f"{number}" for number in range(8, 20)]
    reading = log.read(PART, 8, max_bytes=1)
    assert next(reading).offset == 8
    cluster.delete_before("events", 20)
    with pytest.raises(Gone, match="batches 9 to 19"):
        list(log.read(PART, 9))
    assert (log.start(PART), list(log.read(PART, 20))) == (20, [])


def test_retention_between_the_look_and_the_fetch(cluster, log, monkeypatch):
    for number in range(20):
        append(log, f"{number}")
    monkeypatch.setattr(log, "start", lambda _: 0)
    cluster.delete_before("events", 8)
    with pytest.raises(LogError, match="cannot be read"):
        list(log.read(PART, 3))


def test_a_slow_broker(cluster, log):
    append(log, "a")
    leader = cluster.leader("events")
    cluster.do("broker_set_rtt", leader, 200)
    assert (append(log, "b"), log.end(PART)) == (1, 2)
    cluster.do("broker_set_rtt", leader, 8_000)
    began = time.monotonic()
    with pytest.raises(LogError, match="not acknowledged"):
        append(log, "c")
    with pytest.raises(LogError, match="does not answer"):
        names(log)
    assert time.monotonic() - began < 4 * LONGEST_S
    cluster.do("broker_set_rtt", leader, 0)
    offset = in_the_end(lambda: append(log, "c"))
    stored = in_the_end(lambda: names(log))
    assert stored[offset] == "c" and set(stored) == {"a", "b", "c"} and "c" in stored[2:]


def test_leaders_change_while_batches_are_on_their_way(cluster, log):
    sent = []
    for number in range(300):
        sent.append(log.submit(PART, f"{number}", b"%d" % number, 1))
        if number % 60 == 0:
            cluster.do("partition_set_leader", "events", 0, number // 60 % 3 + 1)
            time.sleep(0.02)
    stored = [None] * 300
    for number, each in enumerate(sent):
        stored[number] = each.result(20)
    assert sorted(stored) == stored and names(log) == [f"{number}" for number in range(300)]
    cluster.do("partition_set_leader", "events", 0, cluster.leader("events") % 3 + 1)
    assert len(names(log)) == 300 and log.end(PART) == 300


def test_brokers_go_and_come_back(cluster, log):
    append(log, "a")
    cluster.all("down")
    with pytest.raises(LogError, match="not acknowledged"):
        append(log, "b")
    with pytest.raises(LogError, match="does not answer"):
        names(log)
    waiting = log.submit(PART, "c", b"c", 1)
    cluster.all("up")
    assert waiting.result(10) == 1 and append(log, "b") == 2 and names(log) == ["a", "c", "b"]
    cluster.all("down")
    waiting = log.submit(PART, "d", b"d", 1)
    began = time.monotonic()
    log.close()
    assert time.monotonic() - began < 3 * LONGEST_S and isinstance(waiting.exception(0), LogError)


def test_a_topic_that_cannot_be_used_is_not_taken_for_one_that_is_not_there(cluster, topic):
    from confluent_kafka import KafkaError

    cluster.do("topic_set_error", "events", KafkaError.TOPIC_AUTHORIZATION_FAILED)
    with pytest.raises(LogError, match="cannot be used") as told:
        KafkaLog(topic)
    assert "the right to read" in told.value.hint


def test_a_wait_that_a_clock_cut_short_is_not_taken_for_a_broker_that_is_away(topic, monkeypatch):
    import confluent_kafka
    from confluent_kafka import admin

    real, asked = admin.AdminClient.list_topics, []

    def hasty(client, *args, **options):
        asked.append(options["timeout"])
        if len(asked) < 3:
            raise confluent_kafka.KafkaException(confluent_kafka.KafkaError(confluent_kafka.KafkaError._TIMED_OUT))
        return real(client, *args, **options)

    monkeypatch.setattr(kafka, "RETRY_S", 0.05)
    monkeypatch.setattr(admin.AdminClient, "list_topics", hasty)
    with KafkaLog(topic) as log:
        assert len(log.partitions()) == 2 and len(asked) == 3


def test_a_topic_gets_more_partitions(cluster, log, monkeypatch):
    assert len(log.partitions()) == 2
    cluster.do("topic_delete", "events")
    cluster.topic("events", 4)
    assert len(log.partitions()) == 2
    monkeypatch.setattr(kafka, "PARTITIONS_EVERY_S", 0.0)
    assert log.partitions() == [f"kafka-events-{number}" for number in range(4)]
    assert log.append("kafka-events-3", "a", b"a", 1) == 0 and log.end("kafka-events-3") == 1


def test_messages_of_others_that_look_a_little_like_ours(cluster, log):
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": cluster.address})
    for headers in ([("rows", b"many")], [("rows", None)], [("rows", b"")], [("rows", b"7"), ("x", b"\xff")], None):
        producer.produce("events", b"{}", b"\xff", partition=0, headers=headers)
    producer.flush(10)
    assert [entry.num_rows for entry in log.read(PART, 0)] == [1, 1, 1, 7, 1]


def test_answers_that_are_cut_anywhere(lone_broker, proxy):
    """What the client does not know arrived is sent again with its first sequence number, by which a broker knows it."""
    lone_broker.topic("events", 1)
    host, port = lone_broker.address.split(":")
    proxy.target = (host, int(port))
    lone_broker.do("broker_set_host_port", 1, "127.0.0.1", proxy.port)
    kept, again = {}, set()
    with KafkaLog(f"kafka://{proxy.address}/events", {"reconnect.backoff.ms": 10, "reconnect.backoff.max.ms": 50}) as log:
        append(log, "key-0")
        proxy.cut_within = 1_500
        for number in range(1, 200):
            for _ in range(20):
                try:
                    kept[append(log, f"key-{number}")] = f"key-{number}"
                    break
                except LogError:
                    again.add(f"key-{number}")
        proxy.cut_within = 0
        stored = names(log)
        assert len(kept) == 199 and all(stored[offset] == name for offset, name in kept.items())
        assert set(stored) == {f"key-{number}" for number in range(200)} and proxy.num_cut > 10
        assert len(stored) > 200 and all(len(sent) == 1 for name, sent in proxy.sent.items() if name not in again)
        assert len(proxy.sent) == 200 and sum(map(len, proxy.sent.values())) == len(set.union(*proxy.sent.values()))
        proxy.cut_within = 100_000
        reads = 0
        for start in range(40):
            try:
                told = names(log, start)
                while told and len(told) < len(stored) - start:  # a broker that is silent in between ends a reading
                    told += names(log, start + len(told))
                assert told == stored[start:]
                reads += 1
            except LogError as error:
                assert not isinstance(error, Gone)
        assert reads > 10
