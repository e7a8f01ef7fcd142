"""Package sources: a data file inside a published package. Only the member is read, nothing is unpacked or run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from gyral.errors import InputError
from gyral.files import write_atomic
from gyral.ingest.sources.file import FileSource
from gyral.packages.archives import read_member
from gyral.packages.fetch import MANAGERS, fetch


def open_source(uri: str, root: Path, note: Callable[[str], None]) -> FileSource:
    """Fetch a package once and open one file of it.

    Raises
    ------
    InputError : the URI is malformed, the package manager failed, the digest differs, or the package has no such member.
    """
    package, member, folder = fetch(uri, note)
    if not member:
        form = MANAGERS[uri.partition(":")[0]].form
        raise InputError(f"`{uri}` is not a package source of events", hint=f"write `{form}`: one file of it is read")
    target = folder / "members" / hashlib.sha256(member.encode()).hexdigest()[:16] / Path(member).name
    body = read_member(package, member)
    if not target.exists() or target.read_bytes() != body:
        write_atomic(target, body)
    return FileSource(target)
