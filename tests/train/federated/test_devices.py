"""Who is asked, who answers, when: as the table of devices says."""

import numpy as np
import pytest

from gyral.config.training import Federated, Tier
from gyral.errors import ConfigError
from gyral.train.federated.devices import Fleet

TARGETS = np.full(4_000, 50)


def fleet(seed=0, model_bytes=1_000, num_bytes=(1_000, 1_000), **told):
    return Fleet(Federated(**told), TARGETS, seed, num_bytes, model_bytes)


def test_rounds_are_functions_of_seed_and_number():
    one, other = fleet(cohort=100).round(3), fleet(cohort=100).round(3)
    assert all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("asked", "answered", "late", "gone"))
    assert not np.array_equal(one.asked, fleet(cohort=100).round(4).asked)
    assert not np.array_equal(one.asked, fleet(seed=1, cohort=100).round(3).asked)


def test_everybody_asked_answers_is_late_or_is_gone():
    for number in range(20):
        told = fleet(cohort=300, over=1.5, deadline_s=5).round(number)
        together = np.concatenate([told.answered, told.late, told.gone])
        assert np.array_equal(np.sort(together), told.asked) and len(told.asked) == 450
        assert len(told.answered) <= 300
        assert all(told.seconds[device] <= told.lasts_s + 1e-9 for device in told.answered)
        assert len(told.answered) == 300 or told.lasts_s == 5


def test_shares_of_the_table_are_what_happens():
    tiers = {"a": Tier(0.25, available=0.5, dropout=0.3), "b": Tier(0.75, available=1.0)}
    made = fleet(cohort=4_000, tiers=tiers)
    assert (made.tier == 0).mean() == pytest.approx(0.25, abs=0.03)
    rounds = [made.round(number) for number in range(30)]
    slow = made.tier == 0
    assert np.mean([slow[told.asked].sum() for told in rounds]) == pytest.approx(0.5 * slow.sum(), rel=0.03)
    gone = np.mean([len(told.gone) for told in rounds])
    assert gone == pytest.approx(0.5 * 0.3 * slow.sum(), rel=0.1)
    assert not any(slow[told.gone].sum() < len(told.gone) for told in rounds)


def test_slow_links_are_late():
    tiers = {"slow": Tier(0.5, up_mbit=1), "fast": Tier(0.5, up_mbit=1_000)}
    made = fleet(cohort=4_000, tiers=tiers, num_bytes=(0, 2_500_000), deadline_s=4)  # 20 Mbit up: 20 s against .02 s
    told = made.round(0)
    assert (made.tier[told.answered] == 1).mean() > 0.99 and (made.tier[told.late] == 0).all()
    assert told.lasts_s == 4


def test_private_rounds_ask_each_on_its_own():
    """Poisson sampling: the number asked varies as a binomial does, and nobody's luck depends on others."""
    made = fleet(cohort=200, noise=1.0, clip=1.0, fleet="ideal")
    counts = np.array([len(made.round(number).asked) for number in range(300)])
    assert made.share == pytest.approx(0.05) and made.expected == pytest.approx(200)
    assert counts.mean() == pytest.approx(200, rel=0.02)
    assert counts.var() == pytest.approx(200 * 0.95, rel=0.3)


def test_a_model_that_fits_nowhere_is_refused():
    made = fleet(model_bytes=20_000_000)  # three copies: 60 MB
    assert set(made.tier[made.fits]) == {1, 2} and set(made.tier[~made.fits]) == {0}
    with pytest.raises(ConfigError, match="fit into no device"):
        fleet(model_bytes=10**10)
