"""The Event: a fixed envelope, raw props, and the place in the log that makes a row unique.

A fixed envelope keeps every source in one table; what only one source knows stays in `props`, a JSON object kept exactly as
it came. (partition, offset, index) is unique by construction, so a row stored twice is found by a scan at any time.
"""

from __future__ import annotations

import pyarrow as pa

from gyral.event.clock import TIMESTAMP

EVENT_FIELDS: list[pa.Field] = [
    pa.field("event_id", pa.string(), nullable=False),
    pa.field("event_time", TIMESTAMP, nullable=False),
    pa.field("ingest_time", TIMESTAMP, nullable=False),
    pa.field("kind", pa.string(), nullable=False),
    pa.field("subject", pa.string()),
    pa.field("object", pa.string()),
    pa.field("session", pa.string()),
    pa.field("device_class", pa.string()),
    pa.field("app", pa.string()),
    pa.field("language", pa.string()),
    pa.field("country", pa.string()),
    pa.field("schema_id", pa.string()),
    pa.field("consent", pa.string()),
    pa.field("props", pa.string()),
]
PLACE_FIELDS: list[pa.Field] = [
    pa.field("src_partition", pa.string(), nullable=False),
    pa.field("src_offset", pa.int64(), nullable=False),
    pa.field("src_index", pa.int32(), nullable=False),
]
EVENT = pa.schema(EVENT_FIELDS)
"""An event on its way: what a log payload holds."""

QUARANTINE = pa.schema(
    [
        pa.field("event_id", pa.string(), nullable=False),
        pa.field("ingest_time", TIMESTAMP, nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("source", pa.string()),
        pa.field("raw", pa.binary()),
    ]
)
"""A row that could not become an event: its bytes and why."""

SCHEMAS = pa.schema(
    [
        pa.field("event_id", pa.string(), nullable=False),
        pa.field("ingest_time", TIMESTAMP, nullable=False),
        pa.field("schema_id", pa.string(), nullable=False),
        pa.field("field", pa.string(), nullable=False),
        pa.field("column", pa.string(), nullable=False),
        pa.field("type", pa.string(), nullable=False),
    ]
)
"""A field of the props of one schema, and the typed column of `events` that it is promoted to."""

ERASURES = pa.schema([pa.field("event_id", pa.string(), nullable=False), pa.field("ingest_time", TIMESTAMP, nullable=False)])
"""A tombstone: the keyed hash of a subject whose events are dropped from then on. The subject itself is not in it."""

ADDED_FIELDS: list[pa.Field] = [
    pa.field("event_time_adjusted", TIMESTAMP),
    pa.field("promoted", pa.int32()),
]
"""What a drain adds to an event: the time to go by where the device's clock cannot be right, else null; and how many fields of
its schema were promoted, null when the schema is not known. Promoted columns follow them."""

TABLES: dict[str, pa.Schema] = {
    "events": pa.schema([*EVENT_FIELDS, *PLACE_FIELDS, *ADDED_FIELDS]),
    "quarantine": pa.schema([*QUARANTINE, *PLACE_FIELDS]),
    "schemas": pa.schema([*SCHEMAS, *PLACE_FIELDS]),
    "erasures": pa.schema([*ERASURES, *PLACE_FIELDS]),
}
"""The lake's tables and their columns."""

MAX_NAME_CHARS = 1_024
"""Longest text in the envelope; a row with a longer one is quarantined, so no later room meets it."""

ENVELOPE_NAMES = [field.name for field in EVENT_FIELDS if field.name not in ("event_id", "ingest_time", "props")]
"""What a map may name besides `time` for `event_time`."""
