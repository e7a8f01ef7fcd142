"""Draining, TLS, shared ports, and what a start costs."""

import asyncio
import contextlib
import shutil
import socket
import ssl
import subprocess
import sys
import time

import pytest

from gyral.errors import ServeError
from gyral.serve.http1 import handshakes
from gyral.serve.http1.answer import Response, Stream
from gyral.serve.http1.request import Route
from gyral.serve.http1.server import Server, listen

GET = b"GET %b HTTP/1.1\r\nhost: x\r\n\r\n"


def test_a_drain_answers_what_was_asked_and_closes_what_asks_for_nothing(run, http):
    async def main():
        gate = asyncio.Event()

        async def held(request):
            await gate.wait()
            return Response(b"held")

        server = Server(None, {"/": Route(held, ("GET",)), "/fast": Route(http.echo, ("GET",))})
        with contextlib.closing(listen("127.0.0.1", 0)) as sock:
            await server.start(sock)
            port = sock.getsockname()[1]
            async with http.Client.of(port) as idle, http.Client.of(port) as busy, http.Client.of(port) as half:
                assert (await idle.ask(GET % b"/fast"))[0] == 200
                busy.writer.write(GET % b"/" + GET % b"/fast?last")
                half.writer.write(b"GET /fast?half HTTP/1.1\r\n")
                await asyncio.sleep(0.05)
                stopping = asyncio.create_task(server.stop(5))
                assert await idle.ended()
                with pytest.raises(OSError):
                    await asyncio.open_connection("127.0.0.1", port)
                gate.set()
                half.writer.write(b"host: x\r\n\r\n")
                _, headers, body = await busy.answer()
                assert body == b"held" and b"connection" not in headers
                _, headers, body = await busy.answer()
                assert (body, headers[b"connection"]) == (b"GET /fast?last:", b"close") and await busy.ended()
                assert (await half.answer())[2] == b"GET /fast?half:" and await half.ended()
                assert await asyncio.wait_for(stopping, 5) == 0
        await server.stop(1)

    run(main())


def test_a_drain_has_an_end(run, http):
    async def main():
        ended = []

        def endless(request):
            async def pieces():
                try:
                    while True:
                        yield b"tick"
                        await asyncio.sleep(0.01)
                finally:
                    ended.append(True)

            return Stream(pieces())

        server = Server(http.app, {"/": Route(endless, ("GET",))})
        with contextlib.closing(listen("127.0.0.1", 0)) as sock:
            await server.start(sock)
            port = sock.getsockname()[1]
            async with http.Client.of(port) as one, http.Client.of(port) as half:
                one.writer.write(GET % b"/")
                half.writer.write(b"GET / HTTP")
                await asyncio.sleep(0.05)
                assert await asyncio.wait_for(server.stop(0.2), 5) == 2
                assert ended == [True] and server.num_connections == 0

    run(main())


