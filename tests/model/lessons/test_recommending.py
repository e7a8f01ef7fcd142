"""What recommenders are taught: distances are their formulas, parts add up, and a teacher of something else is refused."""

from dataclasses import asdict, replace

import msgspec
import numpy as np
import pytest
import torch

from gyral.errors import InputError
from gyral.model import inputs as model_inputs
from gyral.model.card import Weights
from gyral.model.lessons.recommending import NextObjectLesson, RankingLesson, RetrievalLesson, sequence
from gyral.model.nets import interaction, two_tower
from gyral.model.nets import sequence as sequence_net
from gyral.model.neural_recommender import TWIN, arrays_of, meta_of
from gyral.model.recommender import DAY_US, Interactions, Spec, fit_with
from gyral.model.sequences import Sequences
from gyral.model.task import alone
from gyral.model.tasks.ranking import Ranking
from gyral.model.tasks.recommending import Kept
from gyral.model.tasks.retrieval import Retrieval
from gyral.model.tasks.sequence import NextObject
from gyral.model.teaching import Teacher
from gyral.train.distill import Distilled

SUBJECTS, OBJECTS, HEAT = 10, 13, 2.0


def data():
    rng = np.random.default_rng(0)
    return Interactions(
        subject=rng.integers(0, SUBJECTS, 200).astype(np.int32),
        object=rng.integers(0, OBJECTS, 200).astype(np.int32),
        time=np.sort(rng.integers(0, 90 * DAY_US, 200)),
        country=rng.integers(-1, 2, 200).astype(np.int32),
        num_subjects=SUBJECTS,
        num_objects=OBJECTS,
        num_countries=2,
    )


def next_object(width, net="sasrec", negatives=0, length=6, kept=None):
    shape = sequence_net.Shape(OBJECTS, width, 1, 2, length, 2 * width, 0.2, net)
    return NextObject(shape, Sequences.of(data(), length), 3, negatives, kept=kept)


def towers(width):
    country, words = np.zeros(SUBJECTS, np.int64), np.random.default_rng(0).integers(0, 50, (OBJECTS, 3))
    shape = two_tower.Shape(SUBJECTS, 2, OBJECTS, width, 6, 16, 0.2)
    return Retrieval(shape, Sequences.of(data(), 6), country, words, 3)


def features(width, kind="dcn"):
    return Ranking(interaction.Shape(SUBJECTS, 2, OBJECTS, 5, width, 8, 6, 0.2, 2, kind), data(), 150, 3, drawn=2)


LESSONS = {
    "all": (next_object(8), next_object(16, "hstu"), NextObjectLesson),
    "drawn": (next_object(8, negatives=5), next_object(16), NextObjectLesson),
    "two_tower": (towers(8), towers(16), RetrievalLesson),
    "ranking": (features(4), features(8, "dlrm"), RankingLesson),
}


def apart(student, teacher):
    """KL at a temperature, its square times, by numpy; over places where both are finite."""
    total = 0.0
    for given, wanted in zip(student, teacher, strict=True):
        there = np.isfinite(given)
        assert (there == np.isfinite(wanted)).all()
        p, q = (np.exp(each[there] / HEAT) / np.exp(each[there] / HEAT).sum() for each in (wanted, given))
        total += float((p * np.log(p / q)).sum()) * HEAT**2
    return total


def rows_of(task, net, batch):
    """Logits of each comparison, float64 [N, V], of a net that drops nothing."""
    with torch.no_grad():
        outputs = net.eval()(*task.inputs(batch))
        if isinstance(task, Retrieval):
            return task.compared(*outputs, batch, alone)[0].double().numpy()
        if isinstance(task, Ranking):
            return torch.stack([outputs, torch.zeros_like(outputs)], dim=1).double().numpy()
        found = outputs.double().numpy()
        found[:, 1:] += np.log(OBJECTS / 5) if found.shape[1] == 6 else 0.0
        return found


@pytest.mark.parametrize("name", LESSONS)
def test_the_distance_is_the_divergence_from_the_teacher(name):
    task, other, lesson = LESSONS[name]
    net, teacher = task.build(0).eval(), other.build(1)
    distilled = Distilled(task, lesson(task, teacher, HEAT), 0.25)
    batch = distilled.batch(np.arange(20, 40) % task.num_rows, 4)
    sums, own = distilled.loss(net, batch, alone), task.loss(net, batch, alone)
    wanted = apart(rows_of(task, net, batch), rows_of(task, teacher, batch))
    assert wanted > 0.001 and float(sums.metrics["teacher_loss"]) == pytest.approx(wanted, rel=1e-4)
    assert (
        float(sums.loss.detach()) == pytest.approx(0.75 * float(own.loss.detach()) + 0.25 * wanted, rel=1e-5)
        and sums.weight == own.weight
    )
    sums.loss.backward()
    assert all(param.grad is None for param in teacher.parameters())
    assert all(torch.isfinite(param.grad).all() for param in net.parameters() if param.grad is not None)
    itself = Distilled(task, lesson(task, net, HEAT), 1.0)
    net.eval()
    assert float(itself.loss(net, itself.batch(np.arange(8), 4), alone).loss.detach()) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("name", ["all", "drawn", "ranking"])
