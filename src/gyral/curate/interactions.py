"""Who met what, when: behaviour events of the lake → a dataset of interactions.

A row is dropped by the first reason that holds, in this order: no subject, no object, only shown, rejected or corrected, the
rules of its layout and of the project, exact duplicate, robot, returned, over a cap. Everything is decided from the pinned lake
version alone, so the same version and configuration give the same dataset.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gyral.config import Config
from gyral.config.curation import Curate
from gyral.config.sections import Rule
from gyral.curate import caps, features, returns, robots, rules, sessions, splits
from gyral.curate.kept import Kept
from gyral.engine.base import connect
from gyral.errors import InputError, did_you_mean
from gyral.event import layout as layouts
from gyral.event.clock import TIMESTAMP, rfc3339
from gyral.event.codec import numbers as numbers_of
from gyral.event.layout import Layout
from gyral.event.schema import EVENT
from gyral.lake import dataset as datasets
from gyral.lake.dataset import NOT_SELECTED, Dataset, Manifest
from gyral.lake.facts import trusted_times
from gyral.lake.snapshot import Snapshot
from gyral.lake.table import Lake
from gyral.progress import Meter
from gyral.run import Run

COLUMNS = [
    "event_id",
    "event_time",
    "ingest_time",
    "kind",
    "subject",
    "object",
    "session",
    "app",
    "country",
    "schema_id",
    "props",
]
ADJUSTED = "event_time_adjusted"
IDENTITY = ["subject", "object", "event_time", "kind", "session", "app", "country", "props"]
"""Rows equal in all of these are one observation told twice."""

GIVEN = ["subject", "object", "event_time", "kind", "session", "country", "title"]
"""Columns of every dataset of interactions."""
KEPT = pa.schema([EVENT.field(name) for name in COLUMNS if name != "event_id"] + [pa.field("title", pa.string())])

REPEATS_SHARE = 0.01
"""Objects repeat when at least this share of a source's interactions meets an object again at a later time."""

ALWAYS = (
    Rule("missing_subject", "subject", "is null"),
    Rule("missing_object", "object", "is null"),
    Rule("impression", "kind", "==", "impression"),  # shown to somebody, which is not met by them
    Rule("feedback_rejected", "kind", "==", "feedback_rejected"),  # what was chosen is met, what was not wanted is not
    Rule("feedback_corrected", "kind", "==", "feedback_corrected"),
)
TITLE = "title"
"""The prop that holds an object's name for people where no layout names another."""


class Until(NamedTuple):
    """Learn nothing later: events before a time, and of those at that very time only the ones that were shown."""

    time_us: int
    shown: frozenset[str]


class _Part(NamedTuple):
    """One batch after the rules: kept columns, each row's reason number (0 kept, −1 not selected), props that were met.

    Where returns are matched, `returns` holds them, and both tables have a column `quantity` more.
    """

    rows: pa.RecordBatch
    reasons: np.ndarray
    props: frozenset[str]
    returns: pa.RecordBatch | None


def curate(root: Path, name: str, config: Config, run: Run, until: Until | None = None) -> Dataset:
    """Make the next version of a dataset of interactions.

    Parameters
    ----------
    until : what the loop has shown so far; None takes the whole lake.

    Raises
    ------
    NotFound : the lake has no events.
    InputError : no row is left.
    """
    limits = config.curate
    features.check(limits.features, [*KEPT.names, *([splits.COLUMN] if limits.split else [])])
    splits.check(limits.split)
    snapshot = Lake.of(root, config).snapshot("events")
    run.reads("lake", "events", snapshot.version)
    known = _layouts_of(snapshot.distinct("schema_id"))
    _tell_of_apps(snapshot, config, run)
    meter = run.meter("rows", snapshot.count())
    columns = [*COLUMNS, *([ADJUSTED] if ADJUSTED in snapshot.schema.names else [])]
    kept, facts = _decide(snapshot.scan(columns), known, config, until, meter, run.note)
    facts["sessions"] = sessions.fill(kept, limits.session_gap_s)
    kept.drop(caps.over(kept.codes("subject", "object"), limits.max_per_subject_object), "over_pair_cap")
    kept.drop(caps.over(kept.codes("subject"), limits.max_per_subject), "over_cap")
    rows, reasons, names = kept.rows, kept.reasons, kept.names
    manifest = _manifest(rows, reasons, names, snapshot.version, until, limits.apps, run)
    if rows.num_rows == 0:
        told = ", ".join(f"{reason} {count:,}" for reason, count in manifest.dropped.items())
        raise InputError(f"no row is left for `{name}`", why=told or "the lake holds no behaviour", hint="gyral show lake")
    columns = list(GIVEN)
    if limits.split:
        parts, facts["split"] = splits.assign(kept, limits.split)
        rows = rows.append_column(splits.COLUMN, splits.column(parts))
        columns.append(splits.COLUMN)
    manifest.facts = {key: value for key, value in facts.items() if value}
    manifest.repeats, manifest.repeats_from = _repeats(rows, known, config.curate.repeats)
    text = pa.array(names, pa.string()).take(pa.array(np.maximum(reasons, 0)))
    text = pc.if_else(pa.array(reasons < 0), NOT_SELECTED, text)
    if config.curate.features:
        manifest.select["features"] = ", ".join(each.kind for each in config.curate.features)
        manifest.select["features_of"] = {name: each.on for each in config.curate.features for name in each.take}
        rows = features.join(rows, snapshot, config.curate.features, until.time_us if until else None, run.note)
    columns += [name for each in config.curate.features for name in each.take]
    result = datasets.write(root, name, rows.select(columns), text.dictionary_encode(), manifest, snapshot)
    _report(run, result)
    return result


