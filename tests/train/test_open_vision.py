"""The family `vision` from a folder of pictures: the same losses by one process and by two, and a model that answers."""

import json

import cv2
import numpy as np
import pytest

from gyral import config as configs
from gyral.errors import ConfigError, InputError
from gyral.lake import dataset as datasets
from gyral.model.picture_rows import Rows
from gyral.train.open_vision import contrastive, masked, read, split

from .. import verbs

COLOURS = {"red": (0, 0, 220), "blue": (220, 0, 0), "green": (0, 180, 0), "grey": (120, 120, 120)}
GERMAN = {"red": "Roter", "blue": "Blauer", "green": "Grüner", "grey": "Grauer"}
SHAPES = {"circle": "Kreis", "square": "Kasten", "cross": "Stern"}
PLACES = ((18, 18), (46, 18), (18, 46), (46, 46))


def drawing(colour, shape, place, noise):
    """A shape on a ground of eight by eight pale colours, another in every picture."""
    ground = np.random.default_rng(noise).integers(150, 256, (8, 8, 3), dtype=np.uint8)
    picture = cv2.resize(ground, (64, 64), interpolation=cv2.INTER_NEAREST)
    x, y = place
    if shape == "circle":
        cv2.circle(picture, (x, y), 12, COLOURS[colour], -1)
    elif shape == "square":
        cv2.rectangle(picture, (x - 11, y - 11), (x + 11, y + 11), COLOURS[colour], -1)
    else:
        cv2.line(picture, (x - 11, y - 11), (x + 11, y + 11), COLOURS[colour], 5)
        cv2.line(picture, (x - 11, y + 11), (x + 11, y - 11), COLOURS[colour], 4)
    return cv2.imencode(".png", picture)[1].tobytes()


def run(*words, timeout=240):
    return verbs.gyral(*words, timeout=timeout)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A dataset of 48 drawings, each in two renderings, with captions in two languages."""
    root = tmp_path_factory.mktemp("project")
    lines = []
    for style in ("one", "two"):
        (root / "drawings" / style).mkdir(parents=True)
    for colour in COLOURS:
        for shape in SHAPES:
            for number, place in enumerate(PLACES):
                name = f"{colour}-{shape}-{number}.png"
                for style, noise in (("one", 1), ("two", 2)):
                    noise += 10 * len(lines)
                    (root / "drawings" / style / name).write_bytes(drawing(colour, shape, place, noise))
                    for text in (
                        f"A {colour} {shape} at place {number}",
                        f"{GERMAN[colour]} {SHAPES[shape]} an Stelle {number}",
                    ):
                        lines.append({"file_name": f"{style}/{name}", "text": text})
    (root / "drawings" / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    stages = "curate.stages=['pixels', 'digest']"
    done = run("curate", "pairs", "--source", str(root / "drawings"), "--set", stages, "--root", str(root), "--json")
    assert done.returncode == 0, done.stderr
    return root


SIZES = [
    "train.family=vision", "train.batch=8", "train.steps=12", "train.optim.warmup=2", "vision.concept=name", "vision.side=16",
    "vision.patch=4", "vision.width=32", "vision.depth=2", "vision.heads=2", "vision.caption_width=32", "vision.embed=16",
    "vision.buckets=256", "vision.prototypes=32", "vision.decoder_width=16", "vision.parts=1",
]  # fmt: skip
RUNS = {
    "siglip": ["train.task=contrastive"],
    "clip": ["train.task=contrastive", "vision.loss=clip"],
    "masked": ["train.task=masked", "train.microbatch=3"],
    "self_distilled": ["train.task=self_distilled", "vision.momentum=0.5"],
}

RANK = """
import json, os, sys
from datetime import timedelta
from pathlib import Path
import torch
import torch.distributed as dist
from gyral import config as configs
from gyral.train import loop
from gyral.train.loader import Order
from gyral.train.optim import Optimizer
from gyral.train.parallel import mesh
from gyral.train.tasks import open_task
torch.set_num_threads(1)
root, runs, world, rank = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
if world > 1:
    dist.init_process_group(
        "gloo", init_method=f"file://{sys.argv[5]}", timeout=timedelta(seconds=60), rank=rank, world_size=world
    )
found = {}
for name, sets in runs.items():
    config = configs.load(root, sets)
    task = open_task(root, "pairs", config)
    strategy = mesh.strategy_of({"data": world} if world > 1 else {})
    model = strategy.place(task, task.build(0))
    optimizer = Optimizer(model, config.train.optim, 12)
    losses = []
    settings = loop.Settings(12, config.train.batch, config.train.microbatch, 1.0)
    order = Order(task.num_rows, config.train.batch, 0)
    loop.train(task, model, strategy, optimizer, settings, order, loop.Position(), [lambda step: losses.append(step.loss)])
    found[name] = {"losses": losses, "sum": sum(float(each.double().abs().sum()) for each in model.state_dict().values())}
print(json.dumps(found))
if world > 1:
    dist.barrier()
    dist.destroy_process_group()
