"""Semantic duplicates: what is found is what all pairs give, the best stays, and nothing grows without bound."""

import numpy as np
import pyarrow as pa
import pytest

from gyral.curate import semantic
from gyral.curate.semantic import centroids, duplicates, embed, find_pairs, nearest_clusters
from gyral.errors import ConfigError, InputError
from gyral.plugins import load


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def topics(seed=0, count=3_000, width=32, near=400):
    """Documents of 40 topics; of some there is a paraphrase at a cosine of .9 to 1."""
    random = np.random.default_rng(seed)
    base = unit(random.normal(size=(40, width)))
    vectors = unit(base[random.integers(0, 40, count)] + 0.18 * random.normal(size=(count, width)))
    again = vectors[random.choice(count, near, replace=False)]
    noise = unit(random.normal(size=(near, width)))
    vectors = np.concatenate([vectors, unit(again + random.random((near, 1)) * 0.45 * noise)])
    return vectors[random.permutation(len(vectors))]


def all_pairs(vectors, threshold):
    cosines = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    a, b = np.nonzero(np.triu(cosines >= threshold, 1))
    return {(int(x), int(y)) for x, y in zip(a, b, strict=True)}


def plain_star(num_nodes, a, b, similarity, priority_order, is_alive, threshold):
    """The best stays, what is near to it goes, and so on with what is left."""
    near = {}
    for x, y, value in zip(a.tolist(), b.tolist(), similarity.tolist(), strict=True):
        near.setdefault(x, {})[y] = near.setdefault(y, {})[x] = value
    twin, cosine, decided = np.full(num_nodes, -1, np.int64), np.zeros(num_nodes, np.float32), set()
    for node in priority_order.tolist():
        if not is_alive[node] or node in decided:
            continue
        decided.add(node)
        for other, value in near.get(node, {}).items():
            if value >= threshold and is_alive[other] and other not in decided:
                decided.add(other)
                twin[other], cosine[other] = node, value
    return twin, cosine


def exact(vectors, order, is_alive, threshold):
    """The same decision by all cosines, in float64, nothing collapsed and nothing cut."""
    cosines = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    a, b = np.nonzero(np.triu(cosines >= threshold, 1))
    return plain_star(len(vectors), a, b, cosines[a, b], order, is_alive, threshold)


@pytest.mark.parametrize("threshold", [0.9, 0.95])
def test_all_clusters_give_all_pairs(threshold, monkeypatch):
    monkeypatch.setattr(semantic, "BLOCK", 37)  # many blocks, and those that are cut in the middle
    vectors = topics(count=700, near=100)
    order = np.random.default_rng(1).permutation(len(vectors))
    want = all_pairs(vectors, threshold)
    assert len(want) > 30
    for clusters in (1, 2, 9):
        found = find_pairs(vectors, order, threshold, clusters=clusters, probes=clusters)
        pairs = [(min(x, y), max(x, y)) for x, y in zip(found.a.tolist(), found.b.tolist(), strict=True)]
        assert len(pairs) == len(set(pairs))
        assert set(pairs) == want
        rank = np.argsort(order)
        assert (rank[found.a] < rank[found.b]).all()
        np.testing.assert_allclose(found.cosine, (vectors[found.a] * vectors[found.b]).sum(axis=1), atol=1e-5)


def test_nearest_clusters_find_nearly_all():
    vectors = topics()
    want = all_pairs(vectors, 0.93)
    recall = []
    for probes in (1, 3):
        found = find_pairs(vectors, np.arange(len(vectors)), 0.93, probes=probes)
        pairs = set(zip(np.minimum(found.a, found.b).tolist(), np.maximum(found.a, found.b).tolist(), strict=True))
        assert pairs <= want
        recall.append(len(pairs) / len(want))
    assert recall[0] < recall[1] and recall[1] >= 0.97