def decide(
    batches: Iterable[pa.RecordBatch],
    known: Sequence[Layout],
    config: Config,
    until: Until | None = None,
    meter: Meter | None = None,
    note: Callable[[str], None] | None = None,
) -> tuple[pa.Table, np.ndarray, list[str]]:
    """Decide about rows wherever they come from.

    Returns
    -------
    rows : the kept ones, sorted by event time (stable), with a `title` column.
    reasons : for every row seen, 0 kept, −1 not selected, else the number of its reason.
    names : reason names by number.
    """
    kept, _ = _decide(batches, known, config, until, meter, note)
    return kept.rows, kept.reasons, kept.names


def _decide(
    batches: Iterable[pa.RecordBatch],
    known: Sequence[Layout],
    config: Config,
    until: Until | None,
    meter: Meter | None,
    note: Callable[[str], None] | None,
) -> tuple[Kept, dict[str, Any]]:
    """Apply the rules batch by batch, and then what needs all rows; what is kept, in order of time, and facts about it."""
    limits = config.curate
    every_rule = [*ALWAYS, *features.rules_of(limits.features)]
    for layout in known:
        every_rule += [rule for rule in layout.rules if rule not in every_rule]
    every_rule += limits.rules
    if limits.returns == "keep":
        every_rule = [rule for rule in every_rule if rule.reason != returns.RETURN]
    rules.check(every_rule)
    parts = _apply(batches, every_rule, known, config, until, meter, note)
    is_matched = limits.returns == "match"
    schema = KEPT.append(returns.QUANTITY) if is_matched else KEPT
    reasons = np.concatenate([part.reasons for part in parts]) if parts else np.zeros(0, dtype=np.int16)
    rows = pa.Table.from_batches([part.rows for part in parts], schema)
    kept = Kept(rows, reasons, ["", *(rule.reason for rule in every_rule)])
    if limits.duplicates:
        kept.drop(_is_duplicate(kept.rows), "duplicate")
    _drop_robots(kept, limits)
    facts: dict[str, Any] = {}
    if is_matched:
        taken_back = pa.Table.from_batches([part.returns for part in parts if part.returns is not None], schema)
        if limits.duplicates:
            taken_back = taken_back.filter(pa.array(~_is_duplicate(taken_back)))
        facts["returns"] = returns.match(kept, taken_back)
        kept.rows = kept.rows.drop_columns(returns.QUANTITY.name)
    kept.sort_by_time()
    return kept, facts


def _drop_robots(kept: Kept, limits: Curate) -> None:
    subjects, times = kept.codes("subject"), kept.times
    mask = robots.find(
        subjects, times, events_per_hour=limits.robot_events_per_hour, regular_events=limits.robot_regular_events
    )
    kept.drop(mask, "robot")
    mask = robots.round_the_clock(kept.codes("subject"), kept.times, active_hours=limits.robot_active_hours)
    kept.drop(mask, "robot_round_the_clock")
    objects = kept.codes("object")
    mask = robots.one_object(kept.codes("subject"), objects, kept.times, moments=limits.robot_one_object_moments)
    kept.drop(mask, "robot_one_object")


