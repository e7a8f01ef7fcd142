"""Framed links: whole frames, no strangers, no endless wait."""

import socket
import threading
import time

import numpy as np
import pytest

from gyral.engine.links import MAX_HEAD_BYTES, Link, LinkLost, exchange, nothing
from gyral.engine.listening import Listener, connect

SECRET = b"a long random word"


@pytest.fixture
def pair():
    """Both ends of a link over TCP."""
    listener = Listener(SECRET)
    near = connect((listener.host, listener.port), SECRET, b"me", peer="far")
    far = listener.take(5)
    yield near, far
    for each in (near, far, listener):
        each.close()


def test_a_frame_of_several_buffers_arrives_in_the_memory_that_was_named(pair):
    near, far = pair
    parts = [np.arange(100_003, dtype=np.float32), np.arange(7, dtype=np.uint8)]
    into = [np.zeros(100_003, np.float32), np.zeros(7, np.uint8)]
    sender = threading.Thread(target=lambda: near.send(b"head", *parts, timeout_s=5))
    sender.start()
    assert far.receive(lambda head, size: into if head == b"head" and size == 400_019 else [], timeout_s=5) == b"head"
    sender.join()
    assert all((one == other).all() for one, other in zip(parts, into, strict=True))
    assert far.hello == b"me" and far.moved == near.moved


def test_frames_follow_each_other(pair):
    near, far = pair
    for number in range(100):
        near.queue(b"%d" % number)
    near.write()
    assert [far.receive(timeout_s=5) for _ in range(100)] == [b"%d" % number for number in range(100)]


def test_large_frames_cross_without_a_deadlock(pair):
    near, far = pair
    size = 3_000_000  # more than the system's buffers take
    got = {}

    def side(link, value):
        into = np.zeros(size)
        exchange({link: (b"x", np.full(size, value))}, lambda *_: [into], timeout_s=20)
        got[value] = into

    threads = [threading.Thread(target=side, args=args) for args in [(near, 1.0), (far, 2.0)]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (got[1.0] == 2.0).all() and (got[2.0] == 1.0).all()


def test_who_does_not_know_the_secret_gets_no_link():
    listener = Listener(SECRET)
    with pytest.raises(LinkLost, match="was not joined"):
        connect((listener.host, listener.port), b"another", peer="far")
    assert listener.take(0.2) is None
    listener.close()


def test_nor_does_a_listener_that_does_not_know_it():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def pretend():
            connection, _ = server.accept()
            connection.sendall(b"gyral\x00\x01\n" + bytes(32))
            connection.recv(4096)
            connection.sendall(bytes(32))
            connection.close()

        thread = threading.Thread(target=pretend)
        thread.start()
        with pytest.raises(LinkLost, match="does not know the secret"):
            connect(server.getsockname(), SECRET, peer="far")
        thread.join()


def test_a_stranger_that_says_nothing_holds_nobody_up():
    listener = Listener(SECRET)
    with socket.create_connection((listener.host, listener.port)):
        link = connect((listener.host, listener.port), SECRET, peer="far", timeout_s=5)
    link.close()
    listener.take(1).close()
    listener.close()


def test_silence_ends_a_wait_and_names_the_peer(pair):
    near, _ = pair
    begun = time.monotonic()
    with pytest.raises(LinkLost, match="far") as lost:
        near.receive(timeout_s=0.2)
    assert lost.value.peers == ["far"] and time.monotonic() - begun < 3
    with pytest.raises(LinkLost, match=r"waited 0\.2 s for far"):
        exchange({near: (b"",)}, lambda *_: [], timeout_s=0.2)


def test_so_does_a_reason(pair):
    near, _ = pair
    with pytest.raises(LinkLost) as lost:
        exchange({near: (b"",)}, lambda *_: [], timeout_s=60, is_over=lambda: "it is late")
    assert lost.value.why == "it is late"


def test_an_end_is_heard_at_once(pair):
    near, far = pair
    far.close()
    with pytest.raises(LinkLost, match="far"):
        near.receive(timeout_s=60)


@pytest.mark.parametrize(("head", "size"), [(MAX_HEAD_BYTES + 1, 0), (1, 1)])
def test_sizes_are_the_receivers_to_decide(head, size):
    one, other = socket.socketpair()
    link = Link(one, "far")
    other.sendall(head.to_bytes(4, "little") + size.to_bytes(8, "little") + b"h")
    with pytest.raises(LinkLost, match="lost"):
        link.receive(nothing, timeout_s=5)
    link.close()
    other.close()
