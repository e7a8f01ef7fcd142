"""Vectors from histories against numpy's full decomposition."""

import numpy as np

from gyral.model.retrieving.co_met import co_met_vectors


def test_they_are_the_singular_vectors_of_who_met_what():
    random = np.random.default_rng(0)
    taste = random.random((60, 3)) ** 3 @ random.random((3, 40)) ** 3
    met = random.random((60, 40)) < taste / taste.max()
    met[:, 39] = False  # nobody
    met[7] = False  # nothing
    indptr = np.concatenate([[0], np.cumsum(met.sum(axis=1))])
    items = np.nonzero(met)[1].astype(np.int32)
    matrix = met / np.sqrt(np.maximum(met.sum(axis=1, keepdims=True), 1))
    _, values, turned = np.linalg.svd(matrix, full_matrices=False)
    made = co_met_vectors(indptr, items, 40, width=40)
    want = turned.T * values
    want[:39] /= np.linalg.norm(want[:39], axis=1, keepdims=True)
    assert made.dtype == np.float32 and np.allclose(made @ made.T, want @ want.T, atol=1e-4) and not made[39].any()
    few = co_met_vectors(indptr, items, 40, width=4)
    best = turned[:4].T * values[:4]
    best[:39] /= np.linalg.norm(best[:39], axis=1, keepdims=True)
    assert few.shape == (40, 4) and np.corrcoef((few @ few.T).ravel(), (best @ best.T).ravel())[0, 1] > 0.9
    assert (few == co_met_vectors(indptr, items, 40, width=4)).all()


def test_nobody_met_anything():
    assert not co_met_vectors(np.zeros(3, np.int64), np.zeros(0, np.int32), 5).any()
