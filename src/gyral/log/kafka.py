"""The log on Kafka, behind the same four methods: acks from all replicas, idempotent sends, offsets owned by who reads.

What is different from the embedded log: a partition has many writers; a batch that is sent again by another process is stored
again (who drains knows its events by their ids); and the broker forgets by its own retention, so `trim` does nothing. No
consumer group and no transaction is used: offsets are in the lake's own commits, and nothing rests on what brokers make of
`read_committed`. An acknowledgement is worth what the broker's is: with Kafka, `acks=all` means in the memory of all in-sync
replicas; Redpanda flushes first.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from typing import Any
from urllib.parse import urlsplit

from gyral.errors import MissingExtra, UsageError
from gyral.log.base import Entry, EventLog
from gyral.log.writer import Gone, LogError

TIMEOUT_S = 30.0
MORE_S = 1.0
"""For the next batch of a reading that has brought some."""
PURGE_TIMEOUT_S = 5.0
RETRY_S = 0.2
PARTITIONS_EVERY_S = 30.0
MAX_MESSAGE_BYTES = 64 << 20
LARGEST_BYTES = 1_000_000
"""What a topic takes at most unless its `max.message.bytes` says more."""
HINT = "is the broker there, and the address right? What was acknowledged is kept; send the rest again"
TOO_LARGE = "a smaller `ingest.batch_rows`, or a larger `max.message.bytes` of the topic"
NOT_ALLOWED = "give this user the right to read, write and describe the topic; who it is: `kafka.options`, `sasl.username`"
HINTS = {
    "MSG_SIZE_TOO_LARGE": TOO_LARGE,
    "_MSG_SIZE_TOO_LARGE": TOO_LARGE,
    "RECORD_LIST_TOO_LARGE": TOO_LARGE,
    "TOPIC_AUTHORIZATION_FAILED": NOT_ALLOWED,
    "CLUSTER_AUTHORIZATION_FAILED": NOT_ALLOWED,
    "NOT_ENOUGH_REPLICAS": "start the brokers that are down, then send it again",
}
SCHEME = "kafka://"


class KafkaLog(EventLog):
    """The partitions of one topic. Opening it asks the broker for them; the topic must exist.

    Parameters
    ----------
    uri : `kafka://HOST:PORT[,HOST:PORT…]/TOPIC`.

    Raises
    ------
    UsageError : the URI is malformed.  LogError : the broker does not answer, or has no such topic.
    """

    others_write = True

    def __init__(self, uri: str, options: Mapping[str, str | int] | None = None, largest_bytes: int = LARGEST_BYTES) -> None:
        self.largest_bytes = largest_bytes
        parts = urlsplit(uri)
        self.topic = parts.path.strip("/")
        if not uri.startswith(SCHEME) or not parts.netloc or not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", self.topic):
            raise UsageError(f"`{uri}` is not a topic", hint="write `kafka://HOST:PORT/TOPIC`")
        try:
            import confluent_kafka
        except ImportError:
            raise MissingExtra("confluent_kafka", "kafka", "a log on Kafka") from None
        self._kafka = confluent_kafka
        self._where = uri
        self._options: dict[str, str | int | float | bool] = {"client.id": "gyral", "log_level": 0}
        self._options |= {"bootstrap.servers": parts.netloc, **(options or {})}
        self._lock = threading.Lock()
        self._consumers: dict[int, Any] = {}
        self._producer: Any = None
        self._is_broken = False
        """Whether the broker will take nothing more of this producer; the next append makes another."""
        self._flying: set[Future[int]] = set()
        self._polling: threading.Thread | None = None
        self._closing = threading.Event()
        self._asked_at = 0.0
        self._numbers = self._ask_for_partitions()

    def submit(self, partition: str, batch_id: str, payload: bytes, num_rows: int) -> Future[int]:
        """Begin an append that does not wait. What was not acknowledged in time may be there all the same: send it again."""
        done: Future[int] = Future()

        number = self._number(partition)

        def on_delivery(error: Any, message: Any) -> None:
            self._flying.discard(done)
            if error is not None:
                self._is_broken |= self._breaks(error)
                done.set_exception(self._error("a batch was not acknowledged", error))
            elif message.offset() is None:  # a retry of something older than what the broker remembers of this producer
                done.set_exception(self._error("a batch was not acknowledged", "the broker has it, but does not say where"))
            else:
                done.set_result(int(message.offset()))

        with self._lock:  # or another thread could stop the producer between the two steps
            try:
                headers = [("rows", str(num_rows).encode())]
                producer = self._sending()
                self._flying.add(done)
                producer.produce(self.topic, payload, batch_id, partition=number, headers=headers, on_delivery=on_delivery)
            except (self._kafka.KafkaException, BufferError) as error:
                self._flying.discard(done)
                self._is_broken |= self._breaks(error)
                done.set_exception(self._error("a batch could not be sent", error))
        return done

    def read(self, partition: str, from_offset: int, max_bytes: int = 64 << 20) -> Iterator[Entry]:
        """Yield batches in order from an offset, up to the partition's end; fewer where the broker falls silent in between.

        Raises
        ------
        LogError : batches from there on are gone, or the broker does not answer.
        """
        number = self._number(partition)
        low, high = self.start(partition), self.end(partition)
        if from_offset < low:
            raise Gone(
                f"batches {from_offset:,} to {low - 1:,} of the log partition `{partition}` are gone",
                where=self._where,
                why="the broker's retention took them before the lake had them",
                hint="send them again from where they came; a longer retention keeps this from happening",
            )
        if from_offset >= high:
            return
        consumer = self._consumer(number)
        consumer.assign([self._kafka.TopicPartition(self.topic, number, from_offset)])
        size, wait_s = 0, TIMEOUT_S
        while size < max_bytes:
            message = consumer.poll(wait_s)
            if message is None:
                if wait_s < TIMEOUT_S:
                    return  # who reads has something to go on with, and asks again for the rest
                raise self._error("a partition cannot be read", "no answer in time")
            if message.error() is not None:
                if message.error().code() == self._kafka.KafkaError._PARTITION_EOF:
                    return
                raise self._error("a partition cannot be read", message.error())
            payload = message.value() or b""
            rows = dict(message.headers() or []).get("rows") or b""
            name = f"{partition}:{message.offset()}"
            key = message.key()
            count = int(rows) if rows.isdigit() else 1  # others may have a header of this name
            yield Entry(message.offset(), key.decode("utf-8", "replace") if key else name, payload, count)
            size, wait_s = size + len(payload), MORE_S
            if message.offset() + 1 >= high:
                return

    def end(self, partition: str) -> int:
        """Offset that the next batch will get."""
        return self._offset(partition, self._kafka.OFFSET_END)

    def start(self, partition: str) -> int:
        """Offset of the first batch that is still there."""
        return self._offset(partition, self._kafka.OFFSET_BEGINNING)

    def trim(self, partition: str, below: int, seal: bool = False) -> int:
        """Nothing goes: the broker forgets by its own retention."""
        return 0

    def size_bytes(self, partition: str) -> int:
        """Not known of a broker: 0."""
        return 0

    def partitions(self) -> list[str]:
        """Names of the topic's partitions; a topic may get more while it is read."""
        if time.monotonic() - self._asked_at > PARTITIONS_EVERY_S:
            self._numbers = self._ask_for_partitions()
        return [self._name(number) for number in self._numbers]

    def free_partition(self, prefix: str) -> str:
        """A partition to write to; many may write to one, so they are taken in turn by process."""
        return self._name(self._numbers[os.getpid() % len(self._numbers)])

    def close(self) -> None:
        """Wait for what was sent and let go of the broker; may be called twice."""
        with self._lock:
            self._stop_producer()
            for consumer in self._consumers.values():
                consumer.close()
            self._consumers.clear()

    def _ask_for_partitions(self) -> list[int]:
        from confluent_kafka.admin import AdminClient

        admin, deadline = AdminClient(self._options), time.monotonic() + TIMEOUT_S
        while True:
            try:
                topics = admin.list_topics(timeout=max(0.1, deadline - time.monotonic())).topics  # naming it would make it
                break
            except self._kafka.KafkaException as error:  # librdkafka waits by the wall clock, which may have jumped
                is_early = error.args[0].code() == self._kafka.KafkaError._TIMED_OUT and time.monotonic() < deadline - RETRY_S
                if not is_early:
                    raise self._error("the broker does not answer", error) from None
                time.sleep(RETRY_S)
        topic = topics.get(self.topic)
        if topic is not None and topic.error is not None and topic.error.name() != "UNKNOWN_TOPIC_OR_PART":
            raise self._error(f"the topic `{self.topic}` cannot be used", topic.error)
        if topic is None or not topic.partitions:
            raise LogError(f"there is no topic `{self.topic}`", where=self._where, hint="make it with the broker's own tools")
        self._asked_at = time.monotonic()
        return sorted(topic.partitions)

    def _name(self, number: int) -> str:
        return f"kafka-{self.topic}-{number}"

    def _number(self, partition: str) -> int:
        number = partition.rpartition("-")[2]
        if not number.isdecimal() or partition != self._name(int(number)):
            raise ValueError(f"not a partition of this topic: {partition!r}")
        return int(number)

    def _sending(self) -> Any:
        if self._is_broken:
            self._stop_producer()
        if self._producer is None:
            self._producer = self._kafka.Producer(
                {
                    "acks": "all",
                    "enable.idempotence": True,
                    "delivery.timeout.ms": int(TIMEOUT_S * 1000),
                    "linger.ms": 1,
                    "message.max.bytes": MAX_MESSAGE_BYTES,
                    **self._options,
                }
            )
            self._closing.clear()
            self._polling = threading.Thread(target=self._poll, args=(self._producer,), name="kafka-delivery", daemon=True)
            self._polling.start()
        return self._producer

    def _stop_producer(self) -> None:
        """Let go of the producer; whoever still waits for it is told, or would wait forever."""
        if self._producer is not None:
            if not self._is_broken:
                with contextlib.suppress(self._kafka.KafkaException):
                    self._producer.flush(TIMEOUT_S)
            self._producer.purge()
            with contextlib.suppress(self._kafka.KafkaException):
                self._producer.flush(PURGE_TIMEOUT_S)
            self._closing.set()
            if self._polling is not None:
                self._polling.join()
            while self._flying:
                self._flying.pop().set_exception(self._error("a batch was not acknowledged", "the producer was stopped"))
        self._producer, self._is_broken = None, False

    def _poll(self, producer: Any) -> None:
        while not self._closing.is_set():
            try:
                producer.poll(0.1)
            except Exception as error:  # confluent-kafka raises fatal errors here, at times as a SystemError
                self._is_broken |= self._breaks(error)

    def _breaks(self, error: Any) -> bool:
        """Whether the producer that had this error sends no more, or not before it asks for the topic again, minutes later."""
        if isinstance(error, self._kafka.KafkaException):
            error = error.args[0]
        codes = self._kafka.KafkaError
        ends = (codes._FATAL, codes.PRODUCER_FENCED, codes.TOPIC_AUTHORIZATION_FAILED, codes._UNKNOWN_TOPIC)
        return isinstance(error, codes) and (error.fatal() or error.code() in ends)

    def _consumer(self, number: int) -> Any:
        with self._lock:
            if number not in self._consumers:
                consumer = self._kafka.Consumer(
                    {
                        "group.id": "gyral",  # librdkafka wants one; nothing is committed to it
                        "enable.auto.commit": False,
                        "enable.partition.eof": True,
                        "auto.offset.reset": "error",
                        "isolation.level": "read_committed",
                        "fetch.message.max.bytes": MAX_MESSAGE_BYTES,
                        "fetch.wait.max.ms": 50,
                        **self._options,
                    }
                )
                self._consumers[number] = consumer
            return self._consumers[number]

    def _offset(self, partition: str, which: int) -> int:
        """Ask where a partition begins or ends, again while brokers change roles.

        Not `get_watermark_offsets`, which asks for both ends at once: where one of the two answers is an error, it gives the
        other one for both, and a partition in the middle of an election looks as if it were empty.
        """
        number = self._number(partition)
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            try:
                place = self._kafka.TopicPartition(self.topic, number, which)
                (told,) = self._consumer(number).offsets_for_times([place], timeout=max(0.1, deadline - time.monotonic()))
                error = told.error
                if error is None and told.offset >= 0:
                    return int(told.offset)
            except self._kafka.KafkaException as raised:
                error = raised.args[0]
            if time.monotonic() >= deadline or (error is not None and HINTS.get(error.name()) == NOT_ALLOWED):
                raise self._error("the broker does not answer", error)
            time.sleep(RETRY_S)

    def _error(self, what: str, why: Any) -> LogError:
        if isinstance(why, self._kafka.KafkaException):
            why = why.args[0]
        hint = HINT
        if isinstance(why, self._kafka.KafkaError):
            hint = HINTS.get(why.name(), HINT)
            why = f"{why.str()} ({why.name()})"
        return LogError(what, why=str(why), where=self._where, hint=hint)
