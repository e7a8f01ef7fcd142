"""A cluster inside librdkafka that fails as it is told, and a proxy that cuts connections."""

import contextlib
import ctypes
import random
import re
import socket
import struct
import threading
from pathlib import Path

import pytest

PRODUCE, FETCH, LIST_OFFSETS, METADATA = range(4)
BATCH = re.compile(rb"\0{8}.{4}.{4}\x02.{4}.{2}.{4}.{16}(.{8}.{2}.{4}).{4}", re.DOTALL)
"""A record batch: offset, length, leader epoch, magic, CRC, attributes, delta, times, (producer, epoch, sequence), count."""


class MockCluster:
    """librdkafka's mock brokers, which the Python API does not show: reached in its own shared object.

    They keep about 500 batches a partition, and look at sequence numbers of transactional producers only.
    """

    def __init__(self, brokers=3):
        import confluent_kafka

        self._library = self._load(Path(confluent_kafka.__file__).parents[1])
        self._errors = confluent_kafka.KafkaError
        conf = ctypes.c_void_p(self._library.rd_kafka_conf_new())
        self._library.rd_kafka_conf_set(conf, b"log_level", b"0", None, ctypes.c_size_t(0))
        self._handle = ctypes.c_void_p(self._library.rd_kafka_new(0, conf, None, ctypes.c_size_t(0)))
        self._cluster = ctypes.c_void_p(self._library.rd_kafka_mock_cluster_new(self._handle, brokers))
        self.brokers = range(1, brokers + 1)
        self.address = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()

    @staticmethod
    def _load(site_packages):
        bundled = next((site_packages / "confluent_kafka.libs").glob("librdkafka*.so*"), None)
        if bundled is None:
            pytest.skip("this wheel of confluent-kafka brings no librdkafka of its own")
        library = ctypes.CDLL(str(bundled))
        for name in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_mock_cluster_new"):
            getattr(library, name).restype = ctypes.c_void_p
        library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
        return library

    def do(self, name, *arguments):
        """Call `rd_kafka_mock_NAME` of this cluster."""
        plain = [each.encode() if isinstance(each, str) else each for each in arguments]
        return getattr(self._library, f"rd_kafka_mock_{name}")(self._cluster, *plain)

    def topic(self, name, partitions=1):
        assert self.do("topic_create", name, partitions, len(self.brokers)) == 0
        return f"kafka://{self.address}/{name}"

    def fail(self, request, name, times=1):
        """Answer the next requests of a kind with an error; `_TRANSPORT` closes the connection instead."""
        codes = (ctypes.c_int * times)(*[getattr(self._errors, name)] * times)
        self.do("push_request_errors_array", ctypes.c_int16(request), ctypes.c_size_t(times), codes)

    def heal(self, request):
        self.do("clear_request_errors", ctypes.c_int16(request))

    def delete_before(self, topic, offset):
        assert self.do("partition_delete_records", topic, 0, ctypes.c_int64(offset)) == 0

    def leader(self, topic):
        from confluent_kafka.admin import AdminClient

        return AdminClient({"bootstrap.servers": self.address}).list_topics().topics[topic].partitions[0].leader

    def all(self, what):
        for broker in self.brokers:
            assert self.do(f"broker_set_{what}", broker) == 0

    def close(self):
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        self._library.rd_kafka_destroy(self._handle)


class Proxy:
    """Between a client and a broker that advertises this address.

    Attributes
    ----------
    cut_within : if not 0, a connection passes on answers up to a random one of so many bytes, and then it is gone.
    sent : key of a message → the (producer, epoch, sequence) it was sent with.
    """

    def __init__(self, seed=0):
        self.cut_within = self.num_cut = 0
        self.sent = {}
        self.target = None
        self._chance = random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self._open = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                broker = socket.create_connection(self.target)
                self._open += [client, broker]
                for source, to, see in ((client, broker, self._see), (broker, client, None)):
                    threading.Thread(target=self._pump, args=(source, to, see), daemon=True).start()

    def _pump(self, source, to, see):
        waiting, share, passed = b"", self._chance.random(), 0
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if see is not None:
                    waiting = see(waiting + data)
                    to.sendall(data)
                    continue
                end = int(share * self.cut_within)
                if end and passed + len(data) > end:
                    self.num_cut += 1
                    to.sendall(data[: max(0, end - passed)])
                    break
                passed += len(data)
                to.sendall(data)
        for each in (source, to):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _see(self, data):
        """Note what whole produce requests there are; returns the rest."""
        while len(data) >= 4 and len(data) >= 4 + (size := struct.unpack(">i", data[:4])[0]):
            request, data = data[4 : 4 + size], data[4 + size :]
            if request[:2] == b"\0\0":
                for found in BATCH.finditer(request):
                    for key in re.findall(rb"key-\d+", request[found.end() :]):
                        self.sent.setdefault(key.decode(), set()).add(found[1])
        return data

    def close(self):
        self._listener.close()
        for each in self._open:
            each.close()


@pytest.fixture
def cluster():
    made = MockCluster()
    yield made
    made.close()


@pytest.fixture
def lone_broker():
    """A cluster of one, so that every request goes to it."""
    made = MockCluster(1)
    yield made
    made.close()


@pytest.fixture
def proxy():
    made = Proxy()
    yield made
    made.close()
