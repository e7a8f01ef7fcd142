"""A whole source → the log → the lake, and a source cut into slices for the loop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gyral.config import Config
from gyral.engine.base import connect
from gyral.errors import InputError
from gyral.event import layout as layouts
from gyral.event.codec import encode_payload
from gyral.event.layout import Layout
from gyral.event.schema import EVENT, QUARANTINE
from gyral.ingest.drain import Drain, Drained
from gyral.ingest.mapping import Mapped, to_events
from gyral.ingest.sources import Source, open_source
from gyral.lake.table import Lake
from gyral.log.base import EventLog
from gyral.log.opening import open_log
from gyral.progress import Meter
from gyral.run import Run


class Slice(NamedTuple):
    """A part of a source in event-time order: its events, and the quarantined rows that fell between them."""

    events: pa.Table
    quarantine: pa.Table


def ingest(root: Path, config: Config, run: Run) -> dict[str, Any]:
    """Read a source into the lake of a project; without a source, only commit what the log holds.

    Returns the summary that the run keeps: rows read, accepted, duplicate, quarantined by reason, rows a second.
    """
    lake = Lake.of(root, config)
    with open_log(lake.log_folder, config) as log:
        lake.check(log)
        rows_in = known = 0
        meter = run.meter("rows")
        if config.ingest.source:
            source = open_source(config.ingest.source, root, run.note)
            layout = layout_of(source, config)
            run.reads("source", config.ingest.source, source.digest)
            run.note(f"reading {source.name} ({source.size_bytes:,} bytes) as layout `{layout.name}`")
            meter.total = source.num_rows
            every = mapped(source, layout, config, run.note)
            first = next(every, None)
            if first is not None:
                app_of(lake, first.events, layout, source.name)
            parts = ((part.events, part.quarantine) for part in chain([first] if first else [], every))
            rows_in, known = append(lake, log, f"{source.digest}:{layout.digest}", parts, meter)
        drained = Drain.of(lake, log, config).run()
    drained.duplicate += known
    summary = report(run, rows_in, drained, meter)
    if rows_in and sum(drained.quarantined.values()) == rows_in:
        raise _nothing_usable(source.name, drained.quarantined)
    return summary


def ingest_slice(
    slice_: Slice,
    source: Source,
    name: str,
    drain: Drain,
    lake: Lake,
    log: EventLog,
    config: Config,
    run: Run,
    send: Callable[[pa.Table, Meter], None] | None = None,
) -> dict[str, Any]:
    """Bring one slice of a source through the log into the lake.

    Parameters
    ----------
    name : tells this slice from every other of any source: the same slice again has the same batches.
    send : brings events that say whose they are into the log by another way; None: all are appended here.
    """
    run.reads("source", config.ingest.source, source.digest)
    meter = run.meter("rows", slice_.events.num_rows + slice_.quarantine.num_rows)
    step, events, rows_sent = config.ingest.batch_rows, slice_.events, 0
    if send is not None:
        is_sent = pc.fill_null(pc.not_equal(events["subject"], ""), False)
        send(events.filter(is_sent), meter)
        events, rows_sent = events.filter(pc.invert(is_sent)), int(meter.record.done)
    parts: Iterator[tuple[pa.RecordBatch | None, pa.RecordBatch | None]] = chain(
        ((batch, None) for batch in events.to_batches(max_chunksize=step)),
        ((None, batch) for batch in slice_.quarantine.to_batches(max_chunksize=step)),
    )
    rows_in, known = append(lake, log, f"{source.digest}:{name}", parts, meter, rows_sent)
    drained = drain.run()
    drained.duplicate += known
    return report(run, rows_in, drained, meter)


def report(run: Run, rows_in: int, drained: Drained, meter: Meter) -> dict[str, Any]:
    """Close an ingest run: its output, its summary, one line for a person."""
    meter.update(rows_in, rows_in)
    run.writes("lake", "events", drained.version)
    summary = {
        "rows_in": drained.accepted + drained.duplicate + sum(drained.quarantined.values()),
        "accepted": drained.accepted,
        "kinds": drained.kinds,
        "duplicate": drained.duplicate,
        "quarantined": drained.quarantined,
        "rows_per_s": round(meter.record.rate),
    }
    if drained.erased:
        summary["erased"] = drained.erased
    run.summarize(**summary)
    erased = f", {drained.erased:,} of erased subjects dropped" if drained.erased else ""
    run.note(
        f"ingest   {drained.accepted:,} events accepted{_listed(drained.kinds)}, {drained.duplicate:,} already there, "
        f"{sum(drained.quarantined.values()):,} quarantined{_listed(drained.quarantined)}{erased}"
    )
    return summary


def app_of(lake: Lake, events: pa.RecordBatch | pa.Table, layout: Layout, name: str) -> str:
    """The application that a source's events carry in the lake: its name, or what the same rows came in under before.

    Raises
    ------
    InputError : the first of these events is in the lake with another map, so the rows would be taken for known.
    """
    if events.num_rows == 0 or "event_id" in layout.columns or not lake.exists("events"):
        return name  # ids that a file brings say nothing of how it was read
    there = lake.snapshot("events").find(events["event_id"][0].as_py())
    if there is None:
        return name
    if there["schema_id"] != layout.schema_id and "schema_id" not in layout.columns:
        raise InputError(
            f"`{name}` is in the lake with another map or layout",
            why=f"its events are of the schema `{there['schema_id']}`, and now it would be `{layout.schema_id}`",
            hint="events are never changed: use another folder, `--root NEW`",
        )
    return str(there["app"] or name)


def _nothing_usable(name: str, reasons: Mapping[str, int]) -> InputError:
    first = sorted(reasons.items(), key=lambda item: -item[1])[:3]
    hint = "check the map: `--map subject=COLUMN,object=COLUMN,time=COLUMN`"
    if first and first[0][0] == "bad_time":
        hint = "times are RFC 3339, a date, or epoch; say another form: `--set 'ingest.time_format=%d/%m/%Y %H:%M'`"
    return InputError(
        f"no row of `{name}` is a usable event",
        why=", ".join(f"{reason} {count:,}" for reason, count in first),
        hint=hint,
    )


def _listed(counts: dict[str, int]) -> str:
    return f" ({', '.join(f'{name} {count:,}' for name, count in counts.items())})" if counts else ""


def layout_of(source: Source, config: Config) -> Layout:
    """The layout that the configuration names or the source's columns tell."""
    options = config.ingest
    return layouts.choose(source.columns, options.layout, options.map, options.time_format, source.name)


