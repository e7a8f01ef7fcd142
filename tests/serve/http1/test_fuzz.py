"""Any bytes, cut anywhere: the same answers, no crash, nobody waited for without end; h11 says what a request is.

What is cut and changed goes through a transport without a socket, so that pieces arrive as they were cut. `GYRAL_FUZZ=20` tries
twenty times as many.
"""

import asyncio
import itertools
import os

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gyral.serve.http1.limits import Limits

ANSWERED = {200, 400, 404, 405, 408, 413, 414, 417, 431, 501, 505}
PATHS = st.sampled_from(["/fast", "/slow?a=1", "/future", "/pieces", "/app", "/app/pieces?b", "/small", "/none/%ff"])
NAMES = st.sampled_from(["x-a", "accept", "user-agent", "x_b", "cookie", "te", "X-Mixed"])
VALUES = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30)


@st.composite
def a_request(draw):
    """Method, path, body and the bytes of a request, written by h11."""
    method = draw(st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD"]))
    path = draw(PATHS)
    body = draw(st.binary(max_size=40)) if method in ("POST", "PUT") else b""
    if path == "/small":
        body = body[:10]
    headers = [("Host", "x"), *draw(st.lists(st.tuples(NAMES, VALUES), max_size=4))]
    is_chunked = bool(body) and draw(st.booleans())
    if is_chunked:
        headers.append(("Transfer-Encoding", "chunked"))
    elif method in ("POST", "PUT"):
        headers.append(("Content-Length", str(len(body))))
    client = h11.Connection(h11.CLIENT)
    raw = client.send(h11.Request(method=method, target=path, headers=headers))
    cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=3))) if is_chunked else []
    for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True):
        if body[start:end]:
            raw += client.send(h11.Data(data=body[start:end]))
    raw += client.send(h11.EndOfMessage())
    return method, path, body, raw


STREAMS = st.lists(a_request(), min_size=1, max_size=6)
TIMES = int(os.environ.get("GYRAL_FUZZ", "1"))


@pytest.fixture(scope="module")
def run():
    """Run a coroutine, at most 10 s; one loop for all examples."""
    with asyncio.Runner() as runner:
        yield lambda coroutine: runner.run(asyncio.wait_for(coroutine, 10))


def pieces_of(data, cuts):
    points = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(points) if start != end]


async def answers(http, pieces, limits=None):
    """What a connection writes when these pieces arrive, and the connection's end is survived."""
    site = http.site(limits=limits)
    wire = http.Wire(site)
    for piece in pieces:
        await wire.feed(piece)
        await asyncio.sleep(0)
    await wire.calm()
    connection = wire.connection
    held = [each for each in (site.idle, site.head, site.body, site.linger) if each.late(float("inf"))]
    assert wire.is_closed or len(held) == 1, "an open connection that nobody waits for"
    wire.lose()
    assert not site.connections and connection._current is None and not connection._waiting
    assert site.held_bytes == 0
    assert not any(each.late(float("inf")) for each in (site.idle, site.head, site.body, site.linger, site.writing))
    return wire.out


def read(http, out, methods):
    """Answers in a stretch of bytes: nothing may be left over."""
    found = []
    while out:
        if out.startswith(b"HTTP/1.1 100 Continue\r\n\r\n"):
            out = out[25:]
            continue
        reading = http.Reading(methods[len(found)] if len(found) < len(methods) else "GET")
        reading.feed(out)
        assert reading.is_whole, out
        found.append((reading.status, reading.body))
        out = reading.rest
    return found


@settings(max_examples=60 * TIMES, deadline=None)
@given(asked=STREAMS, cuts=st.lists(st.integers(0, 1 << 20), max_size=12), each_byte=st.booleans())
def test_requests_cut_anywhere_get_the_same_answers(http, run, asked, cuts, each_byte):
    data = b"".join(raw for _, _, _, raw in asked)
    pieces = [data[at : at + 1] for at in range(len(data))] if each_byte else pieces_of(data, cuts)

    async def main():
        return await answers(http, [data]), await answers(http, pieces)

    whole, cut = run(main())
    methods = [method for method, *_ in asked]
    expected = []
    for method, path, body, _ in asked:
        raw_path, _, query = path.partition("?")
        expected.append((200, b"" if method == "HEAD" else f"{method} {raw_path}?{query}:".encode() + body))
    assert read(http, whole, methods) == read(http, cut, methods) == expected


