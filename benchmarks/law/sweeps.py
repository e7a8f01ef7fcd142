"""gyral's own scaling sweeps: small trainings of three families, laws through them, and predictions of larger runs.

Four parts, in this order, with a commit between the second and the third, so that no prediction is younger than its run:

    sweeps.py lm sweep       trains the small runs, writes data/laws/gyral_lm.csv
    sweeps.py lm predict     registers what the larger runs will end with, in data/laws/register.jsonl
    sweeps.py lm final       trains those
    sweeps.py lm verdict     holds them against what was registered

With `2` behind them the last three are a second round: runs of up to twice the compute of the first, foretold from the sweep
and the first round together, since these runs are rows by then.

| family | data | task | sizes | loss |
|---|---|---|---|---|
| `lm` | Debian gnome-user-docs after `gyral curate`, bytes | next byte | width, depth | nats a byte of pages kept aside |
| `lm_1024` | the same, steps of 1,024 bytes instead of 4,096 | | | |
| `recommender` | Online Retail (bundled) | next object, HSTU | width (of tables too), depth | 1 - NDCG@10, all ranked |
| `vision` | Fashion-MNIST, 30,000 pictures | masked patches | width, depth | of training, the last twentieth |

All by the project's own trainer on one thread, one seed, AdamW, warm-up, stable, decay; the rate is that of the narrowest net
and follows the width (`train.optim.base_width`). Largest sweep run against final runs: three to five times the compute.
Command: as above, with lm, lm_1024, recommender or vision; a sweep takes ten to thirty CPU-minutes
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import GYRAL, ROOT

from gyral.law import register, verb

LAWS = ROOT / "data" / "laws"
HOME = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "gyral" / "sweeps"
BOOTSTRAPS = 400
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "GYRAL_NO_PROGRESS": "1", "PYTHONPATH": str(ROOT / "src")}


class Sweep(NamedTuple):
    """One family: sets of all runs; sizes (width, depth); data of the sweep, most FLOPs of it, rounds of runs foretold."""

    dataset: str
    sets: tuple[str, ...]
    per_step: int
    sizes: tuple[tuple[int, int], ...]
    data: tuple[float, ...]
    flops_each: tuple[float, ...]
    most: float
    finals: tuple[tuple[tuple[int, int, float], ...], ...]
    column: str


OPTIM = ("train.optim.base_width=32", "train.optim.rate=0.006", "train.optim.warmup=20", "train.keep=last")
SWEEPS = {
    "lm": Sweep(
        "pages",
        ("train.family=lm", "train.batch=16", "lm.length=256", "lm.held_out_bytes=400000", *OPTIM),
        16 * 256,
        ((32, 1), (48, 2), (64, 2), (96, 3), (128, 4)),
        (2.5e5, 5e5, 1e6, 2e6, 4e6),
        (12e3, 55e3, 98e3, 332e3, 786e3),
        3.2e12,
        (((160, 4, 1.6e6), (128, 4, 2.4e6), (96, 3, 5e6), (64, 2, 1.2e7)), ((128, 4, 4e6), (96, 3, 8e6), (64, 2, 2.4e7))),
        "loss",
    ),
    "lm_1024": Sweep(
        "pages",
        ("train.family=lm", "train.batch=4", "lm.length=256", "lm.held_out_bytes=400000", "train.optim.rate=0.003", *OPTIM[2:],
         "train.optim.base_width=32"),
        4 * 256,
        ((24, 1), (32, 1), (48, 2), (64, 2), (96, 3)),
        (2.5e5, 5e5, 1e6, 2e6, 4e6, 8e6, 1.6e7),
        (7e3, 12e3, 55e3, 98e3, 332e3),
        3e12,
        (((128, 4, 2e6), (96, 3, 4e6), (64, 2, 1e7), (48, 2, 2e7)),),
        "loss",
    ),
    "recommender": Sweep(
        "shop",
        ("train.family=recommender", "train.task=sequence", "train.optim.rate=0.003", *OPTIM[2:]),
        0,
        ((8, 1), (16, 1), (32, 2), (64, 2), (96, 3)),
        (1e5, 2e5, 4e5, 8e5, 1.6e6),
        (33e3, 66e3, 150e3, 350e3, 700e3),
        1e12,
        (((128, 3, 1.6e6), (96, 3, 2.4e6), (64, 2, 3.2e6)), ((64, 2, 6.4e6), (128, 3, 3.2e6), (96, 3, 4.8e6))),
        "loss",
    ),
    "vision": Sweep(
        "clothes",
        ("train.family=vision", "train.task=masked", "train.batch=16", "vision.side=28", "vision.patch=4", "vision.channels=1",
         "vision.decoder_width=32", "train.optim.rate=0.003", *OPTIM[2:], "train.optim.base_width=32"),
        16,
        ((16, 1), (32, 1), (48, 2), (64, 3), (96, 4)),
        (2.6e4, 5.1e4, 1.02e5, 2.05e5, 4.1e5),
        (8.6e5, 1e6, 1.6e6, 2.9e6, 7e6),
        2.6e12,
        (((96, 4, 2.05e5), (64, 3, 4.1e5), (48, 2, 8.2e5)),),
        "train_loss",
    ),
}  # fmt: skip


def gyral(folder: Path, *words: str) -> Any:
    """Run the command line in a project; its result."""
    done = subprocess.run([*GYRAL, *words, "--json"], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"gyral {' '.join(words)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def project(family: str) -> Path:
    """The project of a sweep, with its data."""
    folder = HOME / family
    if not (folder / "datasets").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if family.startswith("lm"):
            gyral(folder, "curate", "pages", "--source", "apt:gnome-user-docs")
        elif family == "recommender":
            gyral(folder, "ingest", "--source", str(ROOT / "data" / "online_retail.parquet"))
            gyral(folder, "curate", "shop")
        else:
            pictures(folder / "pictures")
            small = ("--set", "images.min_side=16", "--set", "images.min_blur=0")
            gyral(folder, "curate", "clothes", "--source", "pictures", *small)
    return folder


def pictures(folder: Path) -> None:
    """Fashion-MNIST's training part as PNG files."""
    import cv2

    from gyral.packages.fetch import fetch
    from gyral.packages.unpacking import unpack

    unpacked, _ = unpack(fetch("apt:dataset-fashion-mnist", lambda text: None), lambda text: None)
    raw = gzip.decompress(next(unpacked.rglob("train-images-idx3-ubyte.gz")).read_bytes())
    folder.mkdir(parents=True)
    for number, picture in enumerate(np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 28, 28)[:30_000]):
        cv2.imwrite(str(folder / f"{number:05}.png"), picture)


