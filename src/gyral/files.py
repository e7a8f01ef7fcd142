"""Durable writes: a reader never sees half a file, and a finished write survives a power cut.

Write to a temporary name, fsync, rename, fsync the folder: four steps, the last one because a rename is only as durable as
the folder that holds it.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import os
import platform
import re
import secrets
import shutil
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from gyral.errors import ConflictError, InputError, NotFound, did_you_mean


def fsync_path(path: Path) -> None:
    """Flush one file or folder to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def fsync_tree(folder: Path) -> None:
    """Flush every file below `folder`, then every folder, innermost first."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            fsync_path(Path(parent, name))
        fsync_path(Path(parent))


def make_folder(path: Path) -> None:
    """Make a folder and those above it; when it returns, the names of all that were missing are on the disk."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        fsync_path(folder.parent)


def write_atomic(path: Path, data: bytes | str | memoryview) -> None:
    """Replace `path` by `data` in one step; after it returns, the new bytes are on the disk."""
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident():x}.tmp")
    body = data.encode() if isinstance(data, str) else data
    try:
        with open(temporary, "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_path(path.parent)


def read_known(path: Path, what: str, digest: str, hint: str) -> bytes:
    """Read a whole file, if it is the one that is meant.

    Parameters
    ----------
    what : is in it, for the error.
    digest : sha256 in hexadecimal; empty: whatever is there.

    Raises
    ------
    InputError : it cannot be read, or is another one.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"`{path}` cannot be read", why=error.strerror or str(error), hint=hint) from None
    actual = hashlib.sha256(data).hexdigest()
    if digest and actual != digest:
        why = f"its sha256 is {actual}, not {digest}"
        raise InputError(f"`{path.name}` is not the {what} that was asked for", where=str(path), why=why, hint=hint)
    return data


def publish(staging: Path, target: Path) -> None:
    """Flush a folder made beside `target` and give it that name in one step.

    Raises
    ------
    FileExistsError : another process published this name first; its folder stays untouched.
    """
    fsync_tree(staging)
    try:
        os.rename(staging, target)  # a folder that holds something is never replaced
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise FileExistsError(error.errno, "made by another process first", str(target)) from None
        raise
    fsync_path(target.parent)


@contextmanager
def staging_folder(parent: Path, name: str) -> Iterator[Path]:
    """A hidden folder beside `name` to fill and then `publish`; gone after the block, as are those of processes that died."""
    make_folder(parent)
    machine = f"{zlib.crc32(platform.node().encode()):08x}"
    for left in parent.glob(f".{glob.escape(name)}.{machine}-*.tmp"):
        if not is_alive(int(left.name.split("-")[-1].split(".")[0])):
            shutil.rmtree(left, ignore_errors=True)
    folder = parent / f".{name}.{machine}-{os.getpid()}.{secrets.token_hex(4)}.tmp"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def new_version(parent: Path, name: str) -> Iterator[tuple[Path, int]]:
    """Fill a temporary folder, then publish it as `parent/<name>@<n>` with the next free n.

    Yields the folder to fill and its number. If the body raises, nothing is published.

    Raises
    ------
    ConflictError : another process published the number first; nothing is published and theirs stays.
    """
    with staging_folder(parent, name) as staging:
        number = last_version(parent, name) + 1
        yield staging, number
        try:
            publish(staging, parent / f"{name}@{number}")
        except FileExistsError:
            raise ConflictError(
                f"another process made `{name}@{number}` first",
                where=str(parent),
                hint="run the same command again: it makes the next version",
            ) from None


def find_version(parent: Path, noun: str, name: str, hint: str) -> Path:
    """Folder of `name` (its newest version) or `name@n` among the published ones.

    Parameters
    ----------
    noun, hint : for the error: what is looked for, and how the first one is made.

    Raises
    ------
    NotFound : there is no such version; the hint names the nearest.
    """
    base, _, number = name.partition("@")
    there = versions(parent, base)
    version = int(number) if number.isdecimal() else 0 if number else max(there, default=0)
    if version in there:
        return parent / f"{base}@{version}"
    if there:
        hint = f"versions there: {', '.join(f'`{base}@{each}`' for each in there[-5:])}"
    else:
        found = (re.fullmatch(r"([A-Za-z0-9_.-]+)@\d+", entry) for entry in (os.listdir(parent) if parent.is_dir() else []))
        known = {match.group(1) for match in found if match}
        hint = did_you_mean(base, known) if known else hint
    raise NotFound(f"there is no {noun} `{name}`", where=str(parent), hint=hint)


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def hold(path: Path) -> IO[bytes] | None:
    """Take a lock file until it is closed or this process ends; None when another holder has it."""
    file = open(path, "ab")  # noqa: SIM115 (held until the caller closes it)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


@contextmanager
def alone(path: Path, otherwise: str) -> Iterator[None]:
    """Run a block only while nobody else runs one with the same path.

    Raises
    ------
    ConflictError : somebody does; `otherwise` is the sentence that says so.
    """
    make_folder(path.parent)
    held = hold(path.with_name(f"{path.name}.lock"))
    if held is None:
        raise ConflictError(otherwise, where=str(path.parent), hint="wait for it to end (`gyral doctor` lists running runs)")
    with held:
        yield


@contextmanager
def together(path: Path) -> Iterator[None]:
    """Run a block beside others of its kind, and never while somebody is `without_others`, whom it waits for."""
    make_folder(path.parent)
    with open(path, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


@contextmanager
def without_others(path: Path, wait_s: float, otherwise: str) -> Iterator[None]:
    """Run a block while nobody is `together`; waits for those who are.

    Raises
    ------
    ConflictError : they did not end in time; `otherwise` is the sentence that says so.
    """
    make_folder(path.parent)
    end = time.monotonic() + wait_s
    while (held := hold(path)) is None:
        if time.monotonic() > end:
            raise ConflictError(
                otherwise, where=str(path.parent), hint="wait for it to end (`gyral doctor` lists running runs)"
            )
        time.sleep(0.02)
    with held:
        yield


def versions(parent: Path, name: str) -> list[int]:
    """Numbers of the published versions of `name`, ascending."""
    pattern = re.compile(re.escape(name) + r"@(\d+)")
    found = (pattern.fullmatch(entry) for entry in (os.listdir(parent) if parent.is_dir() else []))
    return sorted(int(match.group(1)) for match in found if match)


def last_version(parent: Path, name: str) -> int:
    """Number of the newest published version of `name`, 0 when there is none."""
    return max(versions(parent, name), default=0)


def is_alive(pid: int) -> bool:
    """Whether a process of this machine has this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is somebody else's
        return True
    return True
