"""Pages that the benchmarks of curation read: articles with ground truth, Debian's handbook, and WARC files made of either.

Nothing of it is kept in the repository: packages come through the user's package manager, and the article pages are checked out
of their repository (MIT) into the cache. `GYRAL_ARTICLES` names a copy of it to clone from, where GitHub is not reachable.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from gyral.curate.readers import open_place
from gyral.packages.fetch import cache_folder

REPOSITORY = "https://github.com/scrapinghub/article-extraction-benchmark"


def articles() -> tuple[Path, dict[str, bytes], ModuleType]:
    """Folder of the article benchmark, its 181 pages by name, and its own module `evaluate`."""
    folder = cache_folder() / "benchmarks" / "article-extraction-benchmark"
    if not (folder / "evaluate.py").exists():
        source = os.environ.get("GYRAL_ARTICLES", REPOSITORY)
        subprocess.run(["git", "clone", "--quiet", "--no-checkout", "--depth", "1", source, folder], check=True)
        command = ["git", "-C", folder, "checkout", "--quiet", "HEAD", "--", "html", "ground-truth.json", "evaluate.py"]
        subprocess.run(command, check=True)
    names = sorted(json.loads((folder / "ground-truth.json").read_text()))
    pages = {name: gzip.decompress((folder / "html" / f"{name}.html.gz").read_bytes()) for name in names}
    spec = importlib.util.spec_from_file_location("evaluate", folder / "evaluate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return folder, pages, module


def handbook(count: int) -> dict[str, bytes]:
    """Pages of Debian's handbook at equal distances, so that all its languages are met."""
    place = open_place("apt:debian-handbook", Path.cwd(), print)
    files = [(Path(part.root) / file.path, file.path) for part in place.parts for file in part.files]
    return {name: path.read_bytes() for path, name in files[:: max(1, len(files) // count)][:count]}


def write_pages(folder: Path, pages: dict[str, bytes]) -> None:
    """Pages as files `0000.html`, …, in order."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, body in enumerate(pages.values()):
        (folder / f"{number:04}.html").write_bytes(body)


def write_warc(path: Path, pages: Sequence[bytes]) -> None:
    """Pages as responses of a WARC, each a member of gzip, as Common Crawl has them."""
    with open(path, "wb") as file:
        for number, body in enumerate(pages):
            http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            head = (
                "WARC/1.0\r\nWARC-Type: response\r\nWARC-Date: 2026-01-01T00:00:00Z\r\n"
                f"WARC-Record-ID: <urn:uuid:00000000-0000-4000-8000-{number:012}>\r\n"
                f"WARC-Target-URI: https://site{number % 97}.example/{number}\r\n"
                "WARC-Identified-Payload-Type: text/html\r\n"
                f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(http)}\r\n\r\n"
            ).encode()
            file.write(gzip.compress(head + http + b"\r\n\r\n", 6, mtime=0))