def train(family: str, width: int, depth: int, data: float) -> dict[str, Any]:
    """One run; its row of the table."""
    sweep, folder = SWEEPS[family], project(family)
    section = {"recommender": "recommend"}.get(family, family.partition("_")[0])
    sets = [*sweep.sets, f"{section}.width={width}", f"{section}.depth={depth}"]
    if family != "recommender":
        sets.append(f"{section}.heads={max(1, width // 32)}")
    per_step = sweep.per_step or _events_of_a_step(folder, sweep)
    sets.append(f"train.steps={max(1, round(data / per_step))}")
    told = gyral(folder, "train", sweep.dataset, *(word for each in sets for word in ("--set", each)))
    scale = told["scale"]
    tail = told["loss"][-max(1, len(told["loss"]) // 20) :]
    held = told["metrics"].get("loss") or 1 - told["metrics"].get("ndcg_at_10", 0)
    row = {
        "run": f"{family}-{width}x{depth}-{data:.3g}",
        "width": width, "depth": depth,
        **{name: scale[name] for name in ("N", "N_non_embedding", "D", "D_unique", "C", "unit")},
        "lr": scale["lr"], "batch": scale["batch"], "loss": held if sweep.column == "loss" else sum(tail) / len(tail),
        "train_loss": sum(tail) / len(tail), "metric": "1 - ndcg_at_10" if family == "recommender" else sweep.column,
        "schedule": "finished", "seed": 0,
    }  # fmt: skip
    print(json.dumps(row), flush=True)
    shutil.rmtree(folder / "models" / told["model"], ignore_errors=True)
    return row


def _events_of_a_step(folder: Path, sweep: Sweep) -> int:
    found = folder / "per_step"
    if not found.exists():
        told = gyral(folder, "train", sweep.dataset, *(w for s in (*sweep.sets, "train.steps=1") for w in ("--set", s)))
        found.write_text(str(int(told["scale"]["D"])))
    return int(found.read_text())


def table(family: str, number: int = 0) -> Path:
    """Where rows are kept: of the sweep, or of the runs of a round."""
    return LAWS / f"gyral_{family}{('', '_final', '_final_2')[number]}.csv"


def read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    with path.open() as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def sweep(family: str) -> None:
    found, path = SWEEPS[family], HOME / f"{family}.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    known = {row["run"] for row in rows}
    for (width, depth), flops in zip(found.sizes, found.flops_each, strict=True):
        for data in found.data:
            if 6 * flops * data > found.most or f"{family}-{width}x{depth}-{data:.3g}" in known:
                continue
            rows.append(train(family, width, depth, data))
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    write(table(family), rows)


def predict(family: str, number: int) -> None:
    """Register the runs of a round, from all rows that are older.

    What a step of a size counts is read off older runs of that size, else one step is trained and its loss thrown away.
    """
    found, path = SWEEPS[family], table(family)
    rows = [row for each in range(number) for row in read(table(family, each))]
    if number > 1:
        path = HOME / f"gyral_{family}_and_final.csv"
        write(path, rows)
    unique = max(float(row["D_unique"]) for row in rows)  # what there is of data shows where runs repeated it
    known = {each["name"] for each in register.read(LAWS / "register.jsonl")}
    for width, depth, data in found.finals[number - 1]:
        if f"{family}-{width}x{depth}-{data:.3g}" in known:
            continue
        alike = [row for row in rows if (int(row["width"]), int(row["depth"])) == (width, depth)]
        one = alike[0] if alike else train(family, width, depth, found.per_step or 1)
        per_step = found.per_step or _events_of_a_step(project(family), found)
        seen = max(1, round(data / per_step)) * per_step
        target = {"N": float(one["N_non_embedding"]), "D": float(seen), "C": float(one["C"]) / float(one["D"]) * seen}
        target["D_unique"] = min(target["D"], unique)
        name = f"{family}-{width}x{depth}-{data:.3g}"
        told = verb.predict(LAWS.parent, path, target, name=name, names={"N": "N_non_embedding"}, num_bootstrap=BOOTSTRAPS)
        print(name, json.dumps(told), flush=True)


def final(family: str, number: int) -> None:
    """Train the runs of a round that are not in their table yet."""
    for width, depth, data in SWEEPS[family].finals[number - 1]:
        rows = read(table(family, number))
        if f"{family}-{width}x{depth}-{data:.3g}" not in {row["run"] for row in rows}:
            write(table(family, number), [*rows, train(family, width, depth, data)])


def verdict(family: str, number: int) -> None:
    """Hold the runs of a round that have no verdict yet against what was registered."""
    judged = {each["name"] for each in register.read(LAWS / "register.jsonl") if each["kind"] == "verdict"}
    for row in read(table(family, number)):
        if row["run"] not in judged:
            print(json.dumps(gyral(LAWS.parent, "law", "verdict", row["run"], "--value", row["loss"])), flush=True)


if __name__ == "__main__":
    _, family, part, *more = sys.argv
    if part == "sweep":
        sweep(family)
    else:
        {"predict": predict, "final": final, "verdict": verdict}[part](family, int(more[0]) if more else 1)
