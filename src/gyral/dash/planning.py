"""What a form asks → the data of the page of plans: figures, a tornado, and what earlier plans would have said.

`--plan` keeps no answer, so the page makes its own, of what the project has: a request names a verb, a model that is there and
numbers, never a path. A plan of serving plays queues through for about a second, so plans are kept and rationed, and none is
made before it is asked for; the first look is at what takes events in, which is a millisecond.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from gyral import config as configs
from gyral.config import Config
from gyral.dash import charts, formats
from gyral.dash.charts import Bar, Series
from gyral.dash.rationed import Busy, Rationed
from gyral.dash.records import names, read_runs
from gyral.dash.tornado import tornado
from gyral.errors import GyralError, UsageError

if TYPE_CHECKING:
    from gyral.plan.hindsight import Hindsight

Data = dict[str, Any]
VERBS = ("ingest", "curate", "compress", "serve", "loop")
"""Those that can be planned by what the project has. Training builds its model, which is for the command."""
OF_MODELS, OF_PEOPLE = ("compress", "serve"), ("ingest", "serve", "loop")
FIELDS = {"users": (1e6, 1e11), "per_user": (0.0, 1e5), "p99_ms": (100.0, 1e5)}
"""Number → what it is where nothing is said, and the most it may be."""
BADGES = {
    "counted": "exactly, from what is there or as asked",
    "measured": "on the machine that is meant, or by reading some of it",
    "calibrated": "by this project's own runs and datasets",
    "sheet": "of committed benchmarks, or a maker's page",
    "assumed": "nobody has measured it here; the widest intervals",
}
"""Where a figure can be from, the surest first."""
SHORT = {
    "cores": "serving cores", "held_share": "share of them held", "ingest_cores": "ingest cores",
    "requests": "requests a day", "answer_bytes": "bytes an answer", "lake_bytes": "lake bytes a day",
    "keep_days": "days kept", "trainings": "trainings a day", "device_hours": "hours of a training",
    "usd_core_hour": "price of a core", "usd_device_hour": "price of a device", "usd_gb_month": "price of storage",
    "usd_gb_out": "price of sending",
}  # fmt: skip
"""What moves a bill, in so few words that they stand beside its ends on a phone."""


def page(root: Path, query: Mapping[str, str], plans: Rationed[Data], state: str) -> Data:
    """The plan that is asked for, or why there is none; and the hindsight of past runs.

    Parameters
    ----------
    plans : those that were made; `state` names what the project had when they were.
    """
    from gyral.plan.hindsight import hindsight, score

    models = sorted({name.partition("@")[0] for name in names(root, "models")})
    verb = query.get("verb", "ingest")
    asked: Data = {"verb": verb, "model": query.get("model", models[0] if models else "")}
    told: Data = {"asked": asked, "models": models, "plan": {}, "bill": None, "error": None, "retry_s": None, "command": ""}
    try:
        asked |= {name: _number(query, name) for name in FIELDS}
        if verb not in VERBS:
            hint = f"{', '.join(VERBS)}; a training is planned by `gyral train DATASET --plan`"
            raise UsageError("there is no plan of that here", hint=hint)
        if verb in OF_MODELS and asked["model"] not in models:
            raise UsageError("there is no such model", hint="gyral train DATASET")
        key = (state, _settings_at(root), *asked.values())
        told |= plans.answer(key, lambda: _planned(root, asked))
    except GyralError as error:
        told["retry_s"] = error.retry_s if isinstance(error, Busy) else None
        told["error"] = {"what": error.what, "where": "", "why": error.why, "hint": error.hint}
    past = hindsight(root)
    scores = {name: score(past, name) for name in ("processor", "time", "memory")}
    return {**told, "past": [_row(each) for each in past], "score": scores, "running": False}


def _row(past: Hindsight) -> Data:
    figures = {
        name: {**past.told[name].as_json(), "took": took, "off": past.off(name), "inside": past.is_inside(name)}
        for name, took in past.took.items()
    }
    return {"run": past.run, "kind": past.kind, "size": past.size, "figures": figures}


def _planned(root: Path, asked: Data) -> Data:
    from gyral.plan.verbs import Asked, plan_of

    verb = asked["verb"]
    config = configs.load(root)
    words = ["gyral", verb]
    if verb in OF_MODELS:
        words.append(asked["model"])
    if verb == "loop":
        config = _with_source(root, config)
        words += ["--source", config.ingest.source]
    people = {name: asked[name] for name in FIELDS} if verb in OF_PEOPLE else {}
    if verb != "serve":
        people.pop("p99_ms", None)
    for name, value in people.items():
        if value:
            words.append(f"--{name.replace('_', '-')} {value:g}".replace("e+0", "e").replace("e+", "e"))
    plan, bill = plan_of(verb, root, config, Asked(asked["model"], **people))
    figures = {name: each.as_json() for name, each in plan.items()}
    return {"plan": figures, "bill": bill.as_json() if bill else None, "command": " ".join([*words, "--plan"])}


def _settings_at(root: Path) -> int:
    """When the project's settings changed last."""
    try:
        return os.stat(root / configs.FILE_NAME).st_mtime_ns
    except OSError:
        return 0


