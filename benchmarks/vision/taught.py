"""Emoji: a small pair of towers that a larger one teaches, against the same pair alone, in 24 languages.

Data, questions and the teacher's form are those of `benchmarks/vision/emoji.py`; the teacher has 900 steps. The student has
half its width, depth, common space and width of captions. Alone it has what the taught one has, the same rows in the same
order (450 steps), and, as a second peer, as many steps as cost the same CPU time as the taught one's with its teacher. Weight
.5, as the settings have it; three seeds of the student, one teacher. How the lesson was chosen is told in
`gyral.model.lessons.pictures` (one seed of this benchmark's data).

Prediction, written before the run: search R@10 .20 alone, .22 as long, .255 taught, teacher .28.
Command: OMP_NUM_THREADS=1 .venv/bin/python benchmarks/vision/taught.py [PROJECT] (six CPU-minutes; fetches three packages)
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from emoji import BATCH, CAPTIONS, NAMES, TWITTER, measure, pictures_of
from measure import GYRAL, write

from gyral.config.training import Optim
from gyral.model.augment import Recipe
from gyral.model.embedder import Embedder
from gyral.model.lessons.pictures import ContrastiveLesson
from gyral.model.nets.captions import Shape as CaptionShape
from gyral.model.nets.vit import Shape
from gyral.model.tasks.contrastive import Contrastive
from gyral.train import loop
from gyral.train.distill import Distilled
from gyral.train.loader import Order
from gyral.train.optim import Optimizer
from gyral.train.parallel.strategy import Alone

SEEDS = (0, 1, 2)
STEPS, TEACHER_STEPS, WEIGHT = 450, 900, 0.5
FIGURES = ("retrieval_r_at_1", "search_r_at_1", "search_r_at_10", "naming")


def task_of(trained: Any, held_out: Any, width: int, depth: int, seed: int) -> Any:
    sizes = Shape(32, 8, width, depth, 2, 4 * width), CaptionShape(16_384, width, 0, 2, 4 * width), width
    return Contrastive(*sizes, trained, held_out, Recipe((0.6, 1.0), jitter=0.5, margin=0.1), seed, "siglip", BATCH, CAPTIONS)


def learned(task: Any, steps: int, seed: int) -> tuple[Any, float]:
    """Towers, and the CPU seconds they took."""
    strategy, start = Alone(), time.process_time()
    model = strategy.place(task, task.build(seed))
    optimizer = Optimizer(model, Optim(rate=4e-3, warmup=50), steps)
    loop.train(
        task, model, strategy, optimizer, loop.Settings(steps, BATCH), Order(task.num_rows, BATCH, seed), loop.Position()
    )
    return model, time.process_time() - start


def main(project: Path | None) -> None:
    with tempfile.TemporaryDirectory() as text:
        if project is None:
            project = Path(text)
            subprocess.run([*GYRAL, "curate", "pairs", "--source", f"{TWITTER} {NAMES}", "--root", text], check=True)
        trained, held_out = pictures_of(project)

    def told(model: Any, cpu_s: float) -> dict[str, float]:
        found = measure(Embedder(model), trained, held_out)
        return {**{name: found[name] for name in FIGURES}, "cpu_s": round(cpu_s, 1)}

    teacher, cpu_s = learned(task_of(trained, held_out, 64, 2, 0), TEACHER_STEPS, 0)
    result: dict[str, Any] = {"teacher": told(teacher, cpu_s), "alone": [], "taught": [], "alone_as_long": []}
    print("teacher", result["teacher"], file=sys.stderr, flush=True)
    for seed in SEEDS:
        task = task_of(trained, held_out, 32, 1, seed)
        distilled = Distilled(task, ContrastiveLesson(task, Embedder(teacher)), WEIGHT)
        plain, plain_s = learned(task, STEPS, seed)
        taught, taught_s = learned(distilled, STEPS, seed)
        longer, longer_s = learned(task, round(STEPS * taught_s / plain_s), seed)
        for name, model, cpu_s in (
            ("alone", plain, plain_s),
            ("taught", taught, taught_s),
            ("alone_as_long", longer, longer_s),
        ):
            result[name].append(told(model, cpu_s))
            print(seed, name, result[name][-1], file=sys.stderr, flush=True)
    for name in ("alone", "taught", "alone_as_long"):
        mean = {key: round(statistics.mean(each[key] for each in result[name]), 4) for key in result[name][0]}
        result[name] = {**mean, "seeds": result[name]}
    num = [sum(param.numel() for param in model.parameters()) for model in (teacher, taught)]
    write("vision_taught", {"steps": STEPS, "weight": WEIGHT, "parameters": num, **result})


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
