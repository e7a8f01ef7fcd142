"""Packages of emoji as pictures with captions in 156 languages and regions.

`emoji-datasource-*` holds a picture of 64 pixels a concept and its English name, `cldr-annotations-full` names it in every
locale of CLDR: `--source 'npm:emoji-datasource-twitter@16.0.0 npm:cldr-annotations-full@48.2.0'`. They are joined by the emoji
itself, without the variation selector U+FE0F, which the two do not write alike.
A picture that CLDR does not name has its English name, and one of another skin colour has no caption.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import msgspec

from gyral.curate.readers import File, Part
from gyral.curate.readers.pictures import picture_row, read_picture
from gyral.curate.readers.rows import CORRUPT, Row

_PICTURE = re.compile(r"^(?P<package>(?:.*/)?)img/[^/]+/64/[^/]+\.png$")
_ANNOTATIONS = re.compile(r"(?:^|/)annotations/(?P<locale>[^/]+)/annotations\.json$")
_SELECTOR = "\ufe0f"
_INHERITED = "↑"


class _Variation(msgspec.Struct):
    image: str


class _Concept(msgspec.Struct):
    unified: str
    image: str
    name: str | None = None
    skin_variations: dict[str, _Variation] = {}


class _Names(msgspec.Struct):
    tts: list[str] = []


class _Locale(msgspec.Struct):
    annotations: dict[str, _Names] = {}


class _File(msgspec.Struct):
    annotations: _Locale


def packages(files: list[File]) -> list[str]:
    """Folders of packages of emoji among the files, each "" or with `/` at its end."""
    listed = {file.path.removesuffix("emoji.json") for file in files if re.search(r"(^|/)emoji\.json$", file.path)}
    pictures = {found["package"] for file in files if (found := _PICTURE.match(file.path))}
    return sorted(listed & pictures)


def pictures(package: str, files: list[File]) -> list[File]:
    """Pictures of a package, in order; sheets of many and other sizes are the same ones again."""
    found = (file for file in files if (match := _PICTURE.match(file.path)) and match["package"] == package)
    return sorted(found, key=lambda file: file.path)


def index(package: str, files: list[File]) -> list[File]:
    """The list of a package's concepts."""
    return [file for file in files if file.path == f"{package}emoji.json"]


def named(files: list[File]) -> list[File]:
    """Files of names in the locales of CLDR."""
    return sorted((file for file in files if _ANNOTATIONS.search(file.path)), key=lambda file: file.path)


def read(part: Part) -> Iterator[Row]:
    """Rows of a part: every picture with its names in all locales, by locale."""
    root = Path(part.root)
    index = next(file.path for file in part.files if file.path.endswith("emoji.json"))
    locales = tuple(file.path for file in part.files if _ANNOTATIONS.search(file.path))
    try:
        concepts = msgspec.json.decode((root / index).read_bytes(), type=list[_Concept])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        yield picture_row(index, -1, rejected=CORRUPT)
        return
    by_picture = {concept.image: concept for concept in concepts}
    names, damaged = _names(part.root, locales)
    for path in damaged:
        yield picture_row(path, -1, rejected=CORRUPT)
    for file in part.files:
        if not _PICTURE.match(file.path):
            continue
        raw, rejected = read_picture(root / file.path)
        row = picture_row(file.path, -1, domain=file.path.split("/")[-3], raw=raw, rejected=rejected)
        concept = by_picture.get(file.path.rpartition("/")[2])
        captions = names.get(_character(concept.unified), ()) if concept else ()
        if not captions and concept and concept.name:
            captions = (("en", concept.name.lower()),)
        for number, (language, text) in enumerate(captions):
            yield row._replace(offset=number, declared=language, text=text)
        if not captions:
            yield row


@lru_cache(maxsize=1)
def _names(root: str, locales: tuple[str, ...]) -> tuple[dict[str, tuple[tuple[str, str], ...]], list[str]]:
    """Of every emoji its languages and names; and files that cannot be read. 58 MB of JSON, kept for the next part."""
    names: dict[str, list[tuple[str, str]]] = {}
    damaged = []
    decoder = msgspec.json.Decoder(_File)
    for path in locales:
        found = _ANNOTATIONS.search(path)
        language = found["locale"].partition("-")[0] if found else ""
        try:
            told = decoder.decode((Path(root) / path).read_bytes()).annotations.annotations
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            damaged.append(path)
            continue
        for character, each in told.items():
            text = each.tts[0].strip() if each.tts else ""
            if text and not text.startswith(_INHERITED):
                names.setdefault(character.replace(_SELECTOR, ""), []).append((language, text))
    return {character: tuple(every) for character, every in names.items()}, damaged


def _character(unified: str) -> str:
    """`0023-FE0F-20E3` → the emoji, without its variation selector; "" for what is no such list."""
    try:
        return "".join(chr(int(code, 16)) for code in unified.split("-")).replace(_SELECTOR, "")
    except (ValueError, OverflowError):
        return ""
