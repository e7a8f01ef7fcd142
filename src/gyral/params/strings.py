"""Names to keys: a stable hash of 64 bits, with the dictionary kept, so that a key can be read and a collision is an error.

The hash is BLAKE2b (RFC 7693) of the UTF-8 bytes, so the same on every machine and in every release. Of 100 million names two
collide with probability .0003 (n² / 2⁶⁵), of a billion .03: rare enough to stop at, and too likely to leave unsaid. A name that
was seen costs one look-up in a dict (in memory: some 150 bytes a name), a new one a microsecond more.

The dictionary is a file of JSON strings, one a line, only appended to. A process killed while it writes leaves half a line,
which the next one drops: that name's key had not been handed out.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from gyral.errors import InputError, NotFound


def key_of(name: str) -> int:
    """64 bits of a name, signed: two of a billion names share them with a chance of 3 %."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


class Names:
    """Names that have keys.

    Parameters
    ----------
    path : of the dictionary, which is made where there is none; `None`: it is kept in memory.

    Raises
    ------
    InputError : a line of the file is no name.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._keys: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self._path = path
        if path is not None and path.exists():
            self._read(path)

    def __len__(self) -> int:
        return len(self._keys)

    def keys(self, names: Iterable[str]) -> np.ndarray:
        """Keys of names, int64; new names are on disk when this returns.

        Raises
        ------
        InputError : two names have one key; none of these names is kept then.
        """
        known, fresh = self._keys, dict[str, int]()
        found = [known.get(name) if name in known else fresh.setdefault(name, key_of(name)) for name in names]
        if fresh:
            self._add(fresh)
        return np.array(found, dtype=np.int64)

    def names(self, keys_K: np.ndarray) -> list[str]:
        """Names of keys.

        Raises
        ------
        NotFound : a key that no name has.
        """
        try:
            return [self._names[key] for key in keys_K.tolist()]
        except KeyError as error:
            raise NotFound(f"no name has the key {error}", where=str(self._path or "names in memory")) from None

    def _add(self, fresh: dict[str, int]) -> None:
        names = {key: name for name, key in fresh.items()}
        for name, key in fresh.items():
            other = self._names.get(key, names[key])
            if other != name:
                raise InputError(
                    "two names have the same 64 bits", why=f"{name!r} and {other!r} are {key}", hint="rename one of them"
                )
        if self._path is not None:
            lines = "".join(json.dumps(name) + "\n" for name in fresh)
            with self._path.open("ab") as file:
                file.write(lines.encode())
                file.flush()
                os.fsync(file.fileno())
        self._keys.update(fresh)
        self._names.update(names)

    def _read(self, path: Path) -> None:
        whole, _, half = path.read_bytes().rpartition(b"\n")
        if half:
            with path.open("r+b") as file:
                file.truncate(len(whole) + 1 if whole else 0)
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                name = json.loads(line)
            except ValueError as error:
                raise InputError("a line is no name", where=f"{path}:{number}", why=str(error)) from error
            if not isinstance(name, str):
                raise InputError("a line is no name", where=f"{path}:{number}", why=f"it is {type(name).__name__}")
            self._keys[name] = key_of(name)
            self._names[self._keys[name]] = name
