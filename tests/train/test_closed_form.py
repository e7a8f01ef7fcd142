import json

import numpy as np
import pytest

from gyral.model.holdout import hold_out, measure
from gyral.model.recommender import DAY_US, Interactions, Spec, fit_with
from gyral.train.closed_form import FLOORS, MAX_HEAD, MIN_HEAD, choose, plan_head, planned


def structured(seed=0, num_rows=4_000, num_subjects=150, num_objects=60):
    """Subjects prefer one of six groups of objects, so that somebody who looks can beat popularity."""
    rng = np.random.default_rng(seed)
    subject = rng.integers(0, num_subjects, num_rows)
    inside = rng.random(num_rows) < 0.9
    object_ = np.where(inside, subject % 6 * 10 + rng.integers(0, 10, num_rows), rng.integers(0, num_objects, num_rows))
    return Interactions(
        subject=subject.astype(np.int32),
        object=object_.astype(np.int32),
        time=np.sort(rng.integers(0, 90 * DAY_US, num_rows)),
        country=(subject % 3).astype(np.int32),
        num_subjects=num_subjects,
        num_objects=num_objects,
        num_countries=3,
    )


@pytest.mark.parametrize("repeats", [True, False])
def test_the_choice_is_never_below_a_floor_and_its_numbers_are_true(repeats):
    data = structured()
    told = []
    model, candidates = choose(data, repeats=repeats, budget_s=10, seed=0, on_progress=lambda *args: told.append(args))
    by_name = {entry["name"]: entry for entry in candidates}
    assert set(by_name) == {"popularity", "item_item_markov", "ease", "sum", "product"}
    (chosen,) = [entry for entry in candidates if entry["chosen"]]
    assert chosen["ndcg_at_10"] == max(entry["ndcg_at_10"] for entry in candidates)
    assert chosen["ndcg_at_10"] > 1.5 * by_name["popularity"]["ndcg_at_10"]
    split = hold_out(data, repeats=repeats, seed=0)
    for entry in candidates:
        again = measure(fit_with(split.before, Spec(**entry["spec"])), split)
        assert [entry[name] for name in again] == pytest.approx(list(again.values()), abs=1e-6)
    assert [done for _, done, _, _ in told] == list(range(1, len(told) + 1))
    assert all(done <= total for _, done, total, _ in told) and {name for name, *_ in told} == set(by_name)
    refitted = fit_with(data, Spec(**chosen["spec"]))
    assert all(values.tobytes() == refitted.arrays[name].tobytes() for name, values in model.arrays.items())
    json.dumps(model.meta), json.dumps(candidates)


def test_same_data_and_seed_same_bytes_and_same_choice():
    one, two = (choose(structured(2), repeats=True, budget_s=5, seed=3) for _ in range(2))
    assert one[1] == two[1]
    assert all(values.tobytes() == two[0].arrays[name].tobytes() for name, values in one[0].arrays.items())


def test_a_small_budget_has_the_floors_only_and_a_bigger_one_tries_more():
    tried = []
    for budget_s in (0.0, 0.05, 50.0):
        names = []
        choose(
            structured(), repeats=True, budget_s=budget_s, seed=0, on_progress=lambda name, *_, names=names: names.append(name)
        )
        tried.append(names)
    assert tried[0] == [spec.name for spec in FLOORS]
    assert len(tried[0]) < len(tried[1]) <= len(tried[2])


def test_what_a_budget_pays_is_known_before():
    split = hold_out(structured(), repeats=True, seed=0)
    pays = [planned(split, repeats=True, budget_s=budget_s) for budget_s in (0.0, 0.05, 0.2, 50.0)]
    assert pays[0].candidates == len(FLOORS) and pays[-1].nominal_s < 50
    assert [each.candidates for each in pays] == sorted(each.candidates for each in pays)
    for budget_s, each in zip((0.05, 0.2, 50.0), pays[1:], strict=True):
        names = []
        choose(structured(), repeats=True, budget_s=budget_s, seed=0, on_progress=lambda *told, names=names: names.append(told))
        assert len(FLOORS) < len(names) <= each.candidates == names[0][2]


def test_the_dense_part_grows_with_the_budget_within_limits():
    assert plan_head(10**7, 0) == MIN_HEAD and plan_head(10**7, 1e9) == MAX_HEAD and plan_head(50, 1e9) == 50
    assert MIN_HEAD < plan_head(10**7, 1) < plan_head(10**7, 10) < MAX_HEAD
    assert plan_head(3_700, 10) == 3_700


@pytest.mark.parametrize(("num_rows", "num_subjects", "num_objects"), [(0, 1, 1), (1, 1, 1), (3, 1, 1), (5, 2, 3)])
@pytest.mark.parametrize("repeats", [True, False])
def test_tiny_data_falls_back_to_popularity(num_rows, num_subjects, num_objects, repeats):
    data = Interactions(
        subject=(np.arange(num_rows) % num_subjects).astype(np.int32),
        object=(np.arange(num_rows) % num_objects).astype(np.int32),
        time=np.zeros(num_rows, dtype=np.int64),
        country=np.full(num_rows, -1, dtype=np.int32),
        num_subjects=num_subjects,
        num_objects=num_objects,
        num_countries=0,
    )
    model, candidates = choose(data, repeats=repeats, budget_s=10, seed=0)
    assert [entry["name"] for entry in candidates if entry["chosen"]] == ["popularity"]
    assert len(model.recommend(-1, 10)[0]) == num_objects
