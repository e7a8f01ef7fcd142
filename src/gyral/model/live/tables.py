"""The tables of a live recommender. Objects are keyed by their codes, which a journal gives out, subjects by a 64-bit hash.

Two kinds of rows: weights, which learn, and facts, which are set (`sgd` at rate 1 with the difference; see `visits`). `eps` is
a tenth and not nothing: a softmax over thousands of objects gives most of them gradients near zero, of which Adagrad would make
full steps.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from gyral.model.live.visits import NUM_SMALL, PAST_WIDTH, SEEN_WIDTH
from gyral.params.spec import Optimizer, TableSpec
from gyral.params.strings import key_of

ITEM, BIAS, MET, SEEN = "live.item", "live.bias", "live.met", "live.seen"
SUBJECT, PAST, SMALL = "live.subject", "live.past", "live.small"
OF_OBJECTS = (ITEM, BIAS, MET, SEEN)
"""Keyed by an object's code."""
EPS = 0.1
SMALL_RATE = 3.0
"""Of biases and the small tables, times that of rows: with 60 visits a step recall@10 is .1726 instead of .1710."""


def specs(dim: int = 32, rate: float = 0.1, seed: int = 0) -> dict[str, TableSpec]:
    """The tables, by name."""
    rowwise = Optimizer("rowwise_adagrad", rate=rate, eps=EPS)
    each = Optimizer("adagrad", rate=SMALL_RATE * rate, eps=EPS)
    facts = Optimizer("sgd", rate=1.0)
    made = [
        TableSpec(ITEM, dim, rowwise, scale=0.1, seed=seed),
        TableSpec(BIAS, 2, each, init="zero", seed=seed),
        TableSpec(MET, dim, rowwise, scale=0.1, seed=seed),
        TableSpec(SUBJECT, dim + 1, rowwise, init="zero", seed=seed),
        TableSpec(SMALL, NUM_SMALL, each, init="zero", seed=seed),
        TableSpec(SEEN, SEEN_WIDTH, facts, init="zero", seed=seed),
        TableSpec(PAST, PAST_WIDTH, facts, init="zero", seed=seed),
    ]
    return {spec.name: spec for spec in made}


def keys_of(names: Iterable[str]) -> np.ndarray:
    """Keys of subjects, int64."""
    return np.fromiter(map(key_of, names), np.int64)
