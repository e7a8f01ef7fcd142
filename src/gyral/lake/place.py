"""Where a lake is: a folder of this machine, or a prefix of an object store. What differs between the two is here.

In a folder nothing is durable before it is flushed, and a table is made beside its place and renamed to it. An object store has
stored what it answered, and of two writers of one version its conditional put (`If-None-Match: *` on the manifest, which Lance
sends for `s3://`) lets one through: so the commit protocol is the same on both, without the flushes.

The embedded log is always on this machine. That of an object store has a folder named after its address, because a log is
trimmed below what *its* lake has: two lakes with one log would each lose what the other was given.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from lance.file import LanceFileSession
from lance.fragment import DataFile

from gyral.errors import GyralError, UsageError
from gyral.files import size_of

Options = Mapping[str, str | int | bool]
NO_OPTIONS: Options = MappingProxyType({})
FOLDER = "lake"
SCHEMES = ("s3", "gs", "az")
ADDRESS = re.compile(r"(s3|gs|az)://[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9=+@_-][A-Za-z0-9=+@._-]*)*/?")
ENDPOINTS = ("aws_endpoint", "aws_endpoint_url", "aws_endpoint_url_s3", "endpoint", "endpoint_url")

DISK_HINT = "`gyral doctor` checks the disk; then run the same command again: what was committed is kept"
STORE_HINT = (
    "do address, credentials (`AWS_*`, or `lake_options` in gyral.toml) and bucket hold? Then run the same command again: what "
    "was committed is kept, what was not is in the log"
)


class LakeError(GyralError):
    """The lake could not be read or written; nothing half-written is visible."""


class Place(Protocol):
    """Where the tables of a lake are.

    Attributes
    ----------
    uri : as a person is told.
    folder, log_folder : on this machine: what the lake has here, and its embedded log.
    options : of the store, for Lance; empty for a folder.
    """

    uri: str
    folder: Path
    log_folder: Path
    options: dict[str, str]

    def table(self, name: str) -> str:
        """Address of a table, for Lance."""

    def exists(self, name: str) -> bool:
        """Whether the table has been made."""

    def num_versions(self, name: str) -> int:
        """How many versions of a table are kept."""

    def size_bytes(self, name: str, files: Iterable[DataFile]) -> int:
        """Bytes that a table takes, whose newest version has these files."""


class Folder(Place):
    """A lake on this machine."""

    def __init__(self, folder: Path) -> None:
        self.uri, self.folder, self.log_folder, self.options = str(folder), folder, folder / "log", {}

    def table(self, name: str) -> str:
        return str(self.folder / name)

    def exists(self, name: str) -> bool:
        return (self.folder / name / "_versions").is_dir()

    def num_versions(self, name: str) -> int:
        return len(os.listdir(self.folder / name / "_versions"))

    def size_bytes(self, name: str, files: Iterable[DataFile]) -> int:
        """Of all its versions."""
        return size_of(self.folder / name)


class Bucket(Place):
    """A lake in an object store, reached through Lance. `s3://` is tested; `gs://` and `az://` are handed to Lance as they are.

    Parameters
    ----------
    folder : of this machine, for the logs of such lakes.
    """

    def __init__(self, uri: str, folder: Path, options: Options) -> None:
        self.uri, self.folder = uri.rstrip("/"), folder
        self.options = {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in options.items()}
        digest = hashlib.sha256(f"{self.uri}\n{self._endpoint()}".encode()).hexdigest()
        self.log_folder = folder / f"log-{digest[:16]}"
        self._there: set[str] = set()

    def table(self, name: str) -> str:
        return f"{self.uri}/{name}"

    def exists(self, name: str) -> bool:
        """Asked until it does: a table is never taken away.

        Raises
        ------
        LakeError : the store does not answer, or refuses.
        """
        if name not in self._there and self.num_versions(name):
            self._there.add(name)
        return name in self._there

    def num_versions(self, name: str) -> int:
        with reached(f"{self.uri}/{name}"):
            return len(LanceFileSession(self.table(name), storage_options=self.options).list("_versions"))

    def size_bytes(self, name: str, files: Iterable[DataFile]) -> int:
        """Of the newest rows: to ask for all that is kept would cost a request each 1,000 files."""
        return sum(file.file_size_bytes or 0 for file in files)

    def _endpoint(self) -> str:
        """The same address at another endpoint is another lake."""
        given = {key.lower(): value for key, value in {**os.environ, **self.options}.items()}
        return next((given[key].rstrip("/") for key in ENDPOINTS if key in given), "")


def place_of(root: Path, into: str, options: Options) -> Place:
    """Where `into` is: an address, or a folder below `root` or anywhere.

    Raises
    ------
    UsageError : it looks like an address and is none that is known.
    """
    if "://" not in into:
        return Folder(root / into)
    if not ADDRESS.fullmatch(into):
        known = ", ".join(f"`{scheme}://`" for scheme in SCHEMES)
        hint = "write `s3://BUCKET/PREFIX`, in letters, digits and `._-=+@`"
        raise UsageError(f"`{into}` is no address of a lake", why=f"a folder, or one of {known}", hint=hint)
    return Bucket(into, root / FOLDER, options)


def folder_of(uri: str) -> Path | None:
    """The folder of a table; None in an object store, where nothing is left to be flushed."""
    return None if "://" in uri else Path(uri)


def hint_of(uri: str) -> str:
    """What to do where a table could not be reached or written."""
    return STORE_HINT if folder_of(uri) is None else DISK_HINT


@contextmanager
def reached(uri: str, what: str = "the lake cannot be reached") -> Iterator[None]:
    """Tell what Lance raises for a place that does not answer or refuses.

    Raises
    ------
    LakeError : with what the store said.
    """
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        raise LakeError(what, why=plain(error), where=uri, hint=hint_of(uri)) from None


def plain(error: Exception) -> str:
    """What Lance says, without the place in its own source."""
    return re.sub(r", (/[^ ]*|src/[^ ]*)\.rs:\d+:\d+", "", str(error))
