"""A loop that is live → the data of its page and its charts, from one line a second in `metrics.jsonl` and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from gyral.dash import charts, formats
from gyral.dash.charts import Bar, Series
from gyral.dash.records import heading, newest, thinned

SLOTS = {
    "looped": "learning",
    "frozen": "frozen",
    "frozen_recent": "frozen, told",
    "popularity": "popularity",
}
ROLES = {"looped": "looped", "frozen": "frozen", "frozen_recent": "told", "popularity": "popularity"}
MAX_STALENESS = 8
Data = dict[str, Any]


def page(root: Path) -> Data:
    """The newest live loop.

    Raises
    ------
    NotFound : there is none.
    """
    run, told = newest(root, "loop", of_lines, "no live loop has run here", hint="gyral loop --live --source FILE")
    return {**heading(run), "live": told}


def of_lines(lines: Sequence[Mapping[str, Any]]) -> Data | None:
    """What a run's lines say; None where none is of a live loop. Lists stop at 240 points, evenly spaced, with the last."""
    rows = [line for line in lines if line.get("type") == "live"]
    if not rows:
        return None
    chosen = thinned(rows)
    last = rows[-1]
    learner, served = last.get("learner") or {}, last.get("served") or {}
    cold = sorted(each for row in rows[-1:] for each in row.get("cold_s") or [])
    return {
        "num_points": len(rows),
        "seconds": last.get("t"),
        "events": last.get("events"),
        "event_time": last.get("event_time"),
        "asked": last.get("asked"),
        "recall_at_10": last.get("recall_at_10") or {},
        "ndcg_at_10": last.get("ndcg_at_10") or {},
        "freshness_s": last.get("freshness") or {},
        "staleness": {str(key): value for key, value in (learner.get("staleness") or {}).items()},
        "dropped": learner.get("dropped") or {},
        "published": learner.get("published"),
        "refused": learner.get("refused"),
        "went_back": learner.get("went_back"),
        "restarts": last.get("restarts"),
        "objects": learner.get("objects"),
        "subjects": learner.get("subjects"),
        "silent_s": served.get("silent_s"),
        "trouble": served.get("trouble") or "",
        "cold_s": cold,
        "points": [_point(row) for row in chosen],
    }


def headline(lines: Sequence[Mapping[str, Any]]) -> str:
    """A few words of how a live loop is; empty where it is none."""
    last = next((line for line in reversed(lines) if line.get("type") == "live"), None)
    if last is None:
        return ""
    looped, fresh = (last.get("recall_at_10") or {}).get("looped"), (last.get("freshness") or {}).get("p50")
    words = [f"{formats.count(last.get('events'))} events of people"]
    words += [f"recall@10 {formats.metric(looped)}"] if looped is not None else []
    words += [f"served {fresh:.2f} s after they were stored"] if fresh is not None else []
    return ", ".join(words)


def _point(row: Mapping[str, Any]) -> Data:
    fresh = row.get("freshness") or {}
    return {
        "t": row.get("t"),
        "recall": row.get("recall_at_10") or {},
        "p50": fresh.get("recent_p50"),
        "p99": fresh.get("recent_p99"),
        "events_per_s": row.get("events_per_s"),
        "rows_per_s": row.get("rows_per_s"),
        "lag_s": row.get("lag_s"),
        "p99_ms": row.get("p99_ms"),
    }


def recall_chart(live: Data) -> Markup:
    """Mean recall@10 of all visits so far."""
    series = [
        Series(name, [(point["t"], point["recall"].get(slot)) for point in live["points"]], ROLES[slot])
        for slot, name in SLOTS.items()
        if any(point["recall"].get(slot) is not None for point in live["points"])
    ]
    return charts.line_chart(
        series, title="recall@10, each visit foretold before it was learned", x_label="seconds", x_format="{:g}".format
    )


def freshness_chart(live: Data) -> Markup:
    """From acknowledged to served, over ten seconds each."""
    series = [
        Series(name, [(point["t"], point[name]) for point in live["points"]], role)
        for name, role in (("p50", "looped"), ("p99", "frozen"))
    ]
    return charts.line_chart(
        series, title="Freshness", y_label="seconds from stored to seen in what is served", x_label="seconds",
        x_format="{:g}".format, y_format="{:.2f}".format, height=150,
    )  # fmt: skip


def pace_charts(live: Data) -> list[Markup]:
    """Events, rows, lateness and latency over time."""
    drawn = []
    for field, title, note, style, tick in (
        ("events_per_s", "Events a second", "that the population sent", formats.compact, None),
        ("rows_per_s", "Rows a second", "that the learner pushed", formats.compact, None),
        ("lag_s", "Lateness", "of the population against its clock", _seconds, _seconds),
        ("p99_ms", "p99 latency", "of answers within a second", formats.milliseconds, formats.ms_tick),
    ):
        line = [Series(title, [(point["t"], point[field]) for point in live["points"]])]
        drawn.append(
            charts.line_chart(
                line, title=title, y_label=note, x_label="seconds", x_format="{:g}".format, y_format=style, y_tick=tick,
                height=130,
            )
        )  # fmt: skip
    return drawn


def _seconds(value: float) -> str:
    """Short enough to stand beside the end of a line."""
    return f"{formats.brief(value)} s"


def staleness_chart(live: Data) -> Markup:
    """How many other pushes came between a pull and its push."""
    counts: dict[str, int] = {}
    for key, count in sorted(live["staleness"].items(), key=lambda pair: int(pair[0])):
        name = key if int(key) < MAX_STALENESS else f"{MAX_STALENESS} or more"
        counts[name] = counts.get(name, 0) + count
    bars = [Bar(name, count, formats.count(count)) for name, count in counts.items()]
    return charts.bar_chart(bars, title="Staleness", series="staleness", note="pushes of others between a pull and its push")


def dropped_chart(live: Data) -> Markup:
    """What was not learned from, by reason."""
    rows = sorted(live["dropped"].items(), key=lambda pair: -pair[1])
    bars = [Bar(formats.words(name), count, formats.count(count)) for name, count in rows if count]
    return charts.bar_chart(bars, title="Not learned from", series="dropped")
