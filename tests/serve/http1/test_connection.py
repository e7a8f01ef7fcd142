"""Order, closing, time and back-pressure on real sockets."""

import asyncio
import contextlib
import json
import socket

import pytest

from gyral.http import Refused, read_body, reply, routed
from gyral.serve.http1.answer import Response, Stream
from gyral.serve.http1.limits import Limits
from gyral.serve.http1.request import Route

HOST = b"host: x\r\n"


def get(path, *lines, version=b"1.1", method=b"GET"):
    return b"%b %b HTTP/%b\r\n%b\r\n" % (method, path, version, b"".join(line + b"\r\n" for line in (b"host: x", *lines)))


def test_a_pipeline_is_answered_in_its_order_whatever_each_answer_takes(run, http):
    async def main():
        paths = [b"/slow?%d", b"/fast?%d", b"/app?%d", b"/pieces?%d", b"/future?%d", b"/app/pieces?%d"] * 10
        asked = [path % number for number, path in enumerate(paths)]
        async with http.serving() as (port, _), http.Client.of(port) as client:
            client.writer.write(b"".join(get(path) for path in asked))
            for path in asked:
                status, _, body = await client.answer()
                assert (status, body) == (200, b"GET " + path + b":")

    run(main())


def test_keep_alive_close_and_http_1_0(run, http):
    async def main():
        async with http.serving() as (port, _):
            async with http.Client.of(port) as client:
                for _ in range(3):
                    status, headers, _ = await client.ask(get(b"/fast"))
                    assert status == 200 and b"connection" not in headers and headers[b"date"].endswith(b"GMT")
                _, headers, _ = await client.ask(get(b"/fast", b"connection: close"))
                assert headers[b"connection"] == b"close" and await client.ended()
            async with http.Client.of(port) as client:
                _, headers, _ = await client.ask(get(b"/app", b"connection: keep-alive", version=b"1.0"))
                assert headers[b"connection"] == b"keep-alive"
                _, headers, body = await client.ask(get(b"/pieces", version=b"1.0"))
                assert headers[b"connection"] == b"close" and b"transfer-encoding" not in headers
                assert body == b"GET /pieces?:" and await client.ended()

    run(main())


def test_head_has_the_length_and_no_body(run, http):
    async def main():
        async with http.serving() as (port, _), http.Client.of(port) as client:
            for path in (b"/fast", b"/app", b"/slow"):
                status, headers, body = await client.ask(get(path, method=b"HEAD"), "HEAD")
                assert status == 200 and body == b"" and int(headers[b"content-length"]) == len(b"HEAD ?:" + path)
            status, _, body = await client.ask(get(b"/pieces", method=b"HEAD"), "HEAD")
            assert status == 200 and body == b""
            assert (await client.ask(get(b"/fast")))[2] == b"GET /fast?:"

    run(main())


