"""What the tasks promise: the parts of a batch add up to the whole, whoever computes them, dropout and draws included."""

import numpy as np
import pytest
import torch

from gyral.model.nets import interaction, sequence, two_tower
from gyral.model.recommender import DAY_US, Interactions
from gyral.model.sequences import Sequences
from gyral.model.task import alone
from gyral.model.tasks.ranking import Ranking
from gyral.model.tasks.retrieval import Retrieval
from gyral.model.tasks.sequence import NextObject

SUBJECTS, OBJECTS = 10, 13


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


def towers():
    country, words = np.zeros(SUBJECTS, np.int64), np.random.default_rng(0).integers(0, 50, (OBJECTS, 3))
    shape = two_tower.Shape(SUBJECTS, 2, OBJECTS, 8, 6, 16, 0.2)
    return Retrieval(shape, Sequences.of(data(), 6), country, words, 3)


TASKS = {
    "hstu": lambda: NextObject(sequence.Shape(OBJECTS, 8, 2, 2, 6, 16, 0.2, "hstu"), Sequences.of(data(), 6), 3),
    "sasrec": lambda: NextObject(sequence.Shape(OBJECTS, 8, 2, 2, 6, 16, 0.2), Sequences.of(data(), 6), 3, negatives=5),
    "dcn": lambda: Ranking(interaction.Shape(SUBJECTS, 2, OBJECTS, 5, 4, 8, 6, 0.2), data(), 150, 3, drawn=2),
    "dlrm": lambda: Ranking(interaction.Shape(SUBJECTS, 2, OBJECTS, 5, 4, 8, 6, 0.2, 2, "dlrm"), data(), 150, 3, drawn=2),
}


def gradients(task, model, batch):
    model.zero_grad()
    sums = task.loss(model, batch, alone)
    sums.loss.backward()
    return sums, {name: param.grad.clone() for name, param in model.named_parameters() if param.grad is not None}


@pytest.mark.parametrize("name", TASKS)
def test_parts_add_up_to_the_whole(name):
    task = TASKS[name]()
    model = task.build(0).train()
    examples = np.random.default_rng(1).permutation(task.num_rows)[:24]
    whole, gradient = gradients(task, model, task.batch(examples, 4))
    loss, weight, summed = 0.0, 0.0, {}
    for some in (examples[:5], examples[5:6], examples[6:]):
        sums, part = gradients(task, model, task.batch(some, 4))
        loss, weight = loss + float(sums.loss.detach()), weight + float(sums.weight)
        summed = {key: summed.get(key, 0) + value for key, value in part.items()}
    assert loss == pytest.approx(float(whole.loss.detach()), abs=2e-4) and weight == float(whole.weight)
    assert all(torch.allclose(summed[key], value, atol=2e-4) for key, value in gradient.items())
    assert not torch.equal(task.batch(examples, 4)["keys"], task.batch(examples, 5)["keys"])


def test_tables_are_declared_as_tables():
    tables = {"hstu": {"objects", "bias"}, "dcn": {"subjects", "objects"}}
    for name, wanted in tables.items():
        task = TASKS[name]()
        assert {found for found, _ in task.roles.named(task.build(0), "table")} == wanted
    task = towers()
    assert {found for found, _ in task.roles.named(task.build(0), "table")} == {"subjects", "objects", "words"}


def test_the_softmax_over_a_batch_is_its_formula():
    task = towers()
    model = task.build(0).eval()
    examples = np.arange(40, 60)
    batch = task.batch(examples, 0)
    subjects, objects = (each.detach().double() for each in model(*task.inputs(batch)))
    targets = batch["targets"].tolist()
    counts = np.bincount(data().object, minlength=OBJECTS)
    wanted = 0.0
    for row in range(20):
        logits = {}
        for other in range(20):
            if other == row or targets[other] != targets[row]:
                logits[other] = float(subjects[row] @ objects[other]) / 0.1 - np.log(counts[targets[other]] / 200)
        wanted += np.logaddexp.reduce(list(logits.values())) - logits[row]
    sums = task.sums(model(*task.inputs(batch)), batch, alone)
    assert float(sums.loss.detach()) == pytest.approx(wanted, rel=1e-5) and float(sums.weight) == 20


def test_labels_that_are_given_are_used_and_nothing_is_drawn():
    labels = np.arange(200) % 3 == 0
    task = Ranking(interaction.Shape(SUBJECTS, 2, OBJECTS, 5, 4, 8, 6), data(), 150, 3, labels=labels)
    assert task.num_rows == 150
    batch = task.batch(np.arange(30), 0)
    assert batch["labels"].tolist() == labels[:30].astype(float).tolist()
    assert batch["objects"].tolist() == data().object[:30].tolist()
    with torch.no_grad():
        told = task.evaluate(task.build(0).eval())
    assert 0 < told["auc"] < 1 and told["log_loss"] > 0
