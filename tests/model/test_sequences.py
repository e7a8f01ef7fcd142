import numpy as np
import pytest

from gyral.model.recommender import Interactions
from gyral.model.sequences import NO_TARGET, Sequences, without_sequence


def interactions(seed=0, num_rows=120, num_subjects=9, num_objects=17):
    rng = np.random.default_rng(seed)
    subject = rng.choice(num_subjects - 1, num_rows, p=rng.dirichlet(np.ones(num_subjects - 1)))  # the last one has nothing
    return Interactions(
        subject=subject.astype(np.int32),
        object=rng.integers(0, num_objects, num_rows).astype(np.int32),
        time=np.sort(rng.integers(0, 10**12, num_rows)),
        country=np.full(num_rows, -1, np.int32),
        num_subjects=num_subjects,
        num_objects=num_objects,
        num_countries=0,
    )


@pytest.mark.parametrize("length", [1, 4, 50])
@pytest.mark.parametrize("seed", range(4))
def test_each_event_but_the_first_is_a_target_once_after_what_came_before_it(seed, length):
    data = interactions(seed)
    made = Sequences.of(data, length)
    inputs, times, targets = made.windows(np.arange(made.num_windows))
    found = []
    for row in range(made.num_windows):
        real = targets[row] != NO_TARGET
        assert real[: real.sum()].all()  # padded at the end only
        found += [tuple(each) for each in zip(inputs[row][real], times[row][real], targets[row][real], strict=True)]
    wanted = []
    for who in range(data.num_subjects):
        mine = data.subject == who
        objects, when = data.object[mine], data.time[mine] // 1_000_000
        wanted += list(zip(objects[:-1], when[:-1], objects[1:], strict=True))
        assert made.last(who, 3)[0].tolist() == objects[-3:].tolist()
    assert sorted(found) == sorted(wanted)
    assert len(made.last(-1, 3)[0]) == 0


def test_before_is_what_the_subject_had_met():
    data = interactions(5)
    made = Sequences.of(data, 4)
    events = np.random.default_rng(0).permutation(len(data))
    subjects, inputs, times, sizes = made.before(events)
    for row, event in enumerate(events.tolist()):
        mine = np.flatnonzero(data.subject == subjects[row])
        place = event - made.indptr[subjects[row]]
        wanted = mine[max(0, place - 4) : place]
        assert sizes[row] == len(wanted)
        assert inputs[row, : sizes[row]].tolist() == data.object[wanted].tolist()
        assert times[row, : sizes[row]].tolist() == (data.time[wanted] // 1_000_000).tolist()
        assert not inputs[row, sizes[row] :].any()


def test_the_arrays_can_be_mapped(tmp_path):
    made = Sequences.of(interactions(1), 4)
    for name in ("indptr", "objects", "times"):
        np.save(tmp_path / f"{name}.npy", getattr(made, name))
    mapped = Sequences(*(np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("indptr", "objects", "times")), 4)
    every = np.arange(made.num_windows)
    assert all(np.array_equal(*pair) for pair in zip(made.windows(every), mapped.windows(every), strict=True))


def test_who_is_taken_out_is_gone_and_the_others_stay():
    made = Sequences.of(interactions(2), 4)
    table = np.arange(20, dtype=np.float32).reshape(10, 2)
    arrays = {"sequence_indptr": made.indptr, "sequence": made.objects, "sequence_time": made.times, "subjects.weight": table}
    left = without_sequence(arrays, 3)
    after = Sequences(left["sequence_indptr"], left["sequence"], left["sequence_time"], 4)
    for who in range(9):
        assert after.last(who, 99)[0].tolist() == ([] if who == 3 else made.last(who, 99)[0].tolist())
    assert left["subjects.weight"][4].tolist() == table[0].tolist() and table[4, 0] == 8
