"""`gyral loop --plan`: every turn's steps, the whole in time, memory and money, and how old what the model knows is.

A turn learns all that was shown so far, so its steps grow with it: `x` below is the rows of turns 1 … t. With `--users`, how
often it would pay to train for so many people, and what takes their events in.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from gyral.config import Config, budget_seconds
from gyral.errors import GyralError, UsageError
from gyral.plan import people
from gyral.plan.cost import PRICES, Bill
from gyral.plan.counting import documents_of, rows_of
from gyral.plan.figure import Figure, Plan, weakest
from gyral.plan.freshness import cadence
from gyral.plan.kinds import LOOP
from gyral.plan.past import Line, Point, Seen, at, foretold, named, seen
from gyral.plan.product import product, scaled
from gyral.plan.verbs import Asked
from gyral.run import FOLDER as RUNS
from gyral.run import Lineage, read_lineage

SHEET = "benchmarks/results/loop_close.json, 2 shared cores"
STEPS = {
    "ingest": Line(0.15, 1.4e-6, "s", 4.0),
    "curate": Line(0.05, 3.9e-6, "s", 4.0),
    "train": Line(2.0, 1.9e-5, "s", 4.0),
    "compress": Line(0.5, 3.5e-6, "s", 4.0),
    "swap": Line(0.1, 2e-7, "s", 8.0),
    "ask": Line(0.95, 4.5e-7, "s", 4.0),
}
"""Seconds of a turn's steps by the rows shown so far; of `ingest` by those of its slice."""
NOISE = 0.25
AGE_USD = Figure(1e4, "usd", "assumed", "what a day's age of the model costs in a day, for a million users", 1e3, 1e5)


def plan(root: Path, config: Config, asked: Asked) -> tuple[Plan, Bill | None]:
    """What a loop over the configured source would take.

    Raises
    ------
    UsageError : no source is named, or it has to be fetched.  InputError : it cannot be read.
    """
    if not config.ingest.source:
        raise UsageError("no source is named", hint="gyral loop --source FILE --plan")
    if config.train.family == "recommender":
        rows, held = rows_of(config.ingest.source)
    else:
        rows, held, _ = documents_of(config.ingest.source, config, lambda _: None)
    turns = config.loop.turns
    counted = Figure(float(turns), "", "counted", "of turns + 1 slices; the last is only asked about")
    told: Plan = {"events": rows, "read": held, "turns": counted}
    runs = seen(root, LOOP)
    steps = _steps(root, runs)
    parts = {name: _total(name, rows.value, turns, config, steps) for name in STEPS}
    told |= parts
    last = [_step(name, turns, rows.value, turns, config, steps) for name in ("curate", "train", "compress", "swap")]
    told["freshness"] = _sum(last, "of the last turn: curate, train, compress, swap")
    learned = rows.value / (turns + 1) * turns * (turns + 1) / 2
    whole = foretold(LOOP, learned, runs)
    if not runs:  # the parts say more than one line does: the budget is in them
        whole["time"] = _sum(list(parts.values()), "all steps of all turns")
        why = "as the time: its steps keep about a core busy"
        whole["processor"] = whole["time"]._replace(unit="CPU-s", why=why, high=2 * whole["time"].high)
    told |= whole
    hours = scaled(whole["processor"], 1 / 3_600)
    told["cost"] = product("usd", "core hours · price of one", hours, PRICES["usd_core_hour"])
    if not asked.users:
        return told, None
    more, total = _of_people(asked, last)
    return told | more, total


class Past(NamedTuple):
    """One step of a loop that is done: what a plan would have said of all its turns, and what they took, in seconds."""

    name: str
    told: Figure
    took_s: float


def hindsight(root: Path, run: Lineage) -> list[Past]:
    """Of each step of a loop, from the loops before it; none where its record or its settings cannot be read.

    The rows are those that it brought in, which a plan counts before; the budget is that of its configuration.
    """
    if LOOP.size_of(run) is None:
        return []
    turns: list[dict[str, Any]] = run.summary["turns"]
    try:
        tree = tomllib.loads((root / RUNS / str(run.run) / "config.toml").read_text("utf-8"))
        config = msgspec.convert(tree, Config)
    except (OSError, ValueError):
        return []
    steps = _steps(root, [each for each in seen(root, LOOP) if each.run < run.run])
    rows = sum(float(turn["events"]) for turn in turns) / len(turns) * (len(turns) + 1)
    found = []
    for name in STEPS:
        took = [turn["seconds"].get(name) for turn in turns if isinstance(turn.get("seconds"), dict)]
        if len(took) == len(turns) and all(isinstance(each, int | float) and each > 0 for each in took):
            found.append(Past(name, _total(name, rows, len(turns), config, steps), float(sum(took))))
    return found


def _of_people(asked: Asked, last: list[Figure]) -> tuple[Plan, Bill]:
    taken, total = people.intake(people.population(asked.users, asked.per_user))
    train = _sum(last, "of the last turn")
    usd = product("usd", "hours of a training on one accelerator", scaled(train, 1 / 3_600), PRICES["usd_device_hour"])
    share = Figure(asked.users / 1e6, "", "counted", "users / a million")
    often = cadence(train, usd, product("usd", AGE_USD.why, AGE_USD, share))
    renamed = {f"{name} of users": taken[name] for name in ("events", "log", "lake", "collectors", "cost")}
    return renamed | {"train every": often.every_s, "age of what is known": often.delay_s}, total


def _steps(root: Path, runs: list[Seen]) -> dict[str, list[Point]]:
    """Step → rows and seconds of every turn of earlier loops."""
    found: dict[str, list[Point]] = {name: [] for name in STEPS}
    for each in runs:
        try:
            turns: list[dict[str, Any]] = read_lineage(root, each.run).summary.get("turns", [])
        except GyralError:
            continue
        shown = 0.0
        for turn in turns:
            shown += turn.get("events", 0)
            for name, took in turn.get("seconds", {}).items():
                if name in found and took > 0 and shown:
                    found[name].append(Point(each.run, turn["events"] if name == "ingest" else shown, took))
    return found


def _step(name: str, turn: int, rows: float, turns: int, config: Config, steps: dict[str, list[Point]]) -> Figure:
    """Seconds of one step of one turn."""
    slice_ = rows / (turns + 1)
    runs = steps[name]
    found = at(STEPS[name], slice_ if name == "ingest" else slice_ * turn, runs, NOISE, SHEET)
    if runs:
        found = found._replace(why=named(sorted({each.run for each in runs})))
    if name != "train":
        return found
    paid = budget_seconds(config.train.budget) / turns
    if config.train.family != "recommender" or config.train.task:
        return Figure(paid, "s", "counted", "the budget / turns", paid, 1.3 * paid)
    low, high = found.interval
    return found._replace(value=min(found.value, paid), low=min(low, paid), high=min(high, 1.3 * paid))


def _total(name: str, rows: float, turns: int, config: Config, steps: dict[str, list[Point]]) -> Figure:
    each = [_step(name, turn, rows, turns, config, steps) for turn in range(1, turns + 1)]
    return _sum(each, f"of all turns; {each[0].why}")


def _sum(figures: list[Figure], why: str) -> Figure:
    """Of what is off together: low ends add up, and high ones."""
    low, high = (sum(each.interval[end] for each in figures) for end in (0, 1))
    return Figure(sum(each.value for each in figures), "s", weakest(*figures), why, low, high)
