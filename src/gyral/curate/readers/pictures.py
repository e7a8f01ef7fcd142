"""Pictures, with captions where there are some: folders, tar files, packages of emoji.

One row a picture and caption; a picture without one is a row too, and so is a caption without a picture (`no_picture`). In a
folder captions are those of Hugging Face's ImageFolder (`metadata.csv`, `.jsonl` or `.parquet` beside the pictures or above
them, with `file_name` and `text`), else those of a file `.txt` with the picture's name. Names in metadata are looked up among
the files that were listed and never opened, so they lead nowhere.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from gyral.curate.readers import PART_BYTES, File, Part
from gyral.curate.readers.rows import CORRUPT, TOO_LARGE, UNREADABLE, Row, in_batches

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif")
TARS = (".tar", ".tar.gz", ".tgz")
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
CAPTION_FIELDS = ("text", "caption", "captions")
MAX_PICTURE_BYTES = 64 << 20
MAX_CAPTION_BYTES = 64 << 10
"""Of a caption no more than this is read: one so long is dropped by its length."""
_CAPTIONS = 25
"""Parts of emoji are smaller by this, because a picture comes again with each of its names."""
NO_PICTURE = "no_picture"


def picture_row(file: str, offset: int, **values: Any) -> Row:
    """A row of a picture; the caption is its `text`."""
    return Row(file, offset, "image", **values)


def find(folder: Path, files: list[File]) -> list[Part]:
    """Parts of the pictures among the files of a place; others are passed over.

    Parameters
    ----------
    folder : what the paths of the files are relative to; of several sources, one of which may hold names of emoji, the folder
        above all.
    """
    from gyral.curate.readers import emoji

    listed = sorted(files, key=lambda file: file.path)
    packages, names = emoji.packages(listed), emoji.named(listed)
    parts, pictures, captions = [], [], {}
    for file in listed:
        lower = file.path.lower()
        if any(file.path.startswith(package) for package in packages):
            continue
        if lower.endswith(TARS):
            parts.append(Part("tar", str(folder), [file]))
        elif lower.endswith(ENDINGS):
            pictures.append(file)
        elif lower.endswith((".txt", *METADATA)):
            # What captions stand in belongs to several parts: told by its stamp, and without a size of its own.
            captions[file.path] = msgspec.structs.replace(file, size_bytes=0)
    for package in packages:
        about = [msgspec.structs.replace(file, size_bytes=0) for file in (*emoji.index(package, listed), *names)]
        for some in cut(emoji.pictures(package, listed), PART_BYTES // (_CAPTIONS if names else 1)):
            parts.append(Part("emoji", str(folder), [*some, *about]))
    for some in cut(pictures, PART_BYTES):
        needed = {path: captions[path] for file in some for path in _beside(file.path, captions)}
        parts.append(Part("images", str(folder), [*some, *needed.values()]))
    return parts


def read(part: Part) -> Iterator[pa.RecordBatch]:
    """Read a part that `find` made; batches of the schema `DOCUMENT`."""
    if part.reader == "tar":
        from gyral.curate.readers import tar

        rows = tar.read(part)
    elif part.reader == "emoji":
        from gyral.curate.readers import emoji

        rows = emoji.read(part)
    else:
        rows = _read_folder(part)
    return in_batches(row._replace(file=part.prefix + row.file.removeprefix(part.below)) for row in rows)


def cut(files: Iterable[File], part_bytes: int) -> Iterator[list[File]]:
    """Cut a list where a hash of a file's name says so, so that another file in it moves few cuts."""
    some: list[File] = []
    size = 0
    for file in files:
        some.append(file)
        size += file.size_bytes
        chance = int.from_bytes(hashlib.blake2b(file.path.encode("utf-8", "replace"), digest_size=4).digest(), "big") / 2**32
        if chance < (file.size_bytes + 1) / part_bytes or size >= 4 * part_bytes:
            yield some
            some, size = [], 0
    if some:
        yield some


