"""The contrastive losses against loops over pairs, and over parts of a batch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gyral.model.augment import Recipe, scaled
from gyral.model.card import Weights
from gyral.model.embedder import Embedder
from gyral.model.nets.captions import Shape as CaptionShape
from gyral.model.nets.captions import grams_of
from gyral.model.nets.vit import Shape
from gyral.model.pictures import Pictures
from gyral.model.task import alone
from gyral.model.tasks.contrastive import Contrastive

WORDS = ("eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun", "zehn")


def task(loss, concepts=10, seed=0, several=1, **more):
    random = np.random.default_rng(1)
    pictures = Pictures(
        random.integers(0, 256, (2 * concepts, 8, 8, 3), dtype=np.uint8),
        [f"{number}.png" for number in range(2 * concepts)],
        np.arange(2 * concepts) % concepts,
        [f"{word} {language}" for word in WORDS[:concepts] for language in ("de", "en")],
        ["de", "en"] * concepts,
        np.repeat(np.arange(concepts), 2),
    )
    shapes = Shape(8, 4, 16, 1, 2, 32), CaptionShape(64, 16, 1, 2, 32), 8
    return Contrastive(*shapes, pictures, pictures, Recipe(jitter=0.5), seed, loss, several=several, **more)


@pytest.mark.parametrize("loss", ["siglip", "clip"])
@torch.no_grad()
def test_the_loss_is_what_the_paper_says(loss):
    one = task(loss)
    model, batch = one.build(0), one.batch(np.array([3, 1, 4, 5, 9]), 7)
    sums = one.loss(model, batch, alone)
    picture, caption = model.pictures(batch["pixels"][:, 0]), model.captions(batch["grams"][:, 0])
    assert torch.allclose(picture.norm(dim=1), torch.ones(5)) and torch.allclose(caption.norm(dim=1), torch.ones(5))
    logits = (model.scale.exp() * picture @ caption.T + model.bias).double()
    if loss == "siglip":
        told = sum(-F.logsigmoid((1 if i == j else -1) * logits[i, j]) for i in range(5) for j in range(5))
    else:
        right = torch.arange(5)
        told = (F.cross_entropy(logits, right, reduction="sum") + F.cross_entropy(logits.T, right, reduction="sum")) / 2
    assert float(sums.loss) == pytest.approx(float(told), rel=1e-6) and float(sums.weight) == 5


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("loss", ["siglip", "clip"])
@torch.no_grad()
def test_parts_that_see_each_other_add_up_to_the_whole(loss, views):
    one, examples = task(loss, several=2, alike=views - 1.0), np.array([3, 1, 4, 5, 9, 0])
    model, batch = one.build(0), one.batch(examples, 2)
    outputs = model(*one.inputs(batch))
    whole = one.sums(outputs, batch, alone)
    total = 0.0
    for part in (slice(0, 2), slice(2, 6)):

        def gather(rows, part=part):
            known = (outputs[0].unflatten(0, (6, views)), outputs[1].unflatten(0, (6, 2)), batch["concepts"])
            return next(full for full in known if torch.equal(full[part], rows))

        mine = {name: each[part] for name, each in batch.items()}
        pictures, texts = (slice(count * part.start, count * part.stop) for count in (views, 2))
        sums = one.sums((outputs[0][pictures], outputs[1][texts], *outputs[2:]), mine, gather)
        assert float(sums.weight) == part.stop - part.start
        total += float(sums.loss)
    assert total == pytest.approx(float(whole.loss), rel=1e-6)


@pytest.mark.parametrize("loss", ["siglip", "clip"])
@torch.no_grad()
def test_several_captions_are_the_mean_of_batches_of_one(loss):
    one, several = task(loss), task(loss, several=3)
    model, batch = several.build(0), several.batch(np.array([3, 1, 4]), 2)
    told = [one.loss(model, {**batch, "grams": batch["grams"][:, [at]]}, alone).loss for at in range(3)]
    assert float(several.loss(model, batch, alone).loss) == pytest.approx(float(sum(told)) / 3, rel=1e-5)


@pytest.mark.parametrize("loss", ["siglip", "clip"])
@torch.no_grad()
def test_two_pictures_meet_the_captions_and_each_other(loss):
    one = task(loss, alike=0.7)
    model, batch = one.build(0), one.batch(np.array([3, 1, 4, 5, 9]), 7)
    model.alike_scale.fill_(1.5)
    sums = one.loss(model, batch, alone)
    first, second = (model.pictures(batch["pixels"][:, view]) for view in (0, 1))
    caption = model.captions(batch["grams"][:, 0])

    def told(mine, theirs, scale, bias):
        logits = (scale.exp() * mine @ theirs.T + bias).double()
        if loss == "siglip":
            return sum(-F.logsigmoid((1 if i == j else -1) * logits[i, j]) for i in range(5) for j in range(5))
        right = torch.arange(5)
        return (F.cross_entropy(logits, right, reduction="sum") + F.cross_entropy(logits.T, right, reduction="sum")) / 2

    of_captions = [told(each, caption, model.scale, model.bias) for each in (first, second)]
    whole = sum(of_captions) / 2 + 0.7 * told(first, second, model.alike_scale, model.alike_bias)
    assert float(sums.loss) == pytest.approx(float(whole), rel=1e-6) and float(sums.weight) == 5


def test_two_pictures_of_a_row_are_two_renderings():
    one = task("siglip", alike=1.0)
    seen = set()
    for step in range(20):
        first, second = one._drawn(4, np.random.default_rng(step))
        assert {first, second} == {4, 14}
        seen.add(first)
    assert seen == {4, 14}
    single = task("siglip", alike=1.0)
    single.trained = single.trained.only(np.arange(10))
    single.trained.concept[10:] = 9  # every other concept has one picture
    assert single._drawn(4, np.random.default_rng(0)) == [4, 4]
    batch = single.batch(np.array([4]), 0)
    assert batch["pixels"].shape == (1, 2, 3, 8, 8) and not torch.equal(*batch["pixels"][0])  # of which two views are taken


@torch.no_grad()
def test_joined_patches_know_where_something_is_and_their_mean_does_not():
    pixels = torch.randn(1, 3, 8, 8)
    elsewhere = pixels.roll(4, dims=3)  # patches change places
    for joined in (False, True):
        one = task("siglip", joined=joined, alike=1.0)
        model = one.build(0)
        model.picture.embed.position.zero_()
        is_same = torch.allclose(model.pictures(pixels), model.pictures(elsewhere), atol=1e-5)
        assert is_same != joined
        known = Embedder.of(Weights({name: each.numpy() for name, each in model.state_dict().items()}, one.settings()))
        known.tower.embed.position.zero_()
        assert torch.equal(known.model.pictures(pixels), model.pictures(pixels))


def test_a_row_depends_on_seed_step_and_example_alone():
    one = task("siglip")
    whole, part = one.batch(np.array([3, 1, 4, 5]), 7), one.batch(np.array([4, 5]), 7)
    assert all(torch.equal(whole[name][2:], part[name]) for name in whole)
    for other in (one.batch(np.array([4, 5]), 8), task("siglip", seed=1).batch(np.array([4, 5]), 7)):
        assert not torch.equal(other["pixels"], part["pixels"])


@torch.no_grad()
def test_rows_of_one_concept_are_pairs_and_not_strangers():
    one = task("siglip")
    model, batch = one.build(0), one.batch(np.array([2, 2]), 0)
    picture, caption, scale, bias = model(*one.inputs(batch))
    told = -F.logsigmoid(scale.exp() * picture @ caption.T + bias).sum()
    assert float(one.loss(model, batch, alone).loss) == pytest.approx(float(told), rel=1e-6)


@torch.no_grad()
def test_a_model_that_knows_everything_is_perfect_and_an_evaluation_repeats():
    one = task("siglip")
    model = one.build(0)
    first = one.evaluate(model)
    assert first == one.evaluate(model) and first["chance"] == 0.1 and first["zero_shot_languages"] == 2
    learned = {}
    for at, pixels in enumerate(scaled(one.held_out.pixels)):
        learned[pixels.numpy().tobytes()] = int(one.held_out.concept[at])
    for at, grams in enumerate(grams_of(one.held_out.texts, 64)):
        learned[grams.numpy().tobytes()] = int(one.held_out.caption_concept[at])
    model.pictures = model.captions = lambda rows: torch.eye(10)[[learned[each.numpy().tobytes()] for each in rows]]
    perfect = one.evaluate(model)
    assert perfect["r_at_1"] == perfect["r_at_10"] == perfect["zero_shot"] == 1.0
