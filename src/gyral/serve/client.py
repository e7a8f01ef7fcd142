"""A small keep-alive HTTP/1.1 client for asking many times: prequential scoring and load generation.

httpx costs about 400 µs a request on a core that the server needs; this costs about 40.
"""

from __future__ import annotations

import asyncio
import http.client
import time
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from gyral.errors import ServeError

RECOMMEND = "/v1/recommend"
REQUEST_TIMEOUT_S = 30.0
SEND_TIMEOUT_S = 300.0


class Response(NamedTuple):
    """Status and body of one answer; seconds after which it says to try again, 0 where it does not."""

    status: int
    body: bytes
    retry_s: int = 0

    def json(self) -> Any:
        """The body, decoded."""
        return msgspec.json.decode(self.body)


class Connection:
    """One keep-alive connection; a request at a time."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def post(self, path: str, body: bytes, *headers: str, media: str = "application/json") -> Response:
        """Send one request and read its answer.

        Parameters
        ----------
        headers : further ones, as lines.

        Raises
        ------
        ServeError : the server went away, or did not answer in `REQUEST_TIMEOUT_S`.
        """
        lines = (
            f"POST {path} HTTP/1.1",
            f"host: {self._host}",
            f"content-type: {media}",
            f"content-length: {len(body)}",
            *headers,
        )
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                return await self._exchange("\r\n".join([*lines, "", ""]).encode() + body)
        except (OSError, asyncio.IncompleteReadError, TimeoutError, ValueError) as error:
            await self.close()
            raise ServeError(
                f"the server at {self._host}:{self._port} did not answer", why=str(error) or type(error).__name__
            ) from None

    async def close(self) -> None:
        """Close the connection; may be called twice."""
        if self._writer is not None:
            self._writer.close()
            self._reader = self._writer = None

    async def _exchange(self, request: bytes) -> Response:
        if self._writer is None or self._reader is None:
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        status = int(head[9:12])
        length = retry_s = 0
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
            elif name.lower() == b"retry-after":
                retry_s = int(value)
        return Response(status, await self._reader.readexactly(length), retry_s)


async def post(url: str, path: str, body: bytes, *headers: str) -> Any:
    """Send one JSON body; its decoded answer.

    Raises
    ------
    ServeError : it was refused.
    """
    connection = Connection(url)
    try:
        answer = await connection.post(path, body, *headers)
    finally:
        await connection.close()
    if answer.status != 200:
        raise ServeError(f"`POST {path}` was answered {answer.status}", why=answer.body[:500].decode("utf-8", "replace"))
    return answer.json()


async def ask_many(
    url: str,
    requests: Sequence[dict[str, Any]],
    path: str = RECOMMEND,
    *headers: str,
    concurrency: int = 8,
    on_progress: Callable[[int], None] | None = None,
) -> tuple[list[Response], list[float]]:
    """Ask one route for every request, `concurrency` at a time.

    Parameters
    ----------
    headers : further ones, as lines.

    Returns
    -------
    Responses in the order of the requests, and the seconds each took.
    """
    responses: list[Response] = [Response(0, b"")] * len(requests)
    latencies = [0.0] * len(requests)
    encode = msgspec.json.Encoder().encode
    waiting = iter(range(len(requests)))
    done = 0

    async def work() -> None:
        nonlocal done
        connection = Connection(url)
        try:
            for number in waiting:
                body = encode(requests[number])
                start = time.perf_counter()
                responses[number] = await connection.post(path, body, *headers)
                latencies[number] = time.perf_counter() - start
                done += 1
                if on_progress is not None:
                    on_progress(done)
        finally:
            await connection.close()

    workers = [asyncio.ensure_future(work()) for _ in range(min(concurrency, max(len(requests), 1)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:  # one that fails ends the others
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return responses, latencies


async def send_batches(
    url: str, batches: Iterable[bytes], *headers: str, media: str, on_answer: Callable[[dict[str, Any]], None]
) -> None:
    """Send event batches one after the other, each again until it is stored, waiting as long as the server says.

    Raises
    ------
    ServeError : one was refused for good, or not stored within `SEND_TIMEOUT_S`.
    """
    connection = Connection(url)
    try:
        for body in batches:
            deadline = time.monotonic() + SEND_TIMEOUT_S
            while (answer := await connection.post("/v1/events", body, *headers, media=media)).status != 200:
                if answer.status not in (429, 503) or time.monotonic() > deadline:
                    why = answer.body[:500].decode("utf-8", "replace")
                    raise ServeError(f"the server stored no events: it answered {answer.status}", why=why)
                await asyncio.sleep(max(answer.retry_s, 1))
            on_answer(answer.json())
    finally:
        await connection.close()


def wait_for_model(url: str, name: str, timeout_s: float, key: str = "") -> dict[str, Any]:
    """Wait until the server answers with a model.

    Parameters
    ----------
    key : that may ask; empty: none is wanted.

    Raises
    ------
    ServeError : it does not within the time; says what it answered with instead.
    """
    deadline = time.monotonic() + timeout_s
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({})
    )  # a proxy of the environment cannot reach this machine
    asked = urllib.request.Request(f"{url}/v1/model", headers={"authorization": f"Bearer {key}"} if key else {})
    last = "no answer"
    while time.monotonic() < deadline:
        try:
            with opener.open(asked, timeout=5) as answer:
                described: dict[str, Any] = msgspec.json.decode(answer.read())
            if described["model"] == name:
                return described
            last = f"it serves `{described['model']}`"
        except (OSError, http.client.HTTPException, msgspec.DecodeError, KeyError, TypeError) as error:
            last = str(error)
        time.sleep(0.02)
    raise ServeError(f"the server at {url} does not serve `{name}` after {timeout_s:.0f} s", why=last)
