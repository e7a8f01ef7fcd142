"""All models of one dataset and one metric → quality over size and over latency, and which of them nothing beats.

Two latencies are known: the CPU time of one answer, which `gyral compress --tiers` measures of what it tries, and the p99 over
HTTP, which each turn of a loop measures of the model that it serves. They cannot share an axis, so the one that more of the
models have is drawn. What nobody timed is on the chart of sizes alone, and the table says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from gyral.compress.front import Point, goodness, on_front
from gyral.dash import charts, formats
from gyral.dash.charts import Spot
from gyral.dash.records import Card, read_turns
from gyral.model.metrics import SMALLER_IS_BETTER
from gyral.run import Lineage

FEWEST = 2
"""Models that make a picture: one alone is always on its front."""
ANSWER, ASKED = "CPU time of one answer", "p99 over HTTP in a turn of a loop"
Data = dict[str, Any]
Times = dict[str, dict[str, float]]


def times(cards: Iterable[Card], runs: Iterable[Lineage]) -> Times:
    """Milliseconds by model, of each kind of latency that was measured; of a model that was timed twice the newest."""
    found: Times = {ANSWER: {}, ASKED: {}}
    for card in cards:
        is_made_there = any(each.to and each.model == card.model for each in card.variants)  # it has the rows of its origin
        origin = card.compression.from_model if is_made_there and card.compression is not None else card.model
        for each in card.variants:
            name = each.model if each.to else origin
            if name and "1" in each.p50_ms:
                found[ANSWER].setdefault(name, each.p50_ms["1"])
    for run in runs:
        for turn in read_turns([], run.summary) if run.verb == "loop" else []:
            if turn.p99_ms is not None:
                found[ASKED].setdefault(turn.model, turn.p99_ms)
    return found


def fronts(cards: Sequence[Card], known: Times) -> list[Data]:
    """One front a dataset and metric that two or more models were measured by, in the order of the cards."""
    groups: dict[tuple[str, str], list[Card]] = {}
    for card in cards:
        if card.dataset and card.quality is not None and card.size_bytes > 0:
            groups.setdefault((card.dataset, card.metric), []).append(card)
    return [_front(*key, group, known) for key, group in groups.items() if len(group) >= FEWEST]


def _front(dataset: str, metric: str, cards: Sequence[Card], known: Times) -> Data:
    kind = max(known, key=lambda each: sum(card.model in known[each] for card in cards))
    of_kind = known[kind]
    worth = [goodness(card.quality or 0.0, metric) for card in cards]
    timed = [of_kind.get(card.model) for card in cards]
    num_timed = sum(ms is not None for ms in timed)
    by_size = on_front([Point(good, card.size_bytes) for good, card in zip(worth, cards, strict=True)])
    by_time = on_front([None if ms is None else Point(good, time_ms=ms) for good, ms in zip(worth, timed, strict=True)])
    rows = [
        {
            "model": card.model, "family": card.family, "quality": card.quality, "size_bytes": card.size_bytes,
            "latency_ms": ms, "is_front_of_size": is_small, "is_front_of_latency": is_fast,
            "measured_on": card.compression.measured_on if card.compression is not None else card.measured_on,
        }
        for card, ms, is_small, is_fast in zip(cards, timed, by_size, by_time, strict=True)
    ]  # fmt: skip
    ranked = sorted(zip(rows, worth, strict=True), key=lambda pair: (-pair[1], pair[0]["size_bytes"], pair[0]["model"]))
    return {
        "dataset": dataset, "metric": metric, "is_smaller_better": metric.endswith(SMALLER_IS_BETTER),
        "latency": kind if num_timed else None, "num_timed": num_timed,
        "models": [{"number": number, **row} for number, (row, _) in enumerate(ranked, 1)],
    }  # fmt: skip


def chart(front: Mapping[str, Any], link: Callable[[str], str], of: str) -> Markup:
    """Quality over `size_bytes` or `latency_ms`, with the front of these two."""
    is_size = of == "size_bytes"
    flag = "is_front_of_size" if is_size else "is_front_of_latency"
    spots = [
        Spot(
            row["model"], row[of], row["quality"], "looped" if row[flag] else "pale", "on the front" if row[flag] else "",
            link(f"models/{row['model']}"), str(row["number"]) if row[flag] else "", row[flag],
        )
        for row in front["models"]
        if row[of] is not None
    ]  # fmt: skip
    name = formats.metric_name(front["metric"])
    note = f"{name}, {'less' if front['is_smaller_better'] else 'more'} is better"
    return charts.scatter_chart(
        spots, title="Quality and size" if is_size else "Quality and latency", series=of, y_label=note, from_zero=False,
        x_label="on disk" if is_size else f"ms, {front['latency']}", x_format=formats.size_tick if is_size else "{:g}".format,
        y_format=lambda value: told(value, front),
    )  # fmt: skip


def told(quality: float, front: Mapping[str, Any]) -> str:
    """A quality as it is read."""
    return formats.loss(quality) if front["is_smaller_better"] else formats.metric(quality)
