"""A small model first, a larger one where it is unsure: CPU an answer and accuracy over HTTP, beside each of the two alone.

6,000 pictures of Fashion-MNIST with the names of what they show; a tenth is kept aside. Two models of pictures and captions are
trained by `gyral train` (28 × 28 in grey; little: one block of width 16 on patches of 14; large: four blocks of width 64 on
patches of 4), and `gyral compress` finds on those kept aside when an answer of the little one may be kept: at most `max_regret`
of all answers may be wrong where the large one is right, 95 % sure. Then three servers with one worker each are asked by four
connections to name the pictures kept aside, a hundred in turn of each. CPU is that of server and worker, by the system's
accounting, with HTTP, base64 and PNG. The cascade is asked with a floor above what the little model is alone, so the router
cannot fall back to it. The threshold was found on the same pictures, so `kept` and `regret` are those of the card; what holds
for others is the card's guarantee.

Predicted before it was run: the little one .71 right, the large one .78, the cascade within .01 of the large one, .6 kept, at
.8 of the large one's CPU, as HTTP and decoding are paid by all.
Command: .venv/bin/python benchmarks/serve/cascade.py (about two CPU-minutes; fetches a package)
"""

from __future__ import annotations

import asyncio
import base64
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "vision"))
from fashion import fashion
from measure import GYRAL, write

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
NAMES = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
NUM, MAX_REGRET, ROUNDS, CONNECTIONS, CHUNK = 6_000, 0.02, 2, 4, 100
LITTLE = ("vision.patch=14", "vision.width=16", "vision.depth=1", "train.steps=150")
LARGE = ("vision.patch=4", "vision.width=64", "vision.depth=4", "train.steps=250")
TRAIN = (
    "train.family=vision", "train.task=contrastive", "train.keep=last", "train.batch=128", "train.optim.rate=3e-3",
    "train.optim.warmup=20", "vision.side=28", "vision.channels=1", "vision.heads=2", "vision.embed=32",
    "vision.caption_width=32", "vision.caption_depth=0", "vision.buckets=1024", "vision.jitter=0", "vision.alike=0",
    "vision.captions=1",
)  # fmt: skip
CURATE = (
    "curate.stages=['pixels','digest']", "dedup.near=false", "images.min_side=0", "images.min_entropy=0", "images.min_blur=0",
)  # fmt: skip


