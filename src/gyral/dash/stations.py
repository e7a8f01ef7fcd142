"""The stations of the ring: what each verb did last, how fast it goes now, how far the loop lags, and what it costs.

CPU seconds are those that runs measured of themselves, so a server's are known once it has ended. What it took to take events
in is that of the threads that check, store and commit them; the rest is for its answers, its start among it. A live loop looks
at its processes each second. Money is CPU seconds times the price of a core, which is assumed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gyral.dash import formats
from gyral.dash.headline import headline
from gyral.dash.records import Turn, read_lines
from gyral.dash.serving import answering, taking_in
from gyral.run import Lineage

VERBS = ("ingest", "curate", "train", "compress", "serve")
MAKE_A_MODEL = ("curate", "train", "compress")
OF_LIVE = {
    "population": "people who come, and what is read and written for them",
    "taking in": "events taken in, by the server",
    "answering": "answers, and all else of the server",
    "server": "the server: events taken in, and answers",
    "learner": "the learner",
    "shards": "the shards that hold the tables",
}
"""Part of a live loop → what it does."""
RATES = {"ingest": ("events_per_s", "events"), "train": ("rows_per_s", "rows")}
"""Of a live loop: what a line says, each second, of a verb."""
SECONDS_AN_HOUR = 3600.0

Data = dict[str, Any]
Lines = Sequence[Mapping[str, Any]]


def stations(root: Path, found: Sequence[Lineage], turns: Sequence[Turn], loop: Lineage | None, lines: Lines) -> list[Data]:
    """One a verb.

    Parameters
    ----------
    found : runs, the newest first.
    loop, turns, lines : of the newest loop.
    """
    live = next((line for line in reversed(lines) if line.get("type") == "live"), None)
    told = []
    for verb in VERBS:
        run = next((each for each in found if each.verb == verb), None)
        of_loop = loop if live is not None and verb in RATES else None
        if of_loop is not None and (run is None or run.started <= of_loop.started):
            name, unit = RATES[verb]
            spent = {each["part"]: each["cpu_s"] for each in parts(found, of_loop, lines)}
            cpu_s = spent.get("taking in") if verb == "ingest" else _sum(spent.get("learner"), spent.get("shards"))
            pace = {"rate": _number((live or {}).get(name)), "unit": unit, "cpu_s": cpu_s}
            learner = (live or {}).get("learner")
            done = (live or {}).get("events") if verb == "ingest" else (learner or {}).get("learned")
            text = f"{formats.count(done)} events {'in' if verb == 'ingest' else 'learned'}" if _number(done) else ""
            told.append({**_of(of_loop), **pace, "verb": verb, "headline": text})
        elif run is not None:
            told.append(_station(root, verb, run, turns, loop))
        elif verb == "serve" and loop is not None and turns:
            told.append({**_of(loop), "verb": verb, "headline": _p99(turns), "rate": None, "unit": "", "cpu_s": None})
        else:
            told.append(
                {"verb": verb, "run": None, "status": "not yet", "headline": "", "rate": None, "unit": "", "cpu_s": None}
            )
    return told


def parts(found: Sequence[Lineage], loop: Lineage | None, lines: Lines) -> list[Data]:
    """CPU seconds of a live loop by what they were for; none where it wrote none down.

    The server's are told apart into taking in and answering once it has ended; its start, before its run begins, counts too.
    """
    if loop is None:
        return []
    looks = (loop.summary.get("cpu_s"), *(line.get("cpu_s") for line in reversed(lines) if line.get("type") == "live"))
    known = dict(next((look for look in looks if isinstance(look, dict)), {}))
    if not known:
        return []
    server = next((run for run in found if run.verb == "serve" and run.parent == loop.run and run.cpu_s > 0), None)
    if server is not None:
        whole = max(_number(known.pop("server", None)) or 0.0, server.cpu_s)
        events = taking_in(server)
        known |= {"server": whole} if events is None else {"taking in": events, "answering": whole - events}
    spent = {part: value for part in OF_LIVE if (value := _number(known.get(part))) is not None and value > 0}
    total = sum(spent.values())
    return [{"part": part, "what": OF_LIVE[part], "cpu_s": value, "share": value / total} for part, value in spent.items()]


def lag(turns: Sequence[Turn], lines: Lines) -> Data | None:
    """How old the newest event is when the model that knows it answers; None where nobody measured it."""
    live = next((line for line in reversed(lines) if line.get("type") == "live"), None)
    fresh = (live or {}).get("freshness") or {}
    if _number(fresh.get("p50")) is not None:
        return {"seconds": fresh["p50"], "of": "the middle of all events of the live loop"}
    if turns and turns[-1].freshness_s is not None:
        return {"seconds": turns[-1].freshness_s, "of": f"turn {turns[-1].turn}"}
    return None


def costs(found: Sequence[Lineage]) -> list[Data]:
    """What a million events, a model and 1,000 answers took, by the newest runs that say so."""
    from gyral.plan.cost import PRICES

    price, done = PRICES["usd_core_hour"], [run for run in found if run.status in ("done", "interrupted") and run.cpu_s > 0]
    told = []
    for what, runs, per, many, cost in (
        ("a million events taken in", _newest(done, "accepted", _took_in), "accepted", 1e6, _took_in),
        ("a million events learned live", _newest(done, "learned", _learning), "learned", 1e6, _learning),
        ("a model", _makers(done), "", 1, _whole),
        ("1,000 answers", _newest(done, "impressions", _answering), "impressions", 1e3, _answering),
    ):
        if runs:
            number = runs[0].summary[per] / many if per else 1
            cpu_s = sum(cost(run) or 0.0 for run in runs) / number
            usd = {name: cpu_s / SECONDS_AN_HOUR * value for name, value in zip(("low", "high"), price.interval, strict=True)}
            usd["value"] = cpu_s / SECONDS_AN_HOUR * price.value
            each = [{"run": run.run, "verb": run.verb} for run in runs]
            told.append({"what": what, "cpu_s": cpu_s, "by": "measured", "usd": usd, "usd_by": price.by, "runs": each})
    return told


def price_of_a_core() -> Data:
    """What money is reckoned by."""
    from gyral.plan.cost import PRICES

    return PRICES["usd_core_hour"].as_json()


def _newest(done: Sequence[Lineage], counted: str, cost: Callable[[Lineage], float | None]) -> list[Lineage]:
    fitting = (run for run in done if (_number(run.summary.get(counted)) or 0) > 0 and cost(run))
    return [run for run in [next(fitting, None)] if run is not None]


def _whole(run: Lineage) -> float | None:
    return run.cpu_s


def _took_in(run: Lineage) -> float | None:
    """What events took: all of a run that does nothing else, a part of a server."""
    return run.cpu_s if run.verb == "ingest" else taking_in(run) if run.verb == "serve" else None


def _answering(run: Lineage) -> float | None:
    return answering(run) if run.verb == "serve" else None


def _learning(run: Lineage) -> float | None:
    """What a live loop's learner and its shards took."""
    told = run.summary.get("cpu_s")
    parts = told if run.verb == "loop" and isinstance(told, dict) else {}
    return _sum(_number(parts.get("learner")), _number(parts.get("shards")))


