"""What a stage of curation is: a pure function of a batch that adds columns, and the limits that later decide on them.

A recipe is a list of stages. The first make the text. All others see every document once, add *signals* (numbers, hashes,
places in the text) and never drop a row or change a text. What is kept is decided afterwards from the stored signals alone: by
*limits*, in the order of the stages, the first that holds gives the reason; and by *cuts*, the ranges of a text that a reader
leaves out or replaces. So a threshold can be changed without reading a text again, and whatever was removed can be shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from gyral.config import Config

DOCUMENT = pa.schema(
    [
        pa.field("file", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("media", pa.string(), nullable=False),
        pa.field("url", pa.string()),
        pa.field("domain", pa.string()),
        pa.field("declared", pa.string()),
        pa.field("raw", pa.binary()),
        pa.field("text", pa.string()),
        pa.field("rejected", pa.string()),
    ]
)
"""What a reader yields, one row a record.

| column | is |
|---|---|
| `file`, `offset` | where it is in the source: path with `/`; the byte in the file as it lies there, or row; -1: all of it |
| `media` | `html`, `mallard`, `docbook`, `text`, `image` |
| `url`, `domain` | as the source says; the domain is what `mix` weighs: the host, or the first folder |
| `declared` | the language the source declares: a folder, an attribute, a field |
| `raw` | bytes that text is still to be made of, or a picture, whose caption may be in `text` |
| `text` | null until it is extracted |
| `rejected` | why the record cannot be used, `corrupt_record` and the like; its other columns may then be null |
"""

CUTS = pa.list_(pa.int32())
"""Ranges of a text in bytes, flattened: begin, end, begin, end, …; ascending, never overlapping."""

Op = Literal["<", "<=", ">", ">=", "in", "not in", "is"]
Columns = Mapping[str, pa.Array]


class Limit(NamedTuple):
    """A document is dropped with `reason` where `value op threshold` holds.

    Attributes
    ----------
    reason : for counts, `gopher_few_words`.
    rule : the setting that holds the threshold, `quality.gopher.min_words`.
    columns : signals that `value` looks at.
    value : the signals → one number a row, float64; NaN never drops. With `in`, `not in` and `is`: texts, null never drops.
    threshold : a number, or the texts of `in` and `not in`. With `is`, every text drops, and this is only shown.
    """

    reason: str
    rule: str
    columns: Sequence[str]
    value: Callable[[Columns], np.ndarray | pa.Array]
    op: Op
    threshold: Any


class Cut(NamedTuple):
    """Ranges of a text that a reader replaces: the column of type `CUTS` that holds them, and what stands there instead."""

    column: str
    rule: str
    replacement: str


@dataclass(frozen=True)
class Stage:
    """Base of the stages: a frozen dataclass whose fields are the settings that the signals depend on.

    The digest of a recipe is made of the stages' names, versions and fields, so what was computed is used again as long as
    they stay. A stage must be of a module and its fields plain values, so that it can travel to a process or another machine.
    Kernels and libraries are imported inside.
    """

    name: ClassVar[str] = ""
    version: ClassVar[int] = 1
    """Raised whenever the same batch would get other signals."""

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Add columns; rows, their order and the columns that are there stay (but for `text`, which the first stages make)."""
        raise NotImplementedError

    def limits(self, config: Config) -> Sequence[Limit]:
        """What drops a document, by today's thresholds."""
        return ()

    def cuts(self, config: Config) -> Sequence[Cut]:
        """What is left out of a kept document, by today's settings."""
        return ()


def add(batch: pa.RecordBatch, columns: Mapping[str, Any]) -> pa.RecordBatch:
    """The batch with columns added at its end, or replaced where the name is there."""
    for name, values in columns.items():
        array = values if isinstance(values, pa.Array) else pa.array(values)
        place = batch.schema.get_field_index(name)
        batch = batch.append_column(name, array) if place < 0 else batch.set_column(place, name, array)
    return batch


def utf8(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Bytes of an array of strings: `data` uint8 and `offsets` int32 [n + 1] into it; a null has no bytes.

    Nothing is copied, and `data` begins where the buffer does, which is not where the first text begins.
    """
    _, offsets, data = texts.buffers()
    places = np.frombuffer(offsets, np.int32, len(texts) + 1, 4 * texts.offset)
    return np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(1, np.uint8), places


def texts_of(batch: pa.RecordBatch) -> Iterator[str]:
    """The texts one by one, "" where there is none."""
    return (text or "" for text in batch.column("text").to_pylist())


def numbers(columns: Columns, name: str) -> np.ndarray:
    """A signal as float64 [n], NaN where it is null."""
    return np.asarray(columns[name].cast(pa.float64()).to_numpy(zero_copy_only=False))
