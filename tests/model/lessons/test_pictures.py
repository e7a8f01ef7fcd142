"""What towers are taught: vectors of another width keep their products, distances are formulas, other teachers are refused."""

import numpy as np
import pytest
import torch

from gyral.errors import InputError
from gyral.model.augment import Recipe
from gyral.model.card import Weights
from gyral.model.embedder import GALLERY
from gyral.model.lessons import pictures as lessons
from gyral.model.lessons.pictures import CAPTIONS, STRENGTH, Narrow
from gyral.model.nets.captions import Shape as CaptionShape
from gyral.model.nets.masked import DecoderShape
from gyral.model.nets.vit import Shape
from gyral.model.pictures import Pictures
from gyral.model.task import alone
from gyral.model.tasks.contrastive import Contrastive
from gyral.model.tasks.distill_self import SelfDistilled, Teaching
from gyral.model.tasks.masked import Masked
from gyral.model.teaching import SAID, Teacher
from gyral.train.distill import Distilled

RANDOM = np.random.default_rng(0)
WORDS = ("eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun", "zehn", "elf", "zwölf")
PICTURES = Pictures(
    RANDOM.integers(0, 256, (24, 8, 8, 3), dtype=np.uint8),
    [f"{number}.png" for number in range(24)],
    np.arange(24) % 12,
    [f"{word} {language}" for word in WORDS for language in ("de", "en")],
    ["de", "en"] * 12,
    np.repeat(np.arange(12), 2),
)
EXAMPLES = np.array([3, 1, 4, 5, 9, 0])


def shape(width, depth=1, side=8):
    return Shape(side, 4, width, depth, 2, 2 * width)


def contrastive(width, embed, buckets=64, side=8, alike=0.0):
    caption, tower = CaptionShape(buckets, 16, 1, 2, 32), shape(width, side=side)
    return Contrastive(tower, caption, embed, PICTURES, PICTURES, Recipe(jitter=0.5), 0, "siglip", several=2, alike=alike)


def masked(width):
    return Masked(shape(width, 2), DecoderShape(16, 1, 2), 0.5, PICTURES, PICTURES, Recipe(), 0)


def self_distilled(width, prototypes=16):
    teaching = Teaching(prototypes=prototypes, hidden=16, narrow=8, parts=2, part_side=4)
    return SelfDistilled(shape(width), teaching, PICTURES, PICTURES, Recipe((0.6, 1.0)), Recipe((0.2, 0.5)), 0)


def taught_by(task, seed=5):
    """A published model of a task, with what lies beside its weights."""
    model = task.build(seed)
    if isinstance(task, SelfDistilled):
        model.center.copy_(torch.linspace(-0.1, 0.1, len(model.center)))
    arrays = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    return model.eval(), Teacher("seen@1", None, Weights({**arrays, GALLERY: np.zeros((1, 8), np.float32)}, task.settings()))


def test_a_student_as_wide_keeps_all_products_and_a_narrower_one_the_most_that_can_be_kept():
    vectors = RANDOM.normal(size=(200, 12)) @ np.diag(np.linspace(3, 0.1, 12))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    products = vectors @ vectors.T
    for width in (12, 20):
        narrow = Narrow(vectors, width)
        found = narrow(torch.from_numpy(vectors).float()).numpy()
        assert found.shape == (200, width) and narrow.kept == pytest.approx(1)
        assert np.abs(found @ found.T - products).max() < 1e-5
    narrow = Narrow(vectors, 4)
    u, s, _ = np.linalg.svd(vectors, full_matrices=False)
    best = u[:, :4] * s[:4]
    best /= np.linalg.norm(best, axis=1, keepdims=True)
    found = narrow(torch.from_numpy(vectors).float()).numpy()
    assert np.abs(found @ found.T - best @ best.T).max() < 1e-4
    assert narrow.kept == pytest.approx((s[:4] ** 2).sum() / (s**2).sum())


