"""Packages, fetched once by the user's own package manager and kept in a cache, so the second run asks nobody.

- `pip:NAME==VERSION`: a wheel. Source distributions are not taken, because pip runs their code to learn their name.
- `npm:NAME@VERSION`: the registry's tarball, without any script of it.
- `apt:NAME[=VERSION]`: a Debian package.

`!/PATH` names what is meant inside, and `#sha256=…` of the package may follow. The user's index, proxy and
credentials are used; nothing is installed or run.
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
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from gyral.errors import InputError
from gyral.files import make_folder, size_of
from gyral.progress import duration

TIMEOUT_S = 600
NOTE_EVERY_S = 5.0
_SIGNS = ("Failed to establish", "ConnectionError", "timed out", "ERROR", "npm error", "E: ")
"""Of all that a package manager says, the line that says why: pip calls an unreachable index a missing version."""
_PIP = ["-P", "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check"]


class Manager(NamedTuple):
    """A package manager: how its packages are named and fetched.

    Attributes
    ----------
    form : of the URI, for people; `pattern` for gyral, with name and version.
    command : what fetches; `{}` in it is the folder that the package shall be in, else it is run there.
    ending : of the package's file.
    joint : between name and version.
    """

    tool: str
    form: str
    pattern: str
    command: list[str]
    ending: str
    joint: str
    hint: str = ""


MANAGERS = {
    "pip": Manager(
        "pip",
        "pip:NAME==VERSION!/path/in/the/wheel",
        r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9.+!_-]+?)",
        [sys.executable, *_PIP, "--progress-bar", "off", "--dest", "{}"],
        ".whl",
        "==",
    ),
    "npm": Manager(
        "npm",
        "npm:NAME@VERSION!/path/in/the/package",
        r"((?:@[a-z0-9~_.-]+/)?[a-z0-9~_.][a-z0-9~_.-]*)@([0-9][A-Za-z0-9.+-]*)",
        ["npm", "pack", "--ignore-scripts", "--silent", "--pack-destination", "{}"],
        ".tgz",
        "@",
    ),
    "apt": Manager(
        "apt-get",
        "apt:NAME!/path/in/the/package",
        r"([a-z0-9][a-z0-9+.-]+)(?:=([A-Za-z0-9.+:~-]+?))?",
        ["apt-get", "download", "-qq"],
        ".deb",
        "=",
        "`apt-get update` may be due",
    ),
}


class Package(NamedTuple):
    """A package on this machine: its file, what is meant inside ("" for all of it), and the folder kept for it."""

    path: Path
    member: str
    folder: Path


def fetch(uri: str, note: Callable[[str], None]) -> Package:
    """Fetch a package, unless it was fetched before.

    Raises
    ------
    InputError : the URI is malformed, the package manager failed, or the digest differs.
    """
    scheme = uri.partition(":")[0]
    manager = MANAGERS[scheme]
    match = re.fullmatch(rf"{scheme}:{manager.pattern}(?:!/([^#]+?))?(?:#sha256=([0-9a-fA-F]{{64}}))?", uri)
    if not match:
        raise InputError(f"`{uri}` is not a package source", hint=f"write `{manager.form}`, `#sha256=…` may follow")
    name, version, member, expected = match.groups()
    spec = name + (manager.joint + version if version else "")
    folder = cache_folder() / scheme / f"{name.replace('/', '+')}-{version or 'newest'}".replace(":", "+")
    package = _fetched(folder, manager) or _fetch(folder, manager, spec, note)
    actual = hashlib.sha256(package.read_bytes()).hexdigest()
    if expected and actual != expected.lower():
        raise InputError(
            f"`{package.name}` is not the file that was asked for",
            where=str(package),
            why=f"its sha256 is {actual}",
            hint="delete it to fetch it again, or correct the digest in the source",
        )
    return Package(package, member or "", folder)


def cache_folder() -> Path:
    """Where fetched packages stay: `GYRAL_CACHE`, else the user's cache folder."""
    given = os.environ.get("GYRAL_CACHE")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "gyral"


def _fetched(folder: Path, manager: Manager) -> Path | None:
    return next(iter(sorted(folder.glob(f"*{manager.ending}"))), None)


def _fetch(folder: Path, manager: Manager, spec: str, note: Callable[[str], None]) -> Path:
    make_folder(folder)
    with tempfile.TemporaryDirectory(dir=folder) as staging:
        command = [part.format(staging) for part in manager.command] + [spec]
        note(f"fetching {spec} with {manager.tool} into {folder}")
        told, code = _run(command, Path(staging), manager, spec, note)
        package = _fetched(Path(staging), manager)
        if code != 0 or package is None:
            lines = [line for line in told.splitlines() if line.strip()]
            what = f"{manager.tool} could not fetch " + ("a wheel of " if manager.ending == ".whl" else "")
            more = f"; {manager.hint}" if manager.hint else ""
            raise InputError(
                f"{what}`{spec}`",
                why=next((line for sign in _SIGNS for line in lines if sign in line), lines[-1] if lines else ""),
                hint=f"try `{shlex.join([part.format('.') for part in manager.command] + [spec])}`{more}",
            )
        return package.rename(folder / package.name)


def _run(command: list[str], staging: Path, manager: Manager, spec: str, note: Callable[[str], None]) -> tuple[str, int]:
    """What the package manager said, and its exit code; somebody hears of it while it takes long."""
    began = time.monotonic()
    try:
        cwd = None if "{}" in manager.command else staging  # a user's settings may be in the working folder
        started = subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except FileNotFoundError:
        raise InputError(
            f"`{manager.tool}` is not installed", hint=f"it fetches `{spec}`: install it, or name a file"
        ) from None
    with started as process:
        while True:
            try:
                told, _ = process.communicate(timeout=NOTE_EVERY_S)
                return told, process.returncode
            except subprocess.TimeoutExpired:
                elapsed = time.monotonic() - began
                if elapsed > TIMEOUT_S:
                    process.kill()
                    why = f"it took longer than {TIMEOUT_S} s"
                    raise InputError(
                        f"{manager.tool} did not fetch `{spec}`", why=why, hint="is the package index reachable?"
                    ) from None
                note(f"fetching {spec}: {duration(elapsed)}, {size_of(staging) / 1e6:.1f} MB so far")
            except BaseException:
                process.kill()
                raise