def _apply(
    batches: Iterable[pa.RecordBatch],
    every_rule: Sequence[Rule],
    known: Sequence[Layout],
    config: Config,
    until: Until | None,
    meter: Meter | None,
    note: Callable[[str], None] | None,
) -> list[_Part]:
    """Run the rules over the batches on the engine."""
    limits = config.curate
    own = [*features.rules_of(limits.features), *limits.rules]
    quantities = returns.quantities_of(every_rule) if limits.returns == "match" else None
    work = partial(_stage, every_rule=every_rule, known=known, own=own, apps=limits.apps, until=until, quantities=quantities)
    engine = connect(config.on, note)
    parts = []
    try:
        for part in engine.map(work, batches):
            parts.append(part)
            if meter is not None:
                meter.update(meter.record.done + len(part.reasons))
    finally:
        engine.close()
    met = frozenset[str]().union(*(part.props for part in parts))
    for rule in limits.rules if parts else ():
        if note is not None and rule.field.startswith(rules.PROPS) and rule.field.removeprefix(rules.PROPS) not in met:
            note(f"curate   the rule `{rule.reason}` looks at `{rule.field}`, which no event has")
    return parts


def _stage(
    batch: pa.RecordBatch,
    every_rule: Sequence[Rule],
    known: Sequence[Layout],
    own: Sequence[Rule],
    apps: Sequence[str],
    until: Until | None,
    quantities: Sequence[str] | None,
) -> _Part:
    """Select, apply the rules and add the title: a pure function of the batch.

    Parameters
    ----------
    quantities : props that hold one, for matching returns; None: returns are not matched.
    """
    if ADJUSTED in batch.schema.names:
        times = trusted_times(batch)
        batch = batch.select(COLUMNS).set_column(COLUMNS.index("event_time"), EVENT.field("event_time"), times)
    reasons = np.zeros(batch.num_rows, dtype=np.int16)
    titles = [TITLE, *(layout.title for layout in known if layout.title)]
    props = rules.read_props(batch, list(dict.fromkeys([*rules.props_needed(every_rule), *titles])))
    schema_ids = batch.column("schema_id")
    numbers = {rule: number for number, rule in reversed(list(enumerate(every_rule, start=1)))}
    title = pa.nulls(batch.num_rows, pa.string())
    groups: list[tuple[Layout | None, pa.Array]] = [(layout, pc.equal(schema_ids, layout.name)) for layout in known]
    names = pa.array([layout.name for layout in known], pa.string())
    groups.append((None, pc.invert(pc.is_in(schema_ids, value_set=names))))
    for layout, mask in groups:
        applied = [rule for rule in (*ALWAYS, *(layout.rules if layout else ()), *own) if rule in numbers]
        local = rules.apply(batch, props, applied)
        lookup = np.array([0, *(numbers[rule] for rule in applied)], dtype=np.int16)
        belongs = pc.fill_null(mask, False).to_numpy(zero_copy_only=False)
        reasons[belongs] = lookup[local[belongs]]
        if layout is None or layout.title:
            title = pc.if_else(mask, props[layout.title if layout else TITLE].cast(pa.string()), title)
    reasons[~_selected(batch, until, apps)] = -1
    met = frozenset(name for name, values in props.items() if values.null_count < len(values))
    columns = [title if name == "title" else batch.column(name) for name in KEPT.names]
    is_kept = pa.array(reasons == 0)
    if quantities is None:
        return _Part(pa.RecordBatch.from_arrays(columns, schema=KEPT).filter(is_kept), reasons, met, None)
    units = [numbers_of(props[name]) for name in quantities]
    columns.append(pc.coalesce(*units) if units else pa.nulls(batch.num_rows, pa.float64()))
    rows = pa.RecordBatch.from_arrays(columns, schema=KEPT.append(returns.QUANTITY))
    takes_back = [number for number, rule in enumerate(every_rule, start=1) if rule.reason == returns.RETURN]
    return _Part(rows.filter(is_kept), reasons, met, rows.filter(pa.array(np.isin(reasons, takes_back))))


def _selected(batch: pa.RecordBatch, until: Until | None, apps: Sequence[str]) -> np.ndarray:
    is_own = pc.fill_null(pc.equal(batch.column("schema_id"), "impression"), False)  # what a model showed, nobody did
    selected: np.ndarray = pc.invert(is_own).to_numpy(zero_copy_only=False)
    if apps:
        selected = selected & pc.is_in(batch.column("app"), value_set=pa.array(apps)).to_numpy(zero_copy_only=False)
    if until is not None:
        times = batch.column("event_time").cast(pa.int64()).to_numpy()
        selected = selected & (times <= until.time_us)
        for row in np.flatnonzero(selected & (times == until.time_us)):
            selected[row] = batch.column("event_id")[int(row)].as_py() in until.shown
    return selected