def mapped(source: Source, layout: Layout, config: Config, note: Callable[[str], None] | None = None) -> Iterator[Mapped]:
    """Map a source's batches to events on the engine, in order."""
    engine = connect(config.on, note)
    work = partial(to_events, layout=layout, digest=source.digest, source=source.name)
    try:
        yield from engine.map(work, source.batches(config.ingest.batch_rows))
    finally:
        engine.close()


def cut(source: Source, layout: Layout, config: Config, num_slices: int, meter: Meter | None = None) -> list[Slice]:
    """Cut a source into slices of equal event count by event time.

    The sort is stable, a cut never falls inside a group of equal (subject, time) such as an invoice, and a quarantined row
    goes where the row before it went.

    Raises
    ------
    InputError : there are fewer groups than slices.
    """
    parts = []
    for part in mapped(source, layout, config):
        parts.append(part)
        if meter is not None:
            meter.update(meter.record.done + part.events.num_rows + part.quarantine.num_rows, source.num_rows)
    events = pa.Table.from_batches([part.events for part in parts], EVENT)
    quarantine = pa.Table.from_batches([part.quarantine for part in parts], QUARANTINE)
    if events.num_rows == 0:
        raise _nothing_usable(source.name, Counter(quarantine["reason"].to_pylist()))
    times = events["event_time"].cast(pa.int64()).to_numpy()
    order = np.argsort(times, kind="stable")
    cuts = _cuts(events, times, order, num_slices)
    rank_of_row = np.empty(len(order), dtype=np.int64)
    rank_of_row[order] = np.arange(len(order))
    event_rows = np.concatenate([part.event_rows for part in parts])
    bad_rows = np.concatenate([part.bad_rows for part in parts])
    before = np.clip(np.searchsorted(event_rows, bad_rows, side="right") - 1, 0, None)
    bad_slice = np.searchsorted(cuts, rank_of_row[before], side="right") - 1
    if np.any(order[1:] < order[:-1]):  # a file in time order, the usual case, is not copied
        events = events.take(pa.array(order))
    slices = []
    for number in range(num_slices):
        rows = events.slice(cuts[number], cuts[number + 1] - cuts[number])
        slices.append(Slice(rows, quarantine.filter(pa.array(bad_slice == number))))
    return slices


