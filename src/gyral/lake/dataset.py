"""A Dataset: a versioned selection of the lake in which every dropped row has a reason.

    datasets/<name>@<n>/manifest.json      what it is, which lake version it was made of, rows dropped by reason
                        decisions.parquet  one reason for each row of that lake version, in scan order; empty = kept
                        shards/00000.parquet, …

The lake version is pinned by a tag, so a decision can be traced to its row for as long as the dataset exists. Written by
`curate`, read by `train`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gyral.errors import InputError, NotFound
from gyral.event.clock import now_text
from gyral.event.schema import PLACE_FIELDS
from gyral.files import find_version, fsync_tree, new_version, write_atomic
from gyral.lake.snapshot import Snapshot
from gyral.lake.table import Lake

FOLDER = "datasets"
SHARD_ROWS = 1_000_000
FORMAT = 1
NOT_SELECTED = "not_selected"
"""The reason of rows that the dataset is not about."""


class Shard(msgspec.Struct, frozen=True):
    """One Parquet file of a dataset."""

    file: str
    rows: int
    sha256: str
    signals_sha256: str = ""


class Erased(msgspec.Struct, frozen=True):
    """Somebody who is in the dataset no more: the hash that stands for them, their rows, and what the manifest was before."""

    subject: str
    rows: int
    time: str
    manifest_sha256: str


class Rule(msgspec.Struct, frozen=True):
    """What a decision on a document points to: the reason, the setting, its threshold, the signal that was looked at."""

    reason: str
    rule: str = ""
    threshold: Any = None
    signal: str = ""


class Manifest(msgspec.Struct):
    """What `manifest.json` holds. `dropped` keeps the order of the rules; times are RFC 3339.

    `source` to `report` are of documents only: where they came from, the stages and the digest of their settings, the rules
    that decisions point to by number (0 is kept), and what is told of languages, duplicates and edits.
    """

    format: int = 1
    dataset: str = ""
    kind: str = ""
    created: str = ""
    run: int = 0
    lake: dict[str, dict[str, int]] = {}
    rows_in: int = 0
    rows_kept: int = 0
    dropped: dict[str, int] = {}
    select: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    subjects: int = 0
    objects: int = 0
    first_event: str | None = None
    last_event: str | None = None
    repeats: bool = True
    repeats_from: str = ""
    size_bytes: int = 0
    shards: list[Shard] = []
    decisions: str = "decisions.parquet"
    erased: list[Erased] = []
    source: str = ""
    stages: list[str] = []
    recipe: str = ""
    rules: list[Rule] = []
    report: dict[str, Any] = {}


class Dataset:
    """One published dataset."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest

    @property
    def name(self) -> str:
        """Name with version, `online_retail@3`."""
        return self.manifest.dataset

    def read(self) -> pa.Table:
        """Read all that is kept, its shards checked against their digests.

        Raises
        ------
        InputError : a shard is missing or its bytes differ from the manifest.
        """
        if self.manifest.source:
            from gyral.lake.documents import read

            return read(self)
        tables = []
        for shard in self.manifest.shards:
            path = self.folder / "shards" / shard.file
            body = path.read_bytes() if path.exists() else b""
            if hashlib.sha256(body).hexdigest() != shard.sha256:
                raise InputError(
                    f"the shard `{shard.file}` of `{self.name}` is not what was written",
                    where=str(path),
                    hint=f"make it again: `gyral curate {self.name.partition('@')[0]}`",
                )
            tables.append(pq.read_table(pa.BufferReader(body)))
        return pa.concat_tables(tables)

    def require(self, kind: str, what: str) -> Self:
        """Return it, if it is of this kind.

        Raises
        ------
        InputError : it is not what `what` learns from.
        """
        if self.manifest.kind != kind:
            hint = "see `gyral show` for the others"
            raise InputError(f"`{self.name}` is a dataset of {self.manifest.kind}; {what} needs one of {kind}", hint=hint)
        return self

    def why(self, lake: Lake, event_id: str) -> dict[str, Any]:
        """Tell why an event was kept or dropped.

        Raises
        ------
        NotFound : the lake version this dataset was made of has no such event.
        """
        snapshot = lake.snapshot("events", self.manifest.lake["events"]["version"])
        position = 0
        for batch in snapshot.scan(["event_id"]):
            found = np.flatnonzero(batch.column(0).to_numpy(zero_copy_only=False) == event_id)
            if len(found):
                position += int(found[0])
                break
            position += batch.num_rows
        else:
            raise NotFound(
                f"`{self.name}` was made of no event `{event_id}`",
                where=f"lake/events version {snapshot.version}",
                hint="ids are the column `event_id` of `gyral show lake --export DIR`",
            )
        reason = pq.read_table(self.folder / self.manifest.decisions)["reason"][position].as_py()
        row = snapshot.take([position]).to_pylist()[0]
        return {"event_id": event_id, "kept": not reason, "reason": reason or None, "event": row}


def write(
    root: Path,
    name: str,
    rows: pa.Table,
    reasons: pa.Array,
    manifest: Manifest,
    snapshot: Snapshot,
) -> Dataset:
    """Publish the next version of a dataset; `manifest` comes without name, shards and sizes, which are filled in here."""
    with new_version(root / FOLDER, name) as (folder, number):
        manifest.dataset = f"{name}@{number}"
        manifest.created = now_text()
        (folder / "shards").mkdir()
        _write_shards(folder, rows, manifest, "")
        pq.write_table(pa.table({"reason": reasons}), folder / manifest.decisions, compression="zstd")
        _write_manifest(folder, manifest)
        snapshot.pin(tag_of(manifest))  # of two that race for a number, each pins its own
    return Dataset(root / FOLDER / manifest.dataset, manifest)


