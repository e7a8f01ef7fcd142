"""A device's side: has a model, gets the next one with what changed, and never has half of one. Standard library and numpy.

    device = Device("http://127.0.0.1:8000", "shop", Path("models"), tier="phone")
    device.update()    # Update(model='shop-int8@4', is_new=True, received_bytes=41_207, whole_bytes=2_044_392)
    device.current     # PosixPath('models/shop-int8@4-5f0c…'): weights, inputs, card

Everything is written beside what is in use, checked against its digest, and put to use by replacing one small file; whatever is
killed or cut off, the model in use stays whole, and what had come goes on from there. A piece that came damaged is asked for
again. The server is believed in nothing but its manifest: no name leaves the folder, no size is unlimited.

It imports `gyral.errors`, `gyral.files` and `patch` beside it, none of which needs anything else; `python -m
gyral.serve.bundles.device URL MODEL FOLDER` is one update.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import quote, urlsplit

from gyral.errors import GyralError, InputError, ServeError
from gyral.files import alone, fsync_path, make_folder, publish, write_atomic
from gyral.serve.bundles.patch import Damaged, apply, digest

CURRENT, PARTS, MANIFEST = "current.json", ".parts", "manifest.json"
TRIES = 5
TIMEOUT_S = 60.0
MAX_MANIFEST_BYTES = 64 << 20
MAX_CHANGES = 5
"""How often a server may put another version in place while one is fetched."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}@[0-9]{1,9}")


class Update(NamedTuple):
    """What came of one: the model in use, whether it is new, the bytes that came, and those of its files."""

    model: str
    is_new: bool
    received_bytes: int
    whole_bytes: int


class _Cut(Exception):
    """A part of a body came, then the connection broke."""

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self.body = body


class _Gone(Exception):
    """The server has this file no longer: it serves another version by now."""


