"""Real documents with real near-duplicates, for the benchmarks of `curate/near`: documentation packages of Debian.

42 languages of GNOME's user guides and 26 of Debian's handbook, of which a third to a half is untranslated or lightly
edited English; man pages in five languages, many of which differ in a few words; the manuals of Python and PostgreSQL;
LibreOffice's help in three languages. Texts are made by crude rules (tags and macros out), the same for every competitor.
"""

from __future__ import annotations

import gzip
import html
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gyral.packages.fetch import cache_folder, fetch

PACKAGES = (
    "gnome-user-docs",
    "debian-handbook",
    "manpages",
    "manpages-dev",
    "manpages-de",
    "manpages-fr",
    "manpages-fr-dev",
    "manpages-ja",
    "manpages-zh",
    "libreoffice-help-zh-cn",
    "libreoffice-help-ja",
    "libreoffice-help-en-us",
    "python3.11-doc",
    "postgresql-doc-15",
)
MIN_CHARS = 200
_HIDDEN = re.compile(r"<(script|style|head|info)\b.*?</\1>|<!--.*?-->", re.DOTALL | re.IGNORECASE)
_TAG, _MACRO = re.compile(r"<[^>]+>"), re.compile(r"^[.']\S*|\\f.|\\[-&|e]|\\\(..|\\s[-+]?\d", re.MULTILINE)


def documents() -> Path:
    """A file of JSON lines, `path` and `text`, of distinct texts in the order of their paths; made once."""
    path = cache_folder() / "benchmarks" / "near-documents-1.jsonl"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    seen: set[str] = set()
    temporary = path.with_suffix(".tmp")
    with temporary.open("w") as file:
        for package in PACKAGES:
            for name, text in _texts(package):
                if len(text) >= MIN_CHARS and text not in seen:
                    seen.add(text)
                    file.write(json.dumps({"path": f"{package}/{name}", "text": text}, ensure_ascii=False) + "\n")
    temporary.rename(path)
    return path


def load() -> tuple[list[str], list[str]]:
    """Paths and texts."""
    with documents().open() as file:
        rows = [json.loads(line) for line in file]
    return [row["path"] for row in rows], [row["text"] for row in rows]


def _texts(package: str) -> Iterator[tuple[str, str]]:
    deb = fetch(f"apt:{package}", lambda note: print(note, file=sys.stderr)).path
    folder = cache_folder() / "benchmarks" / "unpacked" / package
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["dpkg-deb", "-x", deb, folder], check=True)
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if not path.is_file() or path.is_symlink():
            continue
        if path.suffix in (".html", ".page"):
            yield name, _squeeze(html.unescape(_TAG.sub(" ", _HIDDEN.sub(" ", path.read_text(errors="replace")))))
        elif path.suffix == ".gz" and "/man/" in f"/{name}":
            yield name, _squeeze(_MACRO.sub("", gzip.decompress(path.read_bytes()).decode(errors="replace")))
        elif path.suffix == ".txt":
            yield name, path.read_text(errors="replace")


def _squeeze(text: str) -> str:
    return re.sub(r"[ \t]+", " ", re.sub(r"\s*\n\s*", "\n", text)).strip()


if __name__ == "__main__":
    print(documents())
