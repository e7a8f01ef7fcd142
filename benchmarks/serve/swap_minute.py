"""A minute in which a new version is published each second, under load, on a real server: errors and mixed answers.

The recommender of Online Retail (56 MB); a version is it with every item–item weight moved by a tenth at random. Four clients
ask one after the other, some of a hundred subjects each time. Every answer (objects and scores) is compared with what the
version that it says gives when its files are opened alone, and no client may be answered by an older version than before. Then
the server is killed and started anew: it has to answer by the last version.

Written before the first run: no error, nothing mixed, all sixty versions answer, inline and with two workers; latency while
one is loaded is the machine's, two cores for load, server and publisher.

    .venv/bin/python benchmarks/serve/swap_minute.py       (five minutes, 7 GB of disk below $TMPDIR for a while)
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import itertools

from measure import GYRAL, ROOT, write

from gyral.files import new_version
from gyral.model import card as cards
from gyral.model.family import recommender_of
from gyral.serve.client import Connection

VERSIONS, EVERY_S, CLIENTS, SUBJECTS = 60, 1.0, 4, 100

Expected = dict[str, dict[str, list[tuple[str, float]]]]


def made(root: Path) -> list[str]:
    """A project with one version; the subjects that are asked for."""
    for words in (("ingest", "--source", str(ROOT / "data" / "online_retail.parquet")), ("curate", "shop"), ("train", "shop")):
        subprocess.run([*GYRAL, *words], cwd=root, check=True, capture_output=True)
    names = json.loads((cards.find(root, "shop") / "inputs.json").read_text())["subjects"]
    return [str(each) for each in np.random.default_rng(0).choice(names, SUBJECTS, replace=False)]


def expect(folder: Path, subjects: list[str]) -> dict[str, list[tuple[str, float]]]:
    """What a version answers each subject."""
    model, names = recommender_of(cards.read_weights(folder)), json.loads((folder / "inputs.json").read_text())
    codes = {name: code for code, name in enumerate(names["subjects"])}
    found = {each: model.recommend(codes[each], 10) for each in subjects}
    return {
        each: [(names["objects"][code], float(score)) for code, score in zip(*pair, strict=True)]
        for each, pair in found.items()
    }


def publish(root: Path, first: Path, subjects: list[str], expected: Expected) -> str:
    """One version more; what it answers is known before it can be seen."""
    weights = cards.read_weights(first)
    arrays = dict(weights.arrays)
    with new_version(root / "models", "shop") as (folder, number):
        random = np.random.default_rng(number)
        arrays["item_item"] = arrays["item_item"] * random.uniform(0.9, 1.1, arrays["item_item"].shape).astype(np.float32)
        cards.write_weights(folder, weights._replace(arrays=arrays))
        shutil.copy(first / "inputs.json", folder / "inputs.json")
        card = json.loads((first / "card.json").read_text())
        (folder / "card.json").write_text(json.dumps({**card, "model": f"shop@{number}"}))
        expected[f"shop@{number}"] = expect(folder, subjects)
    return f"shop@{number}"


def start(root: Path, workers: int) -> tuple[subprocess.Popen[bytes], str]:
    words = (*GYRAL, "serve", "shop", "--root", str(root), "--port", "0", "--json", "--set", f"serve.workers={workers}")
    child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return child, json.loads(child.stdout.readline())["url"]  # type: ignore[union-attr]


async def client(url: str, subjects: list[str], seed: int, stop: asyncio.Event, kept: list[tuple[float, str, Any]]) -> None:
    connection, random = Connection(url), np.random.default_rng(seed)
    while not stop.is_set():
        subject = subjects[int(random.integers(len(subjects)))]
        began = time.monotonic()
        response = await connection.post("/v1/recommend", json.dumps({"subject": subject}).encode())
        kept.append((time.monotonic() - began, subject, response.json() if response.status == 200 else None))
    await connection.close()


async def minute(root: Path, url: str, first: Path, subjects: list[str], expected: Expected) -> dict[str, Any]:
    stop, kept = asyncio.Event(), [[] for _ in range(CLIENTS)]  # type: ignore[var-annotated]
    clients = [asyncio.create_task(client(url, subjects, seed, stop, mine)) for seed, mine in enumerate(kept)]
    began = time.monotonic()
    for number in range(VERSIONS):
        last = await asyncio.to_thread(publish, root, first, subjects, expected)
        await asyncio.sleep(max(0.0, began + (number + 1) * EVERY_S - time.monotonic()))
    took_s = time.monotonic() - began
    for _ in range(200):  # the last one is seen by a look each second
        if kept[0][-1][2] and kept[0][-1][2]["model"] == last:
            break
        await asyncio.sleep(0.1)
    stop.set()
    await asyncio.gather(*clients)
    answers = [each for mine in kept for each in mine]
    errors = sum(told is None for _, _, told in answers)
    mixed = sum(told is not None and not _is(told, expected[told["model"]][subject]) for _, subject, told in answers)
    back = 0
    for mine in kept:
        versions = [int(told["model"].partition("@")[2]) for _, _, told in mine if told]
        back += sum(later < earlier for earlier, later in itertools.pairwise(versions))
    ms = np.array([each[0] for each in answers]) * 1e3
    return {
        "versions_published": VERSIONS, "seconds": round(took_s, 1), "requests": len(answers), "errors": errors, "mixed": mixed,
        "to_an_older_version": back, "versions_that_answered": len({told["model"] for _, _, told in answers if told}),
        "last_is_served": last in {told["model"] for _, _, told in answers if told}, "last": last,
        "latency_ms": {f"p{at}": round(float(np.percentile(ms, at)), 2) for at in (50, 99, 99.9)},
    }  # fmt: skip


def _is(told: dict[str, Any], wanted: list[tuple[str, float]]) -> bool:
    items = told["items"]
    return [each["object"] for each in items] == [name for name, _ in wanted] and np.allclose(
        [each["score"] for each in items], [score for _, score in wanted], rtol=1e-5, atol=1e-7
    )


def measure(workers: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        subjects = made(root)
        first = cards.find(root, "shop")
        expected: Expected = {"shop@1": expect(first, subjects)}
        child, url = start(root, workers)
        found = asyncio.run(minute(root, url, first, subjects, expected))
        child.kill()
        child.wait()
        child, url = start(root, workers)
        again = asyncio.run(_once(url, subjects[0]))
        found["after_a_kill_and_a_start"] = again["model"] == found["last"] and _is(again, expected[found["last"]][subjects[0]])
        child.terminate()
        child.wait()
    return found


async def _once(url: str, subject: str) -> Any:
    connection = Connection(url)
    told = (await connection.post("/v1/recommend", json.dumps({"subject": subject}).encode())).json()
    await connection.close()
    return told


if __name__ == "__main__":
    write("serve_swap_minute", {"inline" if not each else f"{each} workers": measure(each) for each in (0, 2)})
