"""One file out of a package, read and never unpacked: wheels (zip), npm tarballs, Debian packages (ar around a tar).

Reading a member makes nothing on the disk, so a path inside a package cannot lead anywhere.
"""

from __future__ import annotations

import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import pyarrow as pa

from gyral.errors import InputError

MAX_MEMBER_BYTES = 4 << 30
MAX_ENTRIES = 2_000_000
MAX_RATIO, FREE_BYTES = 200, 1 << 30
"""Bytes unpacked to bytes packed; beyond it, and beyond a gigabyte, a package is a bomb."""
MAX_HEADER_BYTES = 1 << 20
DAMAGED = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, pa.ArrowException, struct.error, OSError, EOFError,
    ValueError, TypeError, LookupError, RuntimeError,
)  # fmt: skip
"""What the readers of archives raise: `RuntimeError` where one is encrypted, or packed in a way that they do not know."""
_EXTENDED = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_AR_MAGIC, _AR_HEADER = b"!<arch>\n", 60


def read_member(package: Path, member: str) -> bytes:
    """Read one file of a package.

    Parameters
    ----------
    member : its path inside; npm's leading `package/` and Debian's `./` may be left out.

    Raises
    ------
    InputError : the package is damaged, has no such file (the hint lists similar ones), or the file is larger than 4 GiB, or
        than a gigabyte and `MAX_RATIO` times the package.
    """
    read = {".whl": _read_zip, ".tgz": _read_tgz, ".deb": _read_deb}[package.suffix]
    try:
        found = read(package, member)
    except DAMAGED as error:
        hint = f"delete {package} to fetch it again"
        raise InputError(f"`{package.name}` cannot be opened", why=str(error), hint=hint) from None
    if isinstance(found, bytes):
        return found
    ending = Path(member).suffix
    similar = [each for each in found if each.endswith(ending)][:8]
    hint = f"it has {', '.join(similar)}" if similar else ""
    raise InputError(f"`{package.name}` has no `{member}`", where=str(package), hint=hint)


def _read_zip(package: Path, member: str) -> bytes | list[str]:
    with zipfile.ZipFile(package) as archive:
        names = archive.namelist()
        if member not in names:
            return names
        _check_size(archive.getinfo(member).file_size, member, package)
        return archive.read(member)


def _read_tgz(package: Path, member: str) -> bytes | list[str]:
    with tarfile.open(package, "r|gz", tarinfo=Header) as archive:
        return _from_tar(archive, member, "package/", package)


def _read_deb(package: Path, member: str) -> bytes | list[str]:
    with deb_data(package) as archive:
        return _from_tar(archive, member, "./", package)


@contextmanager
def deb_data(package: Path) -> Iterator[tarfile.TarFile]:
    """The files of a Debian package, to be read in order; the package is mapped, not loaded.

    Raises
    ------
    ValueError : it is no Debian package.
    """
    with pa.memory_map(str(package)) as file:
        body = file.read_buffer()
        if bytes(body[: len(_AR_MAGIC)]) != _AR_MAGIC:
            raise ValueError("it is no Debian package")
        place = len(_AR_MAGIC)
        while place + _AR_HEADER <= body.size:
            header = bytes(body[place : place + _AR_HEADER])
            name, size = header[:16].decode("latin-1").rstrip(" /"), int(header[48:58])
            if size < 0:
                break
            if name.startswith("data.tar"):
                with _tar(body[place + _AR_HEADER : place + _AR_HEADER + size], Path(name).suffix) as archive:
                    yield archive
                return
            place += _AR_HEADER + size + size % 2
        raise ValueError("it holds no data")


@contextmanager
def _tar(data: pa.Buffer, ending: str) -> Iterator[tarfile.TarFile]:
    if ending == ".zst":
        with (
            pa.input_stream(pa.BufferReader(data), compression="zstd") as plain,
            tarfile.open(fileobj=plain, mode="r|", tarinfo=Header) as archive,
        ):
            yield archive
    else:
        with tarfile.open(fileobj=pa.BufferReader(data), mode="r|*", tarinfo=Header) as archive:
            yield archive


class Header(tarfile.TarInfo):
    """A header that does not take the memory: what describes the next one is read whole, however long it says that it is."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        found = super().frombuf(buf, encoding, errors)
        if found.type in _EXTENDED and found.size > MAX_HEADER_BYTES:
            raise ValueError(f"a header of {found.size:,} bytes")
        return found


def members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """What a tar holds, in order; nothing is remembered, as `tarfile` does.

    Raises
    ------
    ValueError : there are more than `MAX_ENTRIES`.
    """
    for number, entry in enumerate(archive):
        if number >= MAX_ENTRIES:
            raise ValueError(f"it holds more than {MAX_ENTRIES:,} members")
        archive.members.clear()  # type: ignore[attr-defined]
        yield entry


def _from_tar(archive: tarfile.TarFile, member: str, prefix: str, package: Path) -> bytes | list[str]:
    names = []
    for entry in members(archive):
        name = entry.name.removeprefix(prefix)
        if entry.isfile():
            names.append(name)
            file = archive.extractfile(entry) if name == member.removeprefix(prefix) else None
            if file is not None:
                _check_size(entry.size, member, package)
                return file.read()
    return names


def _check_size(size: int, member: str, package: Path) -> None:
    if size > min(MAX_MEMBER_BYTES, max(FREE_BYTES, MAX_RATIO * package.stat().st_size)):
        raise ValueError(f"`{member}` has {size:,} bytes")
