"""Finds the documents of a place and cuts them into parts.

A folder is listed once, links and hidden names are passed over, and what is no document is told in one line. Files are cut into
parts where a hash of a file's name and size says so, as content-defined chunks are: a part has 4 to 32 MiB, and a file
that is added, removed or grown changes the part it falls into and rarely one or two after it.
"""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import msgspec

from gyral.curate.readers import PART_BYTES, File, Options, Part, Place
from gyral.curate.readers.forms import Form, by_head, by_name, head_of, xml_form
from gyral.errors import InputError
from gyral.packages.fetch import MANAGERS, fetch
from gyral.packages.unpacking import unpack

_LEAST_BYTES, _MEAN_BYTES = PART_BYTES // 8, PART_BYTES // 2
_PICTURES = ("images", "tar", "emoji")
_RANGES = ("jsonl", "parquet", "warc")


class Source(NamedTuple):
    """One of the sources of a place: its name, a folder, its documents by reader, and files that belong to pictures."""

    name: str
    folder: Path
    documents: dict[str, list[File]]
    others: list[File]


def find(uri: str, root: Path, note: Callable[[str], None], kind: str, options: Options) -> Place:
    """Find what `open_place` opens."""
    try:
        uris = shlex.split(uri)
    except ValueError as error:
        raise InputError(f"`{uri}` cannot be split into sources", why=str(error), hint="close the quotes") from None
    if not uris:
        raise InputError("no source is named", hint="name a file, a folder or a package, `apt:NAME`")
    sources = _with_own_names([_source(each, root, note) for each in uris])
    kind = kind or _kind(sources)
    parts: list[Part] = []
    for source in sources if kind == "text" else ():
        prefix = f"{source.name}/" if len(sources) > 1 else ""
        parts += _text_parts(source, prefix, options)
    if kind != "text":
        parts = _picture_parts(sources)
    if not parts:
        hint = "known endings: .html .page .xml .txt .md .jsonl .parquet .warc .wet, packed as .gz or .zst; pictures and .tar"
        raise InputError(f"there is no document of kind `{kind}` in `{uri}`", where=str(sources[0].folder), hint=hint)
    if kind == "images" and any(part.reader != "images" or len(part.files) > len(_shown(part)) for part in parts):
        kind = "pairs"
    return Place("+".join(source.name for source in sources), kind, parts)


def _with_own_names(sources: list[Source]) -> list[Source]:
    """Sources whose names differ: `train`, `train-2`."""
    met: Counter[str] = Counter()
    result = []
    for source in sources:
        met[source.name] += 1
        number = met[source.name]
        result.append(source._replace(name=f"{source.name}-{number}") if number > 1 else source)
    return result


def _source(uri: str, root: Path, note: Callable[[str], None]) -> Source:
    scheme = uri.partition(":")[0]
    if scheme in MANAGERS:
        package = fetch(uri, note)
        unpacked, digest = unpack(package, note)
        path = unpacked / package.member
        name = uri.partition(":")[2].partition("!/")[0].partition("#")[0].lstrip("@").replace("/", "-")
        name = name.partition("==")[0].partition("@")[0].partition("=")[0]
        if not path.resolve().is_relative_to(unpacked.resolve()) or not path.exists():
            near = ", ".join(sorted(entry.name for entry in unpacked.iterdir())[:8])
            raise InputError(f"`{package.path.name}` has no `{package.member}`", where=str(package.path), hint=f"it has {near}")
        return _listed(name, path, note, digest, scheme)
    path = root / Path(uri).expanduser()
    if not path.exists():
        raise InputError(f"there is no `{uri}`", where=str(path.parent), hint="name a file, a folder or a package, `apt:NAME`")
    return _listed(path.resolve().name.partition(".")[0] or "files", path, note, "", "")


def _listed(name: str, path: Path, note: Callable[[str], None], digest: str, scheme: str) -> Source:
    if path.is_file():
        file = _file(path.name, path.stat(), digest)
        form = by_name(path.name)
        form = (xml_form(head_of(path)) if form == Form("xml") else form) or by_head(head_of(path))
        if form is None:
            raise InputError(
                f"`{path.name}` is of no known form", where=str(path), hint="HTML, XML, text, JSON lines, Parquet, WARC, …"
            )
        if path.suffix in (".csv", ".tsv", ".inter"):
            note(f"`{path.name}` is read as one text; rows of events come in by `gyral ingest --source {path.name}`")
        return Source(name, path.parent, {form.reader: [file]}, [])
    documents: dict[str, list[File]] = {}
    others, passed = [], Counter[str]()
    for file in _files(path, digest, passed):
        form = None if _about_the_package(file.path, scheme) else by_name(file.path)
        if form == Form("xml"):
            form = xml_form(head_of(path / file.path))
        if form is None:
            passed[
                "." + file.path.rpartition("/")[2].rpartition(".")[2] if "." in file.path.rpartition("/")[2] else "others"
            ] += 1
            others.append(file)
        else:
            documents.setdefault(form.reader, []).append(file)
    if digest and set(documents) - set(_PICTURES):
        path, documents, others = _below(path, documents, others)
    if passed:
        told = ", ".join(f"{count:,} {ending}" for ending, count in passed.most_common(8))
        note(f"{name}: {sum(map(len, documents.values())):,} files are read; no documents: {told}")
    return Source(name, path, documents, others)


