"""The bundles of a project: which files a device gets, under which digest they lie, and patches between versions.

Of a version only what is nobody's own goes out (`gyral.model.portable`); what has to be made for that lies in
`models/.bundles/`, as do the patches, and may be removed at any time. A file is known by its digest and by nothing else: no
name that a client sends ever becomes a path. Whoever changes a file of a model (erasing somebody does) makes its digest
unknown.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec

from gyral import plugins
from gyral.errors import InputError, NotFound
from gyral.files import find_version, publish, staging_folder, versions, write_atomic
from gyral.model import card as cards
from gyral.serve.bundles.patch import digest
from gyral.serve.bundles.wire import PIECE_BYTES, File, Patch

FOLDER = ".bundles"
PATCHES = "patches"
KEPT_VERSIONS = 8
"""Versions back from the newest that patches are made from."""
MAX_PATCHED_BYTES = 1 << 30
WORTH = 0.9
"""A patch larger than this share of the file is not worth a device's work."""
_PATCH = re.compile(r"([0-9a-f]{64})-([0-9a-f]{64})\.(none|[0-9a-f]{64})")
_ROLES = {cards.WEIGHTS: "weights", "inputs.json": "inputs", "tokenizer.json": "inputs", "card.json": "card"}


class Seen(msgspec.Struct, frozen=True):
    """A file of the model's folder as it was when the bundle was made."""

    name: str
    size_bytes: int
    changed_ns: int


class Content(msgspec.Struct, frozen=True):
    """What a version's bundle holds. `made`: names of files that lie in the bundle's own folder."""

    version: str
    seen: list[Seen]
    made: list[str]
    files: list[File]
    runtimes: list[str]


class Place(NamedTuple):
    """Where bytes lie, and the size and time of change they must have."""

    path: Path
    size_bytes: int
    changed_ns: int


