"""A Dataset of documents: what is kept of the stored texts, and why anything is not.

    datasets/<name>@<n>/decisions.parquet                   a row a document: reason, rule, value, twin, jaccard; empty = kept
                        edits.parquet                       ranges of kept texts that are left out or replaced
                        samples.json                        a few documents of each decision, for people
                        shards/00000.text.parquet           every text as it was read, kept or not
                               00000.signals.parquet        where it came from, and all that is known of it

Texts are stored once however many versions there are: the shards of two versions are the same files under two names. So a new
threshold costs a new file of decisions, and whatever was removed is still there to be shown, or brought back.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gyral.errors import InputError, NotFound
from gyral.lake.dataset import Dataset
from gyral.lake.foreign import Foreign

KINDS = ("text", "images", "pairs")
"""Kinds of datasets that are of documents."""
DECISIONS, EDITS, SAMPLES = "decisions.parquet", "edits.parquet", "samples.json"
PLACE = ("file", "offset")
SHOWN = ("file", "offset", "media", "url", "domain", "declared", "language")
"""Signals that a reader gets beside the text, where the dataset has them."""


class ShardFiles(NamedTuple):
    """Where the texts and the signals of some documents are, and how many they are."""

    text: Path
    signals: Path
    rows: int


class Found(NamedTuple):
    """A document of a dataset: its row, its shard and its row there."""

    row: int
    shard: int
    at: int


def shard_files(made: Dataset) -> list[ShardFiles]:
    """The shards of a dataset."""
    return [ShardFiles(*_pair(made, each.file), each.rows) for each in made.manifest.shards]


def batches(made: Dataset, columns: Sequence[str] = SHOWN, *, kept: bool = True) -> Iterator[pa.RecordBatch]:
    """Read documents, a shard at a time: `text` after its edits (and `raw` of pictures), and the columns named.

    Parameters
    ----------
    kept : False reads what was dropped instead, with its `reason`; nothing is edited then.
    """
    if isinstance(made, Foreign):
        yield from made.batches(columns) if kept else ()
        return
    reason = decisions(made, ["reason"])["reason"].combine_chunks().cast(pa.string())
    chosen = pc.equal(reason, "").to_numpy(zero_copy_only=False) == kept
    edits = read_edits(made) if kept else None
    for rows, batch in content(shard_files(made), chosen, edits, columns, raw=made.manifest.kind != "text"):
        yield batch if kept else batch.append_column("reason", reason.take(pa.array(rows)))


def content(
    shards: Sequence[ShardFiles], chosen: np.ndarray, edits: Edits | None, columns: Sequence[str] = (), *, raw: bool = False
) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
    """Read the chosen documents of shards: for each shard their rows and a batch of `text`, edited, and the columns named.

    Parameters
    ----------
    chosen : bool [n].
    raw : whether pictures are read, too.
    """
    at = 0
    for shard in shards:
        mine = np.flatnonzero(chosen[at : at + shard.rows])
        if len(mine):
            table = _columns(shard.signals, columns).take(pa.array(mine)) if columns else pa.table({})
            read = pq.read_table(shard.text, columns=["text", *(["raw"] if raw else [])]).take(pa.array(mine))
            texts = read["text"].combine_chunks()
            arrays = [*(column.combine_chunks() for column in table.columns)]
            arrays.append(edited(texts, mine + at, edits) if edits is not None else texts)
            arrays += [read["raw"].combine_chunks()] if raw else []
            names = [*table.schema.names, "text", *(["raw"] if raw else [])]
            yield mine + at, pa.RecordBatch.from_arrays(arrays, names=names)
        at += shard.rows


def read(made: Dataset) -> pa.Table:
    """All that is kept in one table, after a look at every digest.

    Raises
    ------
    InputError : a file is missing or is not what was written.
    """
    verify(made)
    found = list(batches(made))
    return pa.Table.from_batches(found) if found else pa.table({"text": pa.array([], pa.string())})


def verify(made: Dataset) -> None:
    """Compare every file with its digest.

    Raises
    ------
    InputError : a file is missing or is not what was written.
    """
    for shard in made.manifest.shards:
        for path, digest in zip(_pair(made, shard.file), (shard.sha256, shard.signals_sha256), strict=True):
            body = path.read_bytes() if path.exists() else b""
            if hashlib.sha256(body).hexdigest() != digest:
                hint = f"make it again: `gyral curate {made.name.partition('@')[0]} --source {made.manifest.source}`"
                raise InputError(f"`{path.name}` of `{made.name}` is not what was written", where=str(path), hint=hint)


def decisions(made: Dataset, columns: Sequence[str] | None = None) -> pa.Table:
    """The file of decisions, or some columns of it."""
    return pq.read_table(made.folder / made.manifest.decisions, columns=list(columns) if columns else None)


def copies(made: Dataset) -> np.ndarray | None:
    """How often each kept document is read in a pass, uint8 in the order of `batches`; None: once."""
    path = made.folder / made.manifest.decisions
    if not path.is_file() or "copies" not in pq.read_schema(path).names:
        return None
    table = decisions(made, ["copies", "rule"])
    found: np.ndarray = table["copies"].to_numpy()[table["rule"].to_numpy() == 0]
    return found


class Edits(NamedTuple):
    """Ranges in order of rows: int64 [m], int32 [m, 2], bytes that stand there instead."""

    rows: np.ndarray
    bounds: np.ndarray
    replacements: list[bytes]
    codes: np.ndarray


def read_edits(made: Dataset) -> Edits:
    """All edits of a dataset."""
    return edits_of(pq.read_table(made.folder / EDITS))


def edits_of(table: pa.Table) -> Edits:
    """Edits as they are applied, of a table of the form of `edits.parquet`."""
    replacement = table["replacement"].combine_chunks().dictionary_encode()
    return Edits(
        table["row"].to_numpy(),
        np.stack([table["begin"].to_numpy(), table["end"].to_numpy()], axis=1),
        [each.encode() for each in replacement.dictionary.to_pylist()],
        replacement.indices.to_numpy(),
    )


def edited(texts: pa.Array, rows: np.ndarray, edits: Edits) -> pa.Array:
    """Texts with their ranges replaced.

    Parameters
    ----------
    rows : of the texts in the dataset, ascending int64 [n].
    """
    low, high = np.searchsorted(edits.rows, [rows[0], rows[-1] + 1])
    owner = np.searchsorted(rows, edits.rows[low:high])
    mine = np.flatnonzero(rows[np.minimum(owner, len(rows) - 1)] == edits.rows[low:high])
    if not len(mine):
        return texts
    _, offset_buffer, data_buffer = texts.buffers()
    offsets = np.frombuffer(offset_buffer, np.int32, len(texts) + 1, 4 * texts.offset).astype(np.int64)
    data = memoryview(data_buffer)
    bounds, codes = edits.bounds[low:high][mine] + offsets[owner[mine]][:, None], edits.codes[low:high][mine]
    at = int(offsets[0])
    pieces: list[bytes | memoryview] = []
    for (begin, end), code in zip(bounds.tolist(), codes.tolist(), strict=True):
        pieces += (data[at:begin], edits.replacements[code])
        at = end
    pieces.append(data[at : int(offsets[-1])])
    grown = np.array([len(each) for each in edits.replacements], np.int64)[codes] - (bounds[:, 1] - bounds[:, 0])
    shift = np.r_[0, np.cumsum(np.bincount(owner[mine], weights=grown, minlength=len(texts)).astype(np.int64))]
    places = (offsets - offsets[0] + shift).astype(np.int32)
    valid = texts.is_valid() if texts.null_count else None
    made = pa.StringArray.from_buffers(len(texts), pa.py_buffer(places), pa.py_buffer(b"".join(pieces)))
    return made if valid is None else pc.if_else(valid, made, pa.scalar(None, pa.string()))


def find(made: Dataset, document: str) -> Found:
    """Find a document by its path in the source, or the end of it; `PATH@OFFSET` where a file holds several.

    Raises
    ------
    NotFound : no document, or several, have this name.
    """
    match = re.fullmatch(r"(.+)@(\d+)", document)
    wanted = [(document, None)] + ([(match.group(1), int(match.group(2)))] if match else [])
    exact: list[Found] = []
    ending: list[tuple[Found, str]] = []
    row = 0
    for number, (_, signals, rows) in enumerate(shard_files(made)):
        places = _columns(signals, PLACE)
        for name, offset in wanted:
            hit = pc.equal(places["file"], name)
            if offset is not None:
                hit = pc.and_(hit, pc.equal(places["offset"], offset))
            exact += [Found(row + at, number, at) for at in np.flatnonzero(hit.to_numpy())[:2].tolist()]
        if len(ending) < 2:
            for name, offset in wanted:
                hit = pc.ends_with(places["file"], "/" + name)
                if offset is not None:
                    hit = pc.and_(hit, pc.equal(places["offset"], offset))
                for at in np.flatnonzero(hit.to_numpy())[:2].tolist():
                    ending.append((Found(row + at, number, at), places["file"][at].as_py()))
        row += rows
    if exact:
        if len(exact) > 1:
            hint = f"name one: `{name_of(made, exact[0].row)}`, `{name_of(made, exact[1].row)}`, …"
            raise NotFound(f"`{document}` holds several documents of `{made.name}`", where=str(made.folder), hint=hint)
        return exact[0]
    if len(ending) == 1:
        return ending[0][0]
    hint = f"`{ending[0][1]}` and `{ending[1][1]}` end so" if ending else "paths count from the source's folder"
    raise NotFound(f"`{made.name}` was made of no document `{document}`", where=str(made.folder), hint=hint)


def name_of(made: Dataset, row: int) -> str:
    """What a document is called: its path, with its offset where a file holds several."""
    for _, signals, rows in shard_files(made):
        if row < rows:
            place = _columns(signals, PLACE).slice(row, 1).to_pylist()[0]
            return str(place["file"]) if place["offset"] < 0 else f"{place['file']}@{place['offset']}"
        row -= rows
    raise InputError(f"`{made.name}` has no document {row}", where=str(made.folder))


def why(made: Dataset, document: str) -> dict[str, Any]:
    """Tell why a document was kept or dropped: rule, value, threshold, and the kept one that it repeats.

    Raises
    ------
    NotFound : there is no such document.
    """
    found = find(made, document)
    decided = decisions(made).slice(found.row, 1).to_pylist()[0]
    rule = made.manifest.rules[decided["rule"]] if decided["rule"] else None
    signals = pq.read_table(shard_files(made)[found.shard][1]).slice(found.at, 1)
    told: dict[str, Any] = {name: values[0].as_py() for name, values in zip(signals.schema.names, signals.columns, strict=True)}
    value = decided["value"]
    if value is None and rule is not None:
        value = _json_of(told.get(rule.signal)) or ("und" if rule.signal == "language" else None)
    return {
        "document": name_of(made, found.row),
        "kept": rule is None,
        "reason": rule.reason if rule else None,
        "rule": (rule.rule or None) if rule else None,
        "value": value,
        "threshold": rule.threshold if rule else None,
        "twin": None if decided["twin"] is None else name_of(made, decided["twin"]),
        "jaccard": decided["jaccard"],
        "signals": {name: _json_of(each) for name, each in told.items() if not isinstance(each, list)},
    }


def row_at(path: Path, at: int) -> dict[str, Any]:
    """One text of a shard as it was read, kept or not, or a picture; only the row group that holds it is read."""
    with pq.ParquetFile(path, memory_map=True) as file:
        group = 0
        while at >= (rows := file.metadata.row_group(group).num_rows):
            at, group = at - rows, group + 1
        row: dict[str, Any] = file.read_row_group(group).slice(at, 1).to_pylist()[0]
        return row


def _pair(made: Dataset, file: str) -> tuple[Path, Path]:
    return made.folder / "shards" / file, made.folder / "shards" / file.replace(".text.", ".signals.")


def _json_of(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) and len(value) <= 16 else None if isinstance(value, bytes) else value


def _columns(path: Path, names: Sequence[str]) -> pa.Table:
    with pq.ParquetFile(path, memory_map=True) as file:
        return file.read([name for name in names if name in file.schema_arrow.names])