def _sum(*values: float | None) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _makers(done: Sequence[Lineage]) -> list[Lineage]:
    """The newest training, and what went before and after it in its loop."""
    trained = next((run for run in done if run.verb == "train"), None)
    if trained is None:
        return []
    alike = [run for run in done if run.parent == trained.parent and run.parent is not None]
    before = next((run for run in alike if run.verb == "curate" and run.run < trained.run), None)
    after = next((run for run in reversed(alike) if run.verb == "compress" and run.run > trained.run), None)
    return [run for run in (before, trained, after) if run is not None]


def _station(root: Path, verb: str, run: Lineage, turns: Sequence[Turn], loop: Lineage | None) -> Data:
    lines = read_lines(root, run.run)
    progress = [line for line in lines if line.get("type") == "progress" and line.get("rate")]
    rate: Any = progress[-1].get("rate") if progress else run.summary.get("rows_per_s")
    unit = str(progress[-1].get("unit", "")) if progress else "rows"
    text = headline(run.verb, run.summary)
    if verb == "serve":
        asked: Mapping[str, Any] = next((line for line in reversed(lines) if line.get("type") == "serving"), {})
        seconds, requests = _number(asked.get("t")), _number(asked.get("requests"))
        mean = requests / seconds if seconds and requests else None
        rate, unit = asked.get("per_s") if run.status == "running" else mean, "answers"
        inside = loop is not None and loop.started <= run.started and (loop.ended is None or run.started <= loop.ended)
        text = _p99(turns) if inside and turns else text
        return {**_of(run), "cpu_s": _answering(run) or None, "headline": text, "rate": _number(rate), "unit": unit}
    return {**_of(run), "headline": text, "rate": _number(rate), "unit": unit}


def _of(run: Lineage) -> Data:
    return {
        "run": run.run, "verb": run.verb, "status": run.status, "started": run.started, "ended": run.ended,
        "elapsed_s": run.elapsed_s, "parent": run.parent, "cpu_s": run.cpu_s or None,
    }  # fmt: skip


def _p99(turns: Sequence[Turn]) -> str:
    return f"p99 {formats.milliseconds(turns[-1].p99_ms)}" if turns[-1].p99_ms is not None else ""


def _number(value: Any) -> float | None:
    return value if formats.is_number(value) else None