def test_expect_is_met_when_the_body_is_wanted_and_only_then(run, http):
    async def main():
        async with http.serving() as (port, _):
            for path in (b"/fast", b"/app"):
                async with http.Client.of(port) as client:
                    head = b"POST %b HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n" % path
                    client.writer.write(head)
                    assert await client.reader.readexactly(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
                    assert (await client.ask(b"abc"))[2] == b"POST " + path + b"?:abc"
            async with http.Client.of(port) as client:
                head = b"POST /small HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 11\r\n\r\n"
                status, headers, _ = await client.ask(head)
                assert status == 413 and headers[b"connection"] == b"close" and await client.ended()
            async with http.Client.of(port) as client:
                assert (await client.ask(get(b"/fast", b"expect: the-moon")))[0] == 417

    run(main())


def test_what_is_no_request_gets_its_status_and_the_connection_ends(run, http):
    post = b"POST /fast HTTP/1.1\r\nhost: x\r\n"
    cases = [
        (b"GET /fast HTTP/1.1\r\n\r\n", 400),
        (b"GET /fast HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400),
        (b"GET /fast HTTP/1.1\r\nhost: a b\r\n\r\n", 400),
        (post + b"content-length: 1\r\ncontent-length: 1\r\n\r\na", 400),
        (post + b"content-length: 1, 1\r\n\r\na", 400),
        (post + b"content-length: +1\r\n\r\na", 400),
        (post + b"content-length: 99999999999999999999\r\n\r\na", 400),
        (post + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (post + b"transfer-encoding: chunked\r\ncontent-length: 1\r\n\r\n0\r\n\r\n", 400),
        (post + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (post + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (post + b"transfer-encoding: identity\r\n\r\n", 501),
        (post + b"transfer-encoding: chunked\x0b\r\n\r\n0\r\n\r\n", 400),
        (post + b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n", 400),
        (post + b"transfer-encoding:\r\ncontent-length: 1\r\n\r\na", 400),
        (post + b"content-length:\r\n\r\n", 400),
        (post + b"content-length: -1\r\n\r\n", 400),
        (post + b"content-length: 18446744073709551617\r\n\r\na", 400),
        (post + b"transfer-encoding: chunked\r\n\r\n-1\r\na\r\n0\r\n\r\n", 400),
        (post + b"transfer-encoding: chunked\r\n\r\n10000000000000001\r\na\r\n0\r\n\r\n", 400),
        (post + b"transfer-encoding: chunked\r\n\r\n1;a\nb\r\na\r\n0\r\n\r\n", 400),
        (post + b"transfer-encoding: chunked\r\n\r\n1;a\rb\r\na\r\n0\r\n\r\n", 400),
        (post + b"transfer-encoding: chunked\r\n\r\n1\r\na\n0\r\n\r\n", 400),
        (post + b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx: y\r\n z\r\n\r\n", 400),
        (post + b"content-type: a/b\r\ncontent-type: a/b\r\n\r\n", 400),
        (post + b"authorization: Bearer a\r\nauthorization: Bearer b\r\n\r\n", 400),
        (b"GET http://a:b@x/fast HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"GET http:///fast HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"GET /\x00 HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"GET /fast HTTP/1.1\r\n host: x\r\n\r\n", 400),
        (post + b"transfer-encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n", 400),
        (post + b"transfer-encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n", 400),
        (b"POST /fast HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (post + b"x: a\r\n folded\r\n\r\n", 400),
        (post + b"x : a\r\n\r\n", 400),
        (post + b"x\x00: a\r\n\r\n", 400),
        (post + b"x: a\x00\r\n\r\n", 400),
        (post + b"x: a\rb: c\r\n\r\n", 400),
        (b"GET /fast HTTP/1.1\nhost: x\n\n", 400),
        (b"GET fast HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"GET /fast#part HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"GET * HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"BREW /fast HTTP/1.1\r\nhost: x\r\n\r\n", 501),
        (b"CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n", 501),
        (b"GET /fast HTTP/2.0\r\nhost: x\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET /fast\r\n\r\n", 505),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", 414),
        (post + b"x: " + b"a" * 40_000 + b"\r\n\r\n", 431),
        (post + b"x: a\r\n" * 101 + b"\r\n", 431),
        (b"POST /small HTTP/1.1\r\nhost: x\r\ncontent-length: 11\r\n\r\n" + b"a" * 11, 413),
        (b"POST /small HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nb\r\n" + b"a" * 11 + b"\r\n0\r\n\r\n", 413),
    ]

    async def main():
        async with http.serving() as (port, _):
            for raw, expected in cases:
                async with http.Client.of(port) as client:
                    assert (await client.ask(get(b"/slow?first") + raw))[2] == b"GET /slow?first:"
                    status, headers, body = await client.answer()
                    error = json.loads(body)["error"]
                    assert (status, set(error)) == (expected, {"what", "where", "why", "hint"}), (raw, body)
                    assert headers[b"connection"] == b"close"
                    client.writer.write(get(b"/fast?smuggled"))
                    assert await client.ended(), raw

    run(main())


def test_targets_may_be_absolute_and_upgrades_are_not_taken(run, http):
    async def main():
        async with http.serving() as (port, _):
            async with http.Client.of(port) as client:
                assert (await client.ask(get(b"http://x:80/fast?a=b")))[2] == b"GET /fast?a=b:"
                assert (await client.ask(get(b"/f%61st")))[2] == b"GET /f%61st?:"  # of the application
            async with http.Client.of(port) as client:
                lines = (b"connection: upgrade", b"upgrade: h2c")
                status, headers, body = await client.ask(get(b"/fast", *lines) + b"anything")
                assert (status, body, headers[b"connection"]) == (200, b"GET /fast?:", b"close") and await client.ended()

    run(main())


def test_the_body_of_a_request_that_would_upgrade_is_read(run, http):
    """As Java's client sends its first one; the parser would leave it out."""
    lines = b"host: x\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAEA\r\n"
    framed = (b"content-length: 3\r\n\r\nabc", b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n")

    async def main():
        async with http.serving() as (port, _):
            for path in (b"/fast", b"/app"):
                for body in framed:
                    raw = b"POST " + path + b" HTTP/1.1\r\n" + lines + body
                    for pieces in ([raw + get(b"/fast?smuggled")], [raw[at : at + 1] for at in range(len(raw))]):
                        async with http.Client.of(port) as client:
                            for piece in pieces:
                                client.writer.write(piece)
                                await asyncio.sleep(0)
                            status, headers, told = await client.answer()
                            assert (status, told) == (200, b"POST " + path + b"?:abc")
                            assert headers[b"connection"] == b"close" and await client.ended()
            async with http.Client.of(port) as client:
                raw = b"POST /small HTTP/1.1\r\n" + lines + b"transfer-encoding: chunked\r\n\r\nb\r\n" + b"a" * 11
                assert (await client.ask(raw))[0] == 413

    run(main())


def test_bodies_of_all_together_are_bounded_and_who_sends_slowest_gives_way(run, http):
    async def lasting(scope, receive, send):
        """Reads as the collector does: a body that ended early would be its client's fault."""
        await routed(reading, scope, receive, send)

    async def reading(path, scope, receive, send):
        await reply(send, 200, b"%d" % len(await read_body(scope, receive, 1 << 20)))

    async def main():
        routes = {"/fast": Route(http.echo, ("POST",))}
        async with http.serving(lasting, routes, limits=Limits(max_held_bytes=500_000)) as (port, server):
            head = b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: 200001\r\n\r\n"
            async with contextlib.AsyncExitStack() as stack:
                sent = []
                for path in (b"/fast", b"/app", b"/fast", b"/app"):
                    client = await stack.enter_async_context(http.Client.of(port))
                    client.writer.write(head % path + b"a" * 200_000)
                    sent.append(client)
                    while not client.rest and server._site.held_bytes < 200_000 * min(len(sent), 2):
                        await asyncio.sleep(0.01)
                    await asyncio.sleep(0.1)
                assert server._site.held_bytes <= 500_000
                for client in sent[:2]:
                    status, headers, _ = await client.answer()
                    assert (status, headers[b"retry-after"]) == (503, b"1") and await client.ended()
                for client in sent[2:]:
                    assert (await client.ask(b"a"))[0] == 200
                assert server._site.held_bytes == 0
                alone = await stack.enter_async_context(http.Client.of(port))
                alone.writer.write(b"POST /fast HTTP/1.1\r\nhost: x\r\ncontent-length: 600000\r\n\r\n" + b"a" * 599_999)
                assert (await alone.answer())[0] == 503
            while server.num_connections:
                await asyncio.sleep(0.01)
            assert server._site.held_bytes == 0

    run(main())


def test_slow_clients_are_told_and_idle_ones_are_closed(run, http):
    limits = Limits(head_timeout_s=0.1, body_timeout_s=0.1, idle_timeout_s=0.3, linger_s=0.1)

    async def slow(port, first, then):
        async with http.Client.of(port) as client:
            client.writer.write(first)
            for byte in then:
                await asyncio.sleep(0.03)
                client.writer.write(bytes([byte]))
                if client.reader._buffer:
                    break
            status, _, body = await client.answer()
            assert status == 408 and "in time" in json.loads(body)["error"]["what"]
            assert await client.ended()

    async def main():
        async with http.serving(limits=limits) as (port, server):
            head = b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: 90\r\n\r\n"
            async with asyncio.TaskGroup() as group:
                group.create_task(slow(port, b"GET /fast HTTP/1.1\r\n", b"x: aaaaaaaaaaaaaa"))
                group.create_task(slow(port, head % b"/fast", b"a" * 20))
                group.create_task(slow(port, head % b"/app", b""))
            async with http.Client.of(port) as client:
                assert (await client.ask(get(b"/fast")))[0] == 200
                assert await client.ended()
            await asyncio.sleep(0.3)
            assert server.num_connections == 0

    run(main())


def test_a_client_that_does_not_read_stops_the_answer_and_is_cut_off(run, http):
    pulled, closed = [], []

    def endless(request):
        async def pieces():
            try:
                while True:
                    pulled.append(1)
                    yield b"x" * 10_000
            finally:
                closed.append(True)

        return Stream(pieces())

    async def main():
        routes = {"/endless": Route(endless, ("GET",))}
        async with http.serving(routes=routes, limits=Limits(write_timeout_s=0.4)) as (port, server):
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
                client.sendall(get(b"/endless") + get(b"/endless"))
                await asyncio.sleep(0.2)
                before = len(pulled)
                assert before < 1_000
                await asyncio.sleep(0.1)
                assert len(pulled) == before
                await asyncio.sleep(0.6)
                assert closed == [True] and server.num_connections == 0

    run(main())


def test_a_body_nobody_reads_is_not_taken_in(run, http):
    async def deaf(scope, receive, send):
        if scope["type"] == "http":
            message = await receive()
            await asyncio.sleep(0.5)
            size = len(message["body"])
            while message["more_body"]:
                message = await receive()
                size += len(message["body"])
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"%d" % size})

    async def main():
        async with http.serving(deaf) as (port, _), http.Client.of(port) as client:
            size = 30 << 20
            client.writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % size)
            client.writer.write(b"a" * size)
            await asyncio.sleep(0.3)
            assert client.writer.transport.get_write_buffer_size() > 10 << 20
            assert (await client.answer())[2] == b"%d" % size

    run(main())


def test_many_waiting_requests_are_not_taken_in(run, http):
    async def main():
        gate, begun = asyncio.Event(), []

        async def held(request):
            begun.append(1)
            await gate.wait()
            return Response(b"held")

        routes = {"/held": Route(held, ("GET",))}
        async with http.serving(routes=routes) as (port, server), http.Client.of(port) as client:
            client.writer.write(get(b"/held") * 60_000)
            await asyncio.sleep(0.3)
            (connection,) = server._site.connections
            assert len(begun) == 1 and len(connection._waiting) < 3_000
            gate.set()
            for _ in range(300):
                assert (await client.answer())[2] == b"held"

    run(main())


@pytest.mark.parametrize("kind", ["task", "future", "stream"])
def test_work_stops_when_the_client_goes(run, http, kind):
    async def main():
        stopped, begun = asyncio.Event(), asyncio.Event()

        def handle(request):
            if kind == "future":
                future = asyncio.get_running_loop().create_future()
                future.add_done_callback(lambda future: future.cancelled() and stopped.set())
                begun.set()
                return future

            async def wait():
                try:
                    begun.set()
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    stopped.set()
                    raise

            async def pieces():
                yield b"first"
                await wait()

            return wait() if kind == "task" else Stream(pieces())

        async with http.serving(routes={"/": Route(handle)}) as (port, _):
            async with http.Client.of(port) as client:
                client.writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
                await begun.wait()
            await asyncio.wait_for(stopped.wait(), 5)

    run(main())


def test_what_a_handler_raises_or_returns_wrongly_is_an_error_and_the_connection_goes_on(run, http):
    def refuses(request):
        raise Refused(429, "too much", hint="wait", headers=((b"retry-after", b"7"),))

    async def broken(request):
        return 1 / 0

    def injecting(request):
        return Response(headers=((b"x-name", request.body),))

    def breaking_stream(request):
        async def pieces():
            raise Refused(422, "not this")
            yield b""

        return Stream(pieces())

    def cut_stream(request):
        async def pieces():
            yield b"half"
            raise ValueError("here")

        return Stream(pieces())

    routes = {
        "/refuses": Route(refuses),
        "/broken": Route(broken),
        "/none": Route(lambda request: None),
        "/injecting": Route(injecting),
        "/stream": Route(breaking_stream),
        "/cut": Route(cut_stream),
    }

    async def main():
        notes = []
        async with http.serving(None, routes, notes=notes) as (port, _), http.Client.of(port) as client:

            async def post(path, body=b""):
                return await client.ask(
                    b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (path, len(body), body)
                )

            status, headers, _ = await post(b"/refuses")
            assert (status, headers[b"retry-after"]) == (429, b"7")
            assert (await post(b"/broken"))[0] == 500 and "ZeroDivisionError" in notes[-1]
            assert (await post(b"/none"))[0] == 500 and "NoneType" in notes[-1]
            assert (await post(b"/injecting", b"fine"))[1][b"x-name"] == b"fine"
            status, headers, _ = await post(b"/injecting", b"a\r\nset-cookie: b=c")
            assert status == 500 and b"set-cookie" not in headers
            assert (await post(b"/stream"))[0] == 422
            assert (await post(b"/nowhere"))[0] == 404
            status, headers, _ = await client.ask(get(b"/broken"))
            assert (status, headers[b"allow"]) == (405, b"POST")
            with pytest.raises((EOFError, Exception), match=r"ended early|peer closed|incomplete"):
                await post(b"/cut")

    run(main())


def test_more_connections_than_allowed_are_told_to_come_again(run, http):
    async def main():
        async with (
            http.serving(limits=Limits(max_connections=2, linger_s=0.1)) as (port, _),
            http.Client.of(port) as one,
            http.Client.of(port) as two,
        ):
            assert (await one.ask(get(b"/fast")))[0] == (await two.ask(get(b"/fast")))[0] == 200
            async with http.Client.of(port) as three:
                status, headers, _ = await three.answer()
                assert (status, headers[b"retry-after"]) == (503, b"1") and await three.ended()
            assert (await one.ask(get(b"/fast")))[0] == 200

    run(main())


def test_a_body_that_is_nearly_all_framing_is_refused(run, http):
    async def main():
        async with http.serving() as (port, _), http.Client.of(port) as client:
            client.writer.write(b"POST /fast HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
            client.writer.write((b"1;" + b"e" * 2_000 + b"\r\na\r\n") * 100)
            status, _, body = await client.answer()
            assert status == 400 and b"chunk heads" in body

    run(main())
