"""A model that answers by a net: names in, names out, under the same rules as the closed form."""

from dataclasses import asdict

import numpy as np
import pytest
import torch

from gyral.compress.quantize import int8
from gyral.errors import InputError
from gyral.model.card import Weights
from gyral.model.family import RECOMMENDER, recommender_of
from gyral.model.nets.interaction import Interaction
from gyral.model.nets.interaction import Shape as RankingShape
from gyral.model.nets.sequence import Sequence, Shape
from gyral.model.nets.two_tower import Shape as TowersShape
from gyral.model.nets.two_tower import TwoTower
from gyral.model.neural_recommender import NeuralRecommender, arrays_of, meta_of
from gyral.model.recommender import DAY_US, Interactions, Spec, fit_with, without_history
from gyral.model.sequences import without_sequence

SUBJECTS, OBJECTS = 12, 15


def shop(seed=0):
    rng = np.random.default_rng(seed)
    return Interactions(
        subject=rng.integers(0, SUBJECTS, 150).astype(np.int32),
        object=rng.integers(0, OBJECTS, 150).astype(np.int32),
        time=np.sort(rng.integers(0, 90 * DAY_US, 150)),
        country=rng.integers(-1, 2, 150).astype(np.int32),
        num_subjects=SUBJECTS + 1,  # the last one has met nothing
        num_objects=OBJECTS,
        num_countries=2,
    )


def made(net, repeats=True, closed=0.0):
    """Weights of a net that was just built."""
    torch.manual_seed(0)
    data = shop()
    if net == "sequence":
        shape = Shape(OBJECTS, 8, 1, 2, 5, 16)
        module = Sequence(shape)
    elif net == "two_tower":
        shape = TowersShape(SUBJECTS + 1, 2, OBJECTS, 8, 5, 16)
        module = TwoTower(shape, torch.randint(0, 99, (OBJECTS, 4)))
    else:
        shape = RankingShape(SUBJECTS + 1, 2, OBJECTS, 5, 8, 16, 5)
        module = Interaction(shape)
    closed_form = fit_with(data, Spec("product", lam=10.0, popular_power=0.3, background=0.01, repeat=1.0, repeats=repeats))
    state = {name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}
    arrays = {**arrays_of(data, closed_form, shape.length), **state}
    return Weights(arrays, meta_of(net, asdict(shape), closed_form, closed)), module.eval(), closed_form, data


@pytest.mark.parametrize("net", ["sequence", "two_tower", "ranking"])
def test_one_and_many_answers_are_the_same_and_strangers_get_those_of_the_closed_form(net):
    weights, _, closed_form, _ = made(net)
    model = recommender_of(weights)
    assert isinstance(model, NeuralRecommender)
    everybody = np.arange(-1, SUBJECTS + 1)
    countries = everybody % 3 - 1
    many = model.recommend_many(everybody, 6, countries)
    for row, (subject, country) in enumerate(zip(everybody.tolist(), countries.tolist(), strict=True)):
        codes, scores = model.recommend(subject, 6, country)
        assert codes.tolist() == many[row].tolist() and (np.diff(scores) <= 0).all()
        if subject in (-1, SUBJECTS):
            assert codes.tolist() == closed_form.recommend(subject, 6, country)[0].tolist()
        assert model.popular(subject, 6)[0].tolist() == closed_form.popular(subject, 6)[0].tolist()


@pytest.mark.parametrize("repeats", [True, False])
def test_the_best_of_the_closed_form_are_sorted_anew_and_the_others_follow(repeats):
    weights, _, closed_form, _ = made("ranking", repeats, closed=0.0)
    every = recommender_of(weights)
    model = recommender_of(Weights(weights.arrays, {**weights.settings, "best": 4}))
    everybody = np.arange(-1, SUBJECTS + 1)
    many = model.recommend_many(everybody, OBJECTS)
    changed = 0
    for row, subject in enumerate(everybody.tolist()):
        told, before = model.recommend(subject, OBJECTS)[0], closed_form.recommend(subject, OBJECTS)[0]
        assert told.tolist() == [code for code in many[row].tolist() if code >= 0]
        if subject in (-1, SUBJECTS):
            assert told.tolist() == before.tolist()
            continue
        by_net = np.where(np.isin(np.arange(OBJECTS), before[:4]), every.scores(subject), -np.inf)
        assert told[:4].tolist() == np.argsort(-by_net, kind="stable")[: len(told[:4])].tolist()
        assert told[4:].tolist() == before[4:].tolist()
        changed += told.tolist() != before.tolist()
    assert changed > SUBJECTS // 2