def gyral(root: Path, *words: str, sets: tuple[str, ...] = ()) -> None:
    """A command to its end."""
    options = [part for each in sets for part in ("--set", each)]
    command = [*GYRAL, *words, *options, "--root", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    if done.returncode:
        raise SystemExit(done.stderr[-2_000:])


def folder_of(root: Path) -> dict[str, str]:
    """Pictures and their names as a folder; name of a file → what it shows."""
    import cv2

    found = fashion()
    pixels, labels = found["train-images"][:NUM, :, :, 0], found["train-labels"][:NUM]
    folder, truth = root / "clothes", {}
    folder.mkdir()
    with open(folder / "metadata.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "text"])
        for at, (picture, label) in enumerate(zip(pixels, labels.tolist(), strict=True)):
            (folder / f"{at}.png").write_bytes(cv2.imencode(".png", picture)[1].tobytes())
            writer.writerow([f"{at}.png", NAMES[label]])
            truth[f"{at}.png"] = NAMES[label]
    return truth


def aside(root: Path) -> list[str]:
    """Names of the pictures that nothing was trained on."""
    from gyral.lake import dataset
    from gyral.model import picture_rows

    known = picture_rows.read(dataset.find(root, "clothes"), 28, 1, captioned=True)
    return list(picture_rows.split(known)[1].ids)


@contextmanager
def serving(root: Path, model: str, *sets: str) -> Iterator[tuple[str, int]]:
    """Address and process of a server with one worker."""
    options = [part for each in ("serve.workers=1", "serve.impressions=false", *sets) for part in ("--set", each)]
    command = [*GYRAL, "serve", model, "--root", str(root), "--port", "0", "--json", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=ENVIRONMENT)
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"], process.pid
    finally:
        process.terminate()
        process.wait(30)


def cpu_s(pid: int) -> float:
    """Of a process and its children."""
    threads = Path(f"/proc/{pid}/task").glob("*/children")  # any thread may have started a worker
    pids = [pid, *(int(each) for path in threads for each in path.read_text().split())]
    ticks = 0
    for each in pids:
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


async def asked(url: str, bodies: list[bytes], floor: float) -> list[tuple[str, str, float]]:
    """Name, model and seconds of each, by some connections."""
    from gyral.serve.client import Connection

    found: list[Any] = [None] * len(bodies)
    headers = [f"x-min-quality: {floor}"] if floor else []

    async def work(first: int) -> None:
        connection = Connection(url)
        for at in range(first, len(bodies), CONNECTIONS):
            began = time.perf_counter()
            response = await connection.post("/v1/label", bodies[at], *headers)
            if response.status != 200:
                raise SystemExit(response.body.decode())
            told = response.json()
            found[at] = (told["labels"][0]["label"], told["model"], time.perf_counter() - began)

    await asyncio.gather(*(work(first) for first in range(CONNECTIONS)))
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        root = Path(temporary)
        truth = folder_of(root)
        gyral(root, "curate", "clothes", "--source", str(root / "clothes"), sets=CURATE)
        gyral(root, "train", "clothes", sets=(*TRAIN, *LITTLE))
        gyral(root, "train", "clothes", sets=(*TRAIN, *LARGE))
        chosen = ("compress.tried=['prune-0.5']", "compress.first=['clothes@1']", f"compress.max_regret={MAX_REGRET}")
        gyral(root, "compress", "clothes", "--tiers", "server", "--max-loss", "0.9", sets=chosen)
        card = json.loads((root / "models" / "clothes@2" / "card.json").read_text())
        rows = {each["to"]: each for each in card["variants"]}
        cascade = rows["clothes@1"]["cascade"]
        floor = (cascade["small"] / cascade["large"] + min(1.0, cascade["accuracy"] / cascade["large"])) / 2
        names = aside(root)
        raws = [(root / "clothes" / name).read_bytes() for name in names]
        bodies = [json.dumps({"picture": base64.b64encode(raw).decode(), "language": "", "k": 1}).encode() for raw in raws]
        options = ('serve.variants=["clothes@1"]', "serve.cascade=true")
        ways = {
            "little": (*stack.enter_context(serving(root, "clothes@1")), 0.0),
            "large": (*stack.enter_context(serving(root, "clothes@2")), 0.0),
            "cascade": (*stack.enter_context(serving(root, "clothes", *options)), floor),
        }
        for url, _, least in ways.values():
            asyncio.run(asked(url, bodies[:200], least))  # what batches cost is learned
        spent = dict.fromkeys(ways, 0.0)
        told: dict[str, list[Any]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for at in range(0, len(bodies), CHUNK):
                for name, (url, pid, least) in ways.items():
                    before = cpu_s(pid)
                    told[name] += asyncio.run(asked(url, bodies[at : at + CHUNK], least))
                    spent[name] += cpu_s(pid) - before
        truths = [truth[name] for name in names] * ROUNDS
        wholes = [label for label, _, _ in told["large"]]
        found = {}
        for name, answers in told.items():
            labels = [label for label, _, _ in answers]
            wrong = [label != own and whole == own for label, own, whole in zip(labels, truths, wholes, strict=True)]
            found[name] = {
                "cpu_ms": round(1e3 * spent[name] / len(answers), 3),
                "accuracy": round(float(np.mean([label == own for label, own in zip(labels, truths, strict=True)])), 4),
                "regret": round(float(np.mean(wrong)), 4),
                "by_little": round(float(np.mean([model == "clothes@1" for _, model, _ in answers])), 4),
                "p50_ms": round(1e3 * float(np.median([took for *_, took in answers])), 2),
            }
        result = {"pictures": len(names), "rounds": ROUNDS, "max_regret": MAX_REGRET, "floor": round(floor, 4), "found": found}
        timed = {to: {"p50_ms": each["p50_ms"], "quality": each["quality"]} for to, each in rows.items()}
        over = found["cascade"]["cpu_ms"] / found["large"]["cpu_ms"]
        write("serve_cascade", {**result, "cpu_of_large": round(over, 3), "card": cascade, "variants": timed})


if __name__ == "__main__":
    main()
