"""Fashion-MNIST over HTTP: what a served cascade keeps, gets right and regrets is what the card says."""

import base64
import csv
import gzip
import json
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
import torch

from gyral.compress.tiers import compress_for_tiers
from gyral.config.training import Optim
from gyral.curate.verb import curate
from gyral.errors import InputError, UsageError
from gyral.model import card as cards
from gyral.model.card import Card, Weights
from gyral.packages.fetch import fetch
from gyral.packages.unpacking import unpack
from gyral.run import Run
from gyral.train.optim import Optimizer
from gyral.train.tasks import open_task

from .. import verbs

cv2 = pytest.importorskip("cv2")
NAMES = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
NUM, ROWS = 2_000, 64
SIZES = {
    "train__family": "vision", "train__task": "contrastive", "vision__side": 28, "vision__channels": 1, "vision__heads": 2,
    "vision__embed": 32, "vision__caption_width": 32, "vision__caption_depth": 0, "vision__buckets": 512, "vision__jitter": 0.0,
    "vision__alike": 0.0, "vision__captions": 1,
}  # fmt: skip


@pytest.fixture
def clothes(project, tmp_path):
    """A folder of pictures, each with the name of what it shows."""
    try:
        unpacked, _ = unpack(fetch("apt:dataset-fashion-mnist", lambda text: None), lambda text: None)
    except InputError as error:
        pytest.skip(f"Fashion-MNIST cannot be had here: {error.what}")

    def read(kind, skip):
        return np.frombuffer(
            gzip.decompress(next(unpacked.rglob(f"train-{kind}-ubyte.gz")).read_bytes()), np.uint8, offset=skip
        )

    folder = tmp_path / "clothes"
    folder.mkdir()
    with open(folder / "metadata.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "text"])
        pixels, labels = read("images-idx3", 16).reshape(-1, 28, 28), read("labels-idx1", 8)
        for at in range(NUM):
            (folder / f"{at}.png").write_bytes(cv2.imencode(".png", pixels[at])[1].tobytes())
            writer.writerow([f"{at}.png", NAMES[labels[at]]])
    sieve = {"images__min_side": 0, "images__min_entropy": 0.0, "images__min_blur": 0.0, "dedup__near": False}
    config = project.config(curate__source=str(folder), curate__stages=["pixels", "digest"], curate__name="clothes", **sieve)
    with Run.start(project.root, "curate", config) as run:
        curate(project.root, config, run)
    return folder


def learned(project, name, steps, **sizes):
    """A model that has seen nine tenths of them, and its task."""
    torch.set_num_threads(1)
    task = open_task(project.root, "clothes", project.config(**SIZES, **sizes))
    model = task.build(0)
    optimizer, random = Optimizer(model, Optim(rate=3e-3, warmup=10), steps), np.random.default_rng(0)
    for step in range(steps):
        sums = task.loss(model, task.batch(random.integers(task.num_rows, size=ROWS), step), lambda tensor: tensor)
        (sums.loss / sums.weight).backward()
        optimizer.step(step)
        optimizer.zero_grad()
    found = {"name": task.name, "chosen": True, **task.evaluate(model)}
    weights = task.finished(
        Weights({key: value.detach().numpy() for key, value in model.state_dict().items()}, task.settings())
    )
    card = Card(family="vision", dataset="clothes@1", metric=task.metric, candidates=[found])
    cards.publish(project.root, name, weights, None, card, task.files())
    return task


def label(url, raw, **headers):
    """Name, who gave it, and how."""
    body = {"picture": base64.b64encode(raw).decode(), "language": "", "k": 1}
    request = urllib.request.Request(f"{url}/v1/label", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request) as told:
        answer = json.load(told)
        return answer["labels"][0]["label"], answer["model"].partition("@")[0], told.headers["x-gyral-cascade"]


def asked_first(url, raw, headers):
    """An answer that began at the small one: on a busy machine times may say for a moment that it does not pay."""
    for _ in range(200):
        told = label(url, raw, **headers)
        if told[2] is not None:
            break
        time.sleep(0.002)
    return told


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_is_kept_right_and_regretted_is_what_the_card_says(project, clothes):
    task = learned(project, "clothes", 160, vision__patch=4, vision__width=32, vision__depth=2)
    learned(project, "little", 60, vision__patch=14, vision__width=8, vision__depth=1)
    assert task.metric == "label_accuracy" and task.held_out.num_concepts > 150
    told = {"tiers": ["server"], "tried": ["prune-0.5"], "first": ["little"], "max_loss": 0.9, "max_regret": 0.05}
    config = project.config(**{f"compress__{name}": value for name, value in told.items()})
    with Run.start(project.root, "compress", config) as run:
        compress_for_tiers(project.root, "clothes", config, run)
    whole = cards.read_card(cards.find(project.root, "clothes"))
    rows = {each.to: each for each in whole.variants}
    assert rows["prune-0.5"].cascade.examples == rows["little"].cascade.examples == len(task.held_out.pixels)
    assert rows[""].cascade is None and rows["little"].model == "little@1" and not rows["little"].tiers
    cascade = rows["little"].cascade
    assert (
        0.1 < cascade.kept < 1 and cascade.regret < 0.05 and cascade.path == "/v1/label" and cascade.given == {"language": ""}
    )
    assert cascade.small == pytest.approx(rows["little"].quality, abs=1e-5)
    assert rows["little"].quality < rows[""].quality
    assert cascade.large == pytest.approx(rows[""].quality, abs=1e-5)

    raws = [(clothes / name).read_bytes() for name in task.held_out.ids]
    own = dict(zip(task.held_out.caption_concept.tolist(), task.held_out.texts, strict=True))
    truth = [own[concept] for concept in task.held_out.concept.tolist()]
    command = [sys.executable, "-m", "gyral", "serve", "clothes", "--root", str(project.root), "--port", "0", "--json"]
    command += ["--workers", "1", "--set", 'serve.variants=["little"]', "--set", "serve.cascade=true"]
    server = verbs.popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        url = json.loads(server.stdout.readline())["url"]
        large = [label(url, raw, **{"x-min-quality": "1"}) for raw in raws]
        floor = (rows["little"].quality / rows[""].quality + cascade.quality) / 2  # beyond what the small one is alone
        found = [asked_first(url, raw, {"x-min-quality": f"{floor}"}) for raw in raws]
        metrics = urllib.request.urlopen(f"{url}/metrics").read().decode()
        explained = json.load(urllib.request.urlopen(f"{url}/v1/model"))["cascade"]["default"]
    finally:
        server.terminate()
        server.communicate(timeout=30)
    assert {(model, how) for _, model, how in large} == {("clothes", None)}
    assert {(model, how) for _, model, how in found} == {("little", "kept"), ("clothes", "escalated")}
    count, slip = len(found), 1.5 / len(found)  # products of another batch size round in another way
    kept = [how == "kept" for *_, how in found]
    right = [name == own for (name, *_), own in zip(found, truth, strict=True)]
    regrets = [keeps and name != own and whole[0] == own
               for keeps, (name, *_), whole, own in zip(kept, found, large, truth, strict=True)]  # fmt: skip
    assert sum(kept) / count == pytest.approx(cascade.kept, abs=slip)
    assert sum(right) / count == pytest.approx(cascade.accuracy, abs=slip)
    assert sum(regrets) / count == pytest.approx(cascade.regret, abs=slip)
    assert f'gyral_cascade_total{{how="kept"}} {sum(kept)}.0' in metrics
    assert explained["kept"] == sum(kept) and explained["escalated"] == count - sum(kept) and not explained["late"]
    assert "little first, clothes where it is less sure" in explained["told"]

    odd = cards.read_card(cards.find(project.root, "little"))
    odd.metric = "r_at_1"
    cards.write_card(cards.find(project.root, "little"), odd)
    config = project.config(**{f"compress__{name}": value for name, value in told.items()})
    with pytest.raises(UsageError, match="cannot be asked before"), Run.start(project.root, "compress", config) as run:
        compress_for_tiers(project.root, "clothes", config, run)