@pytest.mark.parametrize(("alike", "views"), [(0.0, 1), (1.0, 2)])
def test_two_towers_learn_the_vectors_of_wider_ones(alike, views):
    task, (net, teacher) = contrastive(8, 6, alike=alike), taught_by(contrastive(16, 10))
    lesson = lessons.contrastive(task, teacher, 1.0)
    distilled, student = Distilled(task, lesson, 0.25), task.build(0)
    batch = distilled.batch(EXAMPLES, 3)
    assert batch[SAID].shape == (6, views, 6) and batch[CAPTIONS].shape == (6, 2, 6)
    with torch.no_grad():
        pictures, captions, *_ = (each.double() for each in student(*task.inputs(batch)))
        angles = float((1 - (pictures.unflatten(0, (6, views)) * batch[SAID]).sum(-1)).mean(dim=1).sum())
        angles += float((1 - (captions.unflatten(0, (6, 2)) * batch[CAPTIONS]).sum(-1)).mean(dim=1).sum())
        own = float(task.loss(student, batch, alone).loss)
        sums = distilled.loss(student, batch, alone)
        assert float(sums.metrics["teacher_loss"]) == pytest.approx(STRENGTH * angles, rel=1e-5)
        assert float(sums.loss) == pytest.approx(0.75 * own + 0.25 * STRENGTH * angles, rel=1e-5)
        told = net.pictures(batch["pixels"].flatten(0, 1))
    said = batch[SAID].flatten(0, 1)
    assert (said @ said.T - told @ told.T).abs().mean() < 0.1  # 6 of 10 directions
    parts = [distilled.batch(some, 3) for some in (EXAMPLES[:1], EXAMPLES[1:])]
    assert all(torch.allclose(batch[name], torch.cat([part[name] for part in parts]), atol=1e-6) for name in batch)


def test_who_sees_a_part_foretells_what_its_teacher_makes_of_it_who_sees_all():
    task, (net, teacher) = masked(8), taught_by(masked(16))
    lesson, student = lessons.masked(task, teacher, 1.0), task.build(0)
    distilled = Distilled(task, lesson, 1.0)
    batch = distilled.batch(EXAMPLES, 3)
    assert batch["kept"].shape == (6, 2) and batch[SAID].shape == (6, 2, 8)
    with torch.no_grad():
        whole = net.encoder(batch["pixels"])[:, 1:]
        wanted = torch.stack([whole[row, batch["kept"][row]] for row in range(6)])
        assert torch.allclose(batch[SAID], lesson._narrow(wanted), atol=1e-6)
        sums, outputs = distilled.loss(student, batch, alone), student(*task.inputs(batch))
        told = outputs[1][:, 1:] / outputs[1][:, 1:].norm(dim=-1, keepdim=True)
        assert float(sums.loss) == pytest.approx(float((1 - (told * batch[SAID]).sum(-1)).sum()), rel=1e-5)  # 2 of 4 are seen
    optimizer = torch.optim.Adam(student.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        found = distilled.loss(student, batch, alone).loss
        found.backward()
        optimizer.step()
    assert float(found.detach()) < 0.3 * float(sums.loss)


def test_another_teacher_stands_in_the_place_of_the_own():
    task, (net, teacher) = self_distilled(16), taught_by(self_distilled(32))
    student = task.build(0)
    distilled = Distilled(task, lessons.self_distilled(task, teacher, 1.0), 0.5)
    batch = distilled.batch(EXAMPLES, 5)
    wanted = 0.0
    with torch.no_grad():
        for row in range(6):
            views = [*batch["whole"][row], *batch["parts"][row]]
            said = [student.student_head(student.student(view[None])[:, 0])[0] for view in views]
            taught = [net.teacher_head(net.teacher(view[None])[:, 0])[0] - net.center for view in views[:2]]
            pairs = [
                -(torch.softmax(t / 0.04, 0) * torch.log_softmax(s / 0.1, 0)).sum()
                for i, t in enumerate(taught)
                for j, s in enumerate(said)
                if i != j
            ]
            wanted += float(sum(pairs)) / len(pairs)
    sums = distilled.loss(student, batch, alone)
    assert float(sums.metrics["teacher_loss"]) == pytest.approx(wanted, rel=1e-4)
    assert sums.metrics["teacher_entropy"] > 0 and student.seen.abs().sum() > 0  # its own teacher goes on
    distilled.after_step(student, 1)
    sums.loss.backward()
    assert all(param.grad is None for name, param in student.named_parameters() if name.startswith("teacher"))


def test_a_teacher_that_sees_or_reads_something_else_is_refused():
    with pytest.raises(InputError, match="`seen@1` learned `masked` and cannot teach `contrastive`"):
        lessons.contrastive(contrastive(8, 6), taught_by(masked(8))[1], 1.0)
    with pytest.raises(InputError, match="sees pictures of side 16, the student of 8") as caught:
        lessons.contrastive(contrastive(8, 6), taught_by(contrastive(8, 6, side=16))[1], 1.0)
    assert "vision.side=16" in caught.value.hint
    with pytest.raises(InputError, match="hashes captions to 128 rows, the student to 64"):
        lessons.contrastive(contrastive(8, 6), taught_by(contrastive(8, 6, buckets=128))[1], 1.0)
    with pytest.raises(InputError, match="chooses from 32 prototypes, the student from 16"):
        lessons.self_distilled(self_distilled(16), taught_by(self_distilled(16, 32))[1], 1.0)
