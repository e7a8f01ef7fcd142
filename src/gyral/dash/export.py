"""The pages as files that open without a server: every page that a link leads to, found by following the links.

Pages are asked from the ASGI application in this process; no socket, no test client. About 3 ms a page.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import MutableMapping
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from posixpath import dirname, join, normpath
from typing import Any
from urllib.parse import unquote, urlsplit

from starlette.types import ASGIApp

from gyral.dash.gather import LakeOverview, pages_of_run
from gyral.dash.pages import LISTED, build
from gyral.progress import Meter

WITH_A_RUN = [address for address, each in LISTED.items() if each.tab and address not in ("", "plan")]
"""Written with the pages of one run, so that the navigation leads on; a plan is made when it is asked for."""


def export(root: Path, lake_overview: LakeOverview, folder: Path, run: int | None = None, meter: Meter | None = None) -> Path:
    """Write pages of a project below `folder`, each with its `.json` twin; links between them are relative.

    Parameters
    ----------
    run : write only the pages of the navigation, this run, the runs that belong to it and what they made; None writes all.
    meter : told how many pages are written.

    Returns
    -------
    The path of `index.html`. A page that was written before is replaced, other files are left alone.
    """
    application = build(root, lake_overview, as_files=True)
    wanted = None if run is None else {f"{page}.html" for page in {*pages_of_run(root, run), *WITH_A_RUN}}
    with ThreadPoolExecutor(1) as pool:  # its own thread: the caller may be inside an event loop
        pool.submit(asyncio.run, _crawl(application, folder, wanted, meter)).result()
    return folder / "index.html"


async def _crawl(application: ASGIApp, folder: Path, wanted: set[str] | None, meter: Meter | None) -> None:
    waiting, seen = ["index.html"], {"index.html"}
    done = 0
    while waiting:
        file = waiting.pop()
        stem = file.removesuffix(".html")
        body = await _get(application, "/" if stem == "index" else f"/{stem}")
        target = folder / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(body if wanted is None else _without_dead_links(body.decode(), file, wanted).encode())
        target.with_name(f"{target.name.removesuffix('.html')}.json").write_bytes(await _get(application, f"/{stem}.json"))
        for link in _links(body.decode(), file):
            if link.endswith(".html") and link not in seen and (wanted is None or link in wanted):
                seen.add(link)
                waiting.append(link)
        done += 1
        if meter is not None:
            meter.update(done, done + len(waiting))


def _without_dead_links(page: str, file: str, wanted: set[str]) -> str:
    """The page with links to pages that are not written as plain text."""

    def kept(match: re.Match[str]) -> str:
        inside = _inside(match.group(2), file)
        return match.group(0) if inside is None or not inside.endswith(".html") or inside in wanted else match.group(1)

    return re.sub(r'(<a\b[^>]*?) href="([^"]*)"', kept, page)


def _links(page: str, file: str) -> list[str]:
    """Files that a page links to, relative to the folder; links that lead out of it are left out."""
    parser = _Anchors()
    parser.feed(page)
    return [path for href in parser.hrefs if (path := _inside(href, file)) is not None]


def _inside(href: str, file: str) -> str | None:
    """The file that a link on a page leads to, None when it leads out of the folder."""
    part = urlsplit(href)
    if not part.path or part.scheme or part.netloc:
        return None
    path = normpath(join(dirname(file), unquote(part.path)))
    return None if path.startswith(("../", "/")) else path


async def _get(application: ASGIApp, path: str) -> bytes:
    """Ask the application for one page."""
    body = bytearray()

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        body.extend(message.get("body", b""))

    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [],
        "client": None,
        "server": None,
    }
    await application(scope, receive, send)
    return bytes(body)


class _Anchors(HTMLParser):
    """Collects the targets of links."""

    def __init__(self) -> None:
        super().__init__()
        self.hrefs: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.hrefs += [value for name, value in attrs if name == "href" and value]
