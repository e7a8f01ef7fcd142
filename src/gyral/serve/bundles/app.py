"""`GET /v1/bundles/{model}`: what a device has to have to run a model; `GET …/files/{digest}`: one file of it.

    x-gyral-tier: phone                         or the browser's hints say (`gyral.serve.scheduling.tiers`)
    GET /v1/bundles/shop?from=shop-int8@3       with patches from what the device has
    GET /v1/bundles/shop/files/61c3…            `range: bytes=1048576-2097151`

Files go by their digests, so they never change and may be cached by anybody for ever; what changes is the manifest, which is
asked with its etag and mostly answered by 304. No trace of a path of a request reaches the file system.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TypeVar
from urllib.parse import parse_qsl

import msgspec

from gyral.config.sections import DeviceTier
from gyral.errors import InputError
from gyral.http import JSON, AsgiApp, Header, Receive, Refused, Scope, Send, allow, header, routed
from gyral.serve.bundles.choice import VERSION, Chosen, Offers
from gyral.serve.bundles.patch import digest
from gyral.serve.bundles.shelf import Content, Shelf
from gyral.serve.bundles.wire import FORMAT, PIECE_BYTES, How, Manifest, Quality
from gyral.serve.scheduling.quota import Account
from gyral.serve.scheduling.tiers import Classified, classify

PATH = "/v1/bundles"
BLOCK_BYTES = 1 << 18
PATCH_WAIT_S = 20.0
"""How long a device waits for patches to be made; later ones find them."""
_DIGEST = re.compile(r"[0-9a-f]{64}")
_RANGE = re.compile(rb"bytes=(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))")
_VARY = (b"vary", b"x-gyral-tier, device-memory, sec-ch-ua-mobile, user-agent")
T = TypeVar("T")


class Bundles:
    """The routes.

    Parameters
    ----------
    root : project folder.
    served : slot → model `name@n`; only they and their variants can be had.
    tiers : classes of devices by name.
    check : given the `authorization` of each request, says whose it is, and refuses who may not ask.
    """

    def __init__(
        self, root: Path, served: Callable[[], dict[str, str]], tiers: Mapping[str, DeviceTier],
        check: Callable[[bytes], Account],
    ) -> None:  # fmt: skip
        self._tiers, self._check = tiers, check
        self._shelf = Shelf(root / "models")
        self._offers = Offers(root / "models", served, self._shelf)
        self._making = ThreadPoolExecutor(1, thread_name_prefix="bundles")
        self._patching = ThreadPoolExecutor(1, thread_name_prefix="patches")
        self._reading = ThreadPoolExecutor(4, thread_name_prefix="files")

    @property
    def mounts(self) -> Mapping[str, AsgiApp]:
        """Where it belongs in a server."""
        return {PATH: self}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await routed(self._route, scope, receive, send)

    def close(self) -> None:
        """End its threads; may be called twice."""
        self._shelf.close()
        for each in (self._making, self._patching, self._reading):
            each.shutdown(wait=False, cancel_futures=True)

    async def _route(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        account = self._check(header(scope, b"authorization"))
        parts = path.removeprefix(f"{PATH}/").split("/")
        if len(parts) == 1 and path != PATH:
            allow(scope, "GET")
            await self._manifest(parts[0], scope, send, account)
        elif len(parts) == 3 and parts[1] == "files":
            allow(scope, "GET")
            await self._file(parts[2], scope, send)
        else:
            raise Refused(
                404, f"there is nothing at `{path[:200]}`", hint=f"`GET {PATH}/MODEL`, `GET {PATH}/MODEL/files/DIGEST`"
            )

    async def _manifest(self, asked: str, scope: Scope, send: Send, account: Account) -> None:
        query = parse_qsl(scope.get("query_string", b"").decode("latin-1"))
        since = next((value for name, value in query if name == "from"), "")
        if since and not VERSION.fullmatch(since):
            raise Refused(400, f"`from={since[:100]}` is no version", hint="send `name@number`, the `model` of a manifest")
        tier = self._tier(scope)
        try:
            chosen = await self._made(lambda: self._offers.pick(asked, tier.name, tier.tier, account))
            if since:
                chosen = chosen._replace(content=await self._with_patches(chosen.content, since))
        except OSError as error:  # the folder is changed at this moment, or the disk is full
            retry = ((b"retry-after", b"1"),)
            raise Refused(
                503, "the bundle could not be made", why=error.strerror or "", hint="ask again", headers=retry
            ) from None
        body = msgspec.json.encode(_manifest_of(asked, chosen, tier))
        same = msgspec.json.encode([chosen.content.version, *(each.digest for each in chosen.content.files)])
        etag = b'W/"%b"' % digest(same)[:32].encode()  # weak: patches to the same files may be told or not
        headers = ((b"etag", etag), (b"cache-control", b"no-cache"), _VARY)
        if _is_known(scope, etag):
            await _answer(send, 304, b"", *headers)
        else:
            await _answer(send, 200, body, JSON, *headers)

    async def _with_patches(self, content: Content, since: str) -> Content:
        """With patches from a version, if they are made in time; else the device takes the files whole."""
        if not await self._made(lambda: self._offers.may_have(since)):
            return content
        if (found := await self._made(lambda: self._shelf.patches(content, since, False))) is not None:
            return found
        work = asyncio.get_running_loop().run_in_executor(
            self._patching, lambda: self._shelf.patches(content, since, True) or content
        )
        try:
            return await asyncio.wait_for(asyncio.shield(work), PATCH_WAIT_S)
        except TimeoutError:
            work.add_done_callback(lambda done: done.cancelled() or done.exception())
            return content

    def _tier(self, scope: Scope) -> Classified:
        try:
            return classify(dict(scope["headers"]), self._tiers)
        except InputError as error:
            raise Refused(400, error.what, hint=error.hint) from None

    async def _file(self, name: str, scope: Scope, send: Send) -> None:
        found = await self._read(lambda: self._shelf.open(name)) if _DIGEST.fullmatch(name) else None
        if found is None:
            raise Refused(404, f"there is no file `{name[:64]}`", hint="ask for the manifest again: it names what there is")
        file, size = found
        etag = b'"%b"' % name.encode()
        headers: tuple[Header, ...] = (
            (b"etag", etag), (b"cache-control", b"public, max-age=31536000, immutable"), (b"accept-ranges", b"bytes"),
        )  # fmt: skip
        with file:
            if _is_known(scope, etag):
                await _answer(send, 304, b"", *headers)
                return
            ends = _ends(header(scope, b"range").strip(), size) if header(scope, b"if-range").strip() in (b"", etag) else None
            first, end = ends or (0, size)
            if first >= end and ends is not None:
                where = (b"content-range", b"bytes */%d" % size)
                raise Refused(416, f"the file has {size:,} bytes", hint="ask for less, or for all", headers=(where,))
            if ends is not None:
                headers += ((b"content-range", b"bytes %d-%d/%d" % (first, end - 1, size)),)
            headers += ((b"content-type", b"application/octet-stream"), (b"x-content-type-options", b"nosniff"))
            length = (b"content-length", b"%d" % (end - first))
            await send({"type": "http.response.start", "status": 200 if ends is None else 206, "headers": [length, *headers]})
            await self._send(file, first, 0 if scope["method"] == "HEAD" else end - first, send)

    async def _send(self, file: IO[bytes], first: int, left: int, send: Send) -> None:
        """Bytes of a file; a file that became shorter ends the connection, so that it never looks whole."""
        file.seek(first)
        with contextlib.suppress(OSError):  # the device has gone
            while left > 0:
                size = min(BLOCK_BYTES, left)
                block = await self._read(lambda size=size: file.read(size))  # type: ignore[misc]
                left -= len(block)
                if not block:
                    return
                await send({"type": "http.response.body", "body": block, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    def _made(self, work: Callable[[], T]) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._making, work)

    def _read(self, work: Callable[[], T]) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._reading, work)


def _ends(wanted: bytes, size: int) -> tuple[int, int] | None:
    """First byte, and the one after the last, that a `range` asks for; None: all of them, as for what is no single range."""
    told = _RANGE.fullmatch(wanted)
    if told is None:
        return None
    if told[3]:
        return max(0, size - int(told[3])), size
    first, last = int(told[1]), int(told[2]) if told[2] else size - 1
    return None if told[2] and last < first else (first, min(last + 1, size))


def _is_known(scope: Scope, etag: bytes) -> bool:
    """Whether the device has it already."""
    known = [each.strip().removeprefix(b"W/") for each in header(scope, b"if-none-match").split(b",")]
    return etag.removeprefix(b"W/") in known or b"*" in known


async def _answer(send: Send, status: int, body: bytes, *headers: Header) -> None:
    length = () if status == 304 else ((b"content-length", b"%d" % len(body)),)
    await send({"type": "http.response.start", "status": status, "headers": [*length, *headers]})
    await send({"type": "http.response.body", "body": body})


def _manifest_of(asked: str, chosen: Chosen, tier: Classified) -> Manifest:
    card, content = chosen.card, chosen.content
    load = f'gyral.plugins.find("family", "{card.family}").load(Path(FOLDER))'
    return Manifest(
        FORMAT,
        asked,
        content.version,
        card.compression.to if card.compression is not None else "as trained",
        tier.name,
        f"{tier.why}; {chosen.why}",
        Quality(card.metric, card.quality),
        sum(each.size_bytes for each in content.files),
        PIECE_BYTES,
        How(card.family, content.runtimes, load),
        content.files,
    )