"""


def test_two_ranks_learn_what_one_learns_in_every_task(project, tmp_path):
    script, runs = tmp_path / "rank.py", json.dumps({name: [*SIZES, *sets] for name, sets in RUNS.items()})
    script.write_text(RANK)
    logs = [tmp_path / f"{number}.log" for number in range(3)]
    started = [
        verbs.start([script, project, runs, world, rank, tmp_path / "meet"], log, {})
        for log, (world, rank) in zip(logs, ((1, 0), (2, 0), (2, 1)), strict=True)
    ]
    try:
        codes = [process.wait(200) for process in started]
    finally:
        for process in started:
            process.kill()
    told = [log.read_text() for log in logs]
    assert codes == [0, 0, 0], told
    alone, *ranks = (json.loads(text.splitlines()[-1]) for text in told)
    for name, one in alone.items():
        assert len(one["losses"]) == 12 and one["losses"][-1] < one["losses"][0], name
        for rank in ranks:
            difference = max(abs(a - b) for a, b in zip(one["losses"], rank[name]["losses"], strict=True))
            assert difference <= 2e-6, (name, difference)
            assert rank[name]["sum"] == pytest.approx(one["sum"], rel=1e-5), name  # the teacher and the center, too
        assert ranks[0][name]["sum"] == ranks[1][name]["sum"], name


def config(project, *sets):
    return configs.load(project, [*SIZES, *sets])


def test_a_dataset_becomes_concepts_of_which_some_are_kept_aside(project):
    data = datasets.find(project, "pairs")
    pictures, names = read(data, config(project), captioned=True)
    assert len(names) == 48 and len(pictures.pixels) == 96 and pictures.pixels.shape[1:] == (16, 16, 3)
    assert len(pictures.texts) == 96 and set(pictures.languages) == {""}  # a folder does not say in what language
    for concept, name in enumerate(names):
        colour, shape, number = name.split("-")
        assert {pictures.ids[at].rpartition("/")[2] for at in pictures.of(concept).tolist()} == {f"{name}.png"}
        told = {pictures.texts[at] for at in pictures.captions_of(concept).tolist()}
        assert f"A {colour} {shape} at place {number}" in told and len(told) == 2
    trained, held_out = split((pictures, names))
    assert trained.num_concepts + held_out.num_concepts == 48 and 1 <= held_out.num_concepts <= 12
    assert not {each.rpartition("/")[2] for each in trained.ids} & {each.rpartition("/")[2] for each in held_out.ids}
    apart, keys = read(data, config(project, "vision.concept=picture"))
    assert len(keys) == 96 == len(apart.pixels)


def test_pictures_of_one_archive_have_names_of_their_own():
    rows = Rows(None)
    rows._places, rows._digests = [("a.tar", 0), ("a.tar", 512), ("b/x.png", -1)], ["d", "e", "f"]
    assert rows.named(True) == [("a.tar@0", "a.tar@0"), ("a.tar@512", "a.tar@512"), ("b/x.png", "x")]
    assert [concept for _, concept in rows.named(False)] == ["d", "e", "f"]


def test_what_does_not_divide_and_what_has_no_pictures_is_told(project):
    data = datasets.find(project, "pairs")
    with pytest.raises(ConfigError, match=r"vision.side = 15"):
        contrastive(data, config(project, "vision.side=15"))
    with pytest.raises(ConfigError, match=r"vision.decoder_width = 18"):
        masked(data, config(project, "vision.decoder_width=18"))
    data.manifest.kind = "text"
    with pytest.raises(InputError, match="needs one of pictures"):
        masked(data, config(project))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("task", ["contrastive", "masked", "self_distilled"])
def test_two_ranks_learn_from_a_teacher_what_one_learns(project, task):
    def trained(*more, parallel=""):
        sets = [word for each in [*SIZES, f"train.task={task}", *more] for word in ("--set", each)]
        done = run("train", "pairs", *sets, "--parallel", parallel, "--root", str(project), "--json", timeout=400)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    teacher = trained("vision.width=48", "vision.heads=4", "vision.embed=24", "vision.depth=3", "train.seed=1")
    taught = f"train.distill={teacher['model']}"
    one, two, alone = trained(taught), trained(taught, parallel="data=2"), trained()
    assert two["ranks"] == 2 and len(one["loss"]) == 12 and one["loss"] != alone["loss"]
    assert max(abs(a - b) for a, b in zip(one["loss"], two["loss"], strict=True)) <= 2e-6


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("task", ["contrastive", "masked", "self_distilled"])
def test_training_ends_in_a_model_that_answers(project, task):
    from gyral.model.card import find
    from gyral.model.vision import VISION

    sets = [word for each in [*SIZES, f"train.task={task}", "train.steps=60"] for word in ("--set", each)]
    more = ["--set", "train.batch=24", "--set", "train.optim.rate=3e-3", "--parallel", "data=2"]
    done = run("train", "pairs", *sets, *more, "--root", str(project), "--json", timeout=1000)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["steps"] == 60 and result["ranks"] == 2 and len(result["loss"]) == 60
    assert set(result["metrics"]) >= {"r_at_1", "chance"}
    model = VISION.load(find(project, result["model"]))
    model.warm()
    raw = drawing("red", "circle", PLACES[0], 99)
    assert len(model.known.ids) == 96 == len(model.gallery)
    found = model.similar(raw, 3)
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
    if task == "contrastive":
        assert {"r_at_10", "zero_shot", "zero_shot_languages"} <= set(result["metrics"])
        assert result["metrics"]["zero_shot_languages"] == 1
        red = [each.id for each in model.search("a red circle at place 0", 4)]
        assert sum("red" in each or "circle" in each for each in red) >= 3
        assert model.search("Roter Kreis an Stelle 0", 1)[0].name.startswith("A ")
        assert "red" in model.tell(raw, 1, "")[0].text or "circle" in model.tell(raw, 1, "")[0].text