def _cuts(events: pa.Table, times: np.ndarray, order: np.ndarray, num_slices: int) -> np.ndarray:
    """Positions in `order` where slices begin, moved forward to the end of a (subject, time) group.

    Rows of one time are first ordered by their subject's first appearance (in place, stable), so that each group is one
    contiguous stretch and the nearest boundary is at most one group away.
    """
    subjects = pc.fill_null(events["subject"], "").combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    sorted_times, sorted_subjects = times[order], subjects[order]
    group_start = np.flatnonzero(np.r_[True, sorted_times[1:] != sorted_times[:-1]])
    first_at = _first_appearance(group_start, sorted_subjects)
    order[:] = order[np.lexsort((first_at, sorted_times))]
    sorted_subjects = subjects[order]
    starts = np.flatnonzero(
        np.r_[True, (sorted_times[1:] != sorted_times[:-1]) | (sorted_subjects[1:] != sorted_subjects[:-1])]
    )
    if len(starts) < num_slices:
        few = len(starts) < 2
        raise InputError(
            f"{len(order):,} events in {len(starts):,} groups of equal subject and time cannot be cut into {num_slices} slices",
            hint="a loop needs at least two moments: is the time column right?"
            if few
            else f"use `--turns {len(starts) - 1}` or fewer",
        )
    wanted = np.arange(1, num_slices) * len(order) / num_slices
    near = np.searchsorted(starts, wanted)
    near = np.clip(near, 1, len(starts) - 1)
    closer = near - (wanted - starts[near - 1] < starts[near] - wanted)
    index = np.maximum.accumulate(closer - np.arange(num_slices - 1)) + np.arange(num_slices - 1)
    index = np.minimum(np.maximum(index, np.arange(1, num_slices)), len(starts) - num_slices + np.arange(1, num_slices))
    cuts: np.ndarray = np.r_[0, starts[index], len(order)]
    return cuts


def _first_appearance(group_start: np.ndarray, subjects: np.ndarray) -> np.ndarray:
    """For each row, the position at which its subject first appears among the rows of the same time."""
    group = np.zeros(len(subjects), dtype=np.int64)
    group[group_start] = 1
    group = np.cumsum(group)
    key = group * (int(subjects.max()) + 1) + subjects
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    return np.asarray(first[inverse])


def append(
    lake: Lake,
    log: EventLog,
    name: str,
    parts: Iterable[tuple[pa.RecordBatch | None, pa.RecordBatch | None]],
    meter: Meter,
    before: int = 0,
) -> tuple[int, int]:
    """Append batches; returns the rows, and how many of them came in batches that an earlier try brought into the lake.

    Parameters
    ----------
    before : rows that went another way, which count too.
    """
    partition = log.free_partition("ingest")
    committed = lake.open("events").offsets.get(partition, 0)
    rows = known = 0
    for events, quarantine in parts:
        count = sum(part.num_rows for part in (events, quarantine) if part is not None)
        if count:
            batch_id = f"{name}:{rows}+{count}"  # a batch of another size is another batch
            offset = log.append(partition, batch_id, encode_payload(events, quarantine), count)
            known += count if offset < committed else 0
        rows += count
        meter.update(before + rows)
    return before + rows, known
