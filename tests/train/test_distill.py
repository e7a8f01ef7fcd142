"""A teacher helps: the student's loss is the formula's, the teacher is not changed, and what is learned is more."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gyral.config import Config
from gyral.config.training import Optim
from gyral.errors import InputError, UsageError
from gyral.model.card import Weights
from gyral.model.lessons.language import NextTokenLesson, next_token
from gyral.model.nets.llama import Shape
from gyral.model.task import BaseTask, alone
from gyral.model.tasks.next_token import NextToken, Text
from gyral.model.teaching import Teacher
from gyral.train.distill import Distilled, taught_by
from gyral.train.optim import Optimizer

from ..verbs import result

WORDS = ["gyre", "widening", "falcon", "centre", "hold", "things", "apart", "loosed", "tide", "dimmed"]


def text(seed, words):
    """A Markov chain of words, so that there is much to learn and something that cannot be."""
    random = np.random.default_rng(seed)
    found, at = [], 0
    for _ in range(words):
        at = (3 * at + 1 + int(random.random() < 0.4)) % len(WORDS)
        found.append(WORDS[at])
    return " ".join(found).encode()


def task(width, text_bytes=None, seed=0):
    trained = Text([text(seed, 4_000) if text_bytes is None else text(seed, 4_000)[:text_bytes]])
    return NextToken(Shape(257, width, 2, 2, 2, 2 * width), 32, trained, Text([text(99, 300)]))


def learned(task, steps, seed=0, rate=5e-3):
    torch.set_num_threads(1)
    model = task.build(seed)
    optimizer = Optimizer(model, Optim(rate=rate, warmup=5), steps)
    random = np.random.default_rng(seed)
    for step in range(steps):
        sums = task.loss(model, task.batch(random.integers(0, task.num_rows, 8), step), alone)
        (sums.loss / sums.weight).backward()
        optimizer.step(step)
        optimizer.zero_grad()
    return model


def test_the_loss_is_the_formula():
    plain, teacher = task(16), learned(task(32), 10)
    distilled = Distilled(plain, NextTokenLesson(plain, teacher, temperature=4.0), weight=0.3)
    model = plain.build(1)
    batch = distilled.batch(np.array([5, 2]), 0)
    sums = distilled.loss(model, batch, alone)
    with torch.no_grad():
        student, told = (net(*plain.inputs(batch)).double().reshape(-1, 257) for net in (model, teacher))
        wanted, given = F.softmax(told / 4, -1), F.softmax(student / 4, -1)
        apart = float((wanted * (wanted / given).log()).sum()) * 16
        own = float(F.cross_entropy(student, batch["targets"].reshape(-1), reduction="sum"))
    assert abs(sums.metrics["teacher_loss"].item() - apart) < 1e-4 * apart
    assert abs(sums.loss.item() - (0.7 * own + 0.3 * apart)) < 1e-3
    assert float(sums.weight) == 64
    parts = [distilled.loss(model, {name: rows[at : at + 1] for name, rows in batch.items()}, alone) for at in (0, 1)]
    assert abs(sum(part.loss.item() for part in parts) - sums.loss.item()) < 1e-3  # any split adds up
    assert all(param.grad is None for param in teacher.parameters())
    assert distilled.evaluate(model) == plain.evaluate(model) and distilled.settings() == plain.settings()


@pytest.mark.slow
def test_a_student_with_a_teacher_learns_more_from_little_text():
    """Equal steps, equal text, three seeds: 1.5 kB of text overfit, and the teacher has read 30 kB."""
    alone_, taught = [], []
    teacher = learned(task(64), 250)
    for seed in range(3):
        plain = task(24, text_bytes=1_500, seed=seed + 10)
        alone_.append(plain.evaluate(learned(plain, 250, seed))["bits_per_byte"])
        taught.append(plain.evaluate(learned(Distilled(plain, NextTokenLesson(plain, teacher)), 250, seed))["bits_per_byte"])
    assert all(with_teacher < without for with_teacher, without in zip(taught, alone_, strict=True)), (alone_, taught)
    assert np.mean(alone_) - np.mean(taught) > 0.02


class Unknown(BaseTask):
    name = "unknown"


def test_a_task_without_a_lesson_is_refused(tmp_path):
    with pytest.raises(UsageError, match="`unknown` cannot be taught"):
        taught_by(tmp_path, Unknown(), Config())


def test_a_teacher_of_other_tokens_is_refused():
    def lesson(**settings):
        return next_token(plain, Teacher("docs@1", None, Weights({}, {**plain.settings(), **settings})), 1.0)

    plain = task(16)
    with pytest.raises(InputError, match="has tokens 'ffff', the student 'bytes'") as caught:
        lesson(tokens="ffff")
    assert "same dataset and tokenizer" in caught.value.hint
    with pytest.raises(InputError, match="sees 16 tokens only"):
        lesson(layout="gpt2", length=16)


@pytest.mark.slow
def test_a_pipeline_learns_from_a_teacher_what_one_process_learns(written):
    sizes = ["lm.depth=2", "lm.width=32", "lm.heads=2", "lm.length=64", "train.batch=8", "train.steps=12"]

    def trained(*more):
        sets = [word for each in sizes for word in ("--set", each)]
        return result("train", "docs", "--family", "lm", *sets, *more, "--root", written)

    teacher = trained("--set", "lm.width=64")["model"]
    one, piped = (trained("--distill", teacher, "--parallel", mesh) for mesh in ("", "pipeline=2"))
    assert piped["ranks"] == 2 and one["loss"] != trained()["loss"]
    assert max(abs(a - b) for a, b in zip(one["loss"], piped["loss"], strict=True)) <= 2e-6