class Device:
    """A folder that holds one model, and where it comes from.

    Parameters
    ----------
    url : of the server.  model : `name` follows what is served, `name@n` is pinned.
    folder : the device's own; nothing else writes there.
    tier : of the device; empty: the server judges by what it knows.
    key : where the server wants one.
    max_bytes : most that the files of a model may take.
    """

    def __init__(
        self, url: str, model: str, folder: Path, tier: str = "", key: str = "", max_bytes: int = 8 << 30
    ) -> None:  # fmt: skip
        headers = {"x-gyral-tier": tier} if tier else {}
        self._wire = _Wire(url, headers | ({"authorization": f"Bearer {key}"} if key else {}))
        self._path = f"/v1/bundles/{quote(model, safe='')}"
        self._folder, self._max_bytes = folder, max_bytes

    @property
    def current(self) -> Path | None:
        """The folder of the model in use, None where there is none yet."""
        named = str(self._told().get("folder", ""))
        path = self._folder / named
        return path if _NAME.fullmatch(named.replace("@", "-")) and path.is_dir() else None

    def verify(self) -> bool:
        """Whether every file of the model in use is what it was when it came."""
        here = self.current
        if here is None:
            return False
        return all(_digest_of(here / each["name"]) == each["digest"] for each in _manifest_in(here).get("files", []))

    def update(self) -> Update:
        """Have the model that the server has; returns at once where that is so.

        Raises
        ------
        ServeError : the server does not answer, or goes on sending what is damaged; what came is kept for the next time.
        InputError : what it sends is no bundle, or takes too much room.
        ConflictError : another process updates this folder.
        """
        with alone(self._folder / "update", "another process updates this model"):
            before = self._wire.received
            try:
                for _ in range(MAX_CHANGES):
                    with contextlib.suppress(_Gone):
                        model, is_new, whole = self._update()
                        return Update(model, is_new, self._wire.received - before, whole)
            finally:
                self._wire.close()
            raise ServeError("the server changes the model faster than it can be fetched", hint="try again later")

    def roll_back(self) -> str:
        """Use the model before this one again; its name.

        Raises
        ------
        InputError : there is none.
        """
        previous = str(self._told().get("previous", ""))
        if not previous or not (self._folder / previous).is_dir():
            raise InputError("there is no model before this one", where=str(self._folder))
        self._use(previous, "", str(self._told()["folder"]))
        return previous.rpartition("-")[0]

    def _update(self) -> tuple[str, bool, int]:
        told, here = self._told(), self.current
        is_whole = here is not None and self.verify()
        query, headers = "", {}
        if here is not None and is_whole:
            query, headers = f"?from={quote(told['model'])}", {"if-none-match": told["etag"]}
        status, body, etag = self._wire.get(self._path + query, headers, MAX_MANIFEST_BYTES)
        if status == 304 and here is not None:
            self._tidy(here.name, str(told.get("previous", "")))  # whatever was killed before it could
            return told["model"], False, sum(each["size_bytes"] for each in _manifest_in(here)["files"])
        if status != 200:
            raise _refused(status, body)
        manifest = _checked(body, self._max_bytes)
        whole = sum(each["size_bytes"] for each in manifest["files"])
        name = f"{manifest['model']}-{_identity(manifest)[:12]}"
        is_new = here is None or name != here.name or not is_whole
        if is_new:
            self._fetch(manifest, name, here)
        self._use(name, etag, here.name if here is not None and here.name != name else str(told.get("previous", "")))
        return manifest["model"], is_new, whole

    def _fetch(self, manifest: dict[str, Any], name: str, here: Path | None) -> None:
        """Bring a bundle's files into a folder of its own, and give it its name once all of them are there and right."""
        parts = self._folder / PARTS
        make_folder(parts)
        old = {} if here is None else {_digest_of(path): path for path in here.iterdir() if path.name != MANIFEST}
        for each in manifest["files"]:
            path = parts / each["digest"]
            if path.exists() and _digest_of(path) == each["digest"]:
                continue
            if each["digest"] in old:
                shutil.copyfile(old[each["digest"]], path)
            elif not self._patched(each, old, path):
                self._download(each["digest"], each["size_bytes"], each["pieces"], manifest["piece_bytes"], path)
        staging = self._folder / f".{name}.tmp"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        for each in manifest["files"]:
            shutil.copyfile(parts / each["digest"], staging / each["name"])
            if _digest_of(staging / each["name"]) != each["digest"]:
                raise InputError(f"`{each['name']}` is damaged", where=str(parts), hint="update again")
        write_atomic(staging / MANIFEST, json.dumps(manifest))
        if (self._folder / name).exists():  # there, but damaged, or not in use
            shutil.rmtree(self._folder / name)
        publish(staging, self._folder / name)

    def _patched(self, file: dict[str, Any], old: dict[str, Path], path: Path) -> bool:
        """Make a file out of the one before; False where that cannot be, and it has to come whole."""
        patch = file["patch"]
        if patch is None or patch["old"] not in old:
            return False
        body = path.with_name(patch["digest"])
        try:
            self._download(patch["digest"], patch["size_bytes"], patch["pieces"], file["piece_bytes"], body)
            made = apply(old[patch["old"]].read_bytes(), body.read_bytes(), max(file["size_bytes"], 1 << 20) * 2)
            if digest(made) != file["digest"]:
                raise Damaged("it makes another file")
        except (Damaged, _Gone):
            return False
        finally:
            if body.exists() and _digest_of(body) == patch["digest"]:
                body.unlink()
        write_atomic(path, memoryview(made))
        return True

    def _download(self, name: str, size: int, pieces: list[str], piece_bytes: int, path: Path) -> None:
        """Fetch a file piece by piece; those that are there and right already are not fetched again."""
        part = path.with_name(f"{name}.part")
        with open(part, "r+b" if part.exists() else "w+b") as out:
            have = 0
            while have < len(pieces) and digest(out.read(min(piece_bytes, size - have * piece_bytes))) == pieces[have]:
                have += 1
            out.seek(min(have * piece_bytes, size))
            out.truncate()
            for number in range(have, len(pieces)):
                first = number * piece_bytes
                self._piece(out, name, first, min(first + piece_bytes, size), pieces[number])
            out.flush()
            os.fsync(out.fileno())
        if _digest_of(part) != name:
            part.unlink()
            raise InputError(f"the file `{name[:12]}…` is not what its name says", hint="update again")
        os.replace(part, path.with_name(name))
        fsync_path(path.parent)

    def _piece(self, out: IO[bytes], name: str, first: int, end: int, wanted: str) -> None:
        came = b""
        tries = 0
        while tries < TRIES:
            headers = {"range": f"bytes={first + len(came)}-{end - 1}"}
            try:
                status, body, _ = self._wire.get(f"{self._path}/files/{name}", headers, end - first - len(came))
            except _Cut as cut:
                came += cut.body
                continue
            if status == 404:
                raise _Gone
            if status != 206:
                raise _refused(status, body)
            came += body
            if digest(came) == wanted:
                out.write(came)
                out.flush()
                return
            came, tries = b"", tries + 1
        why = f"{TRIES} times its digest was another"
        raise ServeError("a piece of the bundle comes damaged", why=why, hint="update again: what came is kept")

    def _use(self, name: str, etag: str, previous: str) -> None:
        """Put a folder to use, and let go of all but it and the one before."""
        told = {"model": name.rpartition("-")[0], "folder": name, "etag": etag, "previous": previous}
        write_atomic(self._folder / CURRENT, json.dumps(told))
        self._tidy(name, previous)

    def _tidy(self, name: str, previous: str) -> None:
        for path in self._folder.iterdir():
            if path.is_dir() and path.name not in (name, previous):
                shutil.rmtree(path, ignore_errors=True)

    def _told(self) -> dict[str, Any]:
        try:
            told: dict[str, Any] = json.loads((self._folder / CURRENT).read_bytes())
            return told if {"model", "folder", "etag"} <= set(told) else {}
        except (OSError, ValueError, TypeError):
            return {}


