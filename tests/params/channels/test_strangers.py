"""What a client sends that no client of ours would: it loses its link, and nobody else notices."""

import os
import random
import socket
import threading
import time

import numpy as np
import pytest

from gyral.engine.links import Link, LinkLost
from gyral.engine.listening import connect
from gyral.errors import ConfigError
from gyral.params import wire
from gyral.params.channels.proc import UnixDoor
from gyral.params.channels.shared import mapped, new_memory
from gyral.params.channels.sockets import Loop
from gyral.params.channels.tcp import TcpDoor
from gyral.params.serve import Job, door
from gyral.params.shard import Settings, Shard
from gyral.params.spec import TableSpec
from gyral.params.table import Table

SPEC, SECRET = TableSpec("items", 4), b"a long random word"


@pytest.fixture(params=["tcp", "unix"])
def reach(request, tmp_path):
    """A shard in a thread; what connects to it and says hello."""
    shard = Shard([SPEC], 0, 1, Settings(), Table, None, time.monotonic(), time.time)
    loop = Loop(shard)
    is_tcp = request.param == "tcp"
    entry = TcpDoor("127.0.0.1", 0, SECRET, loop, [SPEC]) if is_tcp else UnixDoor(tmp_path / "s", loop, [SPEC])
    thread = threading.Thread(target=loop.run)
    thread.start()

    def reached(worker):
        if request.param == "tcp":
            link = connect(("127.0.0.1", int(entry.address.rpartition(":")[2])), SECRET, peer="shard")
        else:
            connection, number = socket.socket(socket.AF_UNIX), new_memory()
            connection.connect(entry.address)
            socket.send_fds(connection, [b"m"], [number])
            mapped(number).close()
            link = Link(connection, "shard")
        hello = wire.encode(wire.Hello(0, worker, 1, "async", wire.digest([SPEC])))
        link.send(b"\0" * 8 * (request.param == "unix") + hello, timeout_s=5)
        assert isinstance(wire.decode_from_shard(link.receive(timeout_s=5)[8 * (request.param == "unix") :]), wire.Welcome)
        return link, b"\0" * 8 * (request.param == "unix")

    yield reached
    loop.stop()
    thread.join(10)
    assert not thread.is_alive()
    entry.close()
    loop.close()


def test_garbage_ends_its_own_link_alone(reach):
    dice = random.Random(1)
    good, start = reach(0)
    frames = [
        (start + wire.encode(wire.Pull(1, 0, 0, 0, 1 << 62)), b""),
        (start + wire.encode(wire.Pull(1, 0, 0, 0, -3)), b""),
        (start + wire.encode(wire.Pull(1, 9, 0, 0, 1)), b"\0" * 8),
        (start + wire.encode(wire.Push(1, 0, 0, 1, 0, 0, 2)), b"\0" * 17),
        (start + wire.encode(wire.Push(1, 0, 0, 1, 0, 0, 1 << 40)), b"\0" * 100),
        (start + wire.encode(wire.Push(1, 0, 0, -1, 0, 0, 1)), b"\0" * 24),
        (start + wire.encode(wire.Push(1, 0, 1 << 63, 1, 0, 0, 1)), b"\0" * 24),
        (start + wire.encode(wire.Push(1, 0, 0, 1, -7, 0, 1)), b"\0" * 24),
        (start + wire.encode(wire.Tick(1, -1)), b""),
        (b"\xff" * 8 + wire.encode(wire.Pull(1, 0, 0, 0, 4)), b""),
        (b"", b""),
        (b"x", b"y" * 1000),
        *((dice.randbytes(dice.randrange(60)), dice.randbytes(dice.randrange(60))) for _ in range(60)),
    ]
    number = 1
    for at, (head, body) in enumerate(frames):
        bad, _ = reach(1 + at)
        bad.send(head, body, timeout_s=5)
        with pytest.raises(LinkLost):
            while True:
                bad.receive(lambda head, size: [bytearray(size)], timeout_s=5)
        bad.close()
        good.send(start + wire.encode(wire.Beat(number)), timeout_s=5)
        assert isinstance(wire.decode_from_shard(good.receive(timeout_s=5)[len(start) :]), wire.Done)
        number += 1
    good.close()


def test_memory_that_could_be_shrunk_is_not_taken(tmp_path):
    number = os.memfd_create("x")
    os.ftruncate(number, 4096)
    with pytest.raises(ValueError, match="sealed"):
        mapped(number)


def test_a_shard_behind_tcp_needs_a_secret(tmp_path):
    (tmp_path / "secret").write_bytes(b"short")
    loop = Loop(Shard([SPEC], 0, 1, Settings(), Table, None, 0.0, time.time))
    for secret in ("", str(tmp_path / "secret")):
        with pytest.raises(ConfigError, match="secret"):
            door(Job(0, 1, [SPEC], "127.0.0.1:0", secret=secret), loop)
    loop.close()


def test_rows_are_what_both_sides_mean(reach):
    link, start = reach(0)
    if start:  # arrays of this one lie in memory
        link.close()
        return
    keys = np.arange(10)
    link.send(wire.encode(wire.Pull(1, 0, 0, 0, 10)), keys, timeout_s=5)
    into = [np.zeros((10, 4), np.float32), np.ones(10, bool)]
    head = wire.decode_from_shard(link.receive(lambda head, size: into, timeout_s=5))
    assert isinstance(head, wire.Rows) and head.to == 1
    assert np.array_equal(into[0], Table(SPEC).pull(keys)[0]) and not into[1].any()
    link.close()
