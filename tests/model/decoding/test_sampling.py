"""Drawing against distributions that are computed in the plain way, a cut at a time over the whole vocabulary."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gyral.errors import InputError, UsageError
from gyral.model.decoding.sampling import Sampler, Sampling, pick
from gyral.model.generate import Sampler as PlainSampler


def softmax(logits):
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def plainly(logits, temperature, top_k, top_p, min_p):
    """What is left of a distribution, float64 [V]."""
    chances = softmax(logits.astype(np.float64) / temperature)
    chances[chances < min_p * chances.max()] = 0
    order = np.argsort(-chances, kind="stable")
    if top_k:
        chances[order[top_k:]] = 0
    chances /= chances.sum()
    before = np.concatenate([[0], np.cumsum(chances[order])[:-1]])
    chances[order[before >= top_p]] = 0
    return chances / chances.sum()


def dense(sampler, logits, drawn=()):
    tokens, weights = sampler.chances(logits, drawn)
    found = np.zeros(len(logits))
    found[slice(None) if tokens is None else tokens] = weights
    return found / found.sum()


@given(
    st.integers(0, 1000),
    st.sampled_from([5, 300, 2000]),
    st.floats(0.2, 2),
    st.sampled_from([0, 1, 3, 50]),
    st.sampled_from([0.1, 0.5, 0.9, 0.99, 1.0]),
    st.sampled_from([0.0, 0.05, 0.5]),
)
@settings(max_examples=120)
def test_cuts_are_those_of_the_whole_vocabulary(seed, vocab, temperature, top_k, top_p, min_p):
    logits = (np.random.default_rng(seed).standard_normal(vocab) * 2).astype(np.float32)
    found = dense(Sampler(Sampling(temperature, top_p, top_k, min_p)), logits)
    np.testing.assert_allclose(found, plainly(logits, temperature, top_k, top_p, min_p), atol=2e-6)


def test_draws_follow_the_distribution():
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    sampler = Sampler(Sampling(1.0, 0.9, seed=3))
    shares = np.bincount([sampler.draw(logits, ()).token for _ in range(4000)], minlength=4) / 4000
    np.testing.assert_allclose(shares, np.array([0.5, 0.3, 0.15, 0]) / 0.95, atol=0.03)


def test_with_top_p_it_draws_what_the_plain_sampler_draws():
    random = np.random.default_rng(0)
    own, plain = Sampler(Sampling(0.7, 0.95, seed=11)), PlainSampler(0.7, 0.95, 11)
    for _ in range(50):
        logits = (random.standard_normal(900) * 3).astype(np.float32)
        assert own.draw(logits, ()).token == plain(logits.astype(np.float64))[0]


def test_a_share_of_nothing_is_never_picked():
    assert pick(None, np.array([0.0, 0.5, 0.5, 0.0]), 0.0) == 1
    assert pick(None, np.array([0.0, 0.5, 0.5, 0.0]), np.nextafter(1.0, 0)) == 2


def test_penalties_are_those_of_their_definitions():
    logits = np.array([2.0, -2.0, 1.0, 0.5, 0.0], np.float32)
    how = Sampling(1.0, repetition=2.0, presence=0.25, frequency=0.5, bias={4: 3.0})
    found = Sampler(how, prompt=[0, 0]).changed(logits, [1, 1, 2])
    np.testing.assert_allclose(found, [1.0, -4.0 - 0.25 - 1.0, 0.5 - 0.25 - 0.5, 0.5, 3.0])
    np.testing.assert_array_equal(logits, np.array([2.0, -2.0, 1.0, 0.5, 0.0], np.float32))


def test_a_mask_forbids_and_is_asked_with_what_was_drawn():
    asked = []

    def mask(drawn):
        asked.append(list(drawn))
        return np.array([False, True, True]) if len(drawn) < 2 else np.zeros(3, bool)

    logits = np.array([9.0, 1.0, 2.0], np.float32)
    sampler = Sampler(Sampling(temperature=0, mask=mask, num_top=1))
    drawn = sampler.draw(logits, [2])
    assert (drawn.token, asked) == (2, [[2]])
    assert drawn.top[0][0] == 0  # what the model thinks, mask or not
    with pytest.raises(UsageError, match="forbids all"):
        sampler.draw(logits, [2, 2])


def test_logarithms_are_the_models_own():
    logits = np.random.default_rng(2).standard_normal(500).astype(np.float32)
    expected = np.log(softmax(logits.astype(np.float64)))
    drawn = Sampler(Sampling(0.3, 0.2, presence=1.0, num_top=3)).draw(logits, [5])
    assert abs(drawn.logprob - expected[drawn.token]) < 1e-5
    best = np.argsort(-expected)[:3]
    assert [token for token, _ in drawn.top] == best.tolist()
    np.testing.assert_allclose([each for _, each in drawn.top], expected[best], atol=1e-5)


@pytest.mark.parametrize("temperature", [0, 1])
def test_what_is_no_number_is_not_drawn_from(temperature):
    with pytest.raises(InputError, match="no numbers"):
        Sampler(Sampling(temperature)).draw(np.array([1, np.nan, 2], np.float32), ())


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": -1}, {"temperature": float("nan")}, {"top_p": 0}, {"top_k": -1}, {"min_p": 2}, {"repetition": 0},
     {"bias": {1: float("nan")}}, {"num_top": -2}, {"presence": float("inf")}],
)  # fmt: skip
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError, match="cannot be drawn"):
        Sampling(**wrong)
