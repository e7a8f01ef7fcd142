"""MovieLens-100K: a small net that a larger one teaches, against the same small net alone.

Leave one out, full ranking, as `benchmarks/recommender/sequence.py`. The teacher is that benchmark's HSTU (width 64, 2
layers); the student has width 16 and 1 layer, and a thirty-second of the multiplied parameters in its layers. Alone it has
what the taught one has: the same rows in the same order (20 passes), and, as a second peer, as many steps as cost the same CPU
time as the taught one's with its teacher. Beside it two towers and DCN-v2 (width 32 → 8, the last events by time kept aside).
The teacher's share is .5 and the temperature 1, as the settings have it: nothing was chosen. Two seeds of the student, one
teacher.

Prediction before measuring: teacher .108 NDCG@10, student alone .090, taught .097, alone for the same CPU time .092; two
towers and DCN-v2 gain nothing that seeds do not.

The ratings are fetched by pip from the wheel of recbole 1.2.1 and never bundled (GroupLens: research use, no redistribution).
Command: OMP_NUM_THREADS=1 .venv/bin/python benchmarks/recommender/taught.py [KIND …] (about ten CPU-minutes)
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
import torch
from measure import write
from ml100k import ratings

from gyral.config.training import Optim
from gyral.model.counted import NUM
from gyral.model.holdout import Split, hold_out, hold_out_last, measure
from gyral.model.lessons.recommending import NextObjectLesson, RankingLesson, RetrievalLesson
from gyral.model.nets import interaction, two_tower
from gyral.model.nets.sequence import Shape
from gyral.model.neural_recommender import NeuralRecommender, arrays_of, meta_of
from gyral.model.recommender import Interactions, Spec, fit_with
from gyral.model.sequences import Sequences
from gyral.model.tasks.ranking import Ranking
from gyral.model.tasks.retrieval import Retrieval
from gyral.model.tasks.sequence import NextObject
from gyral.train import loop
from gyral.train.distill import Distilled
from gyral.train.loader import Order
from gyral.train.optim import Optimizer
from gyral.train.parallel.strategy import Alone

SEEDS = (0, 1)
PASSES, BATCH = 20, 32
WEIGHT, TEMPERATURE = 0.5, 1.0
LESSONS = {"sequence": NextObjectLesson, "two_tower": RetrievalLesson, "ranking": RankingLesson}
STEPS = {"two_tower": (600, 256), "ranking": (600, 512)}


def task_of(kind: str, data: Interactions, split: Split, is_teacher: bool, seed: int) -> Any:
    before = split.before
    if kind == "sequence":
        width, depth = (64, 2) if is_teacher else (16, 1)
        shape = Shape(before.num_objects, width, depth, 2, 100, 4 * width, 0.3 if is_teacher else 0.1, "hstu")
        return NextObject(shape, Sequences.of(before, shape.length), seed)
    width, sizes = 32 if is_teacher else 8, (before.num_subjects, before.num_countries, before.num_objects)
    if kind == "two_tower":
        towers = two_tower.Shape(*sizes, width, 50, 4 * width, 0.1)
        nowhere, words = np.full(sizes[0], -1, np.int64), np.zeros((sizes[2], 1), np.int64)
        return Retrieval(towers, Sequences.of(before, towers.length), nowhere, words, seed)
    features = interaction.Shape(*sizes, NUM, width, 4 * width, 50, 0.1, 2, "dcn")
    return Ranking(features, data, len(before), seed)


def learned(task: Any, steps: int, batch: int, seed: int) -> tuple[Any, float]:
    """A net, and the CPU seconds it took."""
    strategy, start = Alone(), time.process_time()
    model = strategy.place(task, task.build(seed))
    optimizer = Optimizer(model, Optim(rate=1e-3 if task.name == "sequence" else 3e-3, weight_decay=0.1), steps)
    settings = loop.Settings(steps, batch)
    loop.train(task, model, strategy, optimizer, settings, Order(task.num_rows, batch, seed), loop.Position())
    return model.eval(), time.process_time() - start


def quality(task: Any, model: Any, split: Split) -> dict[str, float]:
    closed_form = fit_with(split.before, Spec("popularity", repeats=False))
    arrays = arrays_of(split.before, closed_form, task.shape.length)
    asked = NeuralRecommender(arrays, meta_of(task.name, asdict(task.shape), closed_form, 0.0), model)
    told = {"ndcg_at_10": measure(asked, split)["ndcg_at_10"]}
    if task.name == "ranking":
        with torch.no_grad():
            told |= {name: task.evaluate(model)[name] for name in ("auc", "log_loss")}
    return {name: round(value, 4) for name, value in told.items()}


def compared(kind: str, data: Interactions, split: Split) -> dict[str, Any]:
    """A teacher, and students with and without it."""
    big = task_of(kind, data, split, True, 0)
    steps, batch = STEPS.get(kind, (PASSES * big.num_rows // BATCH, BATCH))
    teacher, cpu_s = learned(big, steps, batch, 0)
    told: dict[str, Any] = {"teacher": {**quality(big, teacher, split), "cpu_s": round(cpu_s, 1)}, "steps": steps}
    told |= {"alone": [], "taught": [], "alone_as_long": []}
    print(kind, "teacher", told["teacher"], file=sys.stderr, flush=True)
    for seed in SEEDS:
        task = task_of(kind, data, split, False, seed)
        lesson = LESSONS[kind](task, teacher, TEMPERATURE)
        model, plain_s = learned(task, steps, batch, seed)
        taught, taught_s = learned(Distilled(task, lesson, WEIGHT), steps, batch, seed)
        longer, longer_s = learned(task, round(steps * taught_s / plain_s), batch, seed)
        for name, net, cpu_s in (("alone", model, plain_s), ("taught", taught, taught_s), ("alone_as_long", longer, longer_s)):
            told[name].append({**quality(task, net, split), "cpu_s": round(cpu_s, 1)})
        print(kind, seed, {name: told[name][-1] for name in ("alone", "taught", "alone_as_long")}, file=sys.stderr, flush=True)
    for name in ("alone", "taught", "alone_as_long"):
        mean = {key: round(statistics.mean(each[key] for each in told[name]), 4) for key in told[name][0]}
        told[name] = {**mean, "seeds": told[name]}
    return told


def main(kinds: list[str]) -> None:
    data = ratings()
    last, by_time = hold_out_last(data), hold_out(data, repeats=False, seed=0)
    told = {kind: compared(kind, data, last if kind == "sequence" else by_time) for kind in kinds}
    write("recommender_taught", {"weight": WEIGHT, "temperature": TEMPERATURE, **told})


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:] or list(LESSONS))
