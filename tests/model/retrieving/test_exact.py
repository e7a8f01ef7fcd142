"""Exact search against a float64 sort of all products."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gyral.model.retrieving import exact
from gyral.model.retrieving.exact import Flat, Int8


def by_hand(vectors, q, k, may=None):
    """Places by float64 products, ties to the lower place."""
    scores = q.astype(np.float64) @ vectors.T.astype(np.float64)
    if may is not None:
        scores[:, may == 0] = -np.inf
    found = np.full((len(q), k), -1)
    for row, each in enumerate(scores):
        order = np.lexsort((np.arange(len(each)), -each))
        order = order[each[order] > -np.inf][:k]
        found[row, : len(order)] = order
    return found


@pytest.mark.parametrize("kind", [Flat, Int8])
@pytest.mark.parametrize("queries", [1, 2, 7, 65])
def test_it_finds_what_a_sort_of_all_products_finds(kind, queries, decaying):
    vectors, q = decaying(20_000), decaying(queries, seed=1)
    found, scores = kind(vectors).search(q, 10)
    assert (found == by_hand(vectors, q, 10)).all()
    told = np.take_along_axis(q @ vectors.T, found, axis=1)
    assert found.dtype == np.int64 and scores.dtype == np.float32 and np.allclose(scores, told, atol=1e-5)


@pytest.mark.parametrize("kind", [Flat, Int8])
def test_what_may_not_be_found_is_not(kind, decaying):
    vectors, q = decaying(9_000), decaying(5, seed=1)
    may = (np.arange(9_000) % 3 == 0).astype(np.uint8)
    assert (kind(vectors).search(q, 10, may)[0] == by_hand(vectors, q, 10, may)).all()
    few = np.zeros(9_000, np.uint8)
    few[[8, 5_000]] = 1
    for size in (1, 5):
        found, scores = kind(vectors).search(q[:size], 10, few)
        assert (np.sort(found[:, :2]) == [8, 5_000]).all() and (found[:, 2:] == -1).all() and (scores[:, 2:] == -np.inf).all()


@pytest.mark.parametrize("kind", [Flat, Int8])
@pytest.mark.parametrize("queries", [1, 5])
def test_more_than_there_is_and_nothing(kind, queries, decaying):
    vectors, q = decaying(7), decaying(queries, seed=1)
    found, scores = kind(vectors).search(q, 20)
    assert (np.sort(found[:, :7]) == np.arange(7)).all() and (found[:, 7:] == -1).all() and (scores[:, 7:] == -np.inf).all()
    assert kind(vectors).search(q, 0)[0].shape == (queries, 0)
    assert kind(vectors).search(q[:0], 3)[0].shape == (0, 3)
    assert (kind(vectors[:0]).search(q, 3)[0] == -1).all()


@pytest.mark.parametrize("kind", [Flat, Int8])
@pytest.mark.parametrize("queries", [1, 5])
def test_equal_vectors_come_in_the_order_of_their_places(kind, queries, decaying):
    vectors = np.repeat(decaying(40), 50, axis=0)
    q = decaying(40)[:queries]
    found, scores = kind(vectors).search(q, 60)
    assert (found[:, :50] == np.arange(50) + 50 * np.arange(queries)[:, None]).all()
    assert (np.diff(scores, axis=1) <= 0).all()


@pytest.mark.parametrize("queries", [1, 5])
def test_vectors_too_alike_for_the_room_are_found_by_float_products(queries):
    random = np.random.default_rng(0)
    vectors = (1 + 1e-5 * random.normal(size=(20_000, 8))).astype(np.float32)  # int8 sees no difference
    q = np.ones((queries, 8), np.float32) * np.arange(1, queries + 1, dtype=np.float32)[:, None]
    q += random.normal(size=q.shape).astype(np.float32)
    found, _ = Int8(vectors).search(q, 10)
    assert (found == Flat(vectors).search(q, 10)[0]).all()


@settings(max_examples=60)
@given(
    st.integers(1, 300), st.integers(1, 70), st.integers(1, 6), st.integers(0, 12), st.integers(0, 2**32 - 1),
    st.sampled_from([1e-6, 1.0, 1e6]),
)  # fmt: skip
def test_whatever_the_sizes_and_lengths_nothing_is_lost(num, width, queries, k, seed, size):
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(num, width)) * random.choice([0, 1e-4, 1, 100], size=(num, 1)) * size
    vectors = np.round(vectors, 1).astype(np.float32) if size == 1 else vectors.astype(np.float32)
    q = random.normal(size=(queries, width)).astype(np.float32)
    truth = np.sort(q.astype(np.float64) @ vectors.T.astype(np.float64), axis=1)[:, ::-1][:, :k]
    found, scores = Int8(vectors).search(q, k)
    there = min(k, num)
    assert (found[:, :there] >= 0).all() and (found[:, there:] == -1).all()
    room = 1e-5 * np.linalg.norm(q, axis=1).max() * max(np.linalg.norm(vectors, axis=1).max(), 1e-30)
    assert np.abs(scores[:, :there] - truth).max(initial=0) <= room
    assert all(len(set(row[:there].tolist())) == there for row in found)


def test_without_torch_the_scan_does_all(monkeypatch, decaying):
    vectors, q = decaying(5_000), decaying(9, seed=1)
    with_torch = Int8(vectors).search(q, 10)
    monkeypatch.setattr(exact, "_torch", lambda: None)
    alone = Int8(vectors).search(q, 10)
    assert (alone[0] == with_torch[0]).all() and (alone[1] == with_torch[1]).all()
