"""An index against a dictionary of vectors, which is changed in the same way."""

import importlib.util
import threading

import numpy as np
import pytest

from gyral.errors import ConflictError, InputError
from gyral.model.retrieving import index as indexes
from gyral.model.retrieving.index import Index

needs_faiss = pytest.mark.skipif(importlib.util.find_spec("faiss") is None, reason="the extra `index` is not installed")


class Dictionary:
    """The oracle."""

    def __init__(self):
        self.vectors = {}

    def search(self, q, k, exclude=(), allowed=None):
        ids = np.array(sorted(id_ for id_ in self.vectors if id_ not in exclude and (allowed is None or id_ in allowed)), int)
        if not len(ids):
            return []
        scores = np.stack([self.vectors[id_] for id_ in ids]).astype(np.float64) @ q.astype(np.float64)
        return ids[np.lexsort((ids, -scores))][:k].tolist()


def found(index, q, k, **options):
    ids = index.search(q[None], k, **{name: [each] if name == "exclude" else each for name, each in options.items()}).ids_Bk[0]
    return [id_ for id_ in ids.tolist() if id_ >= 0]


@pytest.mark.parametrize("kind", ["flat", "int8", pytest.param("ivf", marks=needs_faiss)])
def test_random_changes_are_those_of_a_dictionary(kind, monkeypatch, decaying):
    monkeypatch.setattr(indexes, "TAIL_LEAST", 200)
    monkeypatch.setattr(indexes, "FEW_ALLOWED", 300)
    random = np.random.default_rng(0)
    index, truth = Index(kind, recall=1.0), Dictionary()
    ids = random.permutation(10_000)[:3_000]
    vectors = decaying(3_000, 16)
    index.build(vectors, "1", ids, decaying(50, 16, seed=9))
    truth.vectors = dict(zip(ids.tolist(), vectors, strict=True))
    for step in range(40):
        some = random.integers(0, 10_000, random.integers(1, 60))
        if step % 3 == 2:
            index.delete(some)
            for id_ in some.tolist():
                truth.vectors.pop(id_, None)
        else:
            new = decaying(len(some), 16, seed=step + 100)
            index.upsert(some, new)
            truth.vectors.update(zip(some.tolist(), new, strict=True))
        if step % 20 == 10:
            index.compact()
        assert len(index) == len(truth.vectors)
        if index._view.base.kind == "ivf":
            index._view.base.probes = index._view.base.cells  # all: what is tested is which rows there are
        q = decaying(1, 16, seed=step + 1_000)[0]
        met, allowed = random.choice(10_000, 400), random.choice(10_000, 3_000, replace=False)
        assert found(index, q, 20) == truth.search(q, 20)
        assert found(index, q, 20, exclude=met) == truth.search(q, 20, exclude=set(met.tolist()))
        assert found(index, q, 9, allowed=np.sort(allowed)) == truth.search(q, 9, allowed=set(allowed.tolist()))
        bitmap = np.zeros(9_000, bool)
        bitmap[allowed[allowed < 9_000]] = True
        assert found(index, q, 9, allowed=bitmap) == truth.search(q, 9, allowed=set(np.flatnonzero(bitmap).tolist()))
        few = allowed[:30]
        assert found(index, q, 9, allowed=few, exclude=few[:3]) == truth.search(
            q, 9, allowed=set(few.tolist()), exclude=set(few[:3].tolist())
        )


def test_of_an_id_given_twice_the_last_counts_and_what_was_deleted_comes_back():
    index = Index()
    index.build(np.eye(4, dtype=np.float32), "1")
    index.upsert(np.array([7, 7]), np.array([[9, 0, 0, 0], [0, 5, 0, 0]], np.float32))
    assert found(index, np.array([0, 1, 0, 0], np.float32), 2) == [7, 1] and len(index) == 5
    index.delete(np.array([7, 1, 99]))
    assert found(index, np.array([0, 1, 0, 0], np.float32), 9) == [0, 2, 3] and len(index) == 3
    index.upsert(np.array([1]), np.array([[0, 2, 0, 0]], np.float32))
    assert found(index, np.array([0, 1, 0, 0], np.float32), 1) == [1] and len(index) == 4
    index.delete(np.arange(4))
    assert found(index, np.ones(4, np.float32), 3) == [] and len(index) == 0


