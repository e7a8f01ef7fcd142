"""Whether a text holds what a model will be examined on: the share of each item's runs of words that is in the text.

An item of an evaluation set counts by its runs of 13 words (as GPT-3 was cleaned: Brown et al. 2020, appendix C), a shorter one
by its runs of 8; items of fewer than 8 words cannot be told from chance and are not looked for. What is reported is not
whether one run was met but the largest share of an item's runs that a text holds, and of which item, so that a common phrase
is one thing and a copied question another, and the threshold can be chosen later.

A run that more than 64 items have (`Which of the following statements is correct, given that …`) is the set's own form and does
not count. Runs are compared as hashes of 64 bits over normalised words: with ten million runs in the index, one foreign run in
10^12 is taken for one of them. The index takes about 24 bytes a run; a sieve of bits keeps most look-ups out of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from gyral.config import Config
from gyral.curate.stage import Limit, Stage, add, numbers, utf8
from gyral.curate.text.evaluation_sets import Item, bytes_of, items_of
from gyral.errors import InputError
from gyral.files import read_known, write_atomic

LONG, SHORT = 13, 8
"""Words of a run, and of one of items that have fewer than `LONG` words."""
MAX_ITEMS = 64
"""Items that may share a run that counts."""
_FORMAT = "gyral-contamination-1"


@dataclass(frozen=True, eq=False)
class Index:
    """Runs of the items of evaluation sets.

    Attributes
    ----------
    keys : uint64 [k], hashes of the runs, ascending.
    starts : uint32 [k + 1], where a run's items begin in `items`.
    items : uint32, numbers of items.
    totals : uint32 [items], runs of each item that count; 0: the item cannot be found.
    ids, sets : of each item its name within its set, and the number of the set in `names`.
    """

    keys: np.ndarray
    starts: np.ndarray
    items: np.ndarray
    totals: np.ndarray
    ids: pa.Array
    sets: np.ndarray
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "_slots", np.full(_power_of_two(2 * len(self.keys)), -1, np.int32))
        short = int((self.keys & np.uint64(1)).sum())
        for name, many in (("_sieve", len(self.keys) - short), ("_short_sieve", short)):
            object.__setattr__(self, name, np.zeros(_power_of_two(8 * many) // 64, np.uint64))
        _kernel().fill(self.keys, *self._table())

    def _table(self) -> list[np.ndarray]:
        return [getattr(self, name) for name in ("_slots", "_sieve", "_short_sieve")]

    def find(self, texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        """The largest share of an item's runs that each text holds, float32 [n], and the item, int32 [n], -1: none.

        Of items with the same share, the one that reaches it first in the text.
        """
        data, offsets = utf8(texts)
        kernel = _kernel()
        shares, best = np.empty(len(texts), np.float32), np.empty(len(texts), np.int32)
        seen, stamps = np.full(len(self.keys), -1, np.int32), np.full(len(self.totals), -1, np.int32)
        counts, ring = np.zeros(len(self.totals), np.int32), np.zeros(kernel.RING, np.uint64)
        table = (self.keys, *self._table(), self.starts, self.items, self.totals)
        kernel.contain(data, offsets, np.array([LONG, SHORT]), *table, seen, counts, stamps, ring, shares, best)
        return shares, best

    def report(self) -> dict[str, dict[str, int]]:
        """Of each set: items, and those that are too short (or all of whose runs are common) to be looked for."""
        return {
            name: {
                "items": int((self.sets == number).sum()),
                "not_looked_for": int(((self.sets == number) & (self.totals == 0)).sum()),
            }
            for number, name in enumerate(self.names)
        }

    def save(self, path: Path) -> str:
        """Write the index; returns the digest that `Contamination` wants."""
        columns = {name: pa.array(getattr(self, name)) for name in ("keys", "starts", "items", "totals", "sets")}
        columns["ids"] = self.ids
        facts = {"format": _FORMAT, "tokenizer": _kernel().TOKENIZER, "names": self.names, "words": [LONG, SHORT]}
        lists = {name: pa.LargeListArray.from_arrays([0, len(values)], values) for name, values in columns.items()}
        batch = pa.record_batch(lists).replace_schema_metadata({"gyral": json.dumps(facts)})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)
        data = sink.getvalue().to_pybytes()
        write_atomic(path, data)
        return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Contamination(Stage):
    """Adds the share of the evaluation item that a text holds most of.

    | column | is |
    |---|---|
    | `contamination` | share of the item's runs of words that are in the text, 0 to 1, float32 |
    | `contamination_set` | name of its set; null: no run of any item is in the text |
    | `contamination_item` | its `id` in the set, else its number from 0 |
    """

    name: ClassVar[str] = "contamination"
    version: ClassVar[int] = 1

    index: str
    digest: str
    """sha256 of the index's file, in hexadecimal: another file under this name is an error."""

    @classmethod
    def of(cls, sets: Mapping[str, str], root: Path, folder: Path) -> Contamination:
        """The stage for named evaluation sets, paths below `root`; their index is made in `folder` unless it is there."""
        digest = hashlib.sha256(f"{_FORMAT} {_kernel().TOKENIZER} {LONG} {SHORT} {MAX_ITEMS}".encode())
        paths = {name: root / path for name, path in sorted(sets.items())}
        for name, each in paths.items():
            digest.update(f"\0{name}\0{each.suffix}\0{hashlib.sha256(bytes_of(name, each)).hexdigest()}".encode())
        path = folder / f"{digest.hexdigest()[:32]}.arrow"
        if not path.exists():
            build({name: items_of(name, each) for name, each in paths.items()}).save(path)
        return cls(str(path), hashlib.sha256(path.read_bytes()).hexdigest())

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        index = _index(self.index, self.digest)
        shares, best = index.find(batch.column("text"))
        item = pa.array(np.maximum(best, 0), mask=best < 0)
        names = pa.array(index.names, pa.string()).take(pa.array(index.sets[np.maximum(best, 0)], mask=best < 0))
        return add(
            batch,
            {
                "contamination": pa.array(shares),
                "contamination_set": names,
                "contamination_item": index.ids.take(item),
            },
        )

    def limits(self, config: Config) -> Sequence[Limit]:
        most, columns = config.decontaminate.max_share, ["contamination"]
        rule = "decontaminate.max_share"
        return [Limit("contaminated", rule, columns, lambda c: numbers(c, "contamination"), ">", most)]