@settings(max_examples=150 * TIMES, deadline=None)
@given(asked=STREAMS, data=st.data())
def test_damaged_requests_are_answered_or_waited_for_and_leave_nothing_behind(http, run, asked, data):
    raw = bytearray(b"".join(each for _, _, _, each in asked))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(raw) - 1))
        how = data.draw(st.sampled_from(["set", "insert", "delete", "copy"]))
        if how == "set":
            raw[at] = data.draw(st.integers(0, 255))
        elif how == "insert":
            raw[at:at] = data.draw(
                st.sampled_from([b"\r\n", b"\n", b"\0", b" ", b":", b"host: y\r\n", b"content-length: 3\r\n"])
            )
        elif how == "delete":
            del raw[at : at + data.draw(st.integers(1, 9))]
        else:
            raw[at:at] = raw[data.draw(st.integers(0, len(raw) - 1)) :][: data.draw(st.integers(1, 60))]
        if not raw:
            return
    pieces = pieces_of(bytes(raw), data.draw(st.lists(st.integers(0, 1 << 20), max_size=6)))
    out = run(answers(http, pieces))
    # a HEAD may have become a GET: lengths are only known for what was asked, so only the first answer's status is read
    assert not out or int(out.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")[9:12] or b"200") in ANSWERED


@settings(max_examples=100 * TIMES, deadline=None)
@given(noise=st.binary(min_size=1, max_size=300))
def test_noise_is_no_request(http, run, noise):
    out = run(answers(http, [noise]))
    assert out == b"" or int(out[9:12]) in ANSWERED - {200}


FRAGMENTS = [
    b"GET /fast HTTP/1.1\r\n",
    b"POST /fast HTTP/1.1\r\n",
    b"POST /fast HTTP/1.0\r\n",
    b"HEAD /fast HTTP/1.1\r\n",
    b"host: x\r\n",
    b"host: y\r\n",
    b"content-length: 3\r\n",
    b"content-length: 03\r\n",
    b"content-length: 3, 3\r\n",
    b"content-length: 0\r\n",
    b"content-length : 3\r\n",
    b"transfer-encoding: chunked\r\n",
    b"transfer-encoding: identity\r\n",
    b"transfer-encoding: Chunked\r\n",
    b"transfer-encoding:\tchunked \r\n",
    b"x: 1\r\n",
    b"x: 1\n",
    b"x: 1\r",
    b" folded\r\n",
    b"\tfolded\r\n",
    b"x\x80: 1\r\n",
    b"x: \xff\r\n",
    b": 1\r\n",
    b"connection: close\r\n",
    b"\r\n",
    b"\n",
    b"3\r\nabc\r\n",
    b"3;e=f\r\nabc\r\n",
    b"3 \r\nabc\r\n",
    b"03\r\nabc\r\n",
    b"3\nabc\r\n",
    b"0\r\n\r\n",
    b"0\r\nt: v\r\n\r\n",
    b"abc",
]


def as_h11_reads(raw):
    """The first request by h11: method, target, body; None when it refuses or wants more."""
    server = h11.Connection(h11.SERVER)
    request, body = None, b""
    try:
        server.receive_data(raw)
        while True:
            event = server.next_event()
            if isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return request.method, request.target, body
            else:
                return None
    except h11.RemoteProtocolError:
        return None


@settings(max_examples=250 * TIMES, deadline=None)
@given(parts=st.lists(st.sampled_from(FRAGMENTS), max_size=6), first=st.sampled_from(FRAGMENTS[:4]), last=st.booleans())
def test_what_is_answered_is_a_request_to_h11_too_with_the_same_body(http, run, parts, first, last):
    """The other way round h11 takes more: folded lines, bare line ends, equal lengths twice. Here they are refused."""
    raw = first + b"host: x\r\n" * last + b"".join(parts)
    out = run(answers(http, [raw]))
    if out.startswith(b"HTTP/1.1 200"):
        reading = http.Reading(first.split()[0].decode())
        reading.feed(out)
        read_as = as_h11_reads(raw)
        assert read_as is not None, raw
        method, target, body = read_as
        assert method + b" " + target == b" ".join(first.split()[:2])
        if method != b"HEAD":
            assert reading.body == method + b" /fast?:" + body
    elif as_h11_reads(raw) is not None:
        lenient = (b" folded", b"\tfolded", b"x: 1\n", b"\n\n", b"\n\r\n", b"3\nabc", b", 3", b"content-length : 3", b"3 \r\n")
        is_stricter = any(each in raw for each in lenient) or raw.count(b"content-length") > 1 or b"1.0" in raw
        is_stricter |= raw.count(b"transfer-encoding") > 0 and b"content-length" in raw
        assert is_stricter or raw.startswith(b"\n") or b"\n" in raw.replace(b"\r\n", b""), (raw, out)


@pytest.mark.slow
def test_a_thousand_damaged_connections_leave_no_connection_and_no_memory(http):
    import random
    import tracemalloc

    rng = random.Random(0)
    stream = b"".join(
        b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\n%b" % (path, b"a" * 50)
        for path in (b"/fast", b"/app", b"/slow", b"/pieces", b"/app/pieces")
    )

    async def one(port):
        raw = bytearray(stream)
        for _ in range(rng.randint(0, 4)):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(bytes(raw[: rng.randrange(len(raw))]))
        if rng.random() < 0.5:
            await asyncio.sleep(0.005)
            await reader.read(1 << 16) if rng.random() < 0.2 else None
        (writer.transport.abort if rng.random() < 0.5 else writer.close)()

    async def main():
        limits = Limits(head_timeout_s=0.3, body_timeout_s=0.3, idle_timeout_s=0.3, linger_s=0.2)
        async with http.serving(limits=limits) as (port, server):
            sizes = []
            for _ in range(4):
                for _ in range(25):
                    await asyncio.wait_for(asyncio.gather(*(one(port) for _ in range(10)), return_exceptions=True), 10)
                await asyncio.sleep(0.6)
                assert server.num_connections == 0
                sizes.append(tracemalloc.get_traced_memory()[0])
            assert sizes[-1] - sizes[1] < 100_000, sizes

    tracemalloc.start()
    try:
        with asyncio.Runner() as runner:
            runner.run(asyncio.wait_for(main(), 60))
    finally:
        tracemalloc.stop()