class Shelf:
    """The bundles below one models folder. What makes them may take long and goes one at a time; `open` waits for nothing."""

    def __init__(self, models: Path) -> None:
        self._models, self._folder = models, models / FOLDER
        self._places: dict[str, Place] = {}
        self._contents: dict[str, Content] = {}
        self._is_listed = False
        self._lock = threading.Lock()
        self._running: subprocess.Popen[bytes] | None = None
        self._is_closed = False

    def content(self, version: str) -> Content:
        """What the bundle of a version holds; made where it is not there yet.

        Raises
        ------
        NotFound : there is no such version.  InputError : it may not or cannot go to a device.
        """
        with self._lock:
            return self._content(version)

    def patches(self, new: Content, since: str, is_made: bool) -> Content | None:
        """The same with patches from another version's files, where there are some that are worth it.

        Parameters
        ----------
        is_made : whether those that are not there yet are made, which may take long; else None says that some are not.
        """
        name, _, number = since.partition("@")
        if int(number) not in versions(self._models, name)[-KEPT_VERSIONS:] or since == new.version:
            return new
        try:
            before = {each.name: each for each in self.content(since).files}
        except (NotFound, InputError):
            return new
        files = []
        for each in new.files:
            old = before.get(each.name)
            is_other = old is not None and old.digest != each.digest
            patch = None
            if old is not None and is_other and max(old.size_bytes, each.size_bytes) <= MAX_PATCHED_BYTES:
                path = self._known_patch(old, each) or (self._difference(old, each) if is_made else None)
                if path is None and not is_made:
                    return None
                patch = self._as_patch(old, path) if path is not None else None
            files.append(msgspec.structs.replace(each, patch=patch))
        return msgspec.structs.replace(new, files=files)

    def open(self, name: str) -> tuple[IO[bytes], int] | None:
        """A file by its digest, and its size; None when there is none, or no longer."""
        if name not in self._places and not self._is_listed:
            self._list()
        place = self._places.get(name)
        if place is None:
            return None
        try:
            file = os.fdopen(os.open(place.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")
        except OSError:
            self._places.pop(name, None)
            return None
        now = os.fstat(file.fileno())
        if (now.st_size, now.st_mtime_ns) != (place.size_bytes, place.changed_ns):
            file.close()
            self._places.pop(name, None)
            return None
        return file, place.size_bytes

    def close(self) -> None:
        """Make no more patches; may be called twice."""
        self._is_closed = True
        if self._running is not None:
            self._running.kill()

    def _content(self, version: str) -> Content:
        folder = find_version(self._models, "model", version, "make one: `gyral train DATASET`")
        seen = _seen(folder)
        known = self._contents.get(version) or _read(self._folder / version)
        if known is None or known.seen != seen or not self._keep(known):
            known = self._make(folder, seen)
        self._contents[version] = known
        return known

    def _make(self, folder: Path, seen: list[Seen]) -> Content:
        card = cards.read_card(folder)
        family = plugins.find("family", card.family)
        if not hasattr(family, "portable"):
            why = f"the family `{card.family}` does not say what of it is nobody's own"
            raise InputError(f"`{folder.name}` cannot go to a device", why=why)
        portable = family.portable(folder)
        with staging_folder(self._folder, folder.name) as staging:
            for name, body in portable.files.items():
                write_atomic(staging / name, body)
            files = []
            for name in sorted({each.name for each in seen} | set(portable.files)):
                path = (staging if name in portable.files else folder) / name
                made, pieces = measured(path)
                files.append(File(name, _ROLES.get(name, "other"), made, path.stat().st_size, pieces))  # type: ignore[arg-type]
            content = Content(folder.name, seen, sorted(portable.files), files, list(portable.runtimes))
            write_atomic(staging / "content.json", msgspec.json.encode(content))
            if (self._folder / folder.name).exists():
                shutil.rmtree(self._folder / folder.name)
            with contextlib.suppress(FileExistsError):  # another server made it at the same moment, of the same bytes
                publish(staging, self._folder / folder.name)
        if _seen(folder) != seen:
            raise InputError(f"`{folder.name}` was changed meanwhile", hint="ask again")
        self._keep(content)
        self._prune(content.version)
        return content

    def _keep(self, content: Content) -> bool:
        """Note where the files of a bundle lie; False when one that was made is gone."""
        times = {each.name: each.changed_ns for each in content.seen}
        for each in content.files:
            is_made = each.name in content.made
            path = (self._folder if is_made else self._models) / content.version / each.name
            try:
                changed_ns = path.stat().st_mtime_ns if is_made else times[each.name]
            except OSError:
                return False
            self._places[each.digest] = Place(path, each.size_bytes, changed_ns)
        return True

    def _list(self) -> None:
        """Learn what an earlier process made: a device may be in the midst of it."""
        for path in sorted(self._folder.glob("*/content.json")):
            content = _read(path.parent)
            if content is not None:
                self._keep(content)
        for path in (self._folder / PATCHES).glob("*-*.*"):
            self._keep_patch(path)
        self._is_listed = True

    def _keep_patch(self, path: Path) -> None:
        told = _PATCH.fullmatch(path.name)
        if told is not None and told[3] != "none":
            now = path.stat()
            self._places[told[3]] = Place(path, now.st_size, now.st_mtime_ns)

    def _known_patch(self, old: File, new: File) -> Path | None:
        """A patch that is there; one of the name `….none` says that it is not worth it."""
        return next(iter(sorted((self._folder / PATCHES).glob(f"{old.digest}-{new.digest}.*"))), None)

    def _as_patch(self, old: File, path: Path) -> Patch | None:
        if path.suffix == ".none":
            return None
        self._keep_patch(path)
        made, pieces = measured(path)
        return Patch(old.digest, made, path.stat().st_size, pieces)

    def _difference(self, old: File, new: File) -> Path | None:
        """Make a patch in a process of its own, which takes no time from the threads that serve."""
        there = (self._places.get(old.digest), self._places.get(new.digest))
        if there[0] is None or there[1] is None:
            return None
        with staging_folder(self._folder, PATCHES) as staging:
            made = staging / "made"
            program = [sys.executable, "-P", "-m", "gyral.serve.bundles.difference"]
            paths = [there[0].path, there[1].path, made]
            quiet = subprocess.DEVNULL
            with subprocess.Popen([*program, *paths], stdin=quiet, stdout=quiet, stderr=quiet) as self._running:
                if self._is_closed:
                    self._running.kill()
            if self._is_closed:
                return None
            data = made.read_bytes() if self._running.returncode == 0 else b""
        is_worth = 0 < len(data) <= WORTH * new.size_bytes  # one that cannot be made is not tried again
        name = f"{old.digest}-{new.digest}.{digest(data) if is_worth else 'none'}"
        write_atomic(self._folder / PATCHES / name, data if is_worth else b"")
        return self._folder / PATCHES / name

    def _prune(self, newest: str) -> None:
        """Let go of what was made for versions that no device will ask for, and of patches to their files."""
        for path in self._folder.glob("*@*"):
            name, _, number = path.name.partition("@")
            if path.name != newest and number.isdecimal() and int(number) not in versions(self._models, name)[-KEPT_VERSIONS:]:
                shutil.rmtree(path, ignore_errors=True)
        contents = [_read(path.parent) for path in self._folder.glob("*/content.json")]
        kept = {each.digest for content in contents if content is not None for each in content.files}
        for path in (self._folder / PATCHES).glob("*-*.*"):
            told = _PATCH.fullmatch(path.name)
            if told is not None and told[2] not in kept:
                path.unlink(missing_ok=True)


def measured(path: Path) -> tuple[str, list[str]]:
    """Digest of a file, and of its pieces."""
    whole, pieces = hashlib.blake2b(digest_size=32), []
    with open(path, "rb") as file:
        while piece := file.read(PIECE_BYTES):
            whole.update(piece)
            pieces.append(digest(piece))
    return whole.hexdigest(), pieces


def _seen(folder: Path) -> list[Seen]:
    """The plain files of a folder; a link may lead out of it and is none."""
    found = []
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda each: each.name):
            if entry.is_file(follow_symlinks=False) and not entry.name.startswith("."):
                told = entry.stat(follow_symlinks=False)
                found.append(Seen(entry.name, told.st_size, told.st_mtime_ns))
    return found


def _read(folder: Path) -> Content | None:
    """What was made before, None where it is not there or damaged."""
    try:
        content: Any = msgspec.json.decode((folder / "content.json").read_bytes(), type=Content)
    except (OSError, ValueError):
        return None
    return content if content.version == folder.name else None
