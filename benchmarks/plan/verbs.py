"""`--plan` of ingest, curate, compress and loop against what the verbs then take, after one run of each on a part of the data.

A project ingests the first 150,000 bundled purchases, curates, trains and compresses them. Then each verb is planned for the
rest or the whole, and run: bytes, CPU seconds, seconds by the clock and peak memory are compared with the plan's. A loop of
three turns is planned after one over that first part. Beside it stand a plan without any run (the sheet alone), and the rule
that all grows as its size does. Seconds by the clock are those of a shared machine: read CPU seconds.

Goal: bytes within 10 %, CPU seconds within 25 %, peak memory within 25 %; the median of three rounds, decided where the load
says that the machine was quiet. With `ingest` only that verb is tried.

Command: .venv/bin/python benchmarks/plan/verbs.py [ingest] (six minutes on a quiet machine; ingest alone half a minute)
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import decide
from measure import ROOT, write

FIRST = 150_000
ROUNDS = 3
GOALS = {"bytes": 0.1, "processor": 0.25, "memory": 0.25}
FIGURES = ("processor", "time", "memory")


def main() -> None:
    only = sys.argv[1:] == ["ingest"]
    rows = pq.read_table(ROOT / "data" / "online_retail.parquet")
    with tempfile.TemporaryDirectory() as folder:
        first, rest = Path(folder, "first.parquet"), Path(folder, "rest.parquet")
        pq.write_table(rows.slice(0, FIRST), first, compression="zstd")
        pq.write_table(rows.slice(FIRST), rest, compression="zstd")
        rounds, was_quiet = [], decide.is_quiet()
        for number in range(ROUNDS):
            root = Path(folder, f"{number}")
            rounds.append(
                ingest(root, first, rest) if only else verbs(root, first, rest) | loop(Path(folder, f"{root}-loop"), first)
            )
    decided = was_quiet and decide.is_quiet()
    found: dict[str, Any] = {}
    for verb in rounds[0]:
        for figure in rounds[0][verb]:
            each = [one[verb][figure] for one in rounds]
            middle = {name: round(statistics.median(one[name] for one in each), 4) for name in each[0]}
            found.setdefault(verb, {})[figure] = middle | {"all": [round(one["off"], 4) for one in each]}
    worst = {kind: max(abs(told[kind]["off"]) for told in found.values() if kind in told) for kind in ("bytes", *FIGURES)}
    rows = {
        f"{verb}, {figure}": decide.row(f"{verb}, {figure}", told[figure]["off"], within, decided)
        for verb, told in found.items() for figure, within in GOALS.items() if figure in told
    }  # fmt: skip
    write("plan_verbs_ingest" if only else "plan_verbs", {"goal": GOALS, "rows": rows, "worst": worst, "verbs": found})


def ingest(root: Path, first: Path, rest: Path) -> dict[str, Any]:
    """Ingest alone."""
    before = gyral(root, "ingest", "--source", first)
    return {"ingest": compared(root, ("ingest", "--source", rest), before)}


def verbs(root: Path, first: Path, rest: Path) -> dict[str, Any]:
    """Ingest, curate and compress: run small, planned large, run large."""
    small = [gyral(root, *words) for words in (("ingest", "--source", first), ("curate", "shop"))]
    gyral(root, "train", "shop", "--budget", "20s")
    small.append(gyral(root, "compress", "shop"))
    found = {}
    for words, before in zip((("ingest", "--source", rest), ("curate", "shop"), ("compress", "shop")), small, strict=True):
        if words[0] == "compress":
            gyral(root, "train", "shop", "--budget", "20s")
        found[words[0]] = compared(root, words, before)
    return found


def loop(root: Path, first: Path) -> dict[str, Any]:
    """A loop over the first part, planned and run over all."""
    words = ("--turns", "3", "--budget", "30s")
    before = gyral(root, "loop", "--source", first, *words)
    return {"loop": compared(root, ("loop", "--source", ROOT / "data" / "online_retail.parquet", *words), before)}


def compared(root: Path, words: tuple[Any, ...], before: dict[str, Any]) -> dict[str, Any]:
    """Plan, run, and how far the plan was off; what the sheet alone and proportion would have said."""
    told = plan(root, words)
    bare = root.with_name(f"{root.name}-bare")
    shutil.copytree(root, bare, ignore=shutil.ignore_patterns("runs"))
    sheet = plan(bare, words)
    shutil.rmtree(bare)
    weighed = weight(root)
    took = gyral(root, *words)
    size = took["size"] / before["size"]
    rows = {
        name: {
            "planned": told[name]["value"], "took": took[name], "off": told[name]["value"] / took[name] - 1,
            "is_inside": float(told[name]["low"] <= took[name] <= told[name]["high"]),
            "off_by_sheet": sheet[name]["value"] / took[name] - 1, "off_by_proportion": before[name] * size / took[name] - 1,
        }
        for name in FIGURES
    }  # fmt: skip
    name = {"ingest": "lake", "curate": "disk", "compress": "int8"}.get(words[0])
    if name:
        held = weight(root)[words[0]] - (weighed[words[0]] if words[0] == "ingest" else 0)
        rows["bytes"] = {
            "planned": told[name]["value"], "took": held, "off": told[name]["value"] / held - 1,
            "is_inside": float(told[name]["low"] <= held <= told[name]["high"]),
            "off_by_sheet": sheet[name]["value"] / held - 1,
        }  # fmt: skip
    return rows


def weight(root: Path) -> dict[str, float]:
    """Bytes of the lake's events, of the newest dataset, of the arrays of the newest small model."""
    lake = json.loads(output(root, "show", "lake", "--json"))["tables"]["events"]["bytes"] if (root / "lake").exists() else 0

    def newest(folder: str, name: str) -> Path | None:
        found = sorted((root / folder).glob(f"{name}@*"), key=lambda path: int(path.name.partition("@")[2]))
        return found[-1] if found else None

    dataset, model = newest("datasets", "shop"), newest("models", "shop-int8")
    return {
        "ingest": lake,
        "curate": sum(path.stat().st_size for path in dataset.rglob("*") if path.is_file()) if dataset else 0,
        "compress": json.loads((model / "card.json").read_text())["compression"]["bytes_after"] if model else 0,
        "loop": 0,
    }


def plan(root: Path, words: tuple[Any, ...]) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(output(root, *words, "--plan", "--json"))["plan"]
    return told


def gyral(root: Path, *words: Any) -> dict[str, Any]:
    """Run a verb to its end; what its record says of it."""
    output(root, *words)
    runs = (json.loads(path.read_text()) for path in (root / "runs").glob("*/lineage.json"))
    told = max((each for each in runs if each["parent"] is None), key=lambda each: each["run"])
    summary = told["summary"]
    turns = sum(each["events"] for each in summary.get("turns", []))
    size = turns or summary.get("rows_in") or summary.get("bytes_before") or 1
    return {"processor": told["cpu_s"], "time": told["elapsed_s"], "memory": told["peak_bytes"], "size": size}


def output(root: Path, *words: Any) -> str:
    command = [sys.executable, "-P", "-m", "gyral", *map(str, words), "--root", str(root)]
    environment = {**os.environ, "GYRAL_NO_PROGRESS": "1"}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


if __name__ == "__main__":
    main()
