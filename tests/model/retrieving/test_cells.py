"""Cells found by groups of centres, against comparing every vector with every centre."""

import numpy as np
import pytest

from gyral.model.retrieving.cells import FEW, centres, nearest
from gyral.model.retrieving.ivf import Ivf

faiss = pytest.importorskip("faiss", reason="the extra `index` is not installed")


def test_few_centres_are_all_compared_with(decaying):
    vectors = decaying(3_000)
    found = nearest(faiss, vectors, vectors[:FEW], 0)
    assert (found == (vectors @ vectors[:FEW].T).argmax(axis=1)).all()


def test_of_many_the_centre_is_the_nearest_or_nearly_as_near(decaying):
    vectors = decaying(12_000)
    points = centres(faiss, vectors, 2_048, 2, 0)
    found, products = nearest(faiss, vectors, points, 0), vectors @ points.T
    best = products.max(axis=1)
    reached = products[np.arange(len(vectors)), found]
    assert np.mean(found == products.argmax(axis=1)) > 0.75 and reached.mean() > 0.985 * best.mean()
    assert (reached <= best + 1e-6).all() and np.allclose(np.linalg.norm(points, axis=1), 1, atol=1e-5)


def test_rounds_bring_centres_nearer_to_their_vectors(decaying):
    vectors = decaying(6_000)
    reached = [(vectors @ centres(faiss, vectors, 512, rounds, 0).T).max(axis=1).mean() for rounds in (1, 8)]
    assert reached[1] > 1.01 * reached[0]


def test_a_vector_is_found_once_so_many_cells_are_looked_into_as_its_rank_says(decaying):
    vectors, q = decaying(12_000), decaying(200, seed=1)
    index = Ivf(vectors)
    places = np.random.default_rng(0).integers(len(vectors), size=(len(q), 1))
    only = np.zeros(len(vectors), np.uint8)
    for query, place, rank in zip(q, places[:, 0], index.ranks(q, places), strict=True):
        only[:] = 0
        only[place] = 1
        packed = np.packbits(only, bitorder="little")
        for probes, is_found in ((rank + 1, True), (rank, False)):
            if probes:
                chosen = faiss.IDSelectorBitmap(len(vectors), faiss.swig_ptr(packed))
                told = faiss.SearchParametersIVF(nprobe=int(probes), sel=chosen)
                assert (index._index.search(query[None], 1, params=told)[1][0, 0] == place) is np.bool_(is_found)
