"""A project folder → the plain data of one page: what the template draws and the `.json` twin prints, nothing else.

No cache: 1,000 runs are read in about 15 ms, and a page that is up to date is worth more than a fast one. Lists stop at
the newest 1,000 runs and curves at 240 points; both say how much there is in all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from gyral.dash import documents, foretold, formats, front, live, load, serving, stations
from gyral.dash.curves import MAX_POINTS, curves
from gyral.dash.headline import headline
from gyral.dash.records import (
    UNRECORDED,
    Card,
    Manifest,
    Turn,
    exists,
    names,
    read_card,
    read_lines,
    read_manifest,
    read_run,
    read_runs,
    read_text,
    read_turns,
)
from gyral.errors import GyralError, NotFound
from gyral.model.metrics import SMALLER_IS_BETTER
from gyral.run import FOLDER as RUNS
from gyral.run import Lineage

MAX_LOG_LINES = 200
NUM_RECENT = 8
MAX_FRONTS = 12

Data = dict[str, Any]
LakeOverview = Callable[[], dict[str, Any]]


def home(root: Path, lake_overview: LakeOverview) -> Data:
    """Gather the ring, the loop's turns and what is new."""
    found, num_runs = read_runs(root)
    last_loop = next((run for run in found if run.verb == "loop"), None)
    lines = read_lines(root, last_loop.run) if last_loop else []
    turns = read_turns(lines, last_loop.summary) if last_loop else []
    loop = None
    if last_loop:
        loop = {**_row(last_loop), "turns": _turns(root, turns), "gain": gain(turns)}
    events = lake(root, lake_overview)["tables"].get("events", {})
    return {
        "project": root.resolve().name,
        "running": _is_changing(found),
        "verbs": stations.stations(root, found, turns, last_loop, lines),
        "lag": stations.lag(turns, lines),
        "costs": stations.costs(found),
        "parts": stations.parts(found, last_loop, lines),
        "price": stations.price_of_a_core(),
        "loop": loop,
        "other_loops": _other_loops(found, last_loop),
        "live": live.headline(lines),
        "counts": {
            "events": events.get("rows", 0),
            "datasets": len(names(root, "datasets")),
            "models": len(names(root, "models")),
            "runs": num_runs,
        },
        "recent": [_row(run) for run in found[:NUM_RECENT]],
    }


def _other_loops(found: list[Lineage], shown: Lineage | None) -> list[Data]:
    """The newest loop over each other source, and the other way over the same: in turns, or live."""
    newest: dict[tuple[str, bool], Lineage] = {}
    for run in found:
        source = next((each.name for each in run.inputs if each.kind == "source"), "")
        if run.verb == "loop" and source:
            newest.setdefault((source, "visits" in run.summary), run)
    rows = []
    for (source, _), run in newest.items():
        if shown is not None and run.run != shown.run:
            worth = gain(read_turns([], run.summary))
            rows.append({**_row(run), "source": Path(source).name, "over_frozen": worth["over_frozen"] if worth else None})
    return rows[:NUM_RECENT]


def runs(root: Path, verb: str = "") -> Data:
    """Gather the list of runs, all or those of one verb."""
    found, num_runs = read_runs(root)
    verbs: dict[str, int] = {}
    for run in found:
        verbs[run.verb] = verbs.get(run.verb, 0) + 1
    if verb and verb not in verbs:
        raise NotFound(f"there is no run of the verb `{verb}`", hint="see all runs")
    told = foretold.of_runs(root)
    rows = [{**_row(run), "foretold": told.get(run.run, [])} for run in found if not verb or run.verb == verb]
    return {
        "verb": verb,
        "verbs": {name: verbs[name] for name in sorted(verbs, key=_verb_order) if name},
        "num_runs": num_runs,
        "num_listed": len(found),
        "running": _is_changing(found),
        "runs": rows,
    }


def run(root: Path, number: int) -> Data:
    """Gather everything about one run.

    Raises
    ------
    NotFound : there is no such run.
    """
    if not (root / RUNS / str(number)).is_dir():
        raise NotFound(f"there is no run {number}", hint="see all runs")
    lineage = read_run(root, number)
    lines = read_lines(root, number)
    turns = read_turns(lines, lineage.summary)
    progress = [line for line in lines if line.get("type") == "progress"]
    log = read_text(root, number, "log.txt").splitlines()
    record = msgspec.to_builtins(lineage)
    for side in ("inputs", "outputs"):
        record[side] = [{**item, "page": _page(root, item)} for item in record[side]]
    return {
        **record,
        "summary": {key: value for key, value in lineage.summary.items() if key != "turns"},
        "running": lineage.status == "running",
        "headline": headline(lineage.verb, lineage.summary),
        "progress": progress[-1] if progress else None,
        "turns": _turns(root, turns),
        "gain": gain(turns),
        "foretold": foretold.of_run(root, lineage),
        "foretold_steps": foretold.steps_of(root, lineage),
        "candidates": [line for line in lines if line.get("type") == "metric" and "candidate" in line],
        "curves": curves(lines),
        "live": live.of_lines(lines),
        "parts": stations.parts(read_runs(root)[0], lineage, lines) if lineage.verb == "loop" else [],
        "load": load.of_lines(lines),
        "serving": serving.of_lines(lines),
        "rates": _rates(progress),
        "children": [_row(child) for child in _children(root, number)] if lineage.verb == "loop" else [],
        "config": read_text(root, number, "config.toml"),
        "log": log[-MAX_LOG_LINES:],
    }


