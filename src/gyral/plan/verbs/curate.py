"""`gyral curate --plan`: rows or documents in and out, bytes, time and memory.

What is kept is told by what was kept before: by the dataset of this name, else by others of its kind, else it is assumed. Parts
of a source whose signals are there already are read no more; they are counted all the same.
"""

from __future__ import annotations

from pathlib import Path

from gyral.config import Config
from gyral.curate.verb import name_of
from gyral.errors import GyralError, NotFound
from gyral.files import find_version, size_of
from gyral.lake import dataset as datasets
from gyral.lake.arrivals import SCHEME
from gyral.lake.dataset import Dataset
from gyral.lake.table import Lake
from gyral.plan.counting import documents_of
from gyral.plan.figure import Figure, Plan
from gyral.plan.kinds import AGAIN, CURATE, DOCUMENTS
from gyral.plan.past import Kind, foretold, seen
from gyral.plan.product import product
from gyral.plan.verbs import Asked

EVENTS = "interactions"
KEPT = {EVENTS: Figure(0.72, "", "sheet", "kept of the bundled purchases", 0.4, 0.95)}
DEFAULT_KEPT = Figure(0.6, "", "assumed", "of documents; no dataset here says", 0.2, 0.95)
BYTES = {EVENTS: Figure(4.4, "bytes", "sheet", "a row kept of the bundled purchases, with decisions", 2.5, 20.0)}
DEFAULT_BYTES = Figure(3_000.0, "bytes", "assumed", "a document kept: its text packed, and signals", 600.0, 30e3)
SAME_OFF, OTHER_OFF = 1.07, 1.3
"""Shares kept and bytes a row of the next version of a dataset, and of one under another name, are within this."""


def plan(root: Path, config: Config, asked: Asked) -> tuple[Plan, None]:
    """What making the next version of a dataset would take.

    Raises
    ------
    NotFound : the lake has no events.  InputError : the source cannot be read.
    UsageError : it would have to be fetched.
    """
    name = config.curate.name or name_of(config.curate.source)
    mine, others = _datasets(root, name)
    source = config.curate.source
    if source.startswith(SCHEME) or (not source and not (mine and mine.manifest.kind != EVENTS)):
        if source:
            return _told(root, _of_lake(root, config, source), "text", DOCUMENTS, mine, others), None
        return _told(root, _of_lake(root, config, ""), EVENTS, CURATE, mine, others), None
    if not source and mine is not None:
        rows = Figure(float(mine.manifest.rows_in), "documents", "counted", f"of {mine.name}, decided anew from its signals")
        return _told(root, {"read": rows}, mine.manifest.kind, AGAIN, mine, others), None
    documents, held, kind = documents_of(source, config, lambda _: None)
    return _told(root, {"read": documents, "bytes read": held}, kind, DOCUMENTS, mine, others), None


def kept_of(kind: str, mine: Dataset | None, others: list[Dataset]) -> tuple[Figure, Figure]:
    """Share that is kept, and bytes on disk of one that is."""
    like = next((each for each in others if each.manifest.kind == kind), None)
    found, off = (mine, SAME_OFF) if mine is not None else (like, OTHER_OFF)
    if found is None or not found.manifest.rows_in or not found.manifest.rows_kept:
        return KEPT.get(kind, DEFAULT_KEPT), BYTES.get(kind, DEFAULT_BYTES)
    share = found.manifest.rows_kept / found.manifest.rows_in
    each = size_of(found.folder) / found.manifest.rows_kept
    why = f"as {found.name}"
    return (
        Figure(share, "", "calibrated", why, share / off, min(share * off, 1.0)),
        Figure(each, "bytes", "calibrated", why, each / off, each * off),
    )


def _told(root: Path, read: Plan, kind: str, of: Kind, mine: Dataset | None, others: list[Dataset]) -> Plan:
    share, each = kept_of(kind, mine, others)
    rows = read["read"]
    kept = product(rows.unit, f"read · {share.value:.2f}; {share.why}", rows, share)
    kept = kept._replace(high=min(kept.high, rows.interval[1]))
    told = {**read, "kept": kept, "disk": product("bytes", f"kept · {each.value:,.1f} bytes; {each.why}", kept, each)}
    return told | foretold(of, rows.value, seen(root, of))


def _of_lake(root: Path, config: Config, source: str) -> Plan:
    """Events that are no impressions, of the named applications; or documents."""
    known = Lake.of(root, config).snapshot("events").facts
    kinds = known.counts.get("kind", {})
    if source:
        app = source.removeprefix(SCHEME)
        rows = kinds.get("document", 0) if not app else min(kinds.get("document", 0), known.counts.get("app", {}).get(app, 0))
        return {"read": Figure(float(rows), "documents", "counted", "by the lake's facts")}
    rows = sum(known.counts.get("app", {}).get(each, 0) for each in config.curate.apps) if config.curate.apps else known.rows
    rows -= 0 if config.curate.apps else kinds.get("impression", 0)
    if not rows:
        raise NotFound("the lake has no events of that", hint="gyral ingest --source FILE")
    return {"read": Figure(float(rows), "rows", "counted", f"of {known.rows:,} events in the lake")}


def _datasets(root: Path, name: str) -> tuple[Dataset | None, list[Dataset]]:
    """The newest version of the name, and those of other names, the newest first."""
    mine = _open(root, name)
    folder = root / datasets.FOLDER
    names = {path.name.partition("@")[0] for path in folder.iterdir() if "@" in path.name} if folder.is_dir() else set()
    found = [each for each in (_open(root, other) for other in names - {name}) if each is not None]
    return mine, sorted(found, key=lambda each: each.manifest.created, reverse=True)


def _open(root: Path, name: str) -> Dataset | None:
    try:
        find_version(root / datasets.FOLDER, "dataset", name, "")
        return datasets.find(root, name)
    except GyralError:
        return None
