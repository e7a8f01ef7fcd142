"""MovieLens-100K in time order through client, shards, cuts and replicas: what freshness and ids without collisions are worth.

Of its first 20,000 ratings; `benchmarks/params/curves.py` has all of them. The oracle is a plain loop of numpy over the same
ratings, in the test: a dict of arrays, and copies of it for those who are served.
"""

import sys
from pathlib import Path

import numpy as np
import pytest

from gyral.errors import InputError

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
NUM, WARM, DIM = 20_000, 5_000, 16


@pytest.fixture
def curves(monkeypatch):
    """The benchmark, on the first ratings."""
    for folder in ("params", "recommender", "."):
        monkeypatch.syspath_prepend(str(FOLDER / folder))
    import curves

    try:
        keys_N2, labels = curves.ratings()
    except InputError as error:
        pytest.skip(f"the wheel of recbole cannot be fetched: {error.what}")
    monkeypatch.setattr(curves, "ratings", lambda: (keys_N2[:NUM], labels[:NUM]))
    monkeypatch.setattr(curves, "WARM", WARM)
    yield curves
    for name in ("curves", "measure"):
        sys.modules.pop(name, None)


def plain(keys_N2, labels):
    """Logits by how often those who are served get a copy: factors and a bias, Adagrad with one sum a row."""
    ids, at = np.unique(keys_N2, return_inverse=True)
    rows = np.random.default_rng(0).normal(0, 0.16, (len(ids), DIM + 1)).astype(np.float32)
    sums, logits, copies = np.zeros(len(ids)), {name: [] for name in ("1", "100", "1000", "never")}, {}
    for place, (user, item) in enumerate(at.reshape(-1, 2).tolist()):
        for name, found in logits.items():
            if place in (0, WARM) or (name.isdigit() and place % int(name) == 0):
                copies[name] = rows if name == "1" else rows.copy()
            left, right = copies[name][user], copies[name][item]
            found.append(left[:DIM] @ right[:DIM] + left[DIM] + right[DIM])
        miss = 1 / (1 + np.exp(-logits["1"][-1])) - labels[place]
        gradients = rows[[item, user]] * miss
        gradients[:, DIM] = miss
        for row, gradient in zip((user, item), gradients, strict=True):
            sums[row] += np.mean(gradient**2)
            rows[row] -= 0.2 * gradient / np.sqrt(sums[row])
    return {name: np.array(found[WARM:]) for name, found in logits.items()}


def auc(labels, scores):
    """Share of pairs in order: each right one before each wrong one."""
    wrong = np.sort(scores[labels == 0])
    return np.searchsorted(wrong, scores[labels == 1]).mean() / len(wrong)


@pytest.mark.slow
def test_a_served_copy_is_worth_what_it_is_fresh_and_ids_of_their_own_beat_hashed_ones(curves):
    keys_N2, labels = curves.ratings()
    wanted = {name: auc(labels[WARM:], found) for name, found in plain(keys_N2, labels).items()}
    fresh, hashed = curves.refresh(), curves.collisions()
    for name, value in wanted.items():
        assert fresh[name] == pytest.approx(value, abs=0.006), name
    assert fresh["1"] - 0.02 > fresh["100"] > fresh["1000"] + 0.01 > fresh["never"] + 0.02
    assert hashed["free"] == fresh["1"]  # one shard or two, kept or not
    assert hashed["free"] - hashed["hashed"] >= 0.02