def pages_of_run(root: Path, number: int) -> set[str]:
    """Pages that belong to a run: the lists, itself, the runs inside it, and what they read and made."""
    inside = [read_run(root, number), *_children(root, number)]
    pages = {"index", "runs", "models", "datasets", "lake", *(f"runs/{each.run}" for each in inside)}
    pages |= {f"runs/{each}" for each in {run.verb for run in inside}}
    for each in inside:
        made = (_page(root, msgspec.to_builtins(item)) for item in [*each.inputs, *each.outputs])
        pages |= {page for page in made if page}
    return pages


def models(root: Path) -> Data:
    """Gather the list of models, what quality costs in size and time, and the quality of the newest loop, turn by turn."""
    found, _ = read_runs(root)
    last_loop = next((run for run in found if run.verb == "loop"), None)
    turns = read_turns(read_lines(root, last_loop.run), last_loop.summary) if last_loop else []
    cards = [read_card(root, name) for name in names(root, "models")]
    cards.sort(key=lambda card: card.created, reverse=True)
    fronts = front.fronts(cards, front.times(cards, found))
    for each in fronts:
        each["dataset_page"] = f"datasets/{each['dataset']}" if exists(root, "datasets", each["dataset"]) else None
    newest = list({each["metric"]: each for each in reversed(fronts)}.values())[::-1]
    others = [
        {"dataset": each["dataset"], "metric": each["metric"], "num_models": len(each["models"])}
        for each in fronts
        if each not in newest and each["dataset_page"]
    ]
    return {
        "running": _is_changing(found),
        "loop": last_loop.run if last_loop else None,
        "turns": _turns(root, turns),
        "fronts": newest,
        "other_fronts": others[:MAX_FRONTS],
        "models": [{**_card(root, card), "quality": card.quality} for card in cards],
    }


def model(root: Path, name: str) -> Data:
    """Gather one model's card and what stands next to it.

    Raises
    ------
    NotFound : there is no such model.
    """
    if not exists(root, "models", name):
        raise NotFound(f"there is no model `{name}`", hint="see all models")
    card = read_card(root, name)
    shrunk = [other for other in names(root, "models") if other.startswith(f"{name.partition('@')[0]}-")]
    cards = (read_card(root, other) for other in shrunk)
    smaller = [one.model for one in cards if one.compression and one.compression.from_model == name]
    return {**_card(root, card), "quality": card.quality, "compressed_to": smaller}


def datasets(root: Path) -> Data:
    """Gather the list of datasets."""
    manifests = [read_manifest(root, name) for name in names(root, "datasets")]
    manifests.sort(key=lambda manifest: manifest.created, reverse=True)
    return {"datasets": [_manifest(root, one) for one in manifests]}


def dataset(root: Path, name: str) -> Data:
    """Gather one dataset's manifest and the models that learned from it.

    Raises
    ------
    NotFound : there is no such dataset.
    """
    if not exists(root, "datasets", name):
        raise NotFound(f"there is no dataset `{name}`", hint="see all datasets")
    cards = [card for other in names(root, "models") if (card := read_card(root, other)).dataset == name]
    manifest = read_manifest(root, name)
    more = documents.page(root / "datasets" / name, manifest.report) if manifest.source else {}
    known = front.times(cards, read_runs(root)[0])
    learned = [card.model for card in cards]
    return {**_manifest(root, manifest), "models": learned, "fronts": front.fronts(cards, known), **more}


def lake(root: Path, lake_overview: LakeOverview) -> Data:
    """Ask for the lake's numbers; a lake that cannot be read becomes a `problem`, not an error page."""
    problem = None
    overview: dict[str, Any] = {}
    try:
        overview = lake_overview()
    except GyralError as error:
        problem = {"what": error.what, "where": error.where, "why": error.why, "hint": error.hint}
    except (OSError, ValueError, RuntimeError) as error:
        problem = {
            "what": "the lake cannot be read",
            "where": "",
            "why": f"{type(error).__name__}: {error}",
            "hint": "gyral doctor",
        }
    partitions = (overview.get("log") or {}).get("partitions") or {}
    return {"tables": overview.get("tables") or {}, "log": {"partitions": partitions}, "problem": problem}


