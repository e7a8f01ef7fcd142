"""Columns that `curate.features` added to interactions → numbers and hashed words of a ranking net, one way to train and serve.

A column is a number (sign(x) log(1 + |x|), standardised by mean and deviation of the events that are learned; and 1 where it is
known) or a word (hashed with the column's name into some rows of a table; row 0: not known). Whoever trains keeps mean,
deviation and kind in the model's settings, and what was last known of each subject and object in its arrays.

A feature of a subject is the event's own: whatever object it is asked about, the subject is the same. A feature of an object is
what the object's *latest earlier event* had. The event's own value would tell that the object was met: objects that are drawn
beside it have none, and the net would learn to see the difference. It is also what a served model can know.

Shapes: n events, S subjects, V objects, B rows, F numbers, C words.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gyral.errors import InputError
from gyral.lake.dataset import Manifest
from gyral.model.recommender import Interactions

SETTING = "features"
"""Of a model's settings: its columns."""
PLACES = "features_of"
"""Of `select` in a dataset's manifest: column → subject or object."""
ARRAYS = "features_{on}_{part}"
UNKNOWN = 0
PARTS = ("numbers", "words")


class Column(msgspec.Struct, frozen=True):
    """How one column is read.

    Attributes
    ----------
    on : what it tells of.
    is_word : hashed, not a number.
    mean, deviation : of the logarithm of a number.
    """

    name: str
    on: Literal["subject", "object"]
    is_word: bool
    mean: float = 0.0
    deviation: float = 1.0


class Sizes(NamedTuple):
    """Numbers and words of a row."""

    numbers: int
    words: int


class Features:
    """The columns of a dataset, read for each of its events.

    Parameters
    ----------
    subject, object : codes of the events in the order of time, [n].
    rows : with the columns.
    buckets : rows that words are hashed to, the one for what is unknown included.
    """

    def __init__(
        self, columns: Sequence[Column], rows: pa.Table, subject: np.ndarray, object_: np.ndarray, buckets: int
    ) -> None:
        self.columns, self._subject, self._object = list(columns), subject, object_
        self._read = {on: _read([each for each in columns if each.on == on], rows, buckets) for on in ("subject", "object")}
        self._order = np.lexsort((np.arange(len(object_)), object_))
        self._keys = object_[self._order].astype(np.int64) * max(len(object_), 1) + self._order

    @property
    def sizes(self) -> Sizes:
        """Of a row."""
        return Sizes(*(sum(each[part].shape[1] for each in self._read.values()) for part in range(2)))

    def at(self, events: np.ndarray, objects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What was known when some events happened, if another object had been met: numbers float32 [B, F], words [B, C]."""
        found = np.searchsorted(self._keys, objects.astype(np.int64) * max(len(self._object), 1) + events)
        before = self._order[np.maximum(found - 1, 0)]
        is_known = (found > 0) & (self._object[before] == objects)
        told = []
        for of_subject, of_object in zip(self._read["subject"], self._read["object"], strict=True):
            earlier = np.where(is_known[:, None], of_object[before], 0)
            told.append(np.concatenate([of_subject[events], earlier], axis=1))
        return told[0].astype(np.float32), told[1].astype(np.int64)

    def latest(self, num: int, num_subjects: int, num_objects: int) -> dict[str, np.ndarray]:
        """Arrays of a model that knows the first `num` events: what was last known of everybody and everything."""
        arrays = {}
        for on, codes, count in (("subject", self._subject, num_subjects), ("object", self._object, num_objects)):
            last = np.full(count, -1, dtype=np.int64)
            last[codes[:num]] = np.arange(num)  # the last of several counts
            for part, values in zip(PARTS, self._read[on], strict=True):
                of_last = np.where((last >= 0)[:, None], values[np.maximum(last, 0)], 0)
                arrays[ARRAYS.format(on=on, part=part)] = of_last.astype(values.dtype)
        return arrays


class Known:
    """What a model knows now, from the arrays of `Features.latest`."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._of = {on: [arrays[ARRAYS.format(on=on, part=part)] for part in PARTS] for on in ("subject", "object")}

    def of(self, subjects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of subjects (−1: nobody known) with every object: numbers float32 [B, V, F], words int64 [B, V, C]."""
        told = []
        for of_subject, of_object in zip(*self._of.values(), strict=True):
            mine = np.where((subjects >= 0)[:, None], of_subject[np.maximum(subjects, 0)], 0)
            shape = (len(subjects), len(of_object))
            parts = (
                np.broadcast_to(mine[:, None], (*shape, mine.shape[1])),
                np.broadcast_to(of_object, (*shape, of_object.shape[1])),
            )
            told.append(np.concatenate(parts, axis=2))
        return told[0].astype(np.float32), told[1].astype(np.int64)

    def pairs(self, subjects: np.ndarray, objects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of subjects (−1: nobody known) with an object each: numbers float32 [B, F], words int64 [B, C]."""
        told = []
        for of_subject, of_object in zip(*self._of.values(), strict=True):
            mine = np.where((subjects >= 0)[:, None], of_subject[np.maximum(subjects, 0)], 0)
            told.append(np.concatenate([mine, of_object[objects]], axis=1))
        return told[0].astype(np.float32), told[1].astype(np.int64)


def columns_of(manifest: Manifest, rows: pa.Table, num_learned: int) -> list[Column]:
    """The columns that a dataset has beside its own; mean and deviation are those of the first events.

    Raises
    ------
    InputError : a column is neither number nor text.
    """
    places: dict[str, Any] = manifest.select.get(PLACES, {})
    found = []
    for name, on in places.items():
        kind = rows[name].type
        if pa.types.is_null(kind):  # nobody ever told
            continue
        is_word = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind)
        if not is_word and not (
            pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind) or pa.types.is_timestamp(kind)
        ):
            why = f"its values are of the type {kind}"
            raise InputError(f"the feature `{name}` is neither a number nor a word", why=why, hint="take a field of `props`")
        column = Column(name, on, is_word)
        if not is_word:
            values = _logarithms(rows[name])[:num_learned]
            known = values[~np.isnan(values)]
            deviation = float(known.std()) if len(known) else 0.0
            column = Column(name, on, False, float(known.mean()) if len(known) else 0.0, deviation or 1.0)
        found.append(column)
    return found


