import numpy as np

from gyral.model.holdout import hold_out, hold_out_last
from gyral.model.recommender import DAY_US, Interactions


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


def test_leave_one_out_asks_about_each_subjects_last_event():
    data = structured(num_rows=500)
    for back in (1, 2):
        split = hold_out_last(data, back)
        asked = dict(zip(split.asked.tolist(), split.met, strict=True))
        for subject in range(200):
            objects = data.object[data.subject == subject].tolist()
            assert split.before.object[split.before.subject == subject].tolist() == objects[:-back]
            assert asked.get(subject, np.array([])).tolist() == (
                objects[-back : len(objects) - back + 1] if len(objects) > back else []
            )
