"""Messages over real sockets: torn, giant, malformed, and of every size."""

import random
import socket
import struct

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gyral.engine.links import Link, LinkLost
from gyral.serve import frames
from gyral.serve.frames import Answered, Asked, Cancel, FromWorker, Ping, Pong, Talk, ToWorker


@pytest.fixture
def pair():
    """A gateway's side, a worker's, and the socket of the gateway's."""
    ours, theirs = socket.socketpair()
    gateway, worker = Talk(Link(ours, "worker"), list[FromWorker]), Talk(Link(theirs, "gateway"), list[ToWorker])
    yield gateway, worker, ours
    ours.close()
    theirs.close()


def heard(talk, other=None):
    found = []
    for _ in range(10_000):
        found += talk.hear()
        if other is None or other.flush():
            break
    while more := talk.hear():
        found += more
    return found


def test_what_is_said_in_one_turn_is_one_frame(pair):
    gateway, worker, _ = pair
    said = [Asked(n, "/a", b"x" * n, None, "m@1", n % 2 == 0) for n in range(64)]
    for each in said:
        gateway.say(each)
    gateway.say(Cancel([3]))
    assert gateway.waiting_bytes > 0
    assert gateway.flush() and gateway.waiting_bytes == 0
    assert worker.hear() == [*said, Cancel([3])]
    assert worker.hear() == []


def test_bodies_of_random_sizes_arrive_in_order_through_a_small_buffer(pair):
    gateway, worker, ours = pair
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    draw = random.Random(7)
    sizes = [draw.choice([0, 10, 65_536, 65_537, 200_000]) for _ in range(200)]
    bodies = [draw.randbytes(size) for size in sizes]
    for n, body in enumerate(bodies):
        gateway.say(Asked(n, "/a", body))
    found = heard(worker, gateway)
    assert [(each.id, each.body) for each in found] == list(enumerate(bodies))


def test_a_frame_that_comes_byte_by_byte_is_whole_at_the_end(pair):
    _, worker, ours = pair
    head = msgspec.msgpack.encode([Asked(1, "/a", b"", size=100_000), Ping(2)])
    raw = struct.pack("<IQ", len(head), 100_000) + head
    for at in range(len(raw)):
        assert worker.hear() == []
        ours.sendall(raw[at : at + 1])
    ours.sendall(b"z" * 99_999)
    assert worker.hear() == []
    ours.sendall(b"z")
    ask, ping = worker.hear()
    assert ask.body == b"z" * 100_000 and ping == Ping(2)


@pytest.mark.parametrize(
    ("head", "size", "why"),
    [
        (b"\x00" * 9, 0, "said what cannot be"),
        (b"\xc1", 0, "said what cannot be"),
        (b"", 0, "said what cannot be"),
        (msgspec.msgpack.encode([Pong(1, 2)] * 3 + [[9, 9]]), 0, "said what cannot be"),
        (msgspec.msgpack.encode([Asked(1, "/a", b"")]), 10, "where 0 are expected"),
        (msgspec.msgpack.encode([Asked(1, "/a", b"", size=10)]), 0, "where 10 are expected"),
        (msgspec.msgpack.encode([Asked(1, "/a", b"", size=1 << 40)]), 1 << 40, "at most"),
        (msgspec.msgpack.encode([Asked(1, "/a", b"", size=-5), Asked(2, "/a", b"", size=5)]), 0, "a body of -5 bytes"),
        (b"[" * 5_000, 0, "said what cannot be"),
    ],
)
def test_what_cannot_be_ends_the_link_and_takes_no_memory(pair, head, size, why):
    _, worker, ours = pair
    ours.sendall(struct.pack("<IQ", len(head), size) + head)
    with pytest.raises(LinkLost, match=why):
        worker.hear()


def test_a_giant_head_is_refused_before_it_comes(pair):
    _, worker, ours = pair
    ours.sendall(struct.pack("<IQ", 1 << 31, 0))
    with pytest.raises(LinkLost, match="a head of"):
        worker.hear()


def test_many_large_props_are_cut_into_frames_that_links_take(pair):
    gateway, worker, _ = pair
    said = [Answered(n, 200, b"", True, "m@1", {"x": "y" * 60_000}) for n in range(60)]
    for each in said:
        worker.say(each)
    assert [each.id for each in heard(gateway, worker)] == list(range(60))
    worker.say(Answered(1, 200, b"b" * 70_000, True, "m@1", {"x": 1 << 80}))
    worker.say(Answered(2, 200, b"c" * 70_000, True, "m@1", {"x": 2}))
    first, second = heard(gateway, worker)
    assert "lost" in first.props and second.props == {"x": 2}
    assert (first.body, second.body) == (b"b" * 70_000, b"c" * 70_000)


def test_the_end_of_the_other_side_is_told(pair):
    gateway, worker, ours = pair
    gateway.say(Ping(1))
    gateway.flush()
    ours.shutdown(socket.SHUT_WR)
    assert worker.hear() == [Ping(1)]
    with pytest.raises(LinkLost, match="cut off"):
        worker.hear()


def test_limits_fit_each_other():
    assert frames.HEAD_BYTES + frames.INLINE_BYTES < frames.MAX_HEAD_BYTES


SAID = msgspec.msgpack.encode(
    [Asked(1, "/a", b"body", 1.0, "m@1", True, "v"), Cancel([1, 2]), Ping(3), Asked(4, "/b", b"", size=9)]
)


@given(
    edits=st.lists(st.tuples(st.integers(0, 80), st.binary(max_size=9), st.integers(0, 5)), max_size=3),
    size=st.sampled_from([0, 9, 1 << 20, 1 << 40, (1 << 64) - 1]),
    lies=st.sampled_from([0, 0, 1, 1 << 20, (1 << 32) - 1]),
)
@settings(max_examples=150)
def test_whatever_bytes_come_they_are_messages_or_the_end_of_the_link(edits, size, lies):
    head = bytearray(SAID)
    for at, put, cut in edits:
        head[at : at + cut] = put
    ours, theirs = socket.socketpair()
    with ours, theirs:
        talk = Talk(Link(theirs, "gateway"), list[ToWorker], 1 << 16)
        ours.sendall(struct.pack("<IQ", lies or len(head), size) + head + bytes(9))
        ours.shutdown(socket.SHUT_WR)
        try:
            while heard := talk.hear():
                assert all(isinstance(each, frames.Message) for each in heard)
        except LinkLost as lost:
            assert lost.what == "the link to gateway is lost" and lost.why
        assert len(talk._read) < 1 << 21, "room is made for what came, not for what was said"
