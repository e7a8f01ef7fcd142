"""Kernels and answers against plain numpy, and the properties a user relies on."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gyral.compress.quantize import int8
from gyral.model import item_item
from gyral.model.card import Weights
from gyral.model.family import RECOMMENDER
from gyral.model.recommender import DAY_US, Interactions, Recommender, Spec, fit_with, gram_of, head_of

BLEND = Spec("blend", lam=10, half_life_days=20, repeat=0.7, popular=0.3, popular_half_life_days=5, country=1.5, markov=0.4)


def shop(seed=0, num_rows=600, num_subjects=30, num_objects=25):
    rng = np.random.default_rng(seed)
    popular = rng.dirichlet(np.full(num_objects, 0.5))
    return Interactions(
        subject=rng.integers(0, num_subjects, num_rows).astype(np.int32),
        object=rng.choice(num_objects, num_rows, p=popular).astype(np.int32),
        time=np.sort(rng.integers(0, 90 * DAY_US, num_rows)),
        country=rng.integers(-1, 3, num_rows).astype(np.int32),
        num_subjects=num_subjects,
        num_objects=num_objects,
        num_countries=3,
    )


def dense_scores(data, spec, subject):
    """The formula of the module docstring, written with dense matrices and loops."""
    size, now = data.num_objects, data.time[-1]
    met = np.zeros((data.num_subjects, size))
    met[data.subject, data.object] = 1
    gram = met.T @ met
    inverse = np.linalg.inv(gram + spec.lam * np.eye(size))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    steps = np.zeros((size, size))
    for who in range(data.num_subjects):
        objects = data.object[data.subject == who]
        for one, following in itertools.pairwise(objects):
            steps[one, following] += 1
    steps = steps / (steps.sum(axis=1, keepdims=True) + 5)
    mine = data.subject == subject
    history = np.zeros(size)
    for object_, time in zip(data.object[mine], data.time[mine], strict=True):
        history[object_] = max(history[object_], 0.5 ** ((now - time) / DAY_US / spec.half_life_days))
    popular = np.bincount(
        data.object, weights=0.5 ** ((now - data.time) / DAY_US / spec.popular_half_life_days), minlength=size
    )
    out = history @ weights + spec.repeat * history + spec.popular * popular / popular.max()
    return out + spec.markov * steps[data.object[mine][-1]]


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_the_formula(seed):
    data = shop(seed)
    model = fit_with(data, BLEND)
    for subject in range(data.num_subjects):
        assert np.allclose(model.scores(subject), dense_scores(data, BLEND, subject), atol=2e-5)


def test_ease_solves_its_own_equation():
    """Each column is the ridge regression of that object on all others (solved here one by one)."""
    data = shop(1)
    gram = gram_of(data, head_of(data, BLEND))
    weights = item_item.ease(gram, 10.0)
    for column in range(len(gram)):
        others = np.arange(len(gram)) != column
        alone = np.linalg.solve(gram[np.ix_(others, others)] + 10.0 * np.eye(others.sum()), gram[others, column])
        assert np.allclose(weights[others, column], alone, atol=1e-5)
        assert weights[column, column] == 0


def test_gram_counts_who_met_both():
    data = shop(2)
    met = np.zeros((data.num_subjects, data.num_objects))
    met[data.subject, data.object] = 1
    assert np.array_equal(gram_of(data, head_of(data, BLEND)), met.T @ met)


@settings(deadline=None)
@given(st.lists(st.sampled_from([-np.inf, 0.0, 0.5, 0.25, 1.0, -1.0]), max_size=30), st.integers(1, 12))
def test_top_k_is_a_stable_sort(values, k):
    scores = np.array(values, dtype=np.float32)
    wanted = [code for code in np.argsort(-scores, kind="stable") if scores[code] > -np.inf][:k]
    assert item_item.top_k(scores, k).tolist() == wanted


def test_a_saved_model_answers_the_same_and_a_second_fit_gives_the_same_bytes():
    data = shop(3)
    model, again = fit_with(data, BLEND), fit_with(data, BLEND)
    for name, values in model.arrays.items():
        assert values.tobytes() == again.arrays[name].tobytes()
    loaded = Recommender({name: values.copy() for name, values in model.arrays.items()}, model.meta)
    for subject in range(-1, data.num_subjects):
        assert all(
            np.array_equal(*pair)
            for pair in zip(model.recommend(subject, 10, 1), loaded.recommend(subject, 10, 1), strict=True)
        )


def test_what_was_seen_is_left_out_only_where_nothing_repeats():
    data = shop(4)
    never = fit_with(data, Spec("x", lam=10, repeats=False))
    for subject in range(data.num_subjects):
        seen = set(data.object[data.subject == subject].tolist())
        answer = set(never.recommend(subject, 100)[0].tolist())
        assert answer == set(range(data.num_objects)) - seen
    assert set(fit_with(data, Spec("x", lam=10)).recommend(0, 100)[0].tolist()) == set(range(data.num_objects))


def test_somebody_new_gets_what_is_popular_in_the_country():
    data = shop(5)
    model = fit_with(data, Spec("x", lam=10, popular=1, country=100))
    plain = fit_with(data, Spec("x", lam=10, popular=1))
    for country in range(3):
        inside = np.bincount(data.object[data.country == country], minlength=data.num_objects)
        assert inside[model.recommend(-1, 1, country)[0][0]] == inside.max()
    everywhere = np.bincount(data.object, minlength=data.num_objects)
    assert everywhere[plain.recommend(-1, 1, 2)[0][0]] == everywhere.max()
    assert np.array_equal(model.recommend(-1, 5, -1)[0], plain.recommend(-1, 5)[0])


def test_what_was_just_met_counts_like_a_history():
    data = shop(6)
    model = fit_with(data, Spec("x", lam=10))
    recent = np.array([3, 7, 3], dtype=np.int32)
    scores = model.scores(-1, recent=recent)
    assert np.allclose(scores, model.arrays["item_item"][3] + model.arrays["item_item"][7], atol=1e-6)
    never = fit_with(data, Spec("x", lam=10, repeats=False))
    assert not {3, 7} & set(never.recommend(0, 100, recent=recent)[0].tolist())


def test_int8_changes_scores_by_less_than_half_a_step_a_row():
    data = shop(7)
    model = fit_with(data, BLEND)
    weights = int8(Weights(model.arrays, model.meta), RECOMMENDER.matrices)
    small = Recommender(*weights)
    assert small.arrays["item_item"].dtype == np.int8 and small.arrays["transition"].dtype == np.int8
    assert int8(weights, RECOMMENDER.matrices).arrays["item_item"] is small.arrays["item_item"]
    error = np.abs(small.arrays["item_item"] * small.arrays["item_item_scale"][:, None] - model.arrays["item_item"])
    assert (error <= small.arrays["item_item_scale"][:, None] / 2 + 1e-7).all()
    for subject in range(data.num_subjects):
        items, weights = model.history(subject)
        bound = (weights * small.arrays["item_item_scale"][items] / 2).sum() + BLEND.markov * small.arrays[
            "transition_scale"
        ].max()
        assert np.abs(small.scores(subject) - model.scores(subject)).max() <= bound + 1e-5


def test_objects_outside_the_head_are_reached_by_repetition_and_popularity():
    data = shop(8)
    spec = Spec("x", lam=10, repeat=1, popular=0.1, num_head=5)
    model = fit_with(data, spec)
    assert model.arrays["item_item"].shape == (5, 5)
    counts = np.bincount(data.object, minlength=data.num_objects)
    assert set(model.arrays["head"]) == set(np.argsort(-counts, kind="stable")[:5])
    assert len(model.recommend(0, 100)[0]) == data.num_objects


@pytest.mark.parametrize("num_rows", [0, 1, 2])
def test_next_to_nothing_can_be_fitted(num_rows):
    data = shop(9, num_rows=num_rows, num_subjects=2, num_objects=2)
    model = fit_with(data, BLEND)
    assert len(model.recommend(0, 10, 1)[0]) == 2 and len(model.popular(-1, 10)[0]) == 2


PRODUCT = Spec(
    "product", lam=10, half_life_days=20, count_power=0.8, repeat=0.7, popular_power=0.4, background=0.02,
    popular_half_life_days=5, country=1.5, country_shrink=20, newcomer=1, markov=0.4,
)  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_the_product_is_the_formula(seed):
    data = shop(seed)
    model = fit_with(data, PRODUCT)
    size, now = data.num_objects, data.time[-1]
    gram = gram_of(data, head_of(data, PRODUCT))
    inverse = np.linalg.inv(gram + PRODUCT.lam * np.eye(size))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    steps = np.zeros((size, size))
    for who in range(data.num_subjects):
        for one, following in itertools.pairwise(data.object[data.subject == who]):
            steps[one, following] += 1
    steps /= steps.sum(axis=1, keepdims=True) + 5
    recent = np.zeros(size)
    for object_, time in zip(data.object, data.time, strict=True):
        recent[object_] += 0.5 ** ((now - time) / DAY_US / PRODUCT.popular_half_life_days)
    lift = (recent + 0.5) / (recent.max() + 0.5)
    for subject in range(data.num_subjects):
        mine = data.subject == subject
        history = np.zeros(size)
        for object_ in set(data.object[mine].tolist()):
            times = data.time[mine & (data.object == object_)]
            history[object_] = len(set(times)) ** 0.8 * 0.5 ** ((now - times.max()) / DAY_US / 20)
        need = history @ weights + 0.7 * history + 0.4 * steps[data.object[mine][-1]]
        assert np.allclose(model.scores(subject), (np.maximum(need, 0) + 0.02) * lift**0.4, atol=2e-5)
        items, strength = model.history(subject)
        assert (np.diff(strength) <= 0).all() and set(items) == set(data.object[mine])


def test_somebody_new_gets_what_newcomers_met_and_what_is_special_in_the_country():
    data = shop(10)
    model = fit_with(data, PRODUCT)
    first = {who: data.time[data.subject == who].min() for who in range(data.num_subjects)}
    everywhere, fresh = np.zeros(data.num_objects), np.zeros(data.num_objects)
    inside = np.zeros((3, data.num_objects))
    for who, object_, time, country in zip(data.subject, data.object, data.time, data.country, strict=True):
        age = (data.time[-1] - time) / DAY_US
        everywhere[object_] += 0.5 ** (age / 14)
        fresh[object_] += 0.5 ** (age / 20) * (time - first[who] < DAY_US)
        if country >= 0:
            inside[country, object_] += 0.5 ** (age / 14)
    plain = everywhere / everywhere.max() + fresh / fresh.max()
    assert np.allclose(model.scores(-1), plain, atol=1e-5)
    events = inside.sum(axis=1, keepdims=True)
    special = events / (events + 20) * (inside / events - everywhere / everywhere.sum())
    special = np.maximum(special, 0) / special.max()
    for country in range(3):
        assert np.allclose(model.scores(-1, country), plain + 1.5 * special[country], atol=1e-5)


def test_what_was_just_met_adds_to_what_was_counted():
    data = shop(11)
    model = fit_with(data, Spec("x", lam=10, count_power=0.5))
    subject = int(data.subject[0])
    items, weights = model.history(subject)
    before = dict(zip(items.tolist(), weights.tolist(), strict=True))
    met = int(items[-1])
    after_items, after = model.history(subject, np.array([met, met], dtype=np.int32))
    now = dict(zip(after_items.tolist(), after.tolist(), strict=True))
    assert now[met] == pytest.approx((before[met] ** 2 + 2) ** 0.5, rel=1e-5)
    assert {code: value for code, value in now.items() if code != met} == {
        code: value for code, value in before.items() if code != met
    }


def test_many_answers_are_the_single_answers_and_survive_saving():
    data = shop(12, num_objects=8)
    model = fit_with(data, PRODUCT)
    subjects, countries = np.arange(-1, data.num_subjects), np.arange(-1, data.num_subjects) % 4 - 1
    ranked = model.recommend_many(subjects, 10, countries)
    assert ranked.shape == (data.num_subjects + 1, 10) and (ranked[:, 8:] == -1).all()
    loaded = Recommender({name: values.copy() for name, values in model.arrays.items()}, model.meta)
    for row, (subject, country) in enumerate(zip(subjects, countries, strict=True)):
        assert ranked[row, :8].tolist() == loaded.recommend(int(subject), 10, int(country))[0].tolist()


@pytest.mark.parametrize("num_rows", [0, 1, 2])
def test_the_product_can_be_fitted_to_next_to_nothing(num_rows):
    data = shop(13, num_rows=num_rows, num_subjects=2, num_objects=2)
    model = fit_with(data, PRODUCT)
    for subject in (-1, 0, 1):
        codes, scores = model.recommend(subject, 10, 1, np.array([1], dtype=np.int32))
        assert len(codes) == 2 and np.isfinite(scores).all()
    never = fit_with(data, Spec("x", lam=10, popular_power=0.5, repeats=False))
    assert not set(never.recommend(0, 10)[0]) & set(data.object[data.subject == 0])


@pytest.mark.parametrize("repeats", [True, False])
def test_popularity_is_by_count_and_under_the_same_rule_for_what_was_met(repeats):
    data = shop(12)
    model = fit_with(data, Spec("x", lam=10, repeats=repeats))
    counts = np.bincount(data.object, minlength=data.num_objects)
    order = sorted(range(data.num_objects), key=lambda code: (-counts[code], code))
    for subject in range(-1, data.num_subjects):
        met = set(data.object[data.subject == subject].tolist()) | {order[0]}
        allowed = order if repeats else [code for code in order if code not in met]
        codes, scores = model.popular(subject, 5, np.array(order[:1], dtype=np.int32))
        assert codes.tolist() == allowed[:5] and scores.tolist() == counts[allowed[:5]].tolist()
