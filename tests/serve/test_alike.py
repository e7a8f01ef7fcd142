"""Questions that are alike, against plain cosines in float64; thresholds against what they let through."""

import numpy as np
import pytest

from gyral.errors import InputError
from gyral.serve.alike import Alike, calibrated


def test_the_nearest_question_is_answered_if_it_is_near_enough_and_the_oldest_goes():
    rng = np.random.default_rng(0)
    kept = Alike(16, threshold=0.8, max_entries=20)
    asked = rng.normal(size=(50, 16))
    assert kept.get(asked[0]) is None
    for number, vector in enumerate(asked):
        kept.put(vector.astype(np.float32), str(number).encode())
    assert len(kept) == 20
    told = 0
    for _ in range(300):
        near = asked[rng.integers(50)] + rng.normal(scale=rng.choice([0.1, 0.5, 1.0]), size=16)
        cosines = [asked[at] @ near / np.linalg.norm(asked[at]) / np.linalg.norm(near) for at in range(30, 50)]
        best = int(np.argmax(cosines))
        found = kept.get(near.astype(np.float32))
        if abs(cosines[best] - 0.8) < 1e-5:
            continue
        assert (found is None) == (cosines[best] < 0.8)
        if found is not None:
            told += 1
            assert found.answer == str(30 + best).encode() and found.cosine == pytest.approx(cosines[best], abs=1e-5)
    assert 20 < told < 280


def test_questions_of_another_key_are_not_looked_at():
    kept = Alike(2, threshold=0.5, max_entries=3)
    kept.put(np.array([1, 0]), b"a", b"one")
    kept.put(np.array([1, 1]), b"b", b"two")
    assert kept.get(np.array([1, 0]), b"two").answer == b"b" and kept.get(np.array([1, 0]), b"one").answer == b"a"
    assert kept.get(np.array([1, 0])) is None and kept.get(np.array([-1, 1]), b"one") is None
    kept.put(np.array([1, 0]), b"c", b"two")
    kept.put(np.array([1, 0]), b"d", b"two")  # in the place of the first
    assert kept.get(np.array([1, 0]), b"one") is None


def test_keys_whose_numbers_meet_are_told_nothing_of_each_other(monkeypatch):
    monkeypatch.setattr("gyral.serve.alike._lane", lambda key: 7)
    kept = Alike(2, threshold=0.5)
    kept.put(np.array([1, 0]), b"a", b"one")
    assert kept.get(np.array([1, 0]), b"two") is None and kept.get(np.array([1, 0]), b"one").answer == b"a"


def test_what_has_no_direction_is_refused():
    kept = Alike(3, 0.9)
    for bad in ([0, 0, 0], [np.nan, 0, 1], [np.inf, 0, 1]):
        with pytest.raises(InputError, match="direction"):
            kept.put(np.array(bad, np.float32), b"")
    with pytest.raises(InputError, match="cosine"):
        Alike(3, 0.0)


def test_a_threshold_holds_on_pairs_that_it_was_not_taken_from():
    rng = np.random.default_rng(1)

    def pairs(num):
        is_same = rng.random(num) < 0.5
        return np.where(is_same, rng.normal(0.85, 0.08, num), rng.normal(0.55, 0.1, num)).clip(-1, 1), is_same

    threshold = calibrated(*pairs(4_000), max_error=0.02)
    cosine, is_same = pairs(200_000)
    above = cosine >= threshold
    assert (~is_same[above]).mean() <= 0.02 and above[is_same].mean() > 0.8


def test_a_threshold_that_pairs_do_not_show_is_refused():
    rng = np.random.default_rng(2)
    with pytest.raises(InputError, match="pairs show no threshold"):
        calibrated(np.ones(10), np.ones(10, bool))
    with pytest.raises(InputError, match="no threshold keeps"):
        calibrated(rng.random(1_000), rng.random(1_000) < 0.5)
    with pytest.raises(InputError, match="no threshold keeps"):  # a hundred right ones do not show one in a thousand
        calibrated(np.linspace(0, 1, 100), np.ones(100, bool), max_error=0.001)
    tied = np.full(1_000, 0.9)
    with pytest.raises(InputError, match="no threshold keeps"):  # whichever of the equal ones come first
        calibrated(tied, np.arange(1_000) < 900)
