"""Features of interactions: what was known of their subject or object at that time, from other events of the lake.

Each interaction gets the values of the latest feature event of its key that had happened by then *and* had come in by then
(`gyral.lake.asof`), so a model is trained on what it could have seen. A corrected value is a new event with the same time: from
the moment it came in it takes the place of the first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from gyral.config.sections import Feature, Rule
from gyral.curate import rules
from gyral.errors import ConfigError, did_you_mean
from gyral.event.schema import EVENT
from gyral.lake.asof import KNOWN_TIME, asof_join
from gyral.lake.facts import trusted_times
from gyral.lake.snapshot import Snapshot
from gyral.lake.sql import literal

REASON = "feature"
"""Why a feature event is no interaction."""


def check(features: Sequence[Feature], taken: Sequence[str]) -> None:
    """Refuse features that take a field no event has, or give a column that is there already.

    Raises
    ------
    ConfigError : names the feature, with the nearest field.
    """
    names = list(taken)
    for feature in features:
        for name, field in feature.take.items():
            if field not in EVENT.names and not field.startswith(rules.PROPS):
                known = [*EVENT.names, "props.NAME"]
                what = f"the feature `{name}` takes `{field}`, which events do not have"
                raise ConfigError(what, where="[curate] features", hint=did_you_mean(field, known))
            if name in names:
                raise ConfigError(f"two columns would be `{name}`", where="[curate] features", hint="give it another name")
            names.append(name)


def rules_of(features: Sequence[Feature]) -> list[Rule]:
    """Feature events are dropped as interactions."""
    return [Rule(REASON, "kind", "==", feature.kind) for feature in features]


def join(
    rows: pa.Table, snapshot: Snapshot, features: Sequence[Feature], until_us: int | None, note: Callable[[str], None]
) -> pa.Table:
    """Add the columns of each feature to interactions; null where nothing was known.

    Parameters
    ----------
    rows : with `subject`, `object`, `event_time`, `ingest_time`.
    until_us : feature events later than this (µs) are not there yet; None: all are.
    """
    for feature in features:
        known = _events(snapshot, feature, until_us)
        examples = pa.table({name: rows[name] for name in (feature.on, "event_time")})
        examples = examples.append_column(KNOWN_TIME, rows[feature.known])
        joined = asof_join(examples, known, feature.on)
        there = max((rows.num_rows - joined[name].null_count for name in feature.take), default=0)
        note(f"curate   `{feature.kind}` was known for {there:,} of {rows.num_rows:,} rows{_hint(feature, there, known)}")
        for name in feature.take:
            rows = rows.append_column(name, joined[name])
    return rows


def _hint(feature: Feature, there: int, known: pa.Table) -> str:
    if there or known.num_rows == 0 or feature.known == "ingest_time":
        return ""
    return '; where events were imported later than they happened, `known = "ingest_time"` goes by when they came in'


def _events(snapshot: Snapshot, feature: Feature, until_us: int | None) -> pa.Table:
    """Feature events as columns: key, times, and what is taken."""
    envelope = [field for field in feature.take.values() if not field.startswith(rules.PROPS)]
    wanted = dict.fromkeys([feature.on, "event_time", "event_time_adjusted", "ingest_time", "props", *envelope])
    columns = [name for name in wanted if name in snapshot.schema.names]
    parts = []
    for batch in snapshot.scan(columns, f"kind = {literal(feature.kind)}"):
        props = rules.read_props(batch, [field.removeprefix(rules.PROPS) for field in feature.take.values()])
        made = {
            feature.on: batch.column(feature.on),
            "event_time": trusted_times(batch),
            "ingest_time": batch.column("ingest_time"),
        }
        for name, field in feature.take.items():
            is_prop = field.startswith(rules.PROPS)
            made[name] = props[field.removeprefix(rules.PROPS)] if is_prop else batch.column(field)
        parts.append(pa.table(made))
    empty = {name: EVENT.field(name).type for name in (feature.on, "event_time", "ingest_time")}
    empty |= dict.fromkeys(feature.take, pa.null())
    table = pa.concat_tables(parts, promote_options="permissive") if parts else pa.schema(empty).empty_table()
    return table if until_us is None else table.filter(pc.less_equal(table["event_time"].cast(pa.int64()), until_us))
