"""The text that benchmarks of curation share: two Debian packages of documentation in 50 languages, tags stripped, as Parquet.

`gnome-user-docs` (13,131 Mallard pages, CC-BY-SA-3.0) has 42 folders of languages, a third of their pages untranslated, many of
them equal; `debian-handbook` (3,302 HTML pages, GPL-2+ or CC-BY-SA) has 26. They are fetched by apt and kept in gyral's cache.
Extraction is by regular expressions, the same for all: these benchmarks are not about it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gyral.packages.fetch import cache_folder, fetch

PACKAGES = {
    "gnome-user-docs": ("usr/share/help/*/**/*.page", 3),
    "debian-handbook": ("usr/share/doc/debian-handbook/html/*/**/*.html", 5),
}
"""Name → its pages, and which part of their path is the language."""
_SKIPPED = re.compile(r"(?s)<(script|style|head)\b.*?</\1>|<!--.*?-->")
_BLOCK = re.compile(r"</?(?:p|div|title|item|section|h[1-6]|li|tr|td|pre|code|br|dt|dd|note|media|list|steps|page)\b[^>]*>")
_TAG = re.compile(r"<[^>]+>")


def prose() -> Path:
    """A Parquet file with `text`, `language` and `package`, one row a page, in the order of the paths."""
    into = cache_folder() / "benchmarks" / "prose-1.parquet"
    if not into.exists():
        rows: list[tuple[str, str, str]] = []
        for name, (pattern, depth) in PACKAGES.items():
            package = fetch(f"apt:{name}", lambda told: print(told, file=sys.stderr))
            folder = package.folder / "unpacked"
            if not folder.exists():
                subprocess.run(["dpkg-deb", "-x", package.path, folder], check=True)
            for path in sorted(folder.glob(pattern)):
                language = path.relative_to(folder).parts[depth]
                text = plain(path.read_text(errors="replace"))
                if text:
                    rows.append((text, "en" if language == "C" else re.split("[-_@]", language)[0], name))
        columns = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
        into.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns, ["text", "language", "package"]), into.with_suffix(".tmp"))
        into.with_suffix(".tmp").rename(into)
    return into


def plain(page: str) -> str:
    """The text of a page: a block element ends a paragraph, every other tag goes."""
    page = _TAG.sub("", _BLOCK.sub("\n\n", _SKIPPED.sub(" ", page)))
    for entity, char in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&nbsp;", " "), ("&amp;", "&")):
        page = page.replace(entity, char)
    paragraphs = (" ".join(part.split()) for part in re.split(r"\n\s*\n", page))
    return "\n\n".join(part for part in paragraphs if part)
