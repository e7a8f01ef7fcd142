"""Quarantine → the front door: rows that can be repaired become events, each once, however often they are replayed.

What is repaired: fields under another name (`--map event_time=evnt_time`), numbers where names are texts, and fields that the
envelope does not have, which go into `props`. An event keeps the id that it brought, or else that of its quarantined row. The
quarantine itself is never changed: it stays the record of what came in bad.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from gyral.config import Config
from gyral.errors import UsageError
from gyral.event.clock import now_us
from gyral.event.codec import encode_payload
from gyral.event.wire import NAMES, check_json, to_columns
from gyral.ingest.drain import Drain
from gyral.ingest.files import report
from gyral.lake.commit import LakeError
from gyral.lake.table import Lake
from gyral.log.opening import open_log
from gyral.run import Run

BATCH_ROWS = 8_192


def replay(root: Path, config: Config, run: Run, where: str) -> dict[str, Any]:
    """Send quarantined rows that fulfil a condition through the front door again.

    Parameters
    ----------
    where : SQL over `reason`, `source`, `ingest_time`, `event_id`.

    Returns
    -------
    The summary that the run keeps; `still_bad` counts what could not be repaired by its reason now.

    Raises
    ------
    UsageError : the condition cannot be read.
    NotFound : nothing was ever quarantined.
    """
    lake = Lake.of(root, config)
    snapshot = lake.snapshot("quarantine")
    try:
        rows = snapshot.read(["event_id", "raw"], where)
    except LakeError as error:
        snapshot.count()  # if that fails, it is not the condition
        hint = "SQL over `reason`, `source`, `ingest_time` and `event_id`, for example \"reason = 'unknown_field'\""
        raise UsageError(f"`--replay {where}` cannot be read", why=error.why, hint=hint) from None
    meter = run.meter("rows", rows.num_rows)
    still_bad: Counter[str] = Counter()
    with open_log(lake.log_folder, config) as log:
        lake.check(log)
        partition = log.free_partition("replay")
        for batch in rows.to_batches(max_chunksize=BATCH_ROWS):
            repaired = [_repaired(row["event_id"], row["raw"], config.ingest.map) for row in batch.to_pylist()]
            checked = check_json(b"[" + b",".join(each for each in repaired if each is not None) + b"]")
            still_bad.update(each.reason for each in checked.bad)
            still_bad["bad_json"] += repaired.count(None)
            if checked.events:
                payload = encode_payload(to_columns(checked.events, now_us()))
                log.append(partition, os.urandom(16).hex(), payload, len(checked.events))  # ids of events tell what is new
            meter.update(meter.record.done + batch.num_rows)
        drained = Drain.of(lake, log, config).run()
    bad = {reason: count for reason, count in still_bad.items() if count}
    summary = {**report(run, rows.num_rows, drained, meter), "rows_in": rows.num_rows, "still_bad": bad}
    run.summarize(still_bad=bad)
    if bad:
        run.note("replay   still bad: " + ", ".join(f"{reason} {count:,}" for reason, count in bad.items()))
    return summary


def _repaired(row_id: str, raw: bytes, mapping: dict[str, str]) -> bytes | None:
    """The row as an event on the wire; None when it is no JSON object."""
    try:
        row = msgspec.json.decode(raw, type=dict[str, Any])
    except (ValueError, RecursionError):
        return None
    for field, name in mapping.items():
        if name in row:
            row["event_time" if field == "time" else field] = row.pop(name)
    props = row.pop("props", None)
    others = {name: row.pop(name) for name in list(row) if name not in NAMES}
    for name, value in row.items():
        if name != "event_time" and isinstance(value, int | float) and not isinstance(value, bool):
            row[name] = f"{value:.0f}" if value == int(value) else str(value)
    row.setdefault("event_id", row_id)
    if others:
        props = {**(props if isinstance(props, dict) else {} if props is None else {"props": props}), **others}
    if props is not None:
        row["props"] = props
    return msgspec.json.encode(row)
