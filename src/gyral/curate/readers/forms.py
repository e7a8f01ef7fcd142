"""Which form a file has: by its ending, and by its first bytes where the ending says too little.

Endings decide for files of a folder, because opening 13,000 of them to look costs more than listing them; only `.xml` is looked
into, and a file that was named by itself.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

HEAD_BYTES = 4096
_MEDIA = {
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".page": "mallard",
    ".docbook": "docbook",
    ".dbk": "docbook",
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".markdown": "text",
    ".rst": "text",
}
_READERS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".warc": "warc",
    ".wet": "warc",
    ".png": "images",
    ".jpg": "images",
    ".jpeg": "images",
    ".webp": "images",
    ".gif": "images",
    ".tar": "tar",
}
_PACKED = (".gz", ".zst")
_DOCBOOK = rb"(?:book|article|chapter|appendix|preface|part|section|sect[1-5]|refentry|reference|set|glossary)"
_ROOT = re.compile(rb"<(?:[A-Za-z_][\w.-]*:)?([A-Za-z_][\w.-]*)[\s/>]")
_HTML = re.compile(rb"<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE)
_UNFIT = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")


class Form(NamedTuple):
    """How a file is read: by which reader, as which media ("" where the reader tells), and whether it is packed, `.gz`."""

    reader: str
    media: str = ""
    packed: str = ""


def by_name(path: str) -> Form | None:
    """Form by ending; None where the ending is no document's. `Form("xml")` asks for a look inside."""
    name = path.rpartition("/")[2].lower()
    packed = next((ending for ending in _PACKED if name.endswith(ending)), "")
    stem, dot, last = name.removesuffix(packed).rpartition(".")
    ending = dot + last
    if not stem:
        return None
    if ending in _MEDIA:
        return Form("files", _MEDIA[ending], packed)
    if ending == ".xml" and not packed:
        return Form("xml")
    if ending == ".tgz":
        return Form("tar", "", ".gz")
    if ending == ".json" and packed:  # C4 and Dolma call their packed lines so
        return Form("jsonl", "", packed)
    reader = _READERS.get(ending)
    if reader is None or (packed and reader in ("images", "parquet")):
        return None
    return Form(reader, "", packed)


def by_head(head: bytes) -> Form | None:
    """Form by the first bytes of a file whose name says nothing."""
    for magic, packed in ((b"\x1f\x8b", ".gz"), (b"\x28\xb5\x2f\xfd", ".zst")):
        if head.startswith(magic):
            inner = by_head(_unpacked(head, packed))
            return None if inner is None or inner.packed or inner.reader == "parquet" else inner._replace(packed=packed)
    if head.startswith(b"PAR1"):
        return Form("parquet")
    if head.startswith(b"WARC/"):
        return Form("warc")
    if head.startswith((b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8")) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return Form("images")
    if head[257:262] == b"ustar":
        return Form("tar")
    plain = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if plain.startswith(b"{"):
        return Form("jsonl")
    xml = xml_form(head)
    if xml:
        return xml
    if _HTML.search(head):
        return Form("files", "html")
    if head and not _UNFIT.search(head):
        return Form("files", "text")
    return None


def xml_form(head: bytes) -> Form | None:
    """Form of an XML file by the name of its root: Mallard, DocBook or XHTML; None for another."""
    bare = re.sub(rb"<\?.*?\?>|<!--.*?-->|<!DOCTYPE[^\[>]*(?:\[.*?\]\s*)?>", b"", head, flags=re.DOTALL)
    root = _ROOT.search(bare)
    if not root or bare[: root.start()].lstrip(b"\xef\xbb\xbf \t\r\n"):
        return None
    name = root.group(1)
    if name == b"page" and b"projectmallard.org" in head:
        return Form("files", "mallard")
    if re.fullmatch(_DOCBOOK, name) and (b"docbook" in head.lower() or b"DocBook" in head):
        return Form("files", "docbook")
    return Form("files", "html") if name.lower() == b"html" else None


def head_of(path: Path) -> bytes:
    """First bytes of a file; none where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(HEAD_BYTES)
    except OSError:
        return b""


def _unpacked(head: bytes, packed: str) -> bytes:
    from gyral.curate.readers.packed import unpack_head

    return unpack_head(head, packed, HEAD_BYTES)
