import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gyral.model.metrics import area_under_roc, ranking_metrics


def naive(ranked, relevant, k):
    gained = sum(1 / math.log2(place + 2) for place, code in enumerate(ranked[:k]) if code in relevant)
    ideal = sum(1 / math.log2(place + 2) for place in range(min(k, len(relevant))))
    hits = sum(code in relevant for code in ranked[:k])
    return gained / ideal, hits / len(relevant), float(hits > 0)


@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 12), unique=True, max_size=8), st.sets(st.integers(0, 15), min_size=1, max_size=12)),
        min_size=1,
        max_size=6,
    ),
    st.integers(1, 8),
)
def test_metrics_agree_with_the_definition(rows, k):
    width = max(k, max(len(answer) for answer, _ in rows))
    ranked = np.full((len(rows), width), -1)
    for row, (answer, _) in enumerate(rows):
        ranked[row, : len(answer)] = answer
    values = ranking_metrics(ranked, [np.array(sorted(met)) for _, met in rows], k)
    for row, (answer, met) in enumerate(rows):
        wanted = naive(answer, met, k)
        got = (values["ndcg"][row], values["recall"][row], values["hit"][row])
        assert np.allclose(got, wanted)


def test_nobody_asked_gives_nothing():
    assert len(ranking_metrics(np.zeros((0, 10), dtype=np.int32), [], 10)["ndcg"]) == 0


@pytest.mark.parametrize("seed", range(3))
def test_area_under_roc_is_the_share_of_pairs_in_order(seed):
    rng = np.random.default_rng(seed)
    scores, labels = rng.integers(0, 12, 80).astype(float), rng.random(80) < 0.3
    pairs = np.sign(scores[labels][:, None] - scores[~labels])
    assert area_under_roc(scores, labels) == pytest.approx(float((pairs / 2 + 0.5).mean()))
    assert np.isnan(area_under_roc(scores, np.ones(80, bool)))