def _with_source(root: Path, config: Config) -> Config:
    """A loop over what the configuration names, else over what the newest loop or ingestion read."""
    from msgspec.structs import replace

    if config.ingest.source:
        return config
    found, _ = read_runs(root)
    read = (each.name for run in found if run.verb in ("loop", "ingest") for each in run.inputs if each.kind == "source")
    source = next(read, "")
    if not source:
        raise UsageError("no source was read here yet", hint="gyral loop --source FILE --plan")
    return replace(config, ingest=replace(config.ingest, source=source))


def _number(query: Mapping[str, str], name: str) -> float:
    """A number of the form, within what it may be."""
    usual, most = FIELDS[name]
    text = query.get(name, "").strip()
    try:
        value = float(text) if text else usual
    except ValueError:
        value = math.nan
    if not 0 <= value <= most:
        raise UsageError(f"`{name.replace('_', '-')}` is no number from 0 to {most:g}", hint=f"{usual:g}")
    return value


def badges(plan: Data) -> dict[str, int]:
    """How many figures are from where, the surest first."""
    counts = {by: sum(each["by"] == by for each in plan.values()) for by in BADGES}
    return {by: count for by, count in counts.items() if count}


def told(value: float, unit: str, name: str = "") -> str:
    """A figure's value as it is read."""
    if name.endswith(" loses"):
        return formats.share(value)
    if unit.startswith("bytes"):
        return formats.size(value) + (" a day" if unit.endswith("/day") else "")
    if unit in ("s", "CPU-s"):
        return formats.duration(value) + (" of CPU" if unit == "CPU-s" else "")
    if unit.startswith("usd"):
        return (f"{value:,.0f} usd" if value >= 100 else f"{value:.2g} usd") + (" a day" if unit.endswith("/day") else "")
    words = {"1/s": " a second", "1/day": " a day"}.get(unit, f" {unit}" if unit else "")
    return (formats.count(value) if 100 <= value < 1e6 else formats.compact(value)) + words


def swings_chart(bill: Data) -> Markup:
    """What moves the bill of a day most."""
    from gyral.plan.cost import Swing
    from gyral.plan.figure import Figure

    swings = [
        Swing(each["name"], Figure(each["value"], by=each["by"]), each["usd_at_low"], each["usd_at_high"])
        for each in bill["swings"]
    ]
    return tornado(swings, bill["total"]["value"], title="Usd a day, one assumption low and high", names=SHORT)


def parts_chart(bill: Data) -> Markup:
    """What the bill of a day is made of."""
    bars = [Bar(name, each["value"], told(each["value"], "usd/day")) for name, each in bill["parts"].items()]
    return charts.bar_chart(sorted(bars, key=lambda bar: -(bar.value or 0)), title="Where it goes", series="part")


def past_chart(past: list[Data], name: str = "processor") -> Markup:
    """What was told of each run against what it took; a right plan lies on the line."""
    known = [each["figures"][name] for each in past if name in each["figures"]]
    pairs = sorted((math.log10(each["value"]), math.log10(each["took"])) for each in known)
    if not pairs:
        return charts.figure("Told and taken", "", Markup('<p class="none">No run of this machine yet.</p>'))
    every = [value for pair in pairs for value in pair]
    low, high = math.floor(min(every)), math.ceil(max(every))
    series = [Series("runs", pairs, "seen"), Series("as told", [(low, low), (high, high)], "edge")]
    return charts.line_chart(
        series, title="Told and taken", x_label="CPU seconds told", y_label="CPU seconds taken", x_format=_seconds,
        y_format=_seconds, from_zero=False, ends=False,
    )  # fmt: skip


def _seconds(log: float) -> str:
    return f"{10**log:.3g} s"
