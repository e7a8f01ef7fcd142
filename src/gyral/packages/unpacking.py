"""A package unpacked once into the cache: regular files only, below one folder, with limits on their number and bytes.

Links, devices and paths that lead out are passed over, so nothing that a package holds can point elsewhere. The folder appears
under its name when it is whole. It is not flushed to the disk file by file, which takes longer than unpacking 20,000 pages:
instead a list of what is in it is kept beside, and a folder that lacks bytes of it (power was cut) is made anew.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec

from gyral.errors import InputError
from gyral.files import staging_folder, write_atomic
from gyral.packages.archives import DAMAGED, FREE_BYTES, MAX_ENTRIES, MAX_RATIO, Header, deb_data, members
from gyral.packages.fetch import Package

MAX_UNPACKED_BYTES = 50 << 30
_COPY_BYTES = 1 << 20


class Contents(msgspec.Struct, frozen=True):
    """What was unpacked, and what was passed over."""

    files: int
    size_bytes: int
    links: int
    unsafe: int


def unpack(package: Package, note: Callable[[str], None]) -> tuple[Path, str]:
    """The folder of a package's files, and the package's sha256; unpacked unless that was done before.

    Raises
    ------
    InputError : the package is damaged or larger than the limits.
    """
    with open(package.path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    name = f"files-{digest[:16]}"
    folder, listed = package.folder / name, package.folder / f"{name}.json"
    if folder.is_dir() and listed.exists():
        told = msgspec.json.decode(listed.read_bytes(), type=Contents)
        if _counted(folder) == (told.files, told.size_bytes):
            return folder, digest
        shutil.rmtree(folder)
    elif folder.is_dir():
        shutil.rmtree(folder)
    with staging_folder(package.folder, name) as staging:
        contents = _unpack(package.path, staging)
        note(f"unpacked {contents.files:,} files, {contents.size_bytes / 1e6:,.1f} MB, of {package.path.name}")
        write_atomic(listed, msgspec.json.encode(contents))
        try:
            os.rename(staging, folder)
        except OSError:  # another process was first
            if not folder.is_dir():
                raise
    return folder, digest


def _unpack(path: Path, staging: Path) -> Contents:
    most = min(MAX_UNPACKED_BYTES, max(FREE_BYTES, MAX_RATIO * path.stat().st_size))
    files = size = links = unsafe = 0
    try:
        with _entries(path) as entries:
            for name, file in entries:
                if file is None:
                    links += 1
                    continue
                target = _safe(staging, name)
                if target is None:
                    unsafe += 1
                    continue
                files += 1
                size += _copy(file, target, most - size)
                if files > MAX_ENTRIES or size > most:
                    why = f"more than {MAX_ENTRIES:,} files or {most:,} bytes"
                    raise InputError(f"`{path.name}` holds too much", where=str(path), why=why)
    except DAMAGED as error:
        hint = f"delete {path} to fetch it again"
        raise InputError(f"`{path.name}` cannot be unpacked", why=str(error), hint=hint) from None
    return Contents(files, size, links, unsafe)


@contextmanager
def _entries(path: Path) -> Iterator[Iterator[tuple[str, IO[bytes] | None]]]:
    """Names and contents of a package's files; None for what is no regular file."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            yield _zip_entries(archive)
    elif path.suffix == ".deb":
        with deb_data(path) as tar:
            yield _tar_entries(tar)
    else:
        with tarfile.open(path, "r|gz", tarinfo=Header) as tar:
            yield _tar_entries(tar)


def _tar_entries(archive: tarfile.TarFile) -> Iterator[tuple[str, IO[bytes] | None]]:
    for entry in members(archive):
        if not entry.isdir():
            yield entry.name, archive.extractfile(entry) if entry.isreg() else None


def _zip_entries(archive: zipfile.ZipFile) -> Iterator[tuple[str, IO[bytes] | None]]:
    for entry in archive.infolist():
        mode = entry.external_attr >> 16
        if entry.is_dir():
            continue
        if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            yield entry.filename, None
            continue
        with archive.open(entry) as file:
            yield entry.filename, file


def _safe(folder: Path, name: str) -> Path | None:
    """Where a file of this name goes; None where that would be outside, or is no name."""
    pieces = [piece for piece in name.split("/") if piece not in ("", ".")]
    bad = not pieces or name.startswith("/") or any(piece == ".." or len(piece.encode()) > 255 for piece in pieces)
    return None if bad or "\0" in name or "\\" in name or len(name) > 2_000 else folder.joinpath(*pieces)


def _copy(file: IO[bytes], target: Path, most: int) -> int:
    """Write a file that is not there yet; bytes written, one more than `most` where it holds more."""
    size = 0
    try:
        opened = open(target, "xb")  # noqa: SIM115 (closed below)
    except FileNotFoundError:
        target.parent.mkdir(parents=True, exist_ok=True)
        opened = open(target, "xb")  # noqa: SIM115
    except (FileExistsError, NotADirectoryError):
        return 0  # a name that stands twice in a package: the first counts
    with opened as out:
        while piece := file.read(_COPY_BYTES):
            size += len(piece)
            if size > most:
                return most + 1
            out.write(piece)
    return size


def _counted(folder: Path) -> tuple[int, int]:
    """Files below a folder, and their bytes."""
    files = size = 0
    waiting = [str(folder)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    files += 1
                    size += entry.stat(follow_symlinks=False).st_size
    return files, size
