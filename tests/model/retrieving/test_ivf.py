"""Cells against exact search."""

import numpy as np
import pytest

from gyral.model.retrieving.exact import Flat
from gyral.model.retrieving.ivf import Ivf, share_found, tuned

pytest.importorskip("faiss", reason="the extra `index` is not installed")


@pytest.fixture(scope="module")
def made(decaying):
    vectors = decaying(12_000)
    return vectors, Ivf(vectors)


@pytest.mark.parametrize("stated", [0.8, 0.95])
def test_the_stated_recall_is_reached_on_other_queries(made, stated, decaying):
    vectors, index = made
    told = tuned(index, Flat(vectors), decaying(1_500, seed=1), 10, stated)
    others = decaying(1_500, seed=2)
    truth = np.argsort(-(others @ vectors.T), axis=1, kind="stable")[:, :10]
    reached = share_found(index.search(others, 10)[0], truth)
    assert abs(reached - stated) <= 0.02 and abs(told.recall - reached) <= 0.015  # 4 standard errors of 1,500 queries
    assert 1 <= index.probes == told.probes < told.cells


def test_tunings_by_few_queries_reach_the_stated_recall_by_about_a_standard_error(made, decaying):
    vectors, index = made
    others = decaying(4_000, seed=2)
    truth = np.argsort(-(others @ vectors.T), axis=1, kind="stable")[:, :10]
    reached = []
    for seed in range(10, 20):
        tuned(index, Flat(vectors), decaying(450, seed=seed), 10, 0.95)
        reached.append(share_found(index.search(others, 10)[0], truth))
    assert np.mean(np.asarray(reached) >= 0.95) >= 0.9 and np.mean(reached) <= 0.965


def test_all_cells_find_everything_and_scores_are_float_products(made, decaying):
    vectors, index = made
    q = decaying(50, seed=3)
    tuned(index, Flat(vectors), q, 10, 1.0)
    index.probes = index.cells
    found, scores = index.search(q, 10)
    truth, exact = Flat(vectors).search(q, 10)
    assert share_found(found, truth) >= 0.999 and np.allclose(scores[found == truth], exact[found == truth])


def test_few_that_may_be_found_are_found(made, decaying):
    vectors, index = made
    index.probes = 20
    may = np.zeros(len(vectors), np.uint8)
    may[::30] = 1
    q = decaying(100, seed=4)
    found, _ = index.search(q, 10, may)
    assert (may[found] == 1).all()
    assert share_found(found, Flat(vectors).search(q, 10, may)[0]) >= 0.95


def test_the_same_vectors_and_seed_give_the_same_answers(decaying):
    vectors, q = decaying(5_000), decaying(20, seed=1)
    one, other = (Ivf(vectors, seed=3).search(q, 10)[0] for _ in range(2))
    assert (one == other).all()


@pytest.mark.parametrize("num", [1, 3, 40])
def test_hardly_any_vectors(num, decaying):
    vectors = decaying(num)
    found, scores = Ivf(vectors, probes=10_000).search(decaying(2, seed=1), 50)
    assert (np.sort(found[:, :num]) == np.arange(num)).all() and (found[:, num:] == -1).all()
    assert (scores[:, num:] == -np.inf).all()
