"""Emoji: from one rendering to the other, and naming pictures of concepts never seen, in 24 languages.

Data: npm's `emoji-datasource-twitter` with the names of CLDR, as `gyral curate pairs` makes a dataset of them; pictures of
`emoji-datasource-google` of the same code points are second pictures of their concepts. A tenth of the concepts is kept aside
with both renderings and all names. `vision/contrastive` (32 × 32 pixels, patches of 8, 2 blocks of width 64, captions as bags
of n-grams) is trained on the rest by gyral's own loop: both renderings of a concept meet its captions and each other
(`vision.alike`), and their vectors keep where things are (`vision.pooling=joined`). What was tried was compared on a tenth of
the *trained* concepts, so nothing was chosen by those kept aside.

- retrieval: a Twitter picture kept aside, the nearest of the Google pictures kept aside; R@1. Beside it: the same by pixels
  (32 × 32 RGB, mean taken off, cosine), by the network before training, and by chance.
- naming: which of the names kept aside, in one language, is nearest to a Twitter picture. Beside it chance and a baseline by
  pixels: the name, in that language, of the trained picture with the nearest pixels; then the name kept aside that
  shares most n-grams with it (cosine of counts).
- search: the nearest Twitter picture kept aside to a name kept aside; R@1 over all 24 languages.

Caveats: emoji kept aside have cousins among the trained ones (`woman running`, `man running`), for the baselines as for the
model.

Prediction, written before the run (900 steps): retrieval .68 with .50 by pixels; naming .12 with .19 by pixels, chance .008.
Command: .venv/bin/python benchmarks/vision/emoji.py [STEPS [LOSS [PROJECT]]] (about three CPU-minutes; fetches three packages)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import GYRAL, PYTHON, write

TWITTER, GOOGLE, NAMES = (
    "npm:emoji-datasource-twitter@16.0.0",
    "npm:emoji-datasource-google@16.0.0",
    "npm:cldr-annotations-full@48.2.0",
)
LANGUAGES = tuple("en de fr es it pt nl pl ru uk el tr ar he fa hi bn ta th vi id ko ja sw".split())  # noqa: SIM905
STEPS, BATCH, RANKS, CAPTIONS, WIDTH = 900, 128, 1, 12, 128


def pictures_of(project: Path) -> tuple[Any, Any]:
    """Trained and kept aside: Twitter's pictures and names from the dataset, Google's beside them."""
    from gyral import config as configs
    from gyral.lake import dataset
    from gyral.model.pictures import Pictures, decode_all
    from gyral.packages.fetch import fetch
    from gyral.packages.unpacking import unpack
    from gyral.train.open_vision import read, split

    config = configs.load(project, ["vision.concept=name"])
    known, names = read(dataset.find(project, "pairs"), config, captioned=True)
    folder, _ = unpack(fetch(GOOGLE, lambda text: None), lambda text: None)
    found = {path.stem: path for path in sorted(folder.rglob("img/google/64/*.png"))}
    concepts = [number for number, name in enumerate(names) if name in found]
    raws = (found[names[number]].read_bytes() for number in concepts)
    pixels, is_sound = decode_all(raws, len(concepts), config.vision.side)
    concepts = [number for number, sound in zip(concepts, is_sound, strict=True) if sound]
    both = Pictures(
        np.concatenate([known.pixels, pixels[is_sound]]),
        [*known.ids, *(f"google/{names[number]}" for number in concepts)],
        np.concatenate([known.concept, np.array(concepts, np.int64)]),
        known.texts,
        known.languages,
        known.caption_concept,
    )
    return split((both, names))


def task_of(trained: Any, held_out: Any, loss: str) -> Any:
    from gyral.model.augment import Recipe
    from gyral.model.nets.captions import Shape as CaptionShape
    from gyral.model.nets.vit import Shape
    from gyral.model.tasks.contrastive import Contrastive

    recipe = Recipe((0.6, 1.0), jitter=0.5, margin=0.1)
    sizes = Shape(32, 8, 64, 2, 2, 256), CaptionShape(16_384, WIDTH, 0, 2, 256), WIDTH
    how = (loss, BATCH, CAPTIONS, 1.0, True)
    return Contrastive(*sizes, trained, held_out, recipe, 0, *how)  # type: ignore[arg-type]


def measure(embedder: Any, trained: Any, held_out: Any) -> dict[str, Any]:
    """Retrieval, naming and search by one model."""
    from gyral.model.retrieval import naming, recall

    is_google = np.array([name.startswith("google/") for name in held_out.ids])
    twitter = embedder.pictures(held_out.pixels[~is_google]), held_out.concept[~is_google]
    google = embedder.pictures(held_out.pixels[is_google]), held_out.concept[is_google]
    both = np.isin(twitter[1], google[1])
    mine = [at for at, language in enumerate(held_out.languages) if language in LANGUAGES]
    texts, of_text = embedder.captions([held_out.texts[at] for at in mine]), held_out.caption_concept[mine]
    named = naming(*twitter, texts, of_text, [held_out.languages[at] for at in mine])
    return {
        "retrieval_r_at_1": round(recall(twitter[0][both], twitter[1][both], *google), 4),
        "search_r_at_1": round(recall(texts, of_text, *twitter), 4),
        "search_r_at_10": round(recall(texts, of_text, *twitter, k=10), 4),
        "naming": round(float(np.mean([accuracy for accuracy, _ in named.values()])), 4),
        "naming_by_language": {language: round(accuracy, 4) for language, (accuracy, _) in named.items()},
        "chance": round(float(np.mean([chance for _, chance in named.values()])), 4),
        "concepts": int(held_out.num_concepts),
        "pairs": int(both.sum()),
    }


def by_pixels(trained: Any, held_out: Any) -> dict[str, Any]:
    """The baselines."""
    from gyral.model.nets.captions import hashed
    from gyral.model.retrieval import first_of, naming, recall

    def flat(pixels: np.ndarray) -> np.ndarray:
        x = pixels.reshape(len(pixels), -1).astype(np.float32)
        x -= x.mean(axis=1, keepdims=True)
        return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6)

    def counts(texts: list[str]) -> np.ndarray:
        found = np.zeros((len(texts), 4096), np.float32)
        for row, grams in enumerate(hashed(texts, 4096)):
            np.add.at(found[row], grams[grams > 0], 1)
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-6)

    is_google = np.array([name.startswith("google/") for name in held_out.ids])
    of_twitter = np.array([not name.startswith("google/") for name in trained.ids])
    twitter, concept = flat(held_out.pixels[~is_google]), held_out.concept[~is_google]
    google = flat(held_out.pixels[is_google]), held_out.concept[is_google]
    both = np.isin(concept, google[1])
    near = trained.concept[of_twitter][first_of(twitter, flat(trained.pixels[of_twitter]))]
    found = {}
    for language in LANGUAGES:
        mine = [at for at, each in enumerate(held_out.languages) if each == language]
        first = {}
        for at, each in enumerate(trained.languages):
            if each == language:
                first.setdefault(int(trained.caption_concept[at]), trained.texts[at])
        guesses = counts([first.get(int(each), "") for each in near])
        told = counts([held_out.texts[at] for at in mine]), held_out.caption_concept[mine]
        found |= {name: value for name, (value, _) in naming(guesses, concept, *told, [language] * len(mine)).items()}
    return {
        "retrieval_r_at_1": round(recall(twitter[both], concept[both], *google), 4),
        "naming": round(float(np.mean(list(found.values()))), 4),
        "naming_by_language": {language: round(value, 4) for language, value in found.items()},
    }


def worker(rank: int, project: Path, folder: Path, steps: int, loss: str) -> None:
    """One rank; the first one measures."""
    import torch
    import torch.distributed as dist

    from gyral.config.training import Optim
    from gyral.model.embedder import Embedder
    from gyral.train import loop
    from gyral.train.loader import Order
    from gyral.train.optim import Optimizer
    from gyral.train.parallel.data import Data

    torch.set_num_threads(1)
    trained, held_out = pictures_of(project)
    task = task_of(trained, held_out, loss)
    model = task.build(0)
    untrained = measure(Embedder(model), trained, held_out) if rank == 0 else {}
    meet = f"file://{folder / 'meet'}"
    dist.init_process_group("gloo", init_method=meet, timeout=timedelta(seconds=1200), rank=rank, world_size=RANKS)
    strategy, losses = Data(), []
    strategy.place(task, model)
    optimizer = Optimizer(model, Optim(name="muon", rate=4e-3, warmup=50), steps, task.roles)

    def watch(step: loop.Step) -> None:
        losses.append(step.loss)
        if rank == 0 and step.step % 25 == 0:
            print(step.step, round(step.loss, 4), round(time.process_time(), 1), file=sys.stderr, flush=True)

    order = Order(task.num_rows, BATCH, 0)
    loop.train(task, model, strategy, optimizer, loop.Settings(steps, BATCH), order, loop.Position(), [watch])
    dist.barrier()
    dist.destroy_process_group()
    cpu_s = time.process_time()
    if rank == 0:
        told = {"trained": measure(Embedder(model), trained, held_out), "untrained": untrained}
        told |= {"pixels": by_pixels(trained, held_out), "loss_first": losses[0], "loss_last": losses[-1], "cpu_s": cpu_s}
        print(json.dumps({**told, "concepts_trained": trained.num_concepts, "captions_trained": len(trained.texts)}))
    else:
        print(json.dumps({"cpu_s": cpu_s}))


def main(steps: int, loss: str, project: Path | None) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0"}
    with tempfile.TemporaryDirectory() as text:
        if project is None:
            project = Path(text)
            subprocess.run([*GYRAL, "curate", "pairs", "--source", f"{TWITTER} {NAMES}", "--root", text], check=True)
        words = [str(project), text, str(steps), loss]
        started = [
            subprocess.Popen([PYTHON, __file__, "rank", str(rank), *words], stdout=subprocess.PIPE, text=True, env=environment)
            for rank in range(RANKS)
        ]
        told = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit("a rank failed")
    first, *others = (json.loads(out.splitlines()[-1]) for out in told)
    first["cpu_s"] = round(first["cpu_s"] + sum(each["cpu_s"] for each in others), 1)
    write(
        "vision_emoji", {"steps": steps, "batch": BATCH, "loss": loss, "captions": CAPTIONS, "ranks": RANKS, "seed": 0, **first}
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["rank"]:
        worker(int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5]), sys.argv[6])
    else:
        given = sys.argv[1:]
        main(
            int(given[0]) if given else STEPS,
            given[1] if len(given) > 1 else "clip",
            Path(given[2]) if len(given) > 2 else None,
        )
