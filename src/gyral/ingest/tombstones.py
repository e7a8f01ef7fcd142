"""Who was erased: keyed 128-bit hashes of subjects, so that what comes later of them is dropped and they are not named.

The key lies in the table's metadata, with the lake. Whoever has the lake and a list of candidates can therefore test them: a
tombstone hides a name from readers and searches, not from somebody who guesses it.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gyral.ingest.dedup import Run, Runs, hash64, hashed
from gyral.lake.snapshot import Snapshot


class Tombstones:
    """The tombstones of one version of the table `erasures`.

    Parameters
    ----------
    snapshot : None where nothing was ever erased.
    """

    def __init__(self, snapshot: Snapshot | None = None) -> None:
        self.version = 0 if snapshot is None else snapshot.version
        self._runs = Runs()
        self._keys = (np.uint64(0), np.uint64(0))
        if snapshot is not None:
            self._keys = tuple(np.frombuffer(bytes.fromhex(snapshot.key), np.uint64))
            halves = [int(each, 16).to_bytes(16, "big") for each in snapshot.read(["event_id"])["event_id"].to_pylist()]
            both = np.frombuffer(b"".join(halves), ">u8").astype(np.uint64).reshape(-1, 2)
            order = np.argsort(both[:, 0])
            self._runs.add(Run(both[order, 0], both[order, 1], order))

    def __len__(self) -> int:
        return len(self._runs)

    def name(self, subject: str) -> str:
        """What stands for a subject in the table: 32 hex digits."""
        ids = pa.array([subject])
        return "".join(f"{int(hash64(ids, key)[0]):016x}" for key in self._keys)

    def has(self, subjects: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Mask of the subjects that were erased; each distinct one is hashed once."""
        if not len(self):
            return np.zeros(len(subjects), dtype=bool)
        flat = subjects.combine_chunks() if isinstance(subjects, pa.ChunkedArray) else subjects
        coded = flat.dictionary_encode()
        found = self._runs.has(hashed(coded.dictionary, self._keys))
        mask: np.ndarray = pc.fill_null(pa.array(found).take(coded.indices), False).to_numpy(zero_copy_only=False)
        return mask

    def in_raw(self, raw: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Mask of the quarantined rows that name somebody who was erased, in any of their fields."""
        if not len(self):
            return np.zeros(len(raw), dtype=bool)
        texts = [texts_in(each) for each in raw.to_pylist()]
        owner = np.repeat(np.arange(len(texts)), [len(each) for each in texts])
        found = self.has(pa.array([text for each in texts for text in each], pa.string()))
        mask = np.zeros(len(texts), dtype=bool)
        mask[owner[found]] = True
        return mask


def texts_in(raw: bytes | None) -> list[str]:
    """Every text and number in a row that could not become an event; its words where it is no JSON."""
    if raw is None:
        return []
    try:
        value = msgspec.json.decode(raw)
    except (ValueError, RecursionError):
        text = raw.decode("utf-8", "replace")
        return [text, *(word.strip("\"'[]{}()<>:;,") for word in text.replace(",", " ").replace(":", " ").split())]
    texts: list[str] = []
    stack: list[Any] = [value]
    while stack:
        each = stack.pop()
        if isinstance(each, dict):
            stack += [*each.keys(), *each.values()]
        elif isinstance(each, list):
            stack += each
        elif isinstance(each, float) and each.is_integer():
            texts += [str(each), str(int(each))]
        elif each is not None and not isinstance(each, bool):
            texts.append(str(each))
    return texts
