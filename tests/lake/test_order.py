"""The permutation: a bijection for every size, another one for every seed and pass, and it looks shuffled."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gyral.lake.order import permuted, scatter


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 3_000), st.integers(0, 2**64 - 1), st.integers(0, 10**6))
def test_every_thing_stands_at_one_place(size, seed, number):
    assert sorted(permuted(np.arange(size), size, seed, number).tolist()) == list(range(size))


def test_a_block_is_what_the_places_are_one_by_one():
    size = 100_003
    places = np.random.default_rng(0).integers(0, size, 50)
    together = permuted(places, size, 7, 2)
    assert together.tolist() == [int(permuted(np.array([place]), size, 7, 2)[0]) for place in places]
    assert (permuted(places.reshape(5, 10), size, 7, 2) == together.reshape(5, 10)).all()


def test_it_is_spread_like_a_shuffle():
    size = 50_000
    order = permuted(np.arange(size), size, 1)
    # Neighbours of a shuffle are a third of the size apart on average, and a window of it is spread over all of it.
    assert abs(np.abs(np.diff(order)).mean() / size - 1 / 3) < 0.01
    counts = np.histogram(order[:5_000], bins=50, range=(0, size))[0]
    assert ((counts - 100) ** 2 / 100).sum() < 95  # chi square of 49 degrees, p < .0001; drawn without replacement it is less
    assert abs(np.corrcoef(order, permuted(np.arange(size), size, 2))[0, 1]) < 0.02
    assert abs(np.corrcoef(order, permuted(np.arange(size), size, 1, 1))[0, 1]) < 0.02
    assert (order == np.arange(size)).sum() < 10


def test_it_is_the_same_on_every_machine():
    assert permuted(np.arange(6), 1_000_000, 42, 3).tolist() == PINNED
    assert scatter(np.arange(2), 5).tolist() == PINNED_SCATTER


def test_places_outside_are_refused():
    with pytest.raises(ValueError, match="must lie in"):
        permuted(np.array([5]), 5, 0)


PINNED = [54679, 292371, 805226, 492880, 598958, 439095]
PINNED_SCATTER = [2052421367041606866, 3609973684658635244]
