"""A file of schemas → the registry, through the log like everything else."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from gyral.config import Config
from gyral.errors import ConfigError, NotFound
from gyral.event.clock import TIMESTAMP, now_us
from gyral.event.codec import encode_payload
from gyral.event.schema import SCHEMAS
from gyral.ingest.drain import REGISTRATIONS, Drain
from gyral.lake.registry import Field, fields_of
from gyral.lake.table import Lake
from gyral.log.opening import open_log
from gyral.run import Run


def register(root: Path, config: Config, run: Run, path: Path) -> dict[str, Any]:
    """Add the schemas of a TOML or JSON file to the registry, and promote the events that waited for them.

    Returns
    -------
    The summary that the run keeps: fields registered, fields known before.

    Raises
    ------
    ConfigError : it cannot be read, or contradicts what is registered; nothing of it was.
    """
    wanted = fields_of(_read(path), str(path))
    lake = Lake.of(root, config)
    with open_log(lake.log_folder, config) as log:
        drain = Drain.of(lake, log, config)
        drain.run()  # what is in the log already comes first
        new = lake.registry().new_of(wanted)
        if new:
            log.append(log.free_partition(REGISTRATIONS), _batch_id(new), encode_payload(None, schemas=_rows(new)), len(new))
            drain.run()
        run.writes("lake", "events", lake.open("events").version)
    summary = {"registered": len(new), "known": len(set(wanted)) - len(new)}
    run.summarize(**summary)
    schemas = len({each.schema_id for each in wanted})
    run.note(f"ingest   {len(new):,} fields of {schemas:,} schemas registered, {summary['known']:,} known before")
    return summary


def _rows(fields: list[Field]) -> pa.RecordBatch:
    """A field is identified by its schema and name: registered twice it is one row, and the first stays."""
    now = pa.scalar(now_us(), TIMESTAMP)
    rows = [{"event_id": _digest(each.schema_id, each.field), "ingest_time": now, **each._asdict()} for each in fields]
    return pa.RecordBatch.from_pylist(rows, schema=SCHEMAS)


def _batch_id(fields: list[Field]) -> str:
    return "schemas:" + _digest(*(text for each in fields for text in each))


def _digest(*texts: str) -> str:
    return hashlib.blake2b(msgspec.json.encode(texts), digest_size=16).hexdigest()


def _read(path: Path) -> dict[str, Any]:
    try:
        body = path.read_bytes()
    except OSError as error:
        raise NotFound(
            f"`{path}` cannot be read", why=error.strerror or str(error), hint="name a TOML or JSON file of schemas"
        ) from None
    try:
        tree = msgspec.json.decode(body) if path.suffix == ".json" else tomllib.loads(body.decode())
        if not isinstance(tree, dict):
            raise ValueError("it is no table")
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            "the schemas cannot be read", why=str(error), where=str(path), hint="write TOML, or JSON in a `.json`"
        ) from None
    return tree
