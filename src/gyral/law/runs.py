"""The run table: one row for each training that ended, with everything that decides whether rows may be compared.

Most published fits cannot be reproduced because a column is missing: whether embeddings count among the parameters, what
was multiplied to get FLOPs, whether the learning rate had come down. So these columns exist, a training of gyral's writes
them all, and what cannot be compared is refused or left out by name.

| column | is |
|---|---|
| `run`, `group` | which run; rows of one run are drawn together, groups are fitted apart |
| `N`, `N_non_embedding`, `N_active` | parameters: all, without embeddings, those that one token meets |
| `D`, `D_unique`, `unit` | tokens, examples or interactions seen, those of them that differ, and which of the three |
| `C`, `flops_by` | FLOPs, and the formula that counted them |
| `loss`, `metric`, `noise`, `train_loss` | value, what it is of, its deviation between equal runs, the loss trained |
| `schedule` | `finished`, `decayed` (a branch whose rate came down), `constant`, or `mid_cosine` |
| `lr`, `batch`, `width`, `depth`, `experts`, `precision`, `seed`, `family` | how it was trained |
| `settings` | digest of all other settings that change what is learned, sizes, steps, budget and seed apart |
| `w:NAME` | weight of a domain in the data |
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gyral.errors import InputError, did_you_mean
from gyral.files import without_others, write_atomic

Columns = Mapping[str, np.ndarray]
FLOPS_A_TOKEN = 6
"""FLOPs of a parameter and token, forwards and backwards, where a table does not count them."""
NUMBERS = (
    "N", "N_non_embedding", "N_active", "D", "D_unique", "C", "loss", "train_loss", "noise", "lr", "batch", "width", "depth",
    "experts",
)  # fmt: skip
MAY_LACK = ("noise", "train_loss")
NEEDED = ("N", "D", "C", "loss")
DOMAIN = "w:"
LEFT_OUT = ("mid_cosine",)
"""Schedules whose rows are left out: a rate that has not come down hides what the model has learned (**Source**: Porian et al.,
2406.19146; Choshen et al., 2410.11840)."""
LEAST_ROWS = 4
WAIT_S = 30.0
FAR = 1e5
"""Rows of one unit do not leave a gap as wide as this between neighbours."""


@dataclass(frozen=True)
class RunTable:
    """Rows that may be fitted together.

    Attributes
    ----------
    columns : name → n numbers, all positive; `C` is there wherever `N` and `D` are.
    loss : n.
    run : n labels; rows of one label are no independent evidence.
    notes : what was left out or looks wrong, a sentence each.
    """

    columns: Mapping[str, np.ndarray]
    loss: np.ndarray
    run: np.ndarray
    notes: tuple[str, ...] = ()
    source: str = ""

    def __len__(self) -> int:
        return len(self.loss)

    def taken(self, which: np.ndarray) -> RunTable:
        """Some of the rows."""
        columns = {name: column[which] for name, column in self.columns.items()}
        return replace(self, columns=columns, loss=self.loss[which], run=self.run[which])

    def axis(self) -> np.ndarray:
        """Compute, by which far is told from near: `C`, or the only column there is."""
        return self.columns["C"] if "C" in self.columns else next(iter(self.columns.values()))

    def read_by(self, axes: Sequence[str]) -> Columns:
        """The columns of a form; `x` is compute.

        Raises
        ------
        InputError : the table lacks one.
        """
        found = {}
        for name in axes:
            if name != "x" and name not in self.columns:
                hint = f"`--map {name}=COLUMN` names it; the table has {', '.join(self.columns)}"
                raise InputError(f"there is no column `{name}`", where=self.source, hint=hint)
            found[name] = self.axis() if name == "x" else self.columns[name]
        return found

    @property
    def decades(self) -> float:
        """Of compute between the least and the most."""
        axis = self.axis()
        return math.log10(float(axis.max() / axis.min()))


def read(path: Path, names: Mapping[str, str] | None = None, where: Mapping[str, str] | None = None) -> RunTable:
    """Read a table of runs.

    Parameters
    ----------
    names : our column → the file's.
    where : column → the value that its rows must have; `|` between several.

    Raises
    ------
    InputError : it cannot be read, or a row cannot be used.
    """
    return table_of(load(path), names or {}, str(path), where or {})


def load(path: Path) -> pa.Table:
    """A CSV or Parquet file as it is.

    Raises
    ------
    InputError : it cannot be read.
    """
    from pyarrow import csv, parquet

    try:
        return parquet.read_table(path) if path.suffix in (".parquet", ".pq") else csv.read_csv(path)
    except FileNotFoundError:
        hint = "check the path; it counts from the folder you are in"
        raise InputError("there is no such table of runs", where=str(path), hint=hint) from None
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError("the table of runs cannot be read", where=str(path), why=str(error)) from None


def table_of(table: pa.Table, names: Mapping[str, str], source: str, where: Mapping[str, str] | None = None) -> RunTable:
    """From an Arrow table to rows that may be fitted.

    Raises
    ------
    InputError : a column is missing or a value cannot be used; which, and where.
    """
    for theirs in names.values():
        if theirs not in table.column_names:
            hint = did_you_mean(theirs, table.column_names) or f"it has {', '.join(table.column_names[:12])}"
            raise InputError(f"there is no column `{theirs}`", where=source, hint=hint)
    renamed = {theirs: ours for ours, theirs in names.items()}
    held = {ours for ours in names if ours in table.column_names and ours not in names.values()}
    table = table.select([c for c in table.column_names if c not in held])
    table = table.rename_columns([renamed.get(name, name) for name in table.column_names])
    notes: list[str] = []
    for column, value in (where or {}).items():
        if column not in table.column_names:
            raise InputError(
                f"there is no column `{column}`", where=source, hint=f"it has {', '.join(table.column_names[:12])}"
            )
        wanted = value.split("|")
        table = table.filter(pa.array([str(each) in wanted for each in table[column].to_pylist()], pa.bool_()))
    if "loss" not in table.column_names:
        hint = f"`--map loss=COLUMN` names it; it has {', '.join(table.column_names[:12])}"
        raise InputError("there is no column `loss`", where=source, hint=hint)
    if "schedule" in table.column_names:
        schedule = table["schedule"].to_pylist()
        keep = [each not in LEFT_OUT for each in schedule]
        if not any(keep):
            why = f"all {len(keep)} rows are of a cosine schedule that had not ended"
            hint = "fit runs that ended, or that have a constant rate or a decayed branch"
            raise InputError("no row may be fitted", where=source, why=why, hint=hint)
        if not all(keep):
            notes.append(f"{keep.count(False)} rows of an unfinished cosine schedule are left out")
        table = table.filter(pa.array(keep, pa.bool_()))
    columns = {}
    for name in table.column_names:
        if name not in NUMBERS and not name.startswith(DOMAIN):
            continue
        if table[name].null_count and (
            name not in NEEDED or table[name].null_count == table.num_rows
        ):  # of runs of another family, or older than the column
            if table[name].null_count < table.num_rows:
                notes.append(f"`{name}` is not said of {table[name].null_count} rows, and not used")
            continue
        columns[name] = _numbers(table[name], name, source)
    loss = columns.pop("loss")
    if not any(name in columns for name in ("N", "D", "C")):
        raise InputError("no column says how large a run was", where=source, hint="name `N` and `D`, or `C`, by `--map`")
    if "N" in columns and "D" in columns and "C" not in columns:
        columns["C"] = FLOPS_A_TOKEN * columns["N"] * columns["D"]
        notes.append(f"FLOPs are reckoned as {FLOPS_A_TOKEN} N D")
    run = (
        np.array([str(each) for each in table["run"].to_pylist()])
        if "run" in table.column_names
        else np.arange(len(loss)).astype(str)
    )
    found = RunTable(columns, loss, run, (), source)
    found, more = _without_doubles(found)
    _check(found)
    return replace(found, notes=(*notes, *more, *_units(found)))


def _numbers(column: pa.ChunkedArray, name: str, source: str) -> np.ndarray:
    try:
        values = np.array([math.nan if each is None else float(each) for each in column.to_pylist()], np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"`{name}` holds no numbers", where=source, why=str(error)) from None
    is_weight = name.startswith(DOMAIN)
    if name in MAY_LACK:
        return values
    wrong = np.flatnonzero(~np.isfinite(values) | (values < 0 if is_weight else values <= 0))
    if len(wrong):
        row = int(wrong[0])
        what = f"`{name}` is {values[row]:g} in row {row + 1}"
        why = f"{len(wrong)} of {len(values)} rows are not positive numbers" if not is_weight else "a weight is not negative"
        hint = "leave these rows out of the file; a run that diverged says nothing of its size"
        raise InputError(what, where=source, why=why, hint=hint)
    return values


def _without_doubles(table: RunTable) -> tuple[RunTable, list[str]]:
    """Rows that say the same twice would count twice."""
    stacked = np.stack([*table.columns.values(), table.loss], axis=1)
    _, first = np.unique(stacked, axis=0, return_index=True)
    gone = len(table) - len(first)
    if not gone:
        return table, []
    return table.taken(np.sort(first)), [f"{gone} rows are the same as others, and left out"]


def _check(table: RunTable) -> None:
    if len(table) < LEAST_ROWS:
        why = f"{len(table)} rows are left"
        raise InputError(
            "too few runs for a law", where=table.source, why=why, hint="five sizes over two decades of compute are a start"
        )


def _units(table: RunTable) -> list[str]:
    """Columns whose rows are of different units, as far as numbers show it."""
    notes = []
    for name in ("N", "D", "C"):
        if name in table.columns:
            values = np.sort(table.columns[name])
            gaps = values[1:] / values[:-1]
            if len(gaps) and gaps.max() > FAR:
                at = int(gaps.argmax())
                notes.append(f"`{name}` jumps from {values[at]:.3g} to {values[at + 1]:.3g}: are these of one unit?")
    if "N" in table.columns and "D" in table.columns:
        share = table.columns["D"] / table.columns["N"]
        if share.max() / share.min() > 10 * FAR:
            notes.append(f"D / N lies between {share.min():.3g} and {share.max():.3g}: are these of one unit?")
    if all(name in table.columns for name in ("N", "D", "C")):
        ratio = table.columns["C"] / (table.columns["N"] * table.columns["D"])
        if ratio.max() / ratio.min() > 30:
            notes.append(f"C / (N D) lies between {ratio.min():.3g} and {ratio.max():.3g}: are these of one unit?")
    return notes


def append(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add rows to a table of runs; it is written whole, or not at all, after those who write it now.

    Parameters
    ----------
    path : a Parquet file, made where it is missing.

    Raises
    ------
    InputError : what is there is no table.  ConflictError : somebody writes it for too long.
    """
    from pyarrow import parquet

    new = pa.Table.from_pylist([{name: _told(name, value) for name, value in row.items() if value is not None} for row in rows])
    with without_others(path.with_name(f"{path.name}.lock"), WAIT_S, "the table of runs is being written"):
        if path.exists():
            new = pa.concat_tables([load(path), new], promote_options="permissive")
        sink = pa.BufferOutputStream()
        parquet.write_table(new, sink)
        write_atomic(path, sink.getvalue().to_pybytes())


def _told(name: str, value: Any) -> Any:
    return float(value) if name in NUMBERS or name.startswith(DOMAIN) else value if isinstance(value, int) else str(value)