class _Wire:
    """One connection that is made anew where it breaks."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"`{url}` is no address of a server", hint="http://127.0.0.1:8000")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._new: Callable[[], http.client.HTTPConnection] = lambda: kind(parts.netloc, timeout=TIMEOUT_S)
        self._connection = self._new()
        self._headers, self._url = headers, url
        self.received = 0

    def get(self, path: str, headers: dict[str, str], max_bytes: int) -> tuple[int, bytes, str]:
        """Status, body and etag of an answer. It is asked again where the connection breaks, and where it is told to wait."""
        error: object = ""
        for number in range(TRIES):
            if number:
                time.sleep(min(0.1 * 3**number, 5.0))
            try:
                self._connection.request("GET", path, headers={**self._headers, **headers})
                answer = self._connection.getresponse()
                body = answer.read(max_bytes + 1 if answer.status in (200, 206) else 65_536)
                self.received += len(body)
                if len(body) > max_bytes and answer.status in (200, 206):
                    self.close()
                    raise InputError(f"`{path[:200]}` is longer than it should be", why=f"more than {max_bytes:,} bytes came")
                if answer.length:  # it broke off
                    self.close()
                    if body and answer.status == 206:
                        raise _Cut(body)
                    raise http.client.IncompleteRead(body, answer.length)
                if answer.status not in (429, 503):
                    return answer.status, body, answer.getheader("etag") or ""
                error = f"it answers {answer.status}"
            except (OSError, http.client.HTTPException) as broken:
                error = broken or type(broken).__name__
                self.close()
        raise ServeError(f"the server at {self._url} does not answer", why=str(error), hint="update again: what came is kept")

    def close(self) -> None:
        """Close the connection; the next request makes another."""
        self._connection.close()
        self._connection = self._new()


def _digest_of(path: Path) -> str:
    found = hashlib.blake2b(digest_size=32)
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                found.update(block)
    except OSError:
        return ""
    return found.hexdigest()


def _identity(manifest: dict[str, Any]) -> str:
    """Of the files of a bundle, however they come."""
    return digest(json.dumps([(each["name"], each["digest"]) for each in manifest["files"]]).encode())


def _manifest_in(folder: Path) -> dict[str, Any]:
    try:
        told: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return {"files": [{"name": MANIFEST, "digest": "", "size_bytes": 0}]}
    return told


def _checked(body: bytes, max_bytes: int) -> dict[str, Any]:
    """A manifest that can be followed: names that stay in a folder, digests, pieces that make up sizes."""
    try:
        told = json.loads(body)
        piece_bytes, files = told["piece_bytes"], told["files"]
        is_right = told["format"] == 1 and _MODEL.fullmatch(told["model"]) and 1 <= piece_bytes <= 64 << 20 and files
        names = [each["name"] for each in files]
        is_right = is_right and len({*names, MANIFEST}) == len(names) + 1 and all(_NAME.fullmatch(name) for name in names)
        for each in files:
            each["patch"] = each.get("patch")
            each["piece_bytes"] = piece_bytes
            for part in (each, each["patch"]):
                if part is not None:
                    size, digests = part["size_bytes"], [part["digest"], *part["pieces"]]
                    is_right = is_right and type(size) is int and size >= 0 and len(part["pieces"]) == -(-size // piece_bytes)
                    is_right = is_right and all(type(name) is str and _DIGEST.fullmatch(name) for name in digests)
        total = sum(each["size_bytes"] for each in files)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError("the server sent no manifest of a bundle", why=str(error)) from None
    if not is_right:
        raise InputError("the server sent a manifest that cannot be followed", hint="is it gyral of another format?")
    if total > max_bytes:
        raise InputError(f"the bundle takes {total:,} bytes", why=f"at most {max_bytes:,} may be taken")
    return dict(told)


def _refused(status: int, body: bytes) -> GyralError:
    try:
        error = json.loads(body)["error"]
        return ServeError(str(error["what"]), where=str(error["where"]), why=str(error["why"]), hint=str(error["hint"]))
    except (ValueError, KeyError, TypeError):
        return ServeError(f"the server answers {status}")


def main() -> None:
    """`URL MODEL FOLDER [TIER]`: one update."""
    url, model, folder, tier = [*sys.argv[1:5], ""][:4]
    try:
        told = Device(url, model, Path(folder), tier).update()
    except GyralError as error:
        sys.exit(f"error: {error}")
    print(json.dumps(told._asdict()))


if __name__ == "__main__":
    main()