def test_no_request_fails_while_servers_of_a_shared_port_come_and_go(run, http):
    """Each is drained while eight clients ask; a connection that was closed between two requests is opened again."""

    async def main():
        first = listen("127.0.0.1", 0, is_shared=True)
        port = first.getsockname()[1]
        servers = [(Server(None, http.ROUTES), first)]
        await servers[0][0].start(first)
        done = asyncio.Event()
        answered = 0

        async def ask():
            nonlocal answered
            while not done.is_set():
                async with http.Client.of(port) as client:
                    for number in range(20):
                        client.writer.write(GET % b"/slow?%d" % number)
                        try:
                            status, headers, body = await client.answer()
                        except (EOFError, ConnectionError):
                            assert number > 0  # never on a fresh connection
                            break
                        assert (status, body) == (200, b"GET /slow?%d:" % number)
                        answered += 1
                        if headers.get(b"connection") == b"close":
                            break

        clients = [asyncio.create_task(ask()) for _ in range(8)]
        for _ in range(5):
            sock = listen("127.0.0.1", port, is_shared=True)
            servers.append((Server(None, http.ROUTES), sock))
            await servers[-1][0].start(sock)
            await asyncio.sleep(0.05)
        with pytest.raises(ServeError, match="cannot listen"):
            listen("127.0.0.1", port)
        done.set()
        await asyncio.gather(*clients)
        assert answered > 100
        for server, sock in servers:
            assert await server.stop(2) == 0
            sock.close()

    run(main())


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no `openssl` to make a certificate with")
def test_tls_is_spoken_with_a_context(run, http, tmp_path):
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command += ["-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "cert")]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    theirs = ssl.create_default_context(cafile=str(tmp_path / "cert"))

    async def scheme(scope, receive, send):
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": scope["scheme"].encode()})

    async def main():
        async with http.serving(scheme, http.ROUTES, tls=own) as (port, _):
            async with http.Client.of(port, ssl=theirs, server_hostname="localhost") as client:
                assert (await client.ask(GET % b"/"))[2] == b"https"
                for _ in range(3):
                    assert (await client.ask(GET % b"/pieces"))[2] == b"GET /pieces?:"
                body = b"a" * 900_000
                post = b"POST /fast HTTP/1.1\r\nhost: x\r\ncontent-length: 900000\r\n\r\n" + body
                assert (await client.ask(post))[2] == b"POST /fast?:" + body
                assert (await client.ask(b"GET / HTTP/1.1\r\n\r\n"))[0] == 400
                assert await client.ended()
            async with http.Client.of(port) as plain:
                plain.writer.write(GET % b"/")
                assert await plain.ended()

    run(main())


def test_a_port_in_use_and_an_address_of_others_are_told():
    with contextlib.closing(listen("127.0.0.1", 0)) as sock, pytest.raises(ServeError, match="cannot listen on") as told:
        listen("127.0.0.1", sock.getsockname()[1])
    assert "0 for a free one" in told.value.hint
    with pytest.raises(ServeError, match=r"192\.0\.2\.1"):
        listen("192.0.2.1", 0)


def test_the_server_is_imported_without_torch_and_quickly():
    code = (
        "import sys, time; start = time.process_time(); import gyral.serve.http1.server; took = time.process_time() - start; "
        "sys.exit(f'{took:.3f} s' if took > 0.5 or {'torch', 'numpy', 'pyarrow', 'lance'} & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


def test_handshakes_that_never_end_hold_a_bounded_number_of_places(run, http, tmp_path, monkeypatch):
    """A client that means it gets in while others hold every place, and the port is free after a stop."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"]
    made = [*command, "-subj", "/CN=x", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(made, check=True, capture_output=True, timeout=60)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    monkeypatch.setattr(handshakes, "MAX_AT_ONCE", 5)
    monkeypatch.setattr(handshakes, "PATIENT_S", 0.1)

    async def main():
        async with http.serving(tls=context) as (port, server), contextlib.AsyncExitStack() as held:
            (shaking,) = server._servers
            most, half = 0, []
            for _ in range(20):
                half.append(await held.enter_async_context(http.Client.of(port)))
                most = max(most, len(shaking))
                await asyncio.sleep(0)
            async with http.Client.of(port, ssl=trusting) as client:
                assert (await client.ask(GET % b"/fast"))[2] == b"GET /fast?:"
            assert most <= 5 and len(shaking) <= 5
            assert await half[0].ended()
            await server.stop(1)
            with pytest.raises(OSError):
                await asyncio.open_connection("127.0.0.1", port)

    run(main())


FLOOD = """
import asyncio, contextlib, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
from gyral.serve.http1 import handshakes
from gyral.serve.http1.answer import Response
from gyral.serve.http1.request import Route
from gyral.serve.http1.server import Server, listen, new_loop

def opens(request):
    with open(sys.executable, "rb") as file:
        return Response(b"%d" % len(file.read(4)))

async def main():
    server = Server(None, {"/": Route(opens, ("GET",))})
    with contextlib.closing(listen("127.0.0.1", 0)) as sock:
        await server.start(sock)
        print(sock.getsockname()[1], flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await server.stop(1)

loop = new_loop if sys.argv[1] == "uvloop" else asyncio.new_event_loop
with asyncio.Runner(loop_factory=loop) as runner:
    runner.run(main())
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_flood_of_connections_leaves_files_to_work_with(loop):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", FLOOD, loop], **pipes)
    port = int(process.stdout.readline())
    with contextlib.ExitStack() as stack:
        mine = stack.enter_context(socket.create_connection(("127.0.0.1", port), 20))
        mine.sendall(GET % b"/")
        assert mine.recv(1_000).endswith(b"\r\n4")
        for _ in range(400):
            each = stack.enter_context(socket.socket())
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", port))
        for _ in range(50):
            time.sleep(0.01)
            mine.sendall(GET % b"/")
            answer = mine.recv(1_000)
            assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"\r\n4"), answer
    _, told = process.communicate(timeout=20)
    assert process.returncode == 0 and told == b"", told
