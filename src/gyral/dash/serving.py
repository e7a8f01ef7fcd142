"""A server → the data of its page and its charts, from the lines of its run's `metrics.jsonl` and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from gyral.dash import charts, formats
from gyral.dash.charts import Bar, Series
from gyral.dash.records import heading, newest, thinned
from gyral.run import Lineage

WHY = {
    "full": "too many waited",
    "hopeless": "no answer in this time",
    "late": "its turn would have come too late",
    "crowded": "given up for others",
}
TAKING_IN = "taking_in_cpu_s"
"""In the summary of what listens."""
EDGES_MS = [float(f"{10 ** (power / 5):.3g}") for power in range(-5, 26, 2)]
Data = dict[str, Any]


def page(root: Path) -> Data:
    """The newest server.

    Raises
    ------
    NotFound : there is none that was asked.
    """
    run, told = newest(root, "serve", of_lines, "no server was asked anything here", hint="gyral serve MODEL")
    model = next((each.name for each in run.inputs if each.kind == "model"), "")
    spent = answering(run) if run.status != "running" else None
    cpu_s = 1000 * spent / told["answered"] if spent and told["answered"] else None
    return {**heading(run), "model": model, "serving": told, "cpu_s_of_1000": cpu_s}


def taking_in(run: Lineage) -> float | None:
    """CPU seconds in which a server took events in, as far as it says."""
    value = run.summary.get(TAKING_IN)
    return value if formats.is_number(value) else None


def answering(run: Lineage) -> float:
    """The rest of a server's: answers, and all else that its process did."""
    return max(run.cpu_s - (taking_in(run) or 0.0), 0.0)


def of_lines(lines: Sequence[Mapping[str, Any]]) -> Data | None:
    """What a run's lines say; None where none is of a server. Lists stop at 240 points, evenly spaced, with the last."""
    rows = [line for line in lines if line.get("type") == "serving"]
    if not rows:
        return None
    last = rows[-1]
    cache, requests = last.get("cache") or {}, last.get("requests") or 0
    asked = (cache.get("hits") or 0) + (cache.get("misses") or 0)
    statuses = last.get("statuses") or {}
    return {
        "num_points": len(rows),
        "seconds": last.get("t"),
        "requests": requests,
        "answered": statuses.get("200", 0),
        "statuses": statuses,
        "latency_ms": last.get("latency_ms") or [],
        "batches": last.get("batches") or {},
        "answered_by": last.get("answered_by") or {},
        "not_answered": last.get("not_answered") or {},
        "hit_share": cache["hits"] / asked if asked else None,
        "cache_bytes": cache.get("bytes"),
        "waiting": last.get("waiting"),
        "workers": last.get("workers") or [],
        "chosen": last.get("chosen") or {},
        "tiers": last.get("tiers") or {},
        "cascade": last.get("cascade") or {},
        "trial": last.get("trial"),
        "points": [{name: row.get(name) for name in ("t", "per_s", "p50_ms", "p99_ms", "waiting")} for row in thinned(rows)],
    }


def pace_charts(serving: Data) -> list[Markup]:
    """Requests a second, latency and backlog over time."""
    points = serving["points"]
    drawn = [
        charts.line_chart(
            [Series("requests", [(each["t"], each["per_s"]) for each in points])], title="Requests a second", x_label="seconds",
            x_format="{:g}".format, y_format=formats.compact, height=150,
        ),
        charts.line_chart(
            [
                Series(name, [(each["t"], each[f"{name}_ms"]) for each in points], role)
                for name, role in (("p50", "looped"), ("p99", "frozen"))
            ],
            title="Latency", y_label="ms in the server, upper edges of buckets", x_label="seconds", x_format="{:g}".format,
            y_format="{:g}".format, height=150,
        ),
    ]  # fmt: skip
    if any(each["waiting"] for each in points):
        line = [Series("waiting", [(each["t"], each["waiting"]) for each in points])]
        drawn.append(
            charts.line_chart(
                line,
                title="Waiting for a worker",
                x_label="seconds",
                x_format="{:g}".format,
                y_format=formats.compact,
                height=150,
            )
        )
    return drawn


def latency_chart(serving: Data) -> Markup:
    """How long answers took, of all."""
    total = sum(count for _, count in serving["latency_ms"]) or 1
    bars = [
        Bar(f"to {edge:g} ms" if edge is not None else "longer", count, f"{count:,} ({formats.share(count / total)})")
        for edge, count in _coarser(serving["latency_ms"])
    ]
    return charts.bar_chart(bars, title="Latency of all answers", series="latency", note="in the server")


def _coarser(rows: Sequence[tuple[float | None, int]]) -> list[tuple[float | None, int]]:
    """Two buckets a bar: five bars are two decades."""
    found: dict[float | None, int] = {}
    for edge, count in rows:
        wider = next((each for each in EDGES_MS if edge is not None and edge <= each * 1.01), None)
        found[wider] = found.get(wider, 0) + count
    return list(found.items())


def batch_chart(serving: Data) -> Markup:
    """How many requests went together."""
    sizes: dict[float | None, int] = {}
    for rows in serving["batches"].values():
        for edge, count in rows:
            sizes[edge] = sizes.get(edge, 0) + count
    ordered = sorted(sizes.items(), key=lambda pair: pair[0] or float("inf"))
    bars = [Bar(f"to {edge:g}" if edge else "more", count, formats.count(count)) for edge, count in ordered]
    return charts.bar_chart(bars, title="Batches", series="batches", note="requests that were computed together")


def variant_chart(serving: Data) -> Markup:
    """Which variant answered how many."""
    rows = sorted(serving["answered_by"].items(), key=lambda pair: -pair[1])
    bars = [Bar(name, count, formats.count(count)) for name, count in rows]
    return charts.bar_chart(bars, title="Answered by", series="variants", note="of the models that may answer")


def tier_chart(serving: Data) -> Markup:
    """Which classes of devices asked how much."""
    rows = sorted(serving["tiers"].items(), key=lambda pair: -pair[1])
    bars = [Bar(name, count, formats.count(count)) for name, count in rows]
    return charts.bar_chart(bars, title="Asked by", series="tiers", note="classes of devices")


def refused_chart(serving: Data) -> Markup:
    """What got no answer, by reason."""
    rows = sorted(serving["not_answered"].items(), key=lambda pair: -pair[1])
    bars = [Bar(WHY.get(name, name), count, formats.count(count)) for name, count in rows if count]
    return charts.bar_chart(bars, title="Not answered", series="refused")
