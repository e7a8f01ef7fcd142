"""Page data → charts: which numbers go into which drawing, and in which order.

The three lines of the loop keep one look everywhere: `looped` solid, `frozen` dashed, `popularity` dotted, so that
the drawing reads without colour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from gyral.dash import charts, formats
from gyral.dash.charts import Bar, Series, Spot
from gyral.dash.ring import Node, ring

LINES = ("looped", "frozen", "popularity")
MAX_BARS = 12
MAX_NODE_TEXT = 14

Rows = Sequence[Mapping[str, Any]]


def turn_chart(turns: Rows, metric: str = "scores", known: bool = False, title: str = "") -> Markup:
    """Draw a metric of the three lines over the turns; `known` takes only the subjects that the model has met."""
    values = [(turn["turn"], (turn["known"] if known else turn).get(metric, {})) for turn in turns]
    names = list(dict.fromkeys([*LINES, *(name for _, row in values for name in row)]))
    series = [
        Series(name, [(turn, row.get(name)) for turn, row in values], name if name in LINES else "popularity")
        for name in names
        if any(name in row for _, row in values)
    ]
    return charts.line_chart(series, title=title or formats.metric_name(metric), x_label="turn")


def pace_charts(turns: Rows) -> Markup:
    """Draw freshness (event to served model) and p99 latency over the turns, as far as they were measured."""
    drawn = Markup()
    for field, title, note, style, tick in (
        ("freshness_s", "Freshness", "newest event to the model that knows it", formats.duration, formats.seconds_tick),
        ("p99_ms", "p99 latency", "of the answers in a turn", formats.milliseconds, "{:g} ms".format),
    ):
        points = [(turn["turn"], turn[field]) for turn in turns]
        if any(value is not None for _, value in points):
            line = [Series(title, points)]
            drawn += charts.line_chart(line, title=title, y_label=note, x_label="turn", y_format=style, y_tick=tick, height=130)
    return drawn


def seconds_chart(turns: Rows) -> Markup:
    """Draw where the time of each turn went."""
    rows = [(f"turn {turn['turn']}", turn["seconds"]) for turn in turns]
    return charts.stacked_bars(rows, title="Seconds per step")


def candidate_chart(candidates: Rows, metric: str = "ndcg_at_10", chosen: str | None = None, note: str = "") -> Markup:
    """Draw what was tried, best first, against popularity as the floor to beat."""
    known = sorted(candidates, key=lambda row: row[metric] if formats.is_number(row.get(metric)) else -1.0, reverse=True)
    floor = next((row[metric] for row in known if _name(row) == "popularity" and formats.is_number(row.get(metric))), None)
    bars = []
    for row in known:
        is_chosen = bool(row.get("chosen")) or (chosen is not None and _name(row) == chosen)
        role = "chosen" if is_chosen else "popularity" if _name(row) == "popularity" else "other"
        value = row.get(metric) if formats.is_number(row.get(metric)) else None
        bars.append(Bar(_name(row), value, formats.metric(value), role, "chosen" if is_chosen else ""))
    reference = ("floor: popularity", float(floor)) if floor is not None and len(bars) > 1 else None
    title = f"Candidates, {formats.metric_name(metric)}"
    return charts.bar_chart(bars, title=title, series=metric, note=note, reference=reference)


def training_charts(curves: Mapping[str, Any]) -> list[Markup]:
    """Draw loss (with that of data kept aside), rate, gradient norm and time of a step over the steps of a training run."""
    note = "" if curves["every"] == 1 else f"each point the mean of {curves['every']:,} steps"
    held_out = [Series("held out", [(x, y) for x, y in curves["held_out"]], "frozen")] if curves["held_out"] else []
    losses = [Series("trained on", [(x, y) for x, y in curves["loss"]], "one"), *held_out]
    drawn = [
        charts.line_chart(losses, title="Loss", y_label=note, x_label="step", x_format=formats.count, y_format=formats.loss)
    ]
    for name, title, style in (
        ("rate", "Learning rate", formats.small),
        ("norm", "Gradient norm", formats.small),
        ("seconds", "Time of a step", formats.duration),
    ):
        line = [Series(title, [(x, y) for x, y in curves[name]])]
        drawn.append(charts.line_chart(line, title=title, x_label="step", x_format=formats.count, y_format=style, height=130))
    return drawn


def rate_chart(curve: Mapping[str, Any]) -> Markup:
    """Draw how fast a verb went."""
    unit = f"{curve['unit']}/s"
    points = [(x, y) for x, y in curve["points"]]
    note = formats.plural(curve["num_records"], "record")
    return charts.line_chart(
        [Series(curve["verb"], points)],
        title=f"{curve['verb']}, {unit}",
        y_label=note,
        x_label="seconds",
        y_format=formats.compact,
        height=150,
    )


def summary_chart(verb: str, summary: Mapping[str, Any]) -> Markup:
    """Draw what happened to the rows of an ingest or curate run, or what an evaluation compared; else nothing."""
    if verb == "eval":
        return _compared(summary)
    total = summary.get("rows_in")
    if not isinstance(total, int):
        return Markup()
    if verb == "curate" and isinstance(summary.get("dropped"), dict) and isinstance(summary.get("rows_kept"), int):
        return charts.funnel(total, _counts(summary["dropped"]), summary["rows_kept"], title="Rows, rule by rule")
    if verb == "ingest" and isinstance(summary.get("accepted"), int):
        gone = {"duplicate": summary.get("duplicate") or 0} | {
            f"quarantined: {reason}": number for reason, number in _counts(summary.get("quarantined")).items()
        }
        return charts.funnel(total, _counts(gone), summary["accepted"], title="Rows into the lake", ends=("read", "accepted"))
    return Markup()


def _compared(summary: Mapping[str, Any]) -> Markup:
    drawn = Markup()
    for metric, values in summary.items():
        if "_at_" in metric and isinstance(values, dict):
            known = [(str(name), value) for name, value in values.items() if formats.is_number(value)]
            roles = {"model": "chosen", "popularity": "popularity"}
            bars = [Bar(name, value, formats.metric(value), roles.get(name, "other")) for name, value in known]
            drawn += charts.bar_chart(bars, title=formats.metric_name(metric), series=metric)
    return drawn


def dataset_chart(manifest: Mapping[str, Any]) -> Markup:
    """Draw the funnel of a dataset: every dropped row has a reason."""
    return charts.funnel(
        manifest["rows_in"] or 0,
        manifest["dropped"],
        manifest["rows_kept"] or 0,
        title="Why documents were dropped" if manifest.get("source") else "Why rows were dropped",
        ends=("read" if manifest.get("source") else "read from the lake", "kept"),
    )


def count_chart(counts: Mapping[str, int], title: str) -> Markup:
    """Draw named counts, largest first; what does not fit is summed up."""
    ordered = sorted(_counts(counts).items(), key=lambda item: -item[1])
    total = sum(number for _, number in ordered) or 1
    bars = [
        Bar(name, number, f"{formats.count(number)}  ({formats.share(number / total)})") for name, number in ordered[:MAX_BARS]
    ]
    if len(ordered) > MAX_BARS:
        rest = sum(number for _, number in ordered[MAX_BARS:])
        label = f"{len(ordered) - MAX_BARS} more"
        bars.append(Bar(label, rest, f"{formats.count(rest)}  ({formats.share(rest / total)})", "other"))
    return charts.bar_chart(bars, title=title, series="rows")


def day_chart(days: Mapping[str, int], title: str) -> Markup:
    """Draw what came in on each of the last days, the newest last."""
    newest = sorted(_counts(days).items())[-MAX_BARS:]
    return charts.bar_chart([Bar(day, number, formats.count(number)) for day, number in newest], title=title, series="rows")


def compression_chart(compression: Mapping[str, Any]) -> Markup:
    """Draw the size before and after."""
    before, after = compression["bytes_before"], compression["bytes_after"]
    bars = [
        Bar("before", before, formats.size(before), "other"),
        Bar(compression["to"] or "after", after, formats.size(after), "chosen"),
    ]
    return charts.bar_chart(bars, title="Size", series="bytes")


def variants_chart(variants: Rows) -> Markup:
    """What each variant costs and saves; the front is what nothing beats in quality, size and time at once."""
    spots = [
        Spot(
            one.get("to") or "as it is",
            one["p50_ms"]["1"],
            100 * one.get("relative_loss", 0.0),
            "looped" if one.get("is_front") else "popularity",
            f"{one.get('size_bytes', 0) / 1e6:.3g} MB",
        )
        for one in variants
        if one.get("p50_ms", {}).get("1") is not None
    ]
    return charts.scatter_chart(
        spots, title="Variants", series="variants", y_label="quality lost, %", x_label="ms of CPU for one answer",
        y_format="{:.3g}".format, x_format="{:g}".format,
    )  # fmt: skip


def ring_chart(home: Mapping[str, Any], gain: Mapping[str, Any] | None, link: Any, ago: Any) -> Markup:
    """Draw the five verbs with what each did last and took; the middle has the gain of the loop, its lag and its cost."""
    nodes = []
    for verb in home["verbs"]:
        if verb["run"] is None:
            nodes.append(Node(verb["verb"], ["not yet"], "not yet"))
            continue
        took = f"{formats.brief(verb['cpu_s'])} CPU-s" if verb["cpu_s"] else ago(verb["ended"] or verb["started"])
        lines = [_short(verb), f"#{verb['run']} {verb['status']}", took]
        nodes.append(Node(verb["verb"], [line for line in lines if line], verb["status"], link(f"runs/{verb['run']}")))
    centre = (
        ["closing the loop", formats.signed_share(gain["over_frozen"]), f"turn {gain['turn']}"] if gain else ["", "gyral", ""]
    )
    answers = next((each for each in home["costs"] if each["what"] == "1,000 answers"), None)
    centre.append(f"lag {formats.duration(home['lag']['seconds'])}" if home["lag"] else "")
    centre.append(f"{formats.brief(answers['cpu_s'])} CPU-s / 1,000" if answers else "")
    return ring(nodes, title="The loop: ingest, curate, train, compress, serve, and back", centre=centre)


def _short(verb: Mapping[str, Any]) -> str:
    """The rate, or what else fits into a node of the ring."""
    pace = formats.rate(verb["rate"], verb["unit"])
    fitting = [text for text in (pace, verb["headline"]) if text and text != formats.NONE and len(text) <= MAX_NODE_TEXT]
    return fitting[0] if fitting else f"{formats.compact(verb['rate'])}/s" if verb["rate"] else ""


def _name(row: Mapping[str, Any]) -> str:
    return str(row.get("candidate") or row.get("name") or "")


def _counts(values: Any) -> dict[str, int]:
    return {str(name): number for name, number in values.items() if isinstance(number, int)} if isinstance(values, dict) else {}
