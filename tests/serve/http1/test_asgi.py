"""Applications: Starlette asked by httpx over real sockets, and what an application may get wrong."""

import asyncio
import json

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from gyral.errors import ServeError
from gyral.serve.http1.limits import Limits


async def describe(request):
    body = await request.body()
    told = {"method": request.method, "url": str(request.url), "body": body.decode(), "query": dict(request.query_params)}
    return JSONResponse({**told, "header": request.headers.get("x-a"), "client": request.client.host})


async def stream(request):
    async def pieces():
        async for piece in request.stream():
            yield piece.upper()

    return StreamingResponse(pieces(), media_type="text/plain")


async def nothing(request):
    return Response(status_code=204, headers={"x-kept": "1"})


async def cookies(request):
    answer = PlainTextResponse("ok")
    answer.set_cookie("a", "1")
    answer.set_cookie("b", "2")
    return answer


ROUTES = [
    Route("/describe/{name}", describe, methods=["GET", "POST"]),
    Route("/stream", stream, methods=["POST"]),
    Route("/nothing", nothing),
    Route("/cookies", cookies),
]


def test_starlette_is_what_httpx_expects(run, http):
    async def main():
        address = "http://127.0.0.1:{}".format
        async with (
            http.serving(Starlette(routes=ROUTES), {}) as (port, _),
            httpx.AsyncClient(base_url=address(port), trust_env=False) as client,
        ):
            answer = await client.post("/describe/é?q=ü", content="größe", headers={"x-a": "b"})
            told = answer.json()
            assert told["body"] == "größe" and told["query"] == {"q": "ü"} and told["header"] == "b"
            assert told["url"] == f"http://127.0.0.1:{port}/describe/é?q=%C3%BC" and told["client"] == "127.0.0.1"

            async def upload():
                for number in range(50):
                    yield b"part %d " % number * 100

            answer = await client.post("/stream", content=upload())
            assert answer.text == "".join(f"PART {number} " * 100 for number in range(50))
            answer = await client.get("/nothing")
            assert answer.status_code == 204 and answer.headers["x-kept"] == "1"
            assert "content-length" not in answer.headers
            assert (await client.get("/cookies")).headers.get_list("set-cookie")[1].startswith("b=2")
            assert (await client.get("/not there")).status_code == 404
            assert (await client.head("/cookies")).headers["content-length"] == "2"

    run(main())


async def send_head(send, *headers, status=200):
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def too_long(scope, receive, send):
    await send_head(send, (b"content-length", b"2"))
    await send({"type": "http.response.body", "body": b"abc"})


async def too_short(scope, receive, send):
    await send_head(send, (b"content-length", b"5"))
    await send({"type": "http.response.body", "body": b"abc", "more_body": True})


async def half(scope, receive, send):
    await send_head(send)
    await send({"type": "http.response.body", "body": b"abc", "more_body": True})
    raise ValueError("in the middle")


async def injects(scope, receive, send):
    await send_head(send, (b"x-a", b"b\r\nset-cookie: c=d"))
    await send({"type": "http.response.body", "body": b""})


async def silent(scope, receive, send):
    return None


async def raises(scope, receive, send):
    raise ValueError("at once")


async def frames(scope, receive, send):
    await send_head(send, (b"transfer-encoding", b"gzip"), (b"connection", b"upgrade"), (b"content-length", b"1"))
    await send({"type": "http.response.body", "body": b"a"})


@pytest.mark.parametrize(
    ("wrong", "status"),
    [(too_long, 500), (too_short, None), (half, None), (injects, 500), (silent, 500), (raises, 500), (frames, 200)],
)
def test_an_application_that_goes_wrong_makes_an_error_or_a_cut_and_never_a_lie(run, http, wrong, status):
    async def main():
        notes = []

        async def app(scope, receive, send):
            if scope["type"] == "http":
                await wrong(scope, receive, send)

        async with http.serving(app, {}, notes=notes) as (port, _), http.Client.of(port) as client:
            client.writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            if status is None:
                with pytest.raises(Exception, match=r"ended early|incomplete|without sending|closed"):
                    await client.answer()
            else:
                told, headers, body = await client.answer()
                assert told == status and b"set-cookie" not in headers and b"transfer-encoding" not in headers
                assert status == 200 or json.loads(body)["error"]["what"]
            assert len(notes) == (status != 200)

    run(main())


def test_an_application_learns_that_its_client_has_gone(run, http):
    async def main():
        learned = asyncio.Queue()

        async def app(scope, receive, send):
            if scope["type"] == "lifespan":
                return
            if scope["path"] == "/listens":
                await receive()
                learned.put_nowait((await receive())["type"])
            elif scope["path"] == "/sends":
                await send_head(send)
                with pytest.raises(OSError, match="gone"):
                    while True:
                        await send({"type": "http.response.body", "body": b"a" * 1_000, "more_body": True})
                        await asyncio.sleep(0)
                learned.put_nowait("OSError")
            else:
                try:
                    while (await receive())["type"] != "http.disconnect":
                        pass
                    learned.put_nowait("http.disconnect")
                except ClientDisconnect:
                    learned.put_nowait("raised")

        async with http.serving(app, {}) as (port, _):
            for path, expected in (("/listens", "http.disconnect"), ("/sends", "OSError"), ("/reads", "http.disconnect")):
                async with http.Client.of(port) as client:
                    length = 9 if path == "/reads" else 0
                    client.writer.write(f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n".encode())
                    await asyncio.sleep(0.05)
                assert await asyncio.wait_for(learned.get(), 5) == expected

    run(main())


def test_an_early_answer_leaves_no_body_behind_to_be_taken_for_a_request(run, http):
    """What is small is read away and the connection goes on; what is large ends it, after the answer has been read."""

    async def app(scope, receive, send):
        if scope["type"] == "http":
            await send_head(send, status=403)
            await send({"type": "http.response.body", "body": b"no"})

    smuggled = b"GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n"

    async def main():
        async with http.serving(app, {}, limits=Limits(linger_s=0.5)) as (port, _), http.Client.of(port) as client:
            head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
            assert (await client.ask(head % len(smuggled)))[0] == 403
            client.writer.write(smuggled)
            assert (await client.ask(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"))[0] == 403
            status, headers, body = await client.ask(head % (1 << 30) + b"a" * 300_000)
            assert (status, headers[b"connection"], body) == (403, b"close", b"no") and await client.ended()

    run(main())


def test_lifespan_is_told_its_state_is_shared_and_a_failed_start_is_an_error(run, http):
    async def main():
        events = []

        async def app(scope, receive, send):
            if scope["type"] == "lifespan":
                events.append((await receive())["type"])
                scope["state"]["model"] = "m"
                await send({"type": "lifespan.startup.complete"})
                events.append((await receive())["type"])
                await send({"type": "lifespan.shutdown.complete"})
                return
            await send_head(send)
            await send({"type": "http.response.body", "body": scope["state"]["model"].encode()})

        async with http.serving(app, {}) as (port, _), http.Client.of(port) as client:
            assert (await client.ask(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"))[2] == b"m"
        assert events == ["lifespan.startup", "lifespan.shutdown"]

        async def failing(scope, receive, send):
            await receive()
            await send({"type": "lifespan.startup.failed", "message": "no weights"})

        with pytest.raises(ServeError, match="no weights"):
            async with http.serving(failing, {}):
                pass

    run(main())