def build(sets: Mapping[str, Sequence[Item]]) -> Index:
    """Index the items of named sets.

    Raises
    ------
    InputError : there is no item in any.
    """
    names = tuple(sets)
    items = [item for name in names for item in sets[name]]
    if not items:
        raise InputError("the evaluation sets hold no items", hint="`decontaminate.sets`: files with an item a line or row")
    data, offsets = utf8(pa.array([item.text for item in items], pa.string()))
    kernel = _kernel()
    ring, room = np.zeros(kernel.RING, np.uint64), np.empty(int(np.diff(offsets).max()) + 1, np.uint64)
    runs, owners = [], []
    for number in range(len(items)):
        begin, end = int(offsets[number]), int(offsets[number + 1])
        count = 0
        for size, mark in ((LONG, 0), (SHORT, 1)):
            count = count or kernel.grams(data, begin, end, size, mark, ring, room)
        own = np.unique(room[:count])
        runs.append(own)
        owners.append(np.full(len(own), number, np.uint32))
    hashes, owner = np.concatenate(runs), np.concatenate(owners)
    order = np.argsort(hashes, kind="stable")
    keys, counts = np.unique(hashes[order], return_counts=True)
    counted = counts <= MAX_ITEMS
    owner = owner[order][np.repeat(counted, counts)]
    return Index(
        keys[counted],
        np.concatenate([[0], np.cumsum(counts[counted])]).astype(np.uint32),
        owner,
        np.bincount(owner, minlength=len(items)).astype(np.uint32),
        pa.array([item.id for item in items], pa.string()),
        np.repeat(np.arange(len(names)), [len(sets[name]) for name in names]).astype(np.uint16),
        names,
    )


def load(path: Path | str, digest: str = "") -> Index:
    """Read an index.

    Raises
    ------
    InputError : there is no such file, it is none of ours, or its digest is not the one that was asked for.
    """
    path = Path(path)
    data = read_known(path, "index", digest, "delete it and run the recipe anew")
    try:
        batch = pa.ipc.open_file(pa.py_buffer(data)).get_batch(0)
        facts = json.loads((batch.schema.metadata or {})[b"gyral"])
        if [facts["format"], facts["tokenizer"], facts["words"]] != [_FORMAT, _kernel().TOKENIZER, [LONG, SHORT]]:
            raise ValueError(f"it is of the format {facts['format']}")
        columns = {name: batch.column(name).values for name in batch.schema.names}
        arrays = {name: values.to_numpy() for name, values in columns.items() if name != "ids"}
        return Index(ids=columns["ids"], names=tuple(facts["names"]), **arrays)
    except (pa.ArrowException, KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"`{path.name}` is not an index of this version", where=str(path), why=str(error), hint="delete it"
        ) from None


def _power_of_two(least: int) -> int:
    return 1 << max(6, (least - 1).bit_length())


@lru_cache(maxsize=1)
def _index(path: str, digest: str) -> Index:
    return load(path, digest)


def _kernel() -> Any:
    from gyral.curate.text import hashed_words_kernel

    return hashed_words_kernel