def _is_duplicate(rows: pa.Table) -> np.ndarray:
    """Mask of the rows that equal an earlier one in everything but their id."""
    mask = np.ones(rows.num_rows, dtype=bool)
    if rows.num_rows:
        numbered = rows.select(IDENTITY).append_column("row", pa.array(np.arange(rows.num_rows)))
        first = numbered.group_by(IDENTITY, use_threads=False).aggregate([("row", "min")])["row_min"]
        mask[first.to_numpy()] = False
    return mask


def _tell_of_apps(snapshot: Snapshot, config: Config, run: Run) -> None:
    """Say so when events of several applications are about to be learned as one."""
    there, wanted = snapshot.distinct("app"), config.curate.apps
    missing = [app for app in wanted if app not in there]
    if missing:
        raise InputError(f"the lake has no events of `{missing[0]}`", where="curate.apps", hint=did_you_mean(missing[0], there))
    if not wanted and len(there) > 1:
        listed = ", ".join(there[:5]) + (", …" if len(there) > 5 else "")
        run.note(
            f"curate   events of {len(there)} apps are taken together: {listed}; `--set 'curate.apps=[\"{there[0]}\"]'` selects"
        )


def _layouts_of(schema_ids: Sequence[str | None]) -> list[Layout]:
    found = (layouts.known(schema_id) for schema_id in sorted(filter(None, schema_ids)))
    return [layout for layout in found if layout is not None]


def _repeats(rows: pa.Table, known: Sequence[Layout], wanted: bool | None) -> tuple[bool, str]:
    """Whether objects repeat, and who said so: the configuration, the layouts, or the data."""
    if wanted is not None:
        return wanted, "curate.repeats"
    said = {layout.repeats for layout in known if layout.repeats is not None}
    if len(said) == 1:
        return said.pop(), "layout"
    met = rows.group_by(["subject", "object"], use_threads=False).aggregate([("event_time", "count_distinct")])
    distinct = met["event_time_count_distinct"].to_numpy()
    share = float((distinct - 1).sum() / max(rows.num_rows, 1))
    return share >= REPEATS_SHARE, f"measured: {100 * share:.1f} % of interactions meet an object again"


def _manifest(
    rows: pa.Table, reasons: np.ndarray, names: Sequence[str], version: int, until: Until | None, apps: Sequence[str], run: Run
) -> Manifest:
    counts = np.bincount(reasons[reasons > 0], minlength=len(names))
    dropped: dict[str, int] = {}
    for number, name in enumerate(names):
        if counts[number]:
            dropped[name] = dropped.get(name, 0) + int(counts[number])
    times = pc.min_max(rows["event_time"]).as_py()
    select = {"schema_id": "not impression"} | ({"app": ", ".join(apps)} if apps else {})
    if until is not None:
        end = pa.scalar(until.time_us, pa.int64()).cast(TIMESTAMP).as_py()
        select |= {"until": _rfc3339(end) or "", "shown_then": str(len(until.shown))}
    return Manifest(
        kind="interactions",
        run=run.number,
        lake={"events": {"version": version}},
        select=select,
        rows_in=int((reasons >= 0).sum()),
        rows_kept=rows.num_rows,
        dropped=dropped,
        subjects=len(rows["subject"].unique()),
        objects=len(rows["object"].unique()),
        first_event=_rfc3339(times["min"]),
        last_event=_rfc3339(times["max"]),
    )


def _rfc3339(moment: datetime | None) -> str | None:
    return rfc3339(moment) if moment is not None else None


def _report(run: Run, made: Dataset) -> None:
    manifest = made.manifest
    run.writes("dataset", made.name)
    run.summarize(rows_in=manifest.rows_in, rows_kept=manifest.rows_kept, dropped=manifest.dropped)
    told = ", ".join(f"{reason} {count:,}" for reason, count in manifest.dropped.items()) or "nothing dropped"
    run.note(f"curate   {made.name}: {manifest.rows_kept:,} of {manifest.rows_in:,} rows kept; {told}")
    for line in splits.told(manifest.facts.get("split", {})):
        run.note(f"curate   {line}")