def test_equal_vectors_come_in_the_order_of_their_ids_wherever_they_are():
    index = Index()
    index.build(np.ones((3, 2), np.float32), "1", np.array([8, 2, 5]))
    index.upsert(np.array([6, 3]), np.ones((2, 2), np.float32))
    assert found(index, np.ones(2, np.float32), 9) == [2, 3, 5, 6, 8]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_what_is_no_number_is_refused_and_changes_nothing(bad):
    index = Index()
    index.build(np.eye(3, dtype=np.float32), "1")
    wrong = np.array([[1, bad, 0]], np.float32)
    for call in (
        lambda: index.search(wrong, 1),
        lambda: index.build(wrong, "2"),
        lambda: index.upsert(np.array([0]), wrong),
    ):
        with pytest.raises(InputError):
            call()
    assert index.version == "1" and found(index, np.array([1, 0, 0], np.float32), 1) == [0]


def test_wrong_shapes_ids_and_versions_are_refused():
    index = Index()
    with pytest.raises(InputError, match="nothing was built"):
        index.search(np.ones((1, 3)), 1)
    index.build(np.eye(3, dtype=np.float32), "1")
    for call in (
        lambda: index.search(np.ones((1, 4)), 1),
        lambda: index.search(np.ones(3), 1),
        lambda: index.search(np.ones((2, 3)), 1, exclude=[np.zeros(0, int)]),
        lambda: index.build(np.ones((2, 3)), "2", np.array([1, 1])),
        lambda: index.build(np.ones((2, 3)), "2", np.array([1, -1])),
        lambda: index.upsert(np.array([-4]), np.ones((1, 3))),
        lambda: index.upsert(np.array([1, 2]), np.ones((1, 3))),
    ):
        with pytest.raises(InputError):
            call()
    with pytest.raises(ConflictError):
        index.upsert(np.array([1]), np.ones((1, 3)), version="0")


def test_nothing_and_then_something():
    index = Index("ivf")
    index.build(np.zeros((0, 3), np.float32), "1")
    assert found(index, np.ones(3, np.float32), 2) == [] and len(index) == 0
    index.upsert(np.array([4]), np.ones((1, 3), np.float32))
    assert found(index, np.ones(3, np.float32), 2) == [4]


@needs_faiss
def test_the_card_tells_what_was_measured(decaying):
    index = Index("ivf", recall=0.9)
    vectors = decaying(8_000)
    index.build(vectors, "7", queries_BD=decaying(600, seed=1))
    card = index.card
    assert card["version"] == "7" and card["kind"] == "ivf" and card["stated"] == 0.9 and card["asked_by"] == "queries"
    q = decaying(800, seed=2)
    truth = np.argsort(-(q @ vectors.T), axis=1, kind="stable")[:, :10]
    reached = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(index.search(q, 10).ids_Bk, truth, strict=True)])
    assert abs(reached - 0.9) <= 0.025 and abs(card["recall"] - reached) <= 0.03
    index.delete(np.arange(5))
    index.upsert(np.array([30_000]), decaying(1))
    assert index.card["gone"] == 5 and index.card["tail"] == 1
    assert Index().card == {}


def test_no_answer_mixes_two_versions_while_they_are_swapped_and_changed(decaying):
    """Version n has all vectors at length n, so a score tells where each hit is from."""
    width, num = 8, 6_000
    shape = decaying(num, width)
    index = Index("int8")
    index.build(shape, "1")
    q = shape[:3]
    best = (q @ shape.T).max(axis=1)
    stop, wrong, asked = threading.Event(), [], [0]

    def ask():
        while not stop.is_set():
            answer = index.search(q, 5)
            asked[0] += 1
            if not np.allclose(answer.scores_Bk[:, 0], best * float(answer.version), rtol=1e-4):
                wrong.append(answer)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for each in threads:
        each.start()
    for version in range(2, 16):
        index.build(shape * version, str(version))
        some = np.arange(version * 10, version * 10 + 50)
        index.delete(some, str(version))
        index.upsert(some, shape[some] * version, str(version))
        index.compact()
    stop.set()
    for each in threads:
        each.join(30)
    assert not wrong and asked[0] > 20 and index.version == "15" and len(index) == num


def test_what_comes_while_the_tail_is_joined_is_kept(monkeypatch, decaying):
    index = Index("int8")
    vectors = decaying(2_000, 8)
    index.build(vectors, "1")
    index.upsert(np.arange(100), -vectors[:100])
    begun, go = threading.Event(), threading.Event()
    made = index._made

    def slow(*args, **options):
        begun.set()
        assert go.wait(20)
        return made(*args, **options)

    monkeypatch.setattr(index, "_made", slow)
    thread = threading.Thread(target=index.compact)
    thread.start()
    assert begun.wait(20)
    index.upsert(np.array([5, 3_000]), np.stack([vectors[0] * 50, vectors[0] * 60]))
    index.delete(np.array([7, 1_500]))
    go.set()
    thread.join(20)
    assert len(index) == 1_999 and index.card["tail"] == 2
    assert set(found(index, vectors[0], 2)) == {5, 3_000} and 7 not in found(index, -vectors[7], 2_000)
