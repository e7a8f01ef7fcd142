"""`gyral erase SUBJECT`: mark, delete, rewrite, let go of what was, look whether anything is left, and say what was done.

The mark comes first and is durable: a keyed hash in the table `erasures`, by which every drain from then on drops what comes of
the same subject; so the rest may be interrupted anywhere and run again. What is taken out: events and quarantined rows in every
version of the lake, rows of published datasets (which are pinned to a rewritten version and keep the digest of their old
manifest), name and history in models, and log segments. What a model has *learned* stays learned; the receipt lists those
models. Events of others that name the subject as their object, or in their props, are counted and kept.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa

from gyral import plugins
from gyral.config import Config
from gyral.errors import ConflictError, GyralError
from gyral.event.clock import TIMESTAMP, now_text, now_us
from gyral.event.codec import encode_payload
from gyral.event.schema import ERASURES
from gyral.faults import fail_point
from gyral.files import write_atomic
from gyral.ingest.drain import Drain
from gyral.ingest.tombstones import Tombstones, texts_in
from gyral.lake import dataset as datasets
from gyral.lake.dataset import Dataset
from gyral.lake.snapshot import Snapshot
from gyral.lake.sql import literal
from gyral.lake.table import Lake
from gyral.log.base import EventLog
from gyral.log.opening import open_log
from gyral.log.sqlite import SqliteLog
from gyral.model import card as cards
from gyral.model.family import Family
from gyral.run import FOLDER as RUNS
from gyral.run import Run, no_other_makes

TRIES = 100
WAIT_FOR_LOG_S = 30.0
NOBODY = "false"
"""Condition of no row: what an erasure that was cut off left to be counted is counted all the same."""
SEARCHABLE_BYTES = 8
"""A shorter name is in most files by chance; it is looked for as a JSON text and in the columns only."""
SEARCHED_BYTES = 4 << 20
"""At a time; more than the longest subject."""


class Receipt(msgspec.Struct):
    """What an erasure did. It names the subject by a keyed hash only.

    Attributes
    ----------
    rows : table → rows that went.
    versions : table → its version before and after.
    datasets, models : what they were taken out of; a dataset with the number of its rows.
    trained_on : models that learned from their events, now or at an earlier try; they are not unlearned.
    mentions : rows of others that name them, by where.
    left : what could not be done, and why.
    found : files below the project in which their name still is.
    """

    subject: str
    run: int
    time: str
    rows: dict[str, int] = {}
    versions: dict[str, list[int]] = {}
    datasets: dict[str, int] = {}
    models: list[str] = []
    trained_on: list[str] = []
    mentions: dict[str, int] = {}
    left: list[str] = []
    found: list[str] = []
    searched_bytes: bool = True


class Found(msgspec.Struct):
    """What an erasure would concern, as in `Receipt`; `models` and `files` are those in which their name is."""

    rows: dict[str, int]
    datasets: dict[str, int]
    models: list[str]
    trained_on: list[str]
    mentions: dict[str, int]
    files: list[str]


def look(root: Path, config: Config, subject: str) -> Found:
    """What is here of a subject. Nothing is marked, written or drained: what still waits in the log is in no count."""
    lake, rows, stands_for = Lake.of(root, config), dict.fromkeys(("events", "quarantine"), 0), ""
    counts: dict[str, int] = {}
    mentions: dict[str, int] = {}
    if lake.exists("events"):
        rows["events"] = lake.snapshot("events").count(f"subject = {literal(subject)}")
        mentions = _mentions(lake, subject)
        for made in datasets.all_of(root):
            with suppress(GyralError):
                if made.manifest.lake and (count := int(np.sum(_theirs(made, subject)))):
                    counts[made.name] = count
    if lake.exists("quarantine"):
        rows["quarantine"] = len(_quarantined(lake.snapshot("quarantine"), subject))
    if lake.exists("erasures"):
        stands_for = Tombstones(lake.snapshot("erasures")).name(subject)
    trained_on = [
        card.model for card in _cards(root) if card.dataset in counts or _learned_from(root, card.dataset, stands_for)
    ]
    files = list(_search(root, lake, subject))
    models = {Path(each).parts[1] for each in files if Path(each).parts[0] == cards.FOLDER}
    return Found(rows, counts, sorted(models), sorted(trained_on), mentions, files)


def told_found(found: Found) -> str:
    """The same for a person."""
    models = ", ".join(found.models) or "none"
    lines = [f"would erase: {_listed(found.rows)} rows; datasets: {_listed(found.datasets)}; models: {models}"]
    if found.trained_on:
        lines.append(f"  learned from their events, and would not be unlearned: {', '.join(found.trained_on)}")
    if found.mentions:
        lines.append(f"  rows of others that name them, which would stay: {_listed(found.mentions)}")
    lines += [f"  their name is in {each}" for each in found.files]
    return "\n".join([*lines, "  nothing was changed; what waits in the log is not counted"])


def erase(root: Path, config: Config, run: Run, subject: str) -> Receipt:
    """Erase a subject from a project; run again, it does what is left to do.

    Raises
    ------
    ConflictError : other processes write and do not end; the mark is there, run it again.
    """
    lake = Lake.of(root, config)
    meter = run.meter("steps", 5)
    with open_log(lake.log_folder, config) as log:
        stands_for, ends = _mark(lake, log, config, subject)
        receipt = Receipt(stands_for, run.number, now_text())
        meter.update(1)
        with no_other_makes(root), lake.alone():
            before, after = _erase_events(lake, subject, receipt)
            fail_point("erase.events")
            _erase_quarantined(lake, subject, receipt)
            meter.update(2)
            _erase_from_datasets(root, before, after, subject, receipt)
            fail_point("erase.datasets")
            if not all(lake.snapshot(name).forget() for name in ("events", "quarantine")):
                receipt.left.append("files of commits that never were stay in the bucket until they are seven days old")
            meter.update(3)
            _erase_from_models(root, subject, receipt)
            fail_point("erase.models")
            meter.update(4)
        _wait_for_log(log, ends, receipt)
    receipt.mentions = _mentions(lake, subject)
    receipt.found, receipt.searched_bytes = list(_search(root, lake, subject)), len(subject.encode()) >= SEARCHABLE_BYTES
    meter.update(5)
    write_atomic(root / RUNS / str(run.number) / "receipt.json", msgspec.json.format(msgspec.json.encode(receipt)))
    run.writes("lake", "events", lake.snapshot("events").version)
    run.summarize(**msgspec.to_builtins(receipt))
    return receipt


def told(receipt: Receipt) -> str:
    """A receipt as a person reads it."""
    models = ", ".join(receipt.models) or "none"
    lines = [
        f"erased: {_listed(receipt.rows)} rows; datasets: {_listed(receipt.datasets)}; models: {models}",
        f"  stands for them from now on: {receipt.subject}; what comes later of them is dropped",
    ]
    if not any(receipt.rows.values()) and not receipt.datasets and not receipt.models:
        lines.append("  nothing of them was here: is the name spelt as events have it? It is marked all the same")
    if receipt.trained_on:
        lines.append(f"  learned from their events, and not unlearned: {', '.join(receipt.trained_on)}")
    if receipt.mentions:
        lines.append(f"  rows of others that name them, kept: {_listed(receipt.mentions)}")
    lines += [f"  left: {each}" for each in receipt.left]
    lines += [f"  their name is still in {each}" for each in receipt.found]
    if not receipt.found:
        how = "no file holds their name" if receipt.searched_bytes else "a short name: no column and no JSON file holds it"
        lines.append(f"  searched the project: {how}")
    return "\n".join([*lines, f"  receipt: {RUNS}/{receipt.run}/receipt.json"])


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "nothing"


def _mark(lake: Lake, log: EventLog, config: Config, subject: str) -> tuple[str, dict[str, int]]:
    """Make the tombstone durable; returns what stands for the subject, and how far the log went then."""
    lake.check(log)
    stands_for = Tombstones(lake.open("erasures")).name(subject)
    row = {"event_id": stands_for, "ingest_time": pa.scalar(now_us(), TIMESTAMP)}
    payload = encode_payload(None, erasures=pa.RecordBatch.from_pylist([row], schema=ERASURES))
    log.append(log.free_partition("erasures"), f"erase:{stands_for}", payload, 1)
    ends = {partition: log.end(partition) for partition in log.partitions()}
    Drain.of(lake, log, config).run()
    return stands_for, ends


def _erase_events(lake: Lake, subject: str, receipt: Receipt) -> tuple[Snapshot, Snapshot]:
    before = lake.open("events")
    after = _without(lake, "events", [f"subject = {literal(subject)}"], receipt)
    return before, after


def _quarantined(snapshot: Snapshot, subject: str) -> list[str]:
    """Ids of the rows that could not become events and are theirs: any field of them is the subject."""
    ids: list[str] = []
    for batch in snapshot.scan(["event_id", "raw"]):
        theirs = [subject in texts_in(raw) for raw in batch.column(1).to_pylist()]
        ids += batch.column(0).filter(pa.array(theirs, pa.bool_())).to_pylist()
    return ids


def _erase_quarantined(lake: Lake, subject: str, receipt: Receipt) -> None:
    ids = _quarantined(lake.open("quarantine"), subject)
    parts = (ids[start : start + 500] for start in range(0, len(ids), 500))
    _without(lake, "quarantine", [f"event_id IN ({', '.join(map(literal, part))})" for part in parts], receipt)


def _without(lake: Lake, name: str, conditions: list[str], receipt: Receipt) -> Snapshot:
    """A table without some rows, rewritten. A drain elsewhere may commit in between; then it is looked at again."""
    first = lake.open(name)
    receipt.rows[name] = 0
    for _ in range(TRIES):
        with suppress(ConflictError):
            gone = 0
            for where in conditions or [NOBODY]:
                _, count = lake.open(name).erase(where)
                gone += count
                receipt.rows[name] += count
            if gone == 0:
                snapshot = lake.open(name).rewrite()
                receipt.versions[name] = [first.version, snapshot.version]
                return snapshot
    raise ConflictError(f"other processes committed to `{name}` {TRIES} times first", hint="run it again")


def _erase_from_datasets(root: Path, before: Snapshot, after: Snapshot, subject: str, receipt: Receipt) -> None:
    of_events = [made for made in datasets.all_of(root) if made.manifest.lake]
    if len(of_events) < len(list(datasets.all_of(root))):
        receipt.left.append("datasets of documents: what a text says of them stays until it is curated away")
    mine = {datasets.tag_of(made.manifest) for made in of_events}
    for made in of_events:
        try:
            pinned = before.at(made.manifest.lake["events"]["version"])
            if pinned.count(f"subject = {literal(subject)}"):
                receipt.datasets[made.name] = datasets.erase(made, subject, receipt.subject, pinned, after)
        except GyralError as error:
            receipt.left.append(f"the dataset `{made.name}`: {error.what}")
    for tag, version in before.tags().items():
        if tag not in mine and before.at(version).count(f"subject = {literal(subject)}"):
            before.unpin(tag)
            after.pin(tag)
            receipt.left.append(f"the tag `{tag}` keeps version {after.version} now instead of {version}")
    receipt.trained_on = sorted(card.model for card in _cards(root) if _learned_from(root, card.dataset, receipt.subject))


def _learned_from(root: Path, dataset: str, stands_for: str) -> bool:
    with suppress(GyralError):
        return any(each.subject == stands_for for each in datasets.find(root, dataset).manifest.erased)
    return False


def _erase_from_models(root: Path, subject: str, receipt: Receipt) -> None:
    for card in _cards(root):
        family: Family = plugins.find("family", card.family)
        try:
            if family.erase(cards.find(root, card.model), subject):
                receipt.models.append(card.model)
        except GyralError as error:
            receipt.left.append(f"the model `{card.model}`: {error.what}")
    if receipt.models:
        receipt.left.append("a server that runs keeps the models it has loaded until it starts again")


def _cards(root: Path) -> Iterator[cards.Card]:
    for folder in sorted((root / cards.FOLDER).glob("[!.]*@*")):
        with suppress(GyralError):
            yield cards.read_card(folder)


def _wait_for_log(log: EventLog, ends: dict[str, int], receipt: Receipt) -> None:
    """Another process that writes to the log lets go of its segments itself; give it a moment."""
    if not isinstance(log, SqliteLog):
        receipt.left.append("the topic: what it holds of them goes by the broker's retention, or by its own deletion")
        return
    end = time.monotonic() + WAIT_FOR_LOG_S
    waiting = ends
    while waiting := {name: offset for name, offset in waiting.items() if log.start(name) < min(offset, log.end(name))}:
        if time.monotonic() > end:
            receipt.left.append(f"the log partitions {', '.join(sorted(waiting))}: another process writes them; run it again")
            return
        time.sleep(0.1)


def _mentions(lake: Lake, subject: str) -> dict[str, int]:
    snapshot = lake.snapshot("events")
    conditions = {"events.object": f"object = {literal(subject)}"}
    if len(subject.encode()) >= SEARCHABLE_BYTES:
        conditions["events.props"] = f"contains(props, {literal(subject)})"
    counts = {name: snapshot.count(where) for name, where in conditions.items()}
    return {name: count for name, count in counts.items() if count}


def _search(root: Path, lake: Lake, subject: str) -> Iterator[str]:
    """Files of the project in which the name is, and published columns that hold it."""
    name = subject.encode()
    needle = name if len(name) >= SEARCHABLE_BYTES else msgspec.json.encode(subject)
    for folder in dict.fromkeys((root, lake.folder)):
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder).parts
            if inside[0] not in (".venv", ".git") and path.is_file() and _holds(path, needle):
                yield str(path.relative_to(root) if path.is_relative_to(root) else path)
    for made in datasets.all_of(root):
        if made.manifest.lake and _is_in(made, subject):
            yield f"{made.folder.relative_to(root)}, column `subject`"


def _holds(path: Path, needle: bytes) -> bool:
    """Whether a file holds these bytes. It is read, not mapped: another process may cut a log short meanwhile."""
    with suppress(OSError), open(path, "rb") as file:
        rest = b""
        while block := file.read(SEARCHED_BYTES):
            block = rest + block
            if needle in block:
                return True
            rest = block[1 - len(needle) :]
    return False


def _is_in(made: Dataset, subject: str) -> bool:
    with suppress(GyralError):
        return bool(np.any(_theirs(made, subject)))
    return False


def _theirs(made: Dataset, subject: str) -> np.ndarray:
    """Which rows of a dataset are a subject's, bool."""
    return np.asarray(np.asarray(made.read()["subject"].to_pylist(), dtype=object) == subject)
