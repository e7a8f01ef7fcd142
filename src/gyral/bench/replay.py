"""Logged traffic, asked again: requests are made of the events that their answers left, at their own times.

What an event does not keep cannot be asked again, and is told: a recommendation keeps how many recent objects were sent, not
which; a completion keeps the first 4,096 characters of its prompt, after the chat template, and is asked as a completion.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from gyral.bench.arrivals import MAX_REQUESTS
from gyral.bench.bodies import PATHS, encode
from gyral.bench.traffic import Heads, Traffic, assembled
from gyral.config.bench import Bench
from gyral.errors import NotFound, UsageError
from gyral.event.codec import decode_payload
from gyral.lake.table import Lake
from gyral.log.sqlite import SqliteLog

KINDS = ("impression", "search", "completion")
COLUMNS = ["event_time", "kind", "subject", "country", "props"]
SERVED = "serve"
"""Partitions of the log that servers write begin with it."""
MAX_PROMPT = 4_096
MAX_SECONDS = 7 * 86_400.0


def events(lake: Lake) -> pa.Table:
    """Answers that were logged: those of the lake, then those of the log that the lake has not yet; sorted by event time."""
    parts: list[pa.Table] = []
    offsets: dict[str, int] = {}
    if lake.exists("events"):
        snapshot = lake.snapshot("events")
        offsets = snapshot.offsets
        where = f"kind IN ({', '.join(repr(kind) for kind in KINDS)})"
        parts.append(snapshot.read(COLUMNS, where))
    if lake.log_folder.is_dir():
        with SqliteLog(lake.log_folder) as log:
            for name in log.partitions():
                if name.startswith(SERVED):
                    parts += _waiting(log, name, offsets.get(name, 0))
    if not parts:
        return pa.table({name: [] for name in COLUMNS})
    return pa.concat_tables(parts).sort_by("event_time")


def _waiting(log: SqliteLog, partition: str, offset: int) -> Iterator[pa.Table]:
    offset, end = max(offset, log.start(partition)), log.end(partition)
    while offset < end:
        for entry in log.read(partition, offset):
            offset = entry.offset + 1
            batch = decode_payload(entry.payload).get("events")
            if batch is not None:
                rows = pa.Table.from_batches([batch]).select(COLUMNS)
                yield rows.filter(pa.compute.is_in(rows["kind"], pa.array(KINDS)))


def request(kind: str, subject: str | None, country: str | None, props: dict[str, Any], model: str) -> tuple[str, bytes]:
    """Path and body that an event is the answer to.

    Parameters
    ----------
    model : that is asked instead of the one that answered; empty: the slot that was asked.
    """
    slot = model or str(props.get("slot", "default"))
    named = {} if slot == "default" else {"model": slot}
    if kind == "completion":
        more = {"seed": props["seed"]} if props.get("seed") is not None else {}
        asked = {"model": slot, "prompt": str(props.get("prompt", ""))}
        return PATHS["completions"], encode({**asked, "max_tokens": max(int(props.get("tokens") or 1), 1), **more})
    who = {"subject": subject} if subject is not None else {}
    k = {"k": int(props["k"])} if props.get("k") else {}
    if kind == "search":
        language = {"language": props["language"]} if props.get("language") else {}
        return PATHS["search"], encode({"text": str(props.get("query", "")), **k, **language, **who, **named})
    where = {"context": {"country": country}} if country is not None else {}
    return PATHS["recommend"], encode({"subject": subject or "", **k, **where, **named})


def traffic(config: Bench, lake: Lake, heads: Heads, prefix: str, rng: np.random.Generator) -> Traffic:
    """The logged traffic of a lake, `config.speed` times as fast as it was; of `config.seconds`, or all.

    Raises
    ------
    NotFound : no answer was logged.
    UsageError : it is too much, or takes too long.
    """
    rows = events(lake)
    if not rows.num_rows:
        hint = "`gyral serve` logs its answers; `--route recommend` makes traffic instead"
        raise NotFound("no traffic was logged", where=str(lake.log_folder), hint=hint)
    times = rows["event_time"].cast(pa.int64()).to_numpy() / 1e6
    due_s = (times - times[0]) / config.speed
    if config.seconds:
        rows, due_s = rows.slice(0, int((due_s < config.seconds).sum())), due_s[due_s < config.seconds]
    if due_s[-1] > MAX_SECONDS:
        hint = f"`--speed {due_s[-1] * config.speed / 60:.0f}` takes a minute, `--seconds 60` only the first"
        raise UsageError(f"the logged traffic would take {due_s[-1] / 86_400:,.1f} days", hint=hint)
    if len(due_s) > MAX_REQUESTS:
        raise UsageError(f"{len(due_s):,} requests are too many", hint=f"at most {MAX_REQUESTS:,}: `--seconds` takes the first")
    places: dict[tuple[str, bytes], int] = {}
    of_row = np.zeros(len(due_s), np.uint32)
    num_recent = num_cut = 0
    for at, row in enumerate(rows.select(COLUMNS[1:]).to_pylist()):
        try:
            props = msgspec.json.decode(row["props"] or b"{}")
        except msgspec.DecodeError:
            props = {}
        props = props if isinstance(props, dict) else {}
        num_recent += bool(props.get("num_recent"))
        num_cut += len(str(props.get("prompt", ""))) >= MAX_PROMPT
        asked = request(row["kind"], row["subject"], row["country"], props, config.model)
        of_row[at] = places.setdefault(asked, len(places))
    paths = list(dict.fromkeys(path for path, _ in places))
    of_path = np.array([paths.index(path) for path, _ in places], np.uint32)
    notes = [f"{len(due_s):,} logged requests, {config.speed:g} times as fast as they came"]
    if num_recent:
        notes.append(f"{num_recent:,} of them told of recent objects, which are not logged and not asked with")
    if num_cut:
        notes.append(f"{num_cut:,} prompts were logged to their first {MAX_PROMPT:,} characters, and are asked so")
    return assembled(
        due_s, [prefix + path for path in paths], of_path[of_row], [body for _, body in places], of_row, heads,
        config.devices, config.deadlines, rng, notes=tuple(notes),
    )  # fmt: skip
