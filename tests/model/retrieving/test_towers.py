"""Towers behind an index against the net's own scores of everything."""

from dataclasses import asdict

import numpy as np
import pytest
import torch

from gyral.model.nets.two_tower import Shape, TwoTower
from gyral.model.neural_recommender import NeuralRecommender, arrays_of, meta_of
from gyral.model.recommender import DAY_US, Interactions, Spec, fit_with
from gyral.model.retrieving.towers import towers_of

SUBJECTS, OBJECTS = 12, 300


def model(closed=0.0):
    random = np.random.default_rng(0)
    data = Interactions(
        subject=random.integers(0, SUBJECTS, 150).astype(np.int32),
        object=random.integers(0, OBJECTS, 150).astype(np.int32),
        time=np.sort(random.integers(0, 90 * DAY_US, 150)),
        country=random.integers(-1, 2, 150).astype(np.int32),
        num_subjects=SUBJECTS + 1,  # the last one has met nothing
        num_objects=OBJECTS,
        num_countries=2,
    )
    torch.manual_seed(0)
    shape = Shape(SUBJECTS + 1, 2, OBJECTS, 8, 5, 16)
    net = TwoTower(shape, torch.randint(0, 99, (OBJECTS, 4)))
    closed_form = fit_with(data, Spec("product", lam=10.0, repeats=True))
    state = {name: tensor.detach().numpy() for name, tensor in net.state_dict().items()}
    return NeuralRecommender(
        {**arrays_of(data, closed_form, 5), **state}, meta_of("two_tower", asdict(shape), closed_form, closed)
    )


@pytest.mark.parametrize("recent", [None, np.array([7, 8], np.int32)])
def test_the_index_finds_what_scoring_everything_finds(recent):
    made = model()
    towers = towers_of(made, "shop@1")
    for subject in range(SUBJECTS):
        scores = made.scores(subject, 1, recent)
        found = towers.index.search(towers.of(subject, 1, recent)[None], 20)
        assert (found.ids_Bk[0] == np.argsort(-scores, kind="stable")[:20]).all() and found.version == "shop@1"
        gaps = scores[found.ids_Bk[0]] - found.scores_Bk[0]
        assert np.ptp(gaps) < 1e-5  # a constant of the request


def test_who_has_met_nothing_has_no_vector_and_other_models_no_towers():
    made = model()
    assert towers_of(made, "1").of(SUBJECTS, 0) is None and towers_of(made, "1").of(-1, 0) is None
    assert towers_of(model(closed=1.0), "1") is None and towers_of(object(), "1") is None