def test_the_best_stays_and_every_twin_stays_and_is_near():
    vectors = topics(2, count=900, near=300)
    vectors[::50] = vectors[7]  # equal ones too
    vectors[3] = 0
    order = np.random.default_rng(0).permutation(len(vectors))
    is_alive = np.random.default_rng(1).random(len(vectors)) > 0.1
    twin, cosine = duplicates(vectors, order, is_alive, 0.93, plain_star, clusters=1, probes=1)
    want, _ = exact(vectors, order, is_alive, 0.93)
    assert ((twin >= 0) == (want >= 0)).all()
    gone = np.flatnonzero(twin >= 0)
    assert len(gone) > 150
    assert (twin[twin[gone]] == -1).all() and is_alive[twin[gone]].all() and is_alive[gone].all()
    rank = np.argsort(order)
    assert (rank[twin[gone]] < rank[gone]).all()
    np.testing.assert_allclose(cosine[gone], (vectors[gone] * vectors[twin[gone]]).sum(axis=1), atol=1e-5)
    assert twin[3] == -1


def test_a_thousand_alike_make_no_million_pairs():
    base = unit(np.random.default_rng(0).normal(size=(1, 16)))
    vectors = unit(base + 1e-3 * np.random.default_rng(1).normal(size=(3_000, 16)))
    found = find_pairs(vectors, np.arange(3_000), 0.99, clusters=4, probes=2)
    assert np.bincount(found.b).max() <= semantic.MOST
    twin, _ = duplicates(vectors, np.arange(3_000), np.ones(3_000, bool), 0.99, plain_star, clusters=1, probes=1)
    assert twin.tolist() == [-1] + [0] * 2_999


def test_k_means_finds_clusters_and_is_repeatable():
    random = np.random.default_rng(0)
    base = unit(random.normal(size=(12, 24)))
    label = random.integers(0, 12, 6_000)
    vectors = unit(base[label] + 0.05 * random.normal(size=(6_000, 24)))
    centers = centroids(vectors, 24, 5)
    assert (centers == centroids(vectors, 24, 5)).all()
    home = nearest_clusters(vectors, centers, 2)
    purity = sum(np.bincount(label[home[:, 0] == each]).max(initial=0) for each in range(24)) / 6_000
    assert purity > 0.95
    brute = np.argsort(-(vectors[:50] @ centers.T), axis=1)[:, :2]
    assert (home[:50] == brute).all()


def letters(texts):
    """A light embedding: how often each letter is in the text."""
    return np.array([[text.count(letter) for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts], float)


def test_texts_become_vectors_by_the_users_function():
    texts = pa.array(["abc"] * 300 + [None, "", "cab"])
    vectors = np.concatenate(list(embed(letters, [texts])))
    assert (vectors.dtype, vectors.shape) == (np.float32, (303, 26))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1.0] * 300 + [0, 0, 1], atol=1e-6)
    assert vectors[0] @ vectors[302] == pytest.approx(1)


@pytest.mark.parametrize(
    "wrong",
    [lambda texts: np.zeros(len(texts)), lambda texts: np.zeros((1, 3)), lambda texts: np.full((len(texts), 2), np.nan)],
    ids=["flat", "too few", "not finite"],
)
def test_a_wrong_embedding_is_said(wrong):
    with pytest.raises(InputError, match="the embedding function"):
        list(embed(wrong, [pa.array(["a", "b"])]))


def test_a_function_that_is_not_there_is_said(tmp_path, monkeypatch):
    (tmp_path / "mine_embeds.py").write_text("def embed(texts):\n    return [[1.0, 0.0]] * len(texts)\nnumber = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    vectors = list(embed(load("mine_embeds:embed", "dedup.semantic"), [pa.array(["a", "b"])]))
    assert vectors[0].tolist() == [[1.0, 0.0]] * 2
    for name in ("mine_embeds:none", "no_such_module:embed", "mine_embeds", "mine_embeds:number"):
        with pytest.raises(ConfigError, match=r"dedup\.semantic"):
            load(name, "dedup.semantic")


def test_nothing_has_no_pairs():
    none = np.zeros((0, 4), np.float32)
    assert len(find_pairs(none, np.zeros(0, np.int64), 0.9).a) == 0
    assert len(duplicates(none, np.zeros(0, np.int64), np.zeros(0, bool), 0.9, plain_star)[0]) == 0
