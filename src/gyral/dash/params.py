"""A parameter server under a live loop → the data of its page, from the lines of its run and the folder that it follows.

How fresh what is served is, how stale what was pushed was, and what each shard has published; the live loop's own page has the
rest. Nothing is asked of a server: pages only read.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from markupsafe import Markup

from gyral.dash import charts, formats, live
from gyral.dash.charts import Bar, Series
from gyral.dash.records import heading, newest
from gyral.errors import GyralError
from gyral.model.live import places

Data = dict[str, Any]


def page(root: Path) -> Data:
    """Freshness, staleness and shards of the newest live loop.

    Raises
    ------
    NotFound : there is none.
    """
    none, hint = "no parameters were learned live here yet", "gyral loop --live --source FILE"
    run, told = newest(root, "loop", live.of_lines, none, hint)
    pushes = sum(told["staleness"].values())
    return {
        **heading(run),
        "live": told,
        "pushes": pushes,
        "mean_staleness": sum(int(key) * count for key, count in told["staleness"].items()) / pushes if pushes else None,
        "tables": tables(root, run.run),
    }


def tables(root: Path, run: int) -> list[Data]:
    """The folders that a live loop left, each with its shards; a damaged one says its `problem`."""
    folder = root / places.FOLDER
    named = re.compile(rf"[A-Za-z0-9_.-]{{1,200}}-{run}")
    found = sorted(each for each in folder.iterdir() if named.fullmatch(each.name)) if folder.is_dir() else []
    told = []
    for each in found:
        try:
            published, problem = places.read_published(each), ""
        except GyralError as error:
            published, problem = places.Published(), error.what
        shards = [
            {"shard": name, "cut": cut, "bytes": _bytes(each / places.SHARDS / name)}
            for name, cut in sorted(published.cuts.items())
            if re.fullmatch(r"[a-z0-9]{1,40}", name)
        ]
        told.append(
            {"name": each.name, "version": published.version, "step": published.step, "shards": shards, "problem": problem}
        )
    return told


def lag_chart(data: Data) -> Markup:
    """How many rows a second went to the shards."""
    points = [(point["t"], point["rows_per_s"]) for point in data["live"]["points"]]
    return charts.line_chart(
        [Series("rows", points)], title="Rows a second", y_label="pushed to the shards", x_label="seconds",
        x_format="{:g}".format, y_format=formats.compact, height=150,
    )  # fmt: skip


def shard_chart(table: Data) -> Markup:
    """How much of the disk each shard has."""
    bars = [Bar(each["shard"], each["bytes"], formats.size(each["bytes"])) for each in table["shards"]]
    return charts.bar_chart(bars, title=f"Shards of {table['name']}", series="bytes", note="base and cuts on disk")


def _bytes(folder: Path) -> int:
    """Of the files of a shard that writes while it is looked at: what goes meanwhile counts as nothing."""
    total = 0
    try:
        for file in folder.iterdir():
            try:
                total += file.stat().st_size
            except FileNotFoundError:
                continue
    except FileNotFoundError:
        pass
    return total
