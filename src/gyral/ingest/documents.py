"""Documents and pictures as events: `object` is where each was found, `props` hold what it is.

    {"media": "mallard", "url": …, "domain": …, "text": …}                     bytes that text is to be made of, or a text
    {"media": "image", "raw": base64, "captions": [["de", "Igel"], …]}         a picture with all its captions

A picture comes once, however many captions it has (twice where a batch ends between two of them). What cannot be text goes in
base64, a third longer; content is found by its event, exactly once like any other. The id is made of the source, the place in
it and the content: the same document again is the same event, and a page that changed is a new one.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import msgspec
import pyarrow as pa

from gyral.event.clock import now_us
from gyral.event.schema import EVENT, MAX_NAME_CHARS

KIND = "document"
SCHEMA_ID = "document"


def to_events(batch: pa.RecordBatch, app: str) -> pa.RecordBatch:
    """Events of documents.

    Parameters
    ----------
    batch : rows with `file`, `offset`, `media`, `url`, `domain`, `declared`, `raw` and `text`; those with a reason in
        `rejected` are left out, and neighbours that are captions of one picture become one event.
    app : name of the source.
    """
    now = now_us()
    rows = [_event(list(group), app, now) for _, group in groupby(_rows(batch), _picture)]
    return pa.RecordBatch.from_pylist([{name: row.get(name) for name in EVENT.names} for row in rows], EVENT)


def _rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    for row in batch.to_pylist():
        if not row["rejected"] and len(row["file"]) <= MAX_NAME_CHARS:
            yield row


def _picture(row: dict[str, Any]) -> Any:
    return (row["file"],) if row["media"] == "image" else (row["file"], row["offset"])


def _event(rows: list[dict[str, Any]], app: str, now: int) -> dict[str, Any]:
    first = rows[0]
    props: dict[str, Any] = {name: first[name] for name in ("media", "url", "domain") if first[name]}
    if first["media"] == "image":
        props["raw"] = base64.b64encode(first["raw"]).decode()
        props["captions"] = [[row["declared"], row["text"]] for row in rows if row["text"]]
    elif first["text"] is not None:
        props["text"] = first["text"]
    else:
        try:
            props["body"] = first["raw"].decode()
        except UnicodeDecodeError:
            props["raw"] = base64.b64encode(first["raw"]).decode()
    if first["offset"] > 0 or (first["offset"] == 0 and first["media"] != "image"):
        props["offset"] = first["offset"]
    body = msgspec.json.encode(props)
    told = hashlib.sha256(b"\0".join([app.encode(), first["file"].encode(), body])).hexdigest()[:32]
    fields = {"event_id": told, "event_time": now, "ingest_time": now, "kind": KIND, "object": first["file"], "app": app}
    return {**fields, "language": first["declared"], "schema_id": SCHEMA_ID, "props": body.decode()}
