"""Pages with known main content, for training the extractor: read from checkouts, cleaned of whatever the evaluations hold.

Sources (licence of the set; pages are read, never kept): WCXB (Murrough-Foley/web-content-extraction-benchmark, CC-BY-4.0),
2,008 pages of seven kinds with the full content; mozilla/readability test pages (Apache-2.0), content as HTML; newspaper test
pages (codelucas/newspaper, MIT) with text; fixtures of postlight/parser (MIT or Apache-2.0) and goose3 (Apache-2.0), which have
no full content and get it from trafilatura where resiliparse agrees.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

WCXB = "Murrough-Foley+web-content-extraction-benchmark"
READABILITY, NEWSPAPER, POSTLIGHT, GOOSE = "mozilla+readability", "codelucas+newspaper", "postlight+parser", "goose3+goose3"
ARTICLES, TRAFILATURA = "scrapinghub+article-extraction-benchmark", "adbar+trafilatura"
GRAM = 13


class Page(NamedTuple):
    """One page: `gold` is its content as text, None where there is none; `weight` of its blocks in training."""

    source: str
    name: str
    kind: str
    url: str
    site: str
    raw: bytes
    gold: str | None
    title: str
    weight: float


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def site_of(url: str) -> str:
    """Registered domain, near enough: the last two labels, three where the last two are short (`co.uk`)."""
    labels = (urlsplit(url if "//" in url else "//" + url).hostname or "").removeprefix("www.").split(".")
    take = 3 if len(labels) > 2 and len(labels[-1]) == 2 and len(labels[-2]) <= 3 else 2
    return ".".join(labels[-take:])


def declared_url(raw: bytes) -> str:
    """Address that a page gives of itself."""
    match = re.search(
        rb"<link[^>]+rel=[\"']?canonical[\"']?[^>]+href=[\"']([^\"']+)|<meta[^>]+og:url[\"'][^>]+content=[\"']([^\"']+)", raw
    )
    return (match.group(1) or match.group(2)).decode("utf-8", "replace") if match else ""


def training(root: Path) -> Iterator[Page]:
    """All pages of the sources, overlaps included."""
    for split in ("dev", "test"):
        for file in sorted((root / WCXB / split / "ground-truth").glob("*.json")):
            record = json.loads(file.read_text())
            truth = record["ground_truth"]
            content = truth.get("main_content") or ""
            if not content:
                continue
            raw = gzip.decompress((root / WCXB / split / "html" / f"{file.stem}.html.gz").read_bytes())
            kind = (record.get("_internal") or {}).get("page_type") or "article"
            kind = kind.get("primary", "article") if isinstance(kind, dict) else kind
            url = record.get("url") or ""
            yield Page("wcxb", file.stem, kind, url, site_of(url), raw, content, truth.get("title") or "", 1.0)
    for folder in sorted((root / READABILITY / "test" / "test-pages").iterdir()):
        raw = (folder / "source.html").read_bytes()
        meta = json.loads((folder / "expected-metadata.json").read_text())
        url = declared_url(raw) or folder.name
        site = site_of(url) or re.sub(r"-?\d+$", "", folder.name)
        gold = (folder / "expected.html").read_text()
        yield Page("readability", folder.name, "article", url, site, raw, gold, meta.get("title") or "", 1.0)
    for file in sorted((root / NEWSPAPER / "tests/data/html").glob("*.html")):
        text = root / NEWSPAPER / "tests/data/text" / f"{file.stem}.txt"
        raw = file.read_bytes()
        if text.exists() and len(text.read_text(errors="replace")) > 200:
            url = declared_url(raw)
            yield Page(
                "newspaper",
                file.stem,
                "article",
                url,
                site_of(url) or file.stem,
                raw,
                text.read_text(errors="replace"),
                "",
                0.4,
            )
    for source, folder, pattern in (
        ("postlight", root / POSTLIGHT / "fixtures", "*.html"),
        ("goose3", root / GOOSE / "tests/data", "**/*.html"),
    ):
        for file in sorted(folder.glob(pattern)):
            raw = file.read_bytes()
            url = declared_url(raw) or file.stem
            if len(raw) > 5_000:
                yield Page(source, file.stem, "article", url, site_of(url) or file.stem, raw, None, "", 1.0)


class Held(NamedTuple):
    """What the evaluations hold: addresses, sites and 13-grams of words of their texts."""

    urls: set[str]
    sites: set[str]
    grams: set[int]


def held_out(root: Path, texts: bool = True) -> Held:
    """Read the evaluation sets for what must not be trained on; their annotations are not looked at beyond that."""
    urls: set[str] = set()
    grams: set[int] = set()
    for record in json.loads((root / ARTICLES / "ground-truth.json").read_text()).values():
        urls.add(_plain(record.get("url", "")))
        grams.update(grams_of(words(record["articleBody"])))
    known = json.loads((root / TRAFILATURA / "tests/evaldata.json").read_text())
    for url, record in known.items():
        urls.add(_plain(url))
        for folder in ("cache", "eval"):
            file = root / TRAFILATURA / "tests" / folder / record["file"]
            if file.exists():
                from resiliparse.extract.html2text import extract_plain_text
                from resiliparse.parse.encoding import detect_encoding

                raw = file.read_bytes()
                text = extract_plain_text(raw.decode(detect_encoding(raw) or "utf-8", "replace"), main_content=True)
                grams.update(grams_of(words(text)))
                break
    return Held(urls - {""}, {site_of(url) for url in urls} - {""}, grams)


def grams_of(tokens: list[str]) -> set[int]:
    return {hash(tuple(tokens[at : at + GRAM])) for at in range(len(tokens) - GRAM + 1)}


def _plain(url: str) -> str:
    return re.sub(r"^https?://(www\.)?|[?#].*$|/$", "", url.lower())


def overlap(page: Page, text: str, held: Held) -> str | None:
    """Why a page must not be trained on, if it must not."""
    if _plain(page.url) in held.urls:
        return "url"
    if page.site in held.sites:
        return "site"
    own = grams_of(words(text))
    return "text" if own and len(own & held.grams) > max(2, 0.02 * len(own)) else None
