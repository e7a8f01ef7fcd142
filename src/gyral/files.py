"""Durable writes: a reader never sees half a file, and a finished write survives a power cut.

Write to a temporary name, fsync, rename, fsync the folder: four steps, the last one because a rename is only as durable as
the folder that holds it.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gyral.errors import ConflictError


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


def write_atomic(path: Path, data: bytes | str) -> None:
    """Replace `path` by `data` in one step; after it returns, the new bytes are on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
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
def new_version(parent: Path, name: str) -> Iterator[tuple[Path, int]]:
    """Fill a temporary folder, then publish it as `parent/<name>@<n>` with the next free n.

    Yields the folder to fill and its number. If the body raises, nothing is published.

    Raises
    ------
    ConflictError : another process published the number first; nothing is published and theirs stays.
    """
    parent.mkdir(parents=True, exist_ok=True)
    number = last_version(parent, name) + 1
    staging = parent / f".{name}@{number}.{os.getpid()}.tmp"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        yield staging, number
        try:
            publish(staging, parent / f"{name}@{number}")
        except FileExistsError:
            raise ConflictError(
                f"another process made `{name}@{number}` first",
                where=str(parent),
                hint="run the same command again: it makes the next version",
            ) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def versions(parent: Path, name: str) -> list[int]:
    """Numbers of the published versions of `name`, ascending."""
    pattern = re.compile(re.escape(name) + r"@(\d+)")
    found = (pattern.fullmatch(entry) for entry in (os.listdir(parent) if parent.is_dir() else []))
    return sorted(int(match.group(1)) for match in found if match)


def last_version(parent: Path, name: str) -> int:
    """Number of the newest published version of `name`, 0 when there is none."""
    return max(versions(parent, name), default=0)
