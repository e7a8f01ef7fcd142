"""Documents out of the lake: `lake:` reads all that `ingest` brought in, `lake:NAME` those of one source.

A part is a fragment of the table `events`, whose files never change: what was committed since is new parts, and only their
signals are computed. What people said of answers is a part of its own, read anew whenever they say more:

- `corrected`: the text they gave is a document under the object's name;
- `chosen`: what they had asked for in words is a caption of the picture they chose.

What answers were `rejected` about is read more often in a pass (`mix.rejected_copies`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from gyral.curate.readers import File, Part, Place
from gyral.curate.readers.rows import CORRUPT, Row, in_batches
from gyral.errors import InputError
from gyral.lake.arrivals import SCHEME
from gyral.lake.snapshot import Snapshot
from gyral.lake.sql import literal
from gyral.lake.table import Lake

READER = "lake"
DOCUMENT, FEEDBACK = "document", "feedback"
SAID = "kind IN ('feedback_chosen', 'feedback_corrected', 'feedback_rejected')"
ANSWERS = ("search", "completion", "score", "impression")
CORRECTED, CHOSEN, REJECTED = "corrected", "chosen", "rejected"
FIRST_SAID = 1_000_000
"""Offset of the first caption that somebody gave by choosing."""


def find(lake: Lake, uri: str) -> Place:
    """The documents of a lake as a place.

    Raises
    ------
    InputError : the lake holds none, or lies in an object store.
    """
    app = uri.removeprefix(SCHEME)
    where = f"kind = {literal(DOCUMENT)}" + (f" AND app = {literal(app)}" if app else "")
    if "://" in lake.place.uri:
        raise InputError("documents are read from a lake in a folder only", where=lake.place.uri)
    hint = "bring some in: `gyral loop --source PLACE --family lm`"
    if not lake.exists("events"):
        raise InputError("the lake holds no documents", where=lake.place.uri, hint=hint)
    snapshot = lake.snapshot("events")
    root = str(lake.folder)
    parts, is_image = [], False
    for number, size_bytes, stamp in snapshot.fragments():
        rows = snapshot.read(["props"], where, fragment=number, limit=1)
        if rows.num_rows:
            is_image = is_image or '"media":"image"' in rows["props"][0].as_py()
            parts.append(Part(READER, root, [File("events", size_bytes, stamp)], number, prefix=app))
    if not parts:
        raise InputError(f"the lake holds no documents{f' of `{app}`' if app else ''}", where=root, hint=hint)
    said = snapshot.read(["event_id"], SAID)["event_id"].to_pylist()
    if said:
        stamp = hashlib.sha256("\n".join(sorted(said)).encode()).hexdigest()
        parts.append(Part(READER, root, [File(FEEDBACK, 0, stamp)], prefix=app))
    return Place(app or "lake", "pairs" if is_image else "text", parts)


def read(part: Part) -> Iterator[pa.RecordBatch]:
    """Read a part that `find` made; batches of the schema `DOCUMENT`."""
    folder = Path(part.root)
    snapshot = Lake(folder.parent, str(folder)).snapshot("events")
    return in_batches(_said(snapshot) if part.files[0].path == FEEDBACK else _documents(snapshot, part))


def rejected(lake: Lake) -> dict[str, int]:
    """Documents about which answers were rejected, and how many; what answers nothing that was asked does not count."""
    if not lake.exists("events"):
        return {}
    snapshot = lake.snapshot("events")
    found: Counter[str] = Counter()
    for row, _, verdict in _joined(snapshot):
        if verdict["verdict"] == REJECTED and row["object"]:
            found[row["object"]] += 1
    return dict(found)


def _documents(snapshot: Snapshot, part: Part) -> Iterator[Row]:
    where = f"kind = {literal(DOCUMENT)}" + (f" AND app = {literal(part.prefix)}" if part.prefix else "")
    rows = snapshot.read(["object", "language", "props"], where, fragment=part.begin)
    for batch in rows.to_batches(max_chunksize=1_024):
        for object_, language, props in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            yield from rows_of_event(object_ or "", language, props)


def rows_of_event(file: str, language: str | None, text: str) -> Iterator[Row]:
    """Rows of one event by its `object`, `language` and `props`: one, or one a caption of a picture."""
    try:
        props = msgspec.json.decode(text)
        media, raw = props["media"], base64.b64decode(props["raw"]) if "raw" in props else None
    except (msgspec.DecodeError, KeyError, TypeError, binascii.Error):
        yield Row(file, -1, "text", rejected=CORRUPT)
        return
    row = Row(file, props.get("offset", -1), media, props.get("url"), props.get("domain"), language, raw, props.get("text"))
    if media != "image":
        yield row._replace(raw=props["body"].encode()) if "body" in props else row
        return
    captions = props.get("captions") or [[language, None]]
    for number, (declared, caption) in enumerate(captions, max(row.offset, 0)):
        yield row._replace(offset=number, declared=declared, text=caption)


def _said(snapshot: Snapshot) -> Iterator[Row]:
    """Rows that people's feedback makes."""
    every = list(_joined(snapshot))
    chosen = sorted({row["object"] for row, _, said in every if said["verdict"] == CHOSEN and row["object"]})
    pictures: dict[str, Row] = {}
    for some in _some(chosen):
        for row in snapshot.read(["object", "props"], f"kind = {literal(DOCUMENT)} AND object IN ({some})").to_pylist():
            pictures.update(
                (each.file, each) for each in rows_of_event(row["object"], None, row["props"]) if each.media == "image"
            )
    for number, (row, question, said) in enumerate(every):
        name = row["object"] or said["request_id"]
        if said["verdict"] == CORRECTED and said.get("text"):
            yield Row(f"{FEEDBACK}/{name}", number, "text", domain=FEEDBACK, declared=said.get("language"), text=said["text"])
        elif said["verdict"] == CHOSEN and question.get("query") and name in pictures:
            yield pictures[name]._replace(offset=FIRST_SAID + number, declared=question.get("language"), text=question["query"])


def _joined(snapshot: Snapshot) -> Iterator[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]:
    """Each feedback in order of ids, what had been asked, and what was said; what answers no request is passed over."""
    said = snapshot.read(["event_id", "object", "props"], SAID).sort_by("event_id").to_pylist()
    every = [(row, props) for row in said if isinstance((props := _props(row["props"])).get("request_id"), str)]
    asked: dict[str, dict[str, Any]] = {}
    for some in _some([props["request_id"] for _, props in every]):
        for row in snapshot.read(["event_id", "kind", "props"], f"event_id IN ({some})").to_pylist():
            if row["kind"] in ANSWERS:
                asked[row["event_id"]] = _props(row["props"])
    for row, props in every:
        if (question := asked.get(props["request_id"])) is not None and "verdict" in props:
            yield row, question, props


def _some(names: Sequence[str]) -> Iterator[str]:
    """Names as SQL lists that are not too long."""
    for start in range(0, len(names), 500):
        yield ", ".join(literal(each) for each in names[start : start + 500])


def _props(text: str | None) -> dict[str, Any]:
    try:
        props = msgspec.json.decode(text or "{}")
    except msgspec.DecodeError:
        return {}
    return props if isinstance(props, dict) else {}
