"""What the tests of retrieval share."""

import numpy as np
import pytest


@pytest.fixture(scope="session")
def decaying():
    """Makes vectors of length one without clusters: the spectrum decays."""

    def make(num, width=32, seed=0):
        made = np.random.default_rng(seed).normal(size=(num, width)) * np.arange(1, width + 1) ** -0.5
        return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)

    return make
