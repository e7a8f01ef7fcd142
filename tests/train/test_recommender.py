import numpy as np
import pytest

from gyral.model.holdout import hold_out, measure
from gyral.model.recommender import DAY_US, Interactions, Spec, fit_with
from gyral.train.recommender import choose


def structured(seed=0, num_rows=6_000, num_subjects=200, num_objects=60):
    """Subjects prefer one of six groups of objects, so that somebody who looks can beat popularity."""
    rng = np.random.default_rng(seed)
    subject = rng.integers(0, num_subjects, num_rows)
    inside = rng.random(num_rows) < 0.9
    object_ = np.where(inside, subject % 6 * 10 + rng.integers(0, 10, num_rows), rng.integers(0, num_objects, num_rows))
    return Interactions(
        subject=subject.astype(np.int32),
        object=object_.astype(np.int32),
        time=np.sort(rng.integers(0, 90 * DAY_US, num_rows)),
        country=np.zeros(num_rows, dtype=np.int32),
        num_subjects=num_subjects,
        num_objects=num_objects,
        num_countries=1,
    )


@pytest.mark.parametrize("repeats", [True, False])
def test_the_winner_is_no_worse_than_the_floors_and_finds_the_structure(repeats):
    model, candidates, _split = choose(structured(), repeats=repeats, budget_s=5, seed=0)
    scores = {entry["name"]: entry["ndcg_at_10"] for entry in candidates}
    chosen = [entry for entry in candidates if entry["chosen"]]
    assert len(chosen) == 1 and {"popularity", "item_item_markov", "ease"} <= set(scores)
    assert chosen[0]["ndcg_at_10"] == max(scores.values()) > 2 * scores["popularity"]
    assert model.spec.repeats is repeats


def test_nothing_of_the_held_out_part_is_fitted():
    split = hold_out(structured(), repeats=True, seed=0)
    assert split.before.time.max() < split.after.time.min()
    assert len(split.before) + len(split.after) == 6_000 and abs(len(split.after) - 1_200) < 5
    for subject, met in zip(split.asked, split.met, strict=True):
        assert set(met) == set(split.after.object[split.after.subject == subject])


def test_where_nothing_repeats_only_new_objects_are_asked_about():
    split = hold_out(structured(), repeats=False, seed=0)
    for subject, met in zip(split.asked, split.met, strict=True):
        assert not set(met) & set(split.before.object[split.before.subject == subject])


def test_the_reported_numbers_are_those_of_the_candidate_on_the_held_out_part():
    data = structured(1)
    _, candidates, split = choose(data, repeats=True, budget_s=5, seed=0)
    for entry in candidates:
        again = measure(fit_with(split.before, Spec(**entry["spec"])), split)
        assert entry["ndcg_at_10"] == pytest.approx(again["ndcg_at_10"], abs=1e-6)


def test_same_data_and_seed_same_bytes_and_same_choice():
    one, two = (choose(structured(2), repeats=True, budget_s=5, seed=3) for _ in range(2))
    assert one[1] == two[1]
    assert all(values.tobytes() == two[0].arrays[name].tobytes() for name, values in one[0].arrays.items())


def test_a_small_budget_still_has_the_floors_and_a_bigger_one_tries_more():
    tried = {}
    for budget_s in (0.001, 0.5, 50.0):
        seen = []
        choose(
            structured(),
            repeats=True,
            budget_s=budget_s,
            seed=0,
            on_progress=lambda done, total, entry, seen=seen: seen.append(entry),
        )
        tried[budget_s] = len(seen)
    assert tried[0.001] == 2 and tried[0.001] < tried[0.5] <= tried[50.0]


@pytest.mark.parametrize(("num_rows", "num_subjects", "num_objects"), [(1, 1, 1), (3, 1, 1), (5, 2, 3)])
def test_tiny_data_falls_back_and_never_fails(num_rows, num_subjects, num_objects):
    data = structured(0, num_rows, num_subjects, num_objects) if num_objects > 50 else Interactions(
        subject=(np.arange(num_rows) % num_subjects).astype(np.int32),
        object=(np.arange(num_rows) % num_objects).astype(np.int32),
        time=np.zeros(num_rows, dtype=np.int64),
        country=np.full(num_rows, -1, dtype=np.int32),
        num_subjects=num_subjects,
        num_objects=num_objects,
        num_countries=0,
    )  # fmt: skip
    model, candidates, _ = choose(data, repeats=True, budget_s=10, seed=0)
    assert sum(entry["chosen"] for entry in candidates) == 1
    assert len(model.recommend(0, 10)[0]) >= 1
