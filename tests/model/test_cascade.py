import math

import numpy as np
import pytest

from gyral.model.cascade import binomial_tail, calibrate


def examples(count, seed, small=0.8, large=0.9):
    """A small model that is right as often as it says, and a large one that is right more often, on the same examples."""
    rng = np.random.default_rng(seed)
    confidence = rng.beta(4 * small, 4 * (1 - small), count)
    return confidence, rng.random(count) < confidence, rng.random(count) < large


def test_the_promise_holds_on_data_that_was_not_seen():
    truth = examples(200_000, 99)
    broken = kept = 0
    for seed in range(60):
        cascade = calibrate(*examples(1000, seed), max_regret=0.05, sure=0.9)
        keeps = truth[0] >= cascade.threshold
        kept += cascade.kept
        broken += float((~truth[1] & truth[2] & keeps).mean()) > 0.05
    assert broken / 60 <= 0.2
    assert kept / 60 >= 0.3, "a promise that keeps nothing would be easy"


def test_the_chance_is_that_of_the_exact_binomial():
    for trials, chance, successes in ((20, 0.1, 0), (20, 0.1, 3), (300, 0.01, 1), (5, 0.5, 5)):
        exact = sum(math.comb(trials, k) * chance**k * (1 - chance) ** (trials - k) for k in range(successes + 1))
        assert binomial_tail(successes, trials, chance) == pytest.approx(exact)
    assert binomial_tail(0, 10, 0.0) == 1 and binomial_tail(3, 10, 1.0) == 0


def test_too_few_examples_keep_nothing_and_say_so():
    cascade = calibrate(*examples(40, 0), max_regret=0.01)
    assert cascade.kept == 0 and cascade.escalates(1.0) and "do not show" in cascade.why


def test_who_is_unsure_is_asked_again_and_it_pays_only_when_enough_are_kept():
    cascade = calibrate(*examples(2000, 1), max_regret=0.05)
    assert cascade.escalates(cascade.threshold - 1e-9) and not cascade.escalates(cascade.threshold)
    assert cascade.escalates(float("nan"))
    assert 0.3 < cascade.kept < 1 and "95% sure" in cascade.why
    assert cascade.pays(0.001, 0.02) and not cascade.pays(0.02, 0.02)
    assert cascade.seconds(0.001, 0.02) == pytest.approx(0.001 + (1 - cascade.kept) * 0.02)


def test_examples_that_do_not_fit_each_other_are_refused():
    with pytest.raises(ValueError, match="cannot be held against each other"):
        calibrate(np.ones(3), np.ones(2), np.ones(3))