def with_captions(row: Row, captions: list[str]) -> Iterator[Row]:
    """A row for every caption, told apart by `offset`; one without where there are none."""
    texts = [text for text in (caption.strip() for caption in captions) if text]
    if len(texts) < 2:
        yield row._replace(text=texts[0] if texts else None)
        return
    for number, text in enumerate(texts):
        yield row._replace(offset=max(row.offset, 0) + number, text=text)


def captions_of(value: Any) -> list[str]:
    """Captions in a field: a text or a list of them."""
    return [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str)]


def read_picture(path: Path) -> tuple[bytes | None, str | None]:
    """Bytes of a file, or why there are none."""
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_PICTURE_BYTES + 1)
    except OSError:
        return None, UNREADABLE
    return (raw, None) if len(raw) <= MAX_PICTURE_BYTES else (None, TOO_LARGE)


def _beside(path: str, known: dict[str, File]) -> Iterator[str]:
    """Files that may hold the caption of a picture: metadata of the nearest folder that has some, and its side file."""
    side = path.rpartition(".")[0] + ".txt"
    if side in known:
        yield side
    folder = path.rpartition("/")[0]
    while True:
        here = [place for name in METADATA if (place := f"{folder}/{name}" if folder else name) in known]
        yield from here
        if here or not folder:
            return
        folder = folder.rpartition("/")[0]


def _read_folder(part: Part) -> Iterator[Row]:
    root = Path(part.root)
    pictures = [file.path for file in part.files if file.path.lower().endswith(ENDINGS)]
    known = {file.path: file for file in part.files}
    captions: dict[str, list[str]] = {}
    left = set(pictures)
    metadata = sorted(path for path in known if path.lower().endswith(METADATA))
    for folder in sorted({path.rpartition("/")[0] for path in metadata}, key=lambda folder: (-len(folder), folder)):
        # The nearest metadata tells: what lies deeper comes first, and takes its pictures out.
        wanted = {path for path in left if path.startswith(f"{folder}/" if folder else "")}
        left -= wanted
        for path in (path for path in metadata if path.rpartition("/")[0] == folder):
            try:
                _read_metadata(root, path, wanted, captions)
            except (OSError, ValueError, csv.Error, pa.ArrowException):
                yield picture_row(path, -1, rejected=CORRUPT)
    for path in pictures:
        raw, rejected = read_picture(root / path)
        side = path.rpartition(".")[0] + ".txt"
        texts = captions.get(path) or (_side_caption(root / side) if side in known else [])
        domain = path.partition("/")[0] if "/" in path else None
        yield from with_captions(picture_row(path, -1, domain=domain, raw=raw, rejected=rejected), texts)


def _side_caption(path: Path) -> list[str]:
    try:
        with open(path, "rb") as file:
            return [file.read(MAX_CAPTION_BYTES).decode("utf-8-sig", "replace")]
    except OSError:
        return []


def _read_metadata(root: Path, path: str, wanted: set[str], captions: dict[str, list[str]]) -> None:
    """Add the captions of the pictures that are wanted; no more than those is held."""
    folder = path.rpartition("/")[0]
    for row in _metadata_rows(root / path):
        name = row.get("file_name")
        if isinstance(name, str):
            picture = f"{folder}/{name}" if folder else name
            if picture in wanted:
                value = next((row[field] for field in CAPTION_FIELDS if row.get(field)), None)
                captions.setdefault(picture, []).extend(text[:MAX_CAPTION_BYTES] for text in captions_of(value))


def _metadata_rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            columns = [name for name in ("file_name", *CAPTION_FIELDS) if name in file.schema_arrow.names]
            for batch in file.iter_batches(8192, columns=columns):
                yield from batch.to_pylist()
    elif path.suffix == ".csv":
        with open(path, encoding="utf-8-sig", errors="replace", newline="") as text:
            yield from csv.DictReader(text)
    else:
        with open(path, "rb") as lines:
            while line := lines.readline(1 << 24):
                if line.strip():
                    try:
                        row = msgspec.json.decode(line)
                    except (msgspec.DecodeError, UnicodeDecodeError):
                        continue  # the picture of a broken line has no caption
                    if isinstance(row, dict):
                        yield row
