import numpy as np
import pytest

from gyral.model.counted import LATELY, Counted


@pytest.mark.parametrize("seed", range(3))
def test_numbers_are_counts_of_what_came_before(seed):
    rng = np.random.default_rng(seed)
    num = 300
    subject, object_, seconds = rng.integers(0, 12, num), rng.integers(0, 9, num), np.sort(rng.integers(0, 10**7, num))
    counted = Counted(subject, object_, seconds, 9)
    places = np.r_[rng.integers(0, num + 1, 60), num, 0]
    who, what = rng.integers(-1, 13, len(places)), rng.integers(0, 9, len(places))
    when = seconds[np.minimum(places, num - 1)]
    told = np.expm1(counted.numbers(places, who, what, when))
    for row, place in enumerate(places.tolist()):
        mine = np.flatnonzero(subject[:place] == who[row])
        lately = max(place - max(int(num * LATELY), 1), 0)
        wanted = [
            len(mine),
            (object_[:place] == what[row]).sum(),
            (object_[lately:place] == what[row]).sum(),
            (object_[mine] == what[row]).sum(),
            (when[row] - seconds[mine[-1]]) / 86_400 if len(mine) else 0,
        ]
        assert np.allclose(told[row], wanted, rtol=1e-5, atol=1e-5)


def test_now_is_what_is_known_after_everything():
    rng = np.random.default_rng(7)
    subject, object_, seconds = rng.integers(0, 12, 300), rng.integers(0, 9, 300), np.sort(rng.integers(0, 10**7, 300))
    counted = Counted(subject, object_, seconds, 9)
    who = np.array([3, 0, 11, 40])
    told = counted.now(who, 10**7 + 5)
    for row, one in enumerate(who.tolist()):
        alike = (np.full(9, 300), np.full(9, one), np.arange(9), np.full(9, 10**7 + 5))
        assert np.allclose(told[row], counted.numbers(*alike), atol=1e-6)
