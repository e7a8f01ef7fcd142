"""Recall and naming against loops."""

import numpy as np

from gyral.model.retrieval import first_of, naming, recall

RANDOM = np.random.default_rng(0)


def test_recall_is_what_a_loop_counts():
    query, found = RANDOM.normal(size=(2000, 8)).astype(np.float32), RANDOM.normal(size=(50, 8)).astype(np.float32)
    of_query, of_found = RANDOM.integers(0, 10, 2000), RANDOM.integers(0, 10, 50)
    order = np.argsort(-(query.astype(np.float64) @ found.T.astype(np.float64)), axis=1)
    for k in (1, 5):
        told = np.mean([of_query[row] in of_found[order[row, :k]] for row in range(2000)])
        assert recall(query, of_query, found, of_found, k) == told
    assert (first_of(query, found) == order[:, 0]).all()
    assert recall(query[:0], of_query[:0], found, of_found) == 0.0


def test_naming_counts_each_language_by_itself():
    pictures = np.eye(4, dtype=np.float32)
    captions = np.concatenate([np.eye(4), np.eye(4)[[1, 0, 2, 3]], np.eye(4)[:1]]).astype(np.float32)
    concepts, languages = np.array([0, 1, 2, 3, 0, 1, 2, 3, 0]), ["en"] * 4 + ["de"] * 4 + ["fr"]
    assert naming(pictures, np.arange(4), captions, concepts, languages) == {"de": (0.5, 0.25), "en": (1.0, 0.25)}