def test_scores_are_those_of_the_net_and_of_the_closed_form_beside_it():
    weights, module, closed_form, data = made("sequence", closed=2.0)
    model = recommender_of(weights)
    for subject in range(4):
        mine = data.subject == subject
        objects, times = data.object[mine][-5:], data.time[mine][-5:] // 1_000_000
        x_BTD = module.encode(torch.from_numpy(objects.astype(np.int64))[None], torch.from_numpy(times)[None], None)
        logits = module.logits(x_BTD[:, -1])[0].detach()
        wanted = torch.log_softmax(logits, -1).numpy() + 2 * np.log(np.maximum(closed_form.scores(subject), 0) + 1e-6)
        assert np.allclose(model.scores(subject), wanted, atol=1e-4)


@pytest.mark.parametrize("closed", [0.0, 1.0])
def test_what_was_met_is_left_out_only_where_nothing_repeats(closed):
    never, _, _, data = made("sequence", repeats=False, closed=closed)
    model, again = recommender_of(never), recommender_of(made("sequence", closed=closed)[0])
    for subject in range(SUBJECTS):
        seen = set(data.object[data.subject == subject].tolist())
        assert set(model.recommend(subject, 99)[0].tolist()) == set(range(OBJECTS)) - seen
        assert len(again.recommend(subject, 99)[0]) == OBJECTS
    recent = np.array([1, 4])
    assert not {1, 4} & set(model.recommend(-1, 99, recent=recent)[0].tolist())


def test_what_was_just_met_is_the_end_of_the_sequence():
    model = recommender_of(made("sequence")[0])
    assert model.recommend(-1, 9, recent=np.array([3]))[0].tolist() != model.recommend(-1, 9)[0].tolist()
    one = model.scores(0, recent=np.array([3, 7]))
    assert not np.allclose(one, model.scores(0, recent=np.array([7, 3])))
    long = np.arange(12) % OBJECTS  # of more than the length only the last count
    assert np.allclose(model.scores(0, recent=long), model.scores(1, recent=long))


def test_int8_changes_scores_by_little_and_takes_a_quarter():
    weights, _, _, _ = made("two_tower")
    small = int8(weights, RECOMMENDER.matrices)
    assert small.arrays["objects.weight"].dtype == small.arrays["words.weight"].dtype == np.int8
    one, other = recommender_of(weights), recommender_of(small)
    assert max(np.abs(one.scores(who) - other.scores(who)).max() for who in range(SUBJECTS)) < 0.05


def test_who_was_erased_is_answered_as_a_stranger():
    weights, _, closed_form, _ = made("two_tower")
    left = without_sequence(without_history(weights.arrays, 3), 3)
    model = recommender_of(Weights(left, weights.settings))
    assert model.recommend(3, 9)[0].tolist() == closed_form.recommend(-1, 9)[0].tolist()
    assert model.recommend(4, 9)[0].tolist() == recommender_of(weights).recommend(4, 9)[0].tolist()


@pytest.mark.parametrize("change", ["missing", "shape"])
def test_weights_that_do_not_fit_are_a_clear_error(change):
    weights, _, _, _ = made("sequence")
    arrays = {name: values for name, values in weights.arrays.items() if name != "norm.weight"}
    if change == "shape":
        arrays["norm.weight"] = np.zeros(3, np.float32)
    with pytest.raises(InputError, match="do not fit"):
        recommender_of(Weights(arrays, weights.settings))
