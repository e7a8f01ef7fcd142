"""What is known of objects beside what the model learned: a file with a row an object, read once a model.

Columns are turned into whole numbers in the order of the model's codes, so a rule costs one comparison a candidate.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq

from gyral.errors import ConfigError
from gyral.event.clock import parse_times

OBJECT, ADDED = "object", "added"
MAX_BYTES = 4 << 30


class Catalogue:
    """Columns by code.

    Parameters
    ----------
    names : the model's objects, by code.
    path : CSV or Parquet; None: nothing is known but names.

    Raises
    ------
    ConfigError : the file cannot be read, or has no column `object`.
    """

    def __init__(self, names: Sequence[str], path: Path | None = None) -> None:
        self._path = path
        self._table = _read(path) if path is not None else pa.table({OBJECT: pa.array([], pa.string())})
        place = pc.index_in(pa.array(names, pa.string()), value_set=self._table[OBJECT].combine_chunks())
        self._rows = pc.fill_null(place, -1).to_numpy()
        self._names = names
        self._coded: dict[str, tuple[np.ndarray, dict[str, int]]] = {}

    def column(self, name: str) -> tuple[np.ndarray, dict[str, int]]:
        """Of each object the number of its value, int64 (−1: it has none), and value → number.

        Raises
        ------
        ConfigError : there is no such column.
        """
        if name == OBJECT:
            return np.arange(len(self._names)), {each: code for code, each in enumerate(self._names)}
        if name not in self._coded:
            encoded = self._given(name).cast(pa.string()).combine_chunks().dictionary_encode()
            codes = pc.fill_null(encoded.indices, -1).to_numpy().astype(np.int64)
            padded = np.append(codes, -1)
            self._coded[name] = padded[self._rows], {each: code for code, each in enumerate(encoded.dictionary.to_pylist())}
        return self._coded[name]

    def added_us(self) -> np.ndarray:
        """When each object came, microseconds since the epoch, int64; −1 where that is not known.

        Raises
        ------
        ConfigError : there is no column `added`, or it holds no times.
        """
        times = parse_times(self._given(ADDED).combine_chunks())
        if len(times) and times.null_count == len(times):
            hint = "times such as 2026-05-01T12:00:00Z"
            raise ConfigError(f"`{ADDED}` holds no times", where=str(self._path), hint=hint)
        given = np.append(pc.fill_null(times.cast(pa.int64()), -1).to_numpy(), -1)
        return np.asarray(given[self._rows])

    def _given(self, name: str) -> pa.ChunkedArray:
        if name not in self._table.column_names:
            where = str(self._path) if self._path is not None else "rerank.objects is not set"
            known = ", ".join(f"`{each}`" for each in self._table.column_names)
            raise ConfigError(f"objects have no column `{name}`", where=where, hint=f"name a file that has it; known: {known}")
        return self._table[name]


def _read(path: Path) -> pa.Table:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(
                f"`rerank.objects` has more than {MAX_BYTES >> 30} GiB",
                where=str(path),
                hint="keep the columns that `[rerank]` names",
            )
        table = pq.read_table(path) if path.suffix == ".parquet" else csv.read_csv(path, convert_options=_TEXTS)
    except (OSError, pa.ArrowInvalid) as error:
        raise ConfigError(
            "`rerank.objects` cannot be read", where=str(path), why=str(error), hint="it is CSV, or Parquet by its ending"
        ) from None
    if OBJECT not in table.column_names:
        raise ConfigError(f"`rerank.objects` has no column `{OBJECT}`", where=str(path), hint="it names the objects")
    return table.set_column(table.column_names.index(OBJECT), OBJECT, table[OBJECT].cast(pa.string()))


_TEXTS = csv.ConvertOptions(column_types={OBJECT: pa.string()})
"""A name of digits stays one."""