def test_parts_add_up_to_the_whole(name):
    task, other, lesson = LESSONS[name]
    distilled, model = Distilled(task, lesson(task, other.build(1)), 0.5), task.build(0).train()
    examples = np.random.default_rng(1).permutation(task.num_rows)[:24]
    whole = distilled.batch(examples, 4)
    parts = [distilled.batch(some, 4) for some in (examples[:5], examples[5:6], examples[6:])]
    for key, tensor in whole.items():
        assert torch.allclose(tensor, torch.cat([part[key] for part in parts]), atol=1e-6), key
    told = [float(distilled.loss(model, part, alone).loss.detach()) for part in (whole, *parts)]
    assert told[0] == pytest.approx(sum(told[1:]), abs=2e-4)


def published(folder, task, names, *, twin=None, **settings):
    """What a published model of a task would be, with a vocabulary of these objects."""
    folder.mkdir(exist_ok=True)
    vocabulary = model_inputs.Inputs([f"s{at}" for at in range(SUBJECTS)], names, ["FI", "NL"])
    (folder / model_inputs.FILE).write_bytes(msgspec.json.encode(vocabulary))
    closed_form = fit_with(data(), Spec("popularity", lam=1.0))
    state = {name: tensor.numpy() for name, tensor in task.build(5).state_dict().items()}
    arrays = {**arrays_of(data(), closed_form, task.shape.length), **state, **(twin or {})}
    meta = {**meta_of(task.name, asdict(task.shape), closed_form, 0.0), **settings}
    return Teacher("walks@1", folder, Weights(arrays, meta)), Kept(
        arrays, meta, {model_inputs.FILE: msgspec.json.encode(vocabulary)}
    )


def test_a_teacher_of_another_catalogue_or_of_what_is_asked_is_refused(tmp_path):
    names = [f"o{at}" for at in range(OBJECTS)]
    teacher, kept = published(tmp_path / "same", next_object(16), names, hold_out="time")
    task = next_object(8, kept=kept)
    assert isinstance(sequence(task, teacher, 1.0), NextObjectLesson)
    other, _ = published(tmp_path / "other", next_object(16), [*names[:-1], "new"])
    with pytest.raises(InputError, match="`walks@1` knows other objects") as caught:
        sequence(task, other, 1.0)
    assert "has 1 that it lacks, and lacks 1 that it has" in caught.value.why
    last, _ = published(tmp_path / "last", next_object(16), names, hold_out="last")
    with pytest.raises(InputError, match="kept other events aside"):
        sequence(task, last, 1.0)
    more = teacher._replace(weights=Weights({**teacher.weights.arrays, "sequence": np.zeros(201, np.int32)}, teacher.settings))
    with pytest.raises(InputError, match="comes from 201 events, the student from 200"):
        sequence(task, more, 1.0)
    short, _ = published(tmp_path / "short", next_object(16, length=4), names)
    with pytest.raises(InputError, match="looks at 4 events, the student at 6"):
        sequence(task, short, 1.0)
    towers_, _ = published(tmp_path / "towers", towers(8), names)
    with pytest.raises(InputError, match="learned `two_tower` and cannot teach `sequence`"):
        sequence(task, towers_, 1.0)
    closed = teacher._replace(weights=Weights(teacher.weights.arrays, {"spec": {}}))
    with pytest.raises(InputError, match="closed form and cannot teach"):
        sequence(task, closed, 1.0)


def test_of_a_net_that_learned_everything_the_twin_teaches(tmp_path):
    names = [f"o{at}" for at in range(OBJECTS)]
    twin = {TWIN + name: tensor.numpy() for name, tensor in next_object(16).build(9).state_dict().items()}
    teacher, kept = published(tmp_path / "same", next_object(16), names, twin=twin)
    task = next_object(8, kept=kept)
    lesson, batch = sequence(task, teacher, 1.0), task.batch(np.arange(8), 0)
    wanted = next_object(16).build(9).eval()(*task.inputs(batch))
    assert torch.equal(lesson.said(batch)["teacher"][batch["targets"] >= 0], wanted)


def test_a_taught_model_is_published_as_one_that_was_not():
    task = next_object(8)
    distilled = Distilled(task, NextObjectLesson(task, next_object(16).build(1)))
    plain = replace(task._kept, arrays={"popular": np.ones(3)})
    task._kept = plain
    assert "popular" in distilled.finished(Weights({}, {})).arrays and distilled.settings() == task.settings()
