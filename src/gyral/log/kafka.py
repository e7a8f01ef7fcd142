"""The log on Kafka, behind the same four methods: acks from all replicas, idempotent sends, offsets owned by who reads.

What is different from the embedded log: a partition has many writers; a batch that is sent again by another process is stored
again (who drains knows its events by their ids); and the broker forgets by its own retention, so `trim` does nothing. No
consumer group and no transaction is used: offsets are in the lake's own commits, and nothing rests on what brokers make of
`read_committed`. An acknowledgement is worth what the broker's is: with Kafka, `acks=all` means in the memory of all in-sync
replicas; Redpanda flushes first.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from typing import Any
from urllib.parse import urlsplit

from gyral.errors import MissingExtra, UsageError
from gyral.log.base import Entry, EventLog
from gyral.log.writer import LogError

TIMEOUT_S = 30.0
MAX_MESSAGE_BYTES = 64 << 20
HINT = "is the broker there, and the address right? What was acknowledged is kept"
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

    def __init__(self, uri: str, options: Mapping[str, str | int] | None = None) -> None:
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
        self._polling: threading.Thread | None = None
        self._closing = threading.Event()
        self._numbers = self._ask_for_partitions()

    def submit(self, partition: str, batch_id: str, payload: bytes, num_rows: int) -> Future[int]:
        """Begin an append that does not wait. What was not acknowledged in time may be there all the same: send it again."""
        done: Future[int] = Future()

        def on_delivery(error: Any, message: Any) -> None:
            if error is not None:
                self._is_broken |= error.fatal() or error.code() == self._kafka.KafkaError.PRODUCER_FENCED
                done.set_exception(self._error("a batch was not acknowledged", error))
            else:
                done.set_result(int(message.offset()))

        try:
            self._sending().produce(
                self.topic,
                payload,
                batch_id,
                partition=self._number(partition),
                headers=[("rows", str(num_rows).encode())],
                on_delivery=on_delivery,
            )
        except (self._kafka.KafkaException, BufferError) as error:
            self._is_broken |= isinstance(error, self._kafka.KafkaException)
            done.set_exception(self._error("a batch could not be sent", error))
        return done

    def read(self, partition: str, from_offset: int, max_bytes: int = 64 << 20) -> Iterator[Entry]:
        """Yield batches in order from an offset, up to the partition's end.

        Raises
        ------
        LogError : batches from there on are gone, or the broker does not answer.
        """
        number = self._number(partition)
        low, high = self._watermarks(number)
        if from_offset < low:
            raise LogError(
                f"batches {from_offset:,} to {low - 1:,} of the log partition `{partition}` are gone",
                where=self._where,
                why="the broker's retention took them before the lake had them",
                hint="send them again from where they came; a longer retention keeps this from happening",
            )
        if from_offset >= high:
            return
        consumer = self._consumer(number)
        consumer.assign([self._kafka.TopicPartition(self.topic, number, from_offset)])
        size = 0
        while size < max_bytes:
            message = consumer.poll(TIMEOUT_S)
            if message is None:
                raise self._error("a partition cannot be read", "no answer in time")
            if message.error() is not None:
                if message.error().code() == self._kafka.KafkaError._PARTITION_EOF:
                    return
                raise self._error("a partition cannot be read", message.error())
            payload = message.value() or b""
            rows = dict(message.headers() or []).get("rows", b"1")
            name = f"{partition}:{message.offset()}"
            key = message.key()
            yield Entry(message.offset(), key.decode("utf-8", "replace") if key else name, payload, int(rows))
            size += len(payload)
            if message.offset() + 1 >= high:
                return

    def end(self, partition: str) -> int:
        """Offset that the next batch will get."""
        return self._watermarks(self._number(partition))[1]

    def start(self, partition: str) -> int:
        """Offset of the first batch that is still there."""
        return self._watermarks(self._number(partition))[0]

    def trim(self, partition: str, below: int, seal: bool = False) -> int:
        """Nothing goes: the broker forgets by its own retention."""
        return 0

    def size_bytes(self, partition: str) -> int:
        """Not known of a broker: 0."""
        return 0

    def partitions(self) -> list[str]:
        """Names of the topic's partitions."""
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

        try:
            topics = AdminClient(self._options).list_topics(timeout=TIMEOUT_S).topics  # naming it would make it
        except self._kafka.KafkaException as error:
            raise self._error("the broker does not answer", error) from None
        topic = topics.get(self.topic)
        if topic is None or topic.error is not None or not topic.partitions:
            raise LogError(f"there is no topic `{self.topic}`", where=self._where, hint="make it with the broker's own tools")
        return sorted(topic.partitions)

    def _name(self, number: int) -> str:
        return f"kafka-{self.topic}-{number}"

    def _number(self, partition: str) -> int:
        number = partition.rpartition("-")[2]
        if not number.isdecimal() or partition != self._name(int(number)):
            raise ValueError(f"not a partition of this topic: {partition!r}")
        return int(number)

    def _sending(self) -> Any:
        with self._lock:
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
                self._polling = threading.Thread(target=self._poll, name="kafka-delivery", daemon=True)
                self._polling.start()
            return self._producer

    def _stop_producer(self) -> None:
        if self._producer is not None:
            self._producer.flush(0 if self._is_broken else TIMEOUT_S)
            self._closing.set()
            if self._polling is not None:
                self._polling.join()
        self._producer, self._is_broken = None, False

    def _poll(self) -> None:
        producer = self._producer
        while not self._closing.is_set():
            producer.poll(0.1)

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

    def _watermarks(self, number: int) -> tuple[int, int]:
        try:
            place = self._kafka.TopicPartition(self.topic, number)
            low, high = self._consumer(number).get_watermark_offsets(place, timeout=TIMEOUT_S, cached=False)
        except self._kafka.KafkaException as error:
            raise self._error("the broker does not answer", error) from None
        return int(low), int(high)

    def _error(self, what: str, why: Any) -> LogError:
        return LogError(what, why=str(why), where=self._where, hint=HINT)