def all_of(root: Path) -> Iterator[Dataset]:
    """Every published version of every dataset that can be read."""
    for path in sorted((root / FOLDER).glob("[!.]*@*")):
        with suppress(InputError, NotFound):
            yield find(root, path.name)


def tag_of(manifest: Manifest) -> str:
    """The tag that keeps the lake version of a dataset."""
    name, _, number = manifest.dataset.partition("@")
    return f"dataset-{name}-{number}-v{manifest.lake['events']['version']}"


def erase(made: Dataset, subject: str, stands_for: str, before: Snapshot, after: Snapshot) -> int:
    """Take a subject out of a published dataset and pin it to a lake version without them.

    What a reader sees is the old dataset or the new one: files get new names, and the manifest that names them comes last.

    Parameters
    ----------
    stands_for : the hash that the manifest keeps of them.
    before, after : the lake version it was made of, and the newest, which is that version without them, and later rows.

    Returns
    -------
    How many rows of the dataset went.
    """
    manifest, folder = made.manifest, made.folder
    rows = made.read()
    kept = rows.filter(pc.invert(pc.fill_null(pc.equal(rows["subject"], subject), False)))
    old = [*(f"shards/{each.file}" for each in manifest.shards), manifest.decisions]
    text, old_tag = (folder / "manifest.json").read_bytes(), tag_of(manifest)
    number, now = len(manifest.erased) + 1, now_text()
    decided = pq.read_table(folder / manifest.decisions)["reason"].cast(pa.string())
    found = pc.index_in(_places(after), value_set=_places(before))  # the order of rows is another after a compaction
    reasons = pc.fill_null(decided.take(found), NOT_SELECTED)
    manifest.decisions = f"decisions.{number}.parquet"
    pq.write_table(pa.table({"reason": reasons.dictionary_encode()}), folder / manifest.decisions, compression="zstd")
    manifest.shards, manifest.size_bytes = [], 0
    _write_shards(folder, kept, manifest, f".{number}")
    counts = Counter(reasons.to_pylist())
    manifest.dropped = {reason: counts[reason] for reason in manifest.dropped if counts[reason]}
    manifest.rows_in, manifest.rows_kept = kept.num_rows + sum(manifest.dropped.values()), kept.num_rows
    manifest.subjects, manifest.objects = (len(kept[name].unique()) for name in ("subject", "object"))
    manifest.facts = {} if rows.num_rows > kept.num_rows else manifest.facts  # they counted whom they must not tell of
    manifest.erased.append(Erased(stands_for, rows.num_rows - kept.num_rows, now, hashlib.sha256(text).hexdigest()))
    manifest.lake = {"events": {"version": after.version}}
    after.pin(tag_of(manifest))
    fsync_tree(folder)
    _write_manifest(folder, manifest)
    for name in old:
        (folder / name).unlink(missing_ok=True)
    if old_tag != tag_of(manifest):
        before.unpin(old_tag)
    return int(rows.num_rows - kept.num_rows)


def find(root: Path, name: str) -> Dataset:
    """Open a dataset by `name` (its newest version) or `name@n`.

    Raises
    ------
    NotFound : there is no such dataset; the hint names the nearest.
    """
    path = find_version(root / FOLDER, "dataset", name, f"make one: `gyral curate {name.partition('@')[0] or 'NAME'}`")
    try:
        manifest = msgspec.json.decode((path / "manifest.json").read_bytes(), type=Manifest)
        if not manifest.kind or manifest.format > FORMAT:
            raise ValueError(
                f"it is of format {manifest.format}, and {FORMAT} is known" if manifest.kind else "it names no kind"
            )
    except (OSError, ValueError) as error:  # msgspec's errors are ValueErrors
        hint = f"make it again: `gyral curate {path.name.partition('@')[0]}`"
        raise InputError(f"the manifest of `{path.name}` cannot be read", why=str(error), where=str(path), hint=hint) from None
    return Dataset(path, manifest)


def _places(snapshot: Snapshot) -> pa.Array:
    """What tells each row of the lake from every other: where in the log it came from."""
    rows = snapshot.read([field.name for field in PLACE_FIELDS])
    return pc.binary_join_element_wise(*(rows[name].cast(pa.string()) for name in rows.column_names), "/").combine_chunks()


def _write_shards(folder: Path, rows: pa.Table, manifest: Manifest, suffix: str) -> None:
    for number, start in enumerate(range(0, max(rows.num_rows, 1), SHARD_ROWS)):
        file = f"{number:05d}{suffix}.parquet"
        path = folder / "shards" / file
        part = rows.slice(start, SHARD_ROWS)
        pq.write_table(part, path, compression="zstd")
        manifest.shards.append(Shard(file, part.num_rows, hashlib.sha256(path.read_bytes()).hexdigest()))
        manifest.size_bytes += path.stat().st_size


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    write_atomic(folder / "manifest.json", msgspec.json.format(msgspec.json.encode(manifest)))
