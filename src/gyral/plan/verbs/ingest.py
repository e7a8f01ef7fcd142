"""`gyral ingest --plan`: of a file rows, bytes, time and memory; of a population what takes its events in, and the money."""

from __future__ import annotations

from pathlib import Path

from gyral.config import Config
from gyral.errors import UsageError
from gyral.lake.table import Lake
from gyral.plan import people
from gyral.plan.cost import Bill
from gyral.plan.counting import rows_of
from gyral.plan.figure import Figure, Plan
from gyral.plan.freshness import LAKE_BYTES
from gyral.plan.kinds import INGEST
from gyral.plan.past import foretold, seen
from gyral.plan.product import inverse, product
from gyral.plan.verbs import Asked

FILE_BYTES = Figure(88.3, "bytes", "sheet", "an event in the log, in batches of 32,768 of the bundled purchases", 50.0, 250.0)
LAKE_OFF = 1.05
"""Bytes an event of the next source are within this factor of those that are there, where it is of the same kind."""
FEW = 1_000
"""Events below which a lake's bytes are mostly what a table has anyway."""


def plan(root: Path, config: Config, asked: Asked) -> tuple[Plan, Bill | None]:
    """What bringing a source in, or the events of a population, would take.

    Raises
    ------
    UsageError : neither is named, or the source is one that has to be fetched.
    InputError : there is no such file.
    """
    if asked.users:
        return people.intake(people.population(asked.users, asked.per_user))
    lake = Lake.of(root, config)
    if not config.ingest.source:
        return _waiting(lake), None
    rows, held = rows_of(config.ingest.source)
    log = product("bytes", "events · bytes in the log, which is trimmed once they are in the lake", rows, FILE_BYTES)
    each = lake_bytes(lake)
    kept = product("bytes", f"events · {each.value:.1f} bytes; {each.why}", rows, each)
    told = {"events": rows, "read": held, "log": log, "lake": kept}
    return told | foretold(INGEST, rows.value, seen(root, INGEST)), None


def lake_bytes(lake: Lake) -> Figure:
    """Bytes of an event in the lake: as those that are there, else as in the benchmark."""
    if lake.exists("events"):
        told = lake.overview()["tables"]["events"]
        if told["rows"] >= FEW:
            each = told["bytes"] / told["rows"]
            why = f"of the {told['rows']:,} that are there"
            return Figure(each, "bytes", "calibrated", why, each / LAKE_OFF, each * LAKE_OFF)
    return LAKE_BYTES._replace(by="sheet", low=LAKE_BYTES.value / 2, high=LAKE_BYTES.value * 4)


def _waiting(lake: Lake) -> Plan:
    """What lies in the embedded log and is not in the lake."""
    known = lake.overview() if lake.log_folder.exists() else {"tables": {}, "log": {"partitions": {}}}
    offsets = known["tables"].get("events", {}).get("offsets", {})
    held = sum(part["bytes"] for name, part in known["log"]["partitions"].items() if part["end"] > offsets.get(name, 0))
    if not held:
        hint = "name a file, `--source FILE`, or how many people send events, `--users 1e9`"
        raise UsageError("there is nothing to plan: no source, and nothing waits in the log", hint=hint)
    size = Figure(float(held), "bytes", "counted", "of partitions of the log that the lake has not whole")
    rows = product("rows", "bytes / bytes of an event in the log", size, inverse(FILE_BYTES))
    return {"log": size, "events": rows} | foretold(INGEST, max(rows.value, 1.0), [])