def gain(turns: list[Turn]) -> Data | None:
    """Say what closing the loop was worth: looped against frozen and the baseline, on the last turn and as mean of all."""
    complete = [turn for turn in turns if turn.scores.get("looped") is not None and turn.scores.get("frozen")]
    if not complete:
        return None
    last = complete[-1]
    mean = {name: _mean([turn.scores.get(name) for turn in complete]) for name in last.scores}
    sign = -1.0 if last.metric.endswith(SMALLER_IS_BETTER) else 1.0

    def better(scores: Mapping[str, float | None], than: str) -> float | None:
        value = _relative(scores["looped"], scores.get(than))
        return None if value is None else sign * value

    return {
        "metric": last.metric,
        "turn": last.turn,
        "num_turns": len(complete),
        "baseline": last.baseline,
        "scores": last.scores,
        "over_frozen": better(last.scores, "frozen"),
        "over_baseline": better(last.scores, last.baseline),
        "mean_over_frozen": better(mean, "frozen"),
        "mean_over_baseline": better(mean, last.baseline),
    }


def _turns(root: Path, turns: list[Turn]) -> list[Data]:
    pages = (f"models/{turn.model}" if exists(root, "models", turn.model) else None for turn in turns)
    return [{**msgspec.to_builtins(turn), "model_page": page} for turn, page in zip(turns, pages, strict=True)]


def _is_changing(found: list[Lineage]) -> bool:
    """Tell whether lists will change soon; a server runs for days, and its pages need not be asked for every 5 s."""
    return any(run.status == "running" and run.verb != "serve" for run in found)


def _row(run: Lineage) -> Data:
    return {
        "run": run.run,
        "verb": run.verb,
        "status": run.status,
        "started": run.started,
        "ended": run.ended,
        "elapsed_s": run.elapsed_s,
        "parent": run.parent,
        "headline": headline(run.verb, run.summary),
    }


def _children(root: Path, number: int) -> list[Lineage]:
    found, _ = read_runs(root)
    return [run for run in reversed(found) if run.parent == number and run.status != UNRECORDED]


def _card(root: Path, card: Card) -> Data:
    page = f"datasets/{card.dataset}" if exists(root, "datasets", card.dataset) else None
    origin = card.compression.from_model if card.compression else ""
    candidates = [{"name": "", "chosen": False, "spec": {}} | one for one in card.candidates]
    shown = dict.fromkeys([card.metric, "ndcg_at_10", "recall_at_10", "hit_at_10"])
    return {
        **msgspec.to_builtins(card),
        "candidates": candidates,
        "metrics": [name for name in shown if any(formats.is_number(one.get(name)) for one in candidates)],
        "dataset_page": page,
        "run_page": _run_page(root, card.run),
        "origin_page": f"models/{origin}" if exists(root, "models", origin) else None,
    }


def _manifest(root: Path, manifest: Manifest) -> Data:
    return {**msgspec.to_builtins(manifest), "run_page": _run_page(root, manifest.run)}


def _run_page(root: Path, number: int | None) -> str | None:
    return f"runs/{number}" if number and (root / RUNS / str(number)).is_dir() else None


def _page(root: Path, item: Mapping[str, str]) -> str | None:
    """Find the page of a noun in a lineage; `name` may carry its `@version` or have it beside."""
    if item["kind"] == "lake" or item["kind"] == "log":
        return "lake"
    folder = {"dataset": "datasets", "model": "models"}.get(item["kind"], "")
    for name in (item["name"], f"{item['name']}@{item['version']}"):
        if folder and exists(root, folder, name):
            return f"{folder}/{name}"
    return None


def _rates(progress: list[Data]) -> list[Data]:
    """Group progress records into one curve a verb and unit: seconds since the first record against units a second."""
    groups: dict[tuple[str, str], list[list[float]]] = {}
    times = [line["time"] for line in progress if formats.is_number(line.get("time"))]
    for line in progress:
        if formats.is_number(line.get("time")) and formats.is_number(line.get("rate")):
            key = (str(line.get("verb", "")), str(line.get("unit", "")))
            groups.setdefault(key, []).append([round(line["time"] - times[0], 3), line["rate"]])
    curves = []
    for (verb, unit), points in groups.items():
        step = -(-len(points) // MAX_POINTS)
        kept = points[:: step or 1]
        if kept[-1] != points[-1]:
            kept.append(points[-1])
        if len(points) > 1:
            curves.append({"verb": verb, "unit": unit, "num_records": len(points), "points": kept})
    return curves


def _verb_order(verb: str) -> tuple[int, str]:
    order = ("loop", *stations.VERBS, "eval", "bench")
    return (order.index(verb) if verb in order else len(order), verb)


def _relative(value: float | None, base: float | None) -> float | None:
    return value / base - 1 if value is not None and base else None


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