def _files(folder: Path, digest: str, passed: Counter[str]) -> Iterable[File]:
    """Files below a folder by path, links and hidden names left out."""
    found: list[File] = []
    waiting = [""]
    while waiting:
        below = waiting.pop()
        with os.scandir(folder / below) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    passed["hidden"] += 1
                elif entry.is_symlink():
                    passed["links"] += 1
                elif entry.is_dir():
                    waiting.append(f"{below}{entry.name}/")
                elif entry.is_file():
                    try:
                        f"{entry.name}".encode()
                        found.append(_file(below + entry.name, entry.stat(), digest))
                    except UnicodeEncodeError:
                        passed["names that are no UTF-8"] += 1
    return sorted(found, key=lambda file: file.path)


def _file(path: str, told: os.stat_result, digest: str) -> File:
    return File(path, told.st_size, digest or f"{told.st_mtime_ns}")


def _about_the_package(path: str, scheme: str) -> bool:
    """Whether a file is about the package and not of it: licence, changes, how it was made."""
    if scheme == "apt":
        pieces = path.split("/")
        return pieces[:3] == ["usr", "share", "lintian"] or (pieces[:3] == ["usr", "share", "doc"] and len(pieces) == 5)
    if scheme == "pip":
        return path.partition("/")[0].endswith((".dist-info", ".egg-info"))
    return scheme == "npm" and path.count("/") == 1


def _below(path: Path, documents: dict[str, list[File]], others: list[File]) -> tuple[Path, dict[str, list[File]], list[File]]:
    """Enter the deepest folder that holds all documents, so that the first folder of a path says something."""
    common = os.path.commonpath([os.path.dirname(file.path) for files in documents.values() for file in files])
    if not common:
        return path, documents, others

    def enter(files: Sequence[File]) -> list[File]:
        return [msgspec.structs.replace(file, path=file.path[len(common) + 1 :]) for file in files]

    inside = [file for file in others if file.path.startswith(common + "/")]
    return path / common, {reader: enter(files) for reader, files in documents.items()}, enter(inside)


def _kind(sources: Sequence[Source]) -> str:
    """`images` where pictures are more than nine of ten, captions beside them not counted; else `text`."""
    pictures = texts = 0
    for source in sources:
        of_pictures = [file for reader in _PICTURES for file in source.documents.get(reader, [])]
        stems = {file.path.rpartition(".")[0] for file in of_pictures}
        pictures += len(of_pictures)
        for reader, files in source.documents.items():
            if reader not in _PICTURES:
                texts += sum(file.path.rpartition(".")[0] not in stems for file in files)
    return "images" if pictures > 9 * texts else "text"


def _picture_parts(sources: Sequence[Source]) -> list[Part]:
    """Parts of the pictures of all sources together, because one may hold the captions of another's."""
    from gyral.curate.readers.pictures import find as find_pictures

    folder = Path(os.path.commonpath([source.folder for source in sources]))
    files: list[File] = []
    names: dict[str, str] = {}
    for source in sources:
        below = "" if source.folder == folder else f"{source.folder.relative_to(folder).as_posix()}/"
        names[below] = f"{source.name}/" if below else ""
        for file in (*source.others, *(file for every in source.documents.values() for file in every)):
            files.append(msgspec.structs.replace(file, path=below + file.path))
    parts = []
    for part in find_pictures(folder, sorted(files, key=lambda file: file.path)):
        below = max((each for each in names if part.files[0].path.startswith(each)), key=len)
        parts.append(msgspec.structs.replace(part, prefix=names[below], below=below))
    return parts


def _shown(part: Part) -> list[File]:
    """The pictures among the files of a part; the others hold their captions."""
    return [file for file in part.files if (form := by_name(file.path)) and form.reader == "images"]


def _text_parts(source: Source, prefix: str, options: Options) -> list[Part]:
    parts = []
    for reader in sorted(set(source.documents) - set(_PICTURES)):
        for files in cut(source.documents[reader], reader in _RANGES):
            for begin, end in _ranges(source.folder, reader, files):
                parts.append(Part(reader, str(source.folder), files, begin, end, options, prefix))
    return parts


def cut(files: Sequence[File], large_alone: bool) -> list[list[File]]:
    """Cut files, by path, into parts of 4 to 32 MiB.

    A cut falls behind a file with probability size/mean, by a hash of its path and size, once a part is large enough.

    Parameters
    ----------
    large_alone : a file larger than a part stands by itself, because it is read in ranges.

    Source
    ------
    Muthitacharoen, Chen, Mazières: A low-bandwidth network file system, SOSP 2001, section 3.1 (chunks by content).
    """
    parts: list[list[File]] = []
    open_part: list[File] = []
    size = 0
    for file in files:
        alone = large_alone and file.size_bytes > PART_BYTES
        if open_part and (alone or size + file.size_bytes > PART_BYTES):
            parts.append(open_part)
            open_part, size = [], 0
        open_part.append(file)
        size += file.size_bytes
        draw = int.from_bytes(blake2b(f"{file.path} {file.size_bytes}".encode(), digest_size=8).digest()) / 2**64
        if alone or (size >= _LEAST_BYTES and draw < file.size_bytes / _MEAN_BYTES):
            parts.append(open_part)
            open_part, size = [], 0
    return [*parts, open_part] if open_part else parts


def _ranges(folder: Path, reader: str, files: list[File]) -> list[tuple[int, int]]:
    """Ranges in which one large file is read; (0, -1) for all of it."""
    size, form = files[0].size_bytes, by_name(files[0].path)
    packed = form.packed if form else ""
    if len(files) > 1 or size <= PART_BYTES:
        return [(0, -1)]
    if reader == "parquet":
        from gyral.curate.readers.parquet import ranges

        return ranges(folder / files[0].path)
    if (reader == "jsonl" and not packed) or (reader == "warc" and packed == ".gz"):
        count = -(-size // PART_BYTES)
        return [(number * PART_BYTES, min(size, (number + 1) * PART_BYTES)) for number in range(count)]
    return [(0, -1)]