def told(read: Features) -> list[dict[str, Any]]:
    """Columns as a model's settings keep them."""
    found: list[dict[str, Any]] = msgspec.to_builtins(read.columns)
    return found


def again(settings: Mapping[str, Any], rows: pa.Table, data: Interactions, num: int) -> dict[str, np.ndarray]:
    """The arrays that a model of these settings would have if it knew only the first `num` events; none without features."""
    if not settings.get(SETTING):
        return {}
    columns = msgspec.convert(settings[SETTING], list[Column])
    read = Features(columns, rows, data.subject, data.object, int(settings["shape"]["buckets"]))
    return read.latest(num, data.num_subjects, data.num_objects)


def without_subject(arrays: Mapping[str, np.ndarray], subject: int) -> dict[str, np.ndarray]:
    """The arrays of a model that knows no feature of one subject."""
    left = dict(arrays)
    for part in PARTS:
        name = ARRAYS.format(on="subject", part=part)
        if name in arrays:
            left[name] = arrays[name].copy()
            left[name][subject] = UNKNOWN
    return left


def _read(columns: Sequence[Column], rows: pa.Table, buckets: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers float32 [n, 2 a column] and words int32 [n, 1 a column]."""
    numbers, words = [], []
    for column in columns:
        values = rows[column.name]
        if column.is_word:
            words.append(_hashed(column.name, values, buckets))
            continue
        found = (_logarithms(values) - column.mean) / column.deviation
        is_known = ~np.isnan(found)
        numbers += [np.where(is_known, found, 0), is_known]
    num = rows.num_rows
    told = np.stack(numbers, axis=1).astype(np.float32) if numbers else np.zeros((num, 0), np.float32)
    return told, np.stack(words, axis=1) if words else np.zeros((num, 0), np.int32)


def _logarithms(column: pa.ChunkedArray) -> np.ndarray:
    """sign(x) log(1 + |x|), float64; NaN where nothing, or nothing finite, is known."""
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    values = pc.fill_null(column.cast(pa.float64(), safe=False), float("nan")).to_numpy()
    values = np.where(np.isfinite(values), values, np.nan)
    return np.asarray(np.sign(values) * np.log1p(np.abs(values)))


def _hashed(name: str, column: pa.ChunkedArray, buckets: int) -> np.ndarray:
    """Row of each value, int32 [n]; `UNKNOWN` where there is none."""
    encoded = column.combine_chunks()
    if not pa.types.is_dictionary(encoded.type):
        encoded = encoded.dictionary_encode()
    rows = [1 + zlib.crc32(f"{name}={value}".encode()) % (buckets - 1) for value in encoded.dictionary.to_pylist()]
    places = pc.fill_null(encoded.indices, len(rows)).to_numpy(zero_copy_only=False)
    found: np.ndarray = np.array([*rows, UNKNOWN], dtype=np.int32)[places]
    return found
