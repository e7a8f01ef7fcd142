import numpy as np
import pytest

from gyral.serve.scheduling.canary import Canary, Evidence, shadow_evidence


def trial(canary, rng, *, requests=6000, keys=800, worse=1.0, base=0.05):
    """Zipf keys, some of them unlucky whatever they ask; the new version's chance of a bad event is `worse` times as high."""
    weights = 1 / np.arange(1, keys + 1)
    drawn = rng.choice(keys, requests, p=weights / weights.sum())
    prone = np.clip(rng.gamma(0.3, base / 0.3, keys), 0, 0.9)
    names = [b"user%d" % n for n in range(keys)]
    is_new = np.array([canary.arm(name).version == "m@2" for name in names])
    bad = rng.random(requests) < np.where(is_new, np.minimum(1, prone * worse), prone)[drawn]
    for number in drawn[bad].tolist():
        if canary.observe(names[number], "error").is_stopped:
            break
    return canary.verdict()


def test_equal_versions_are_stopped_no_more_often_than_is_said():
    rng = np.random.default_rng(0)
    stopped = sum(
        trial(Canary("m@1", "m@2", 0.2, measures={"error": False}, alpha=0.1, tolerance=1.0), rng).is_stopped
        for _ in range(100)
    )
    assert stopped <= 15  # alpha = .1: 10 of 100 at most in expectation, 15 with a chance of 4 %


def test_independent_events_stop_no_more_often_than_alpha_and_worse_ones_nearly_always():
    rng = np.random.default_rng(1)

    def share_stopped(chance, trials):
        stopped = 0
        for _ in range(trials):
            test = Evidence(0.1, 0.05)
            for is_here in (rng.random(400) < chance).tolist():
                test.add(is_here)
            stopped += test.is_worse
        return stopped / trials

    assert share_stopped(0.1, 150) <= 0.09
    assert share_stopped(0.05, 20) == 0
    assert share_stopped(0.25, 20) >= 0.95


def test_a_worse_version_is_stopped_and_everybody_goes_back():
    canary = Canary("m@1", "m@2", 0.2)
    verdict = trial(canary, np.random.default_rng(2), requests=40_000, keys=20_000, worse=4.0)
    assert verdict.is_stopped and verdict.evidence >= 200 and "fell to `m@2`" in verdict.why
    assert all(canary.arm(b"user%d" % n) == ("m@1", 1.0, "") for n in range(1000))


def test_a_version_that_gets_fewer_clicks_is_stopped_too():
    rng = np.random.default_rng(3)
    canary = Canary("m@1", "m@2", 0.5, measures={"click": True})
    for n in range(4000):
        name = b"user%d" % n
        chance = 0.2 if canary.arm(name).version == "m@1" else 0.1
        if rng.random() < chance:
            canary.observe(name, "click")
    assert canary.verdict().is_stopped


def test_a_key_sees_one_version_with_the_chance_that_is_logged():
    canary = Canary("m@1", "m@2", 0.1, shadow_share=0.3)
    arms = [canary.arm(b"user%d" % n) for n in range(20_000)]
    assert arms == [canary.arm(b"user%d" % n) for n in range(20_000)]
    new = [arm for arm in arms if arm.version == "m@2"]
    assert len(new) == pytest.approx(2000, rel=0.1) and {arm.propensity for arm in new} == {0.1}
    old = [arm for arm in arms if arm.version == "m@1"]
    assert {arm.propensity for arm in old} == {0.9}
    assert sum(arm.shadow == "m@2" for arm in old) == pytest.approx(0.3 * 18_000, rel=0.1)
    # what propensities are for: the mean over all keys, estimated from the new version's answers alone
    value = np.array([n % 7 for n in range(20_000)], float)
    weighted = sum(value[n] / arm.propensity for n, arm in enumerate(arms) if arm.version == "m@2") / 20_000
    assert weighted == pytest.approx(value.mean(), rel=0.1)


def test_trials_are_independent_of_each_other():
    one, other = Canary("a", "b", 0.5, salt="one"), Canary("a", "b", 0.5, salt="two")
    both = [(one.arm(b"%d" % n).version, other.arm(b"%d" % n).version) for n in range(4000)]
    assert sum(a == b for a, b in both) == pytest.approx(2000, rel=0.1)


def test_one_key_alone_stops_nothing():
    canary = Canary("m@1", "m@2", 0.5, salt="s")
    name = next(b"%d" % n for n in range(100) if canary.arm(b"%d" % n).version == "m@2")
    for _ in range(1000):
        assert not canary.observe(name, "error").is_stopped


def test_it_is_stopped_by_hand():
    canary = Canary("m@1", "m@2", 0.5)
    canary.stop("rolled back")
    assert canary.arm(b"x").version == "m@1" and canary.verdict().why.startswith("rolled back")


def test_shadowed_answers_are_held_against_each_other():
    rng = np.random.default_rng(0)
    same = [(bool(a), bool(b)) for a, b in rng.random((500, 2)) < 0.2]
    assert not shadow_evidence(same).is_worse
    worse = [(bool(a < 0.1), bool(b < 0.3)) for a, b in rng.random((500, 2))]
    assert shadow_evidence(worse).is_worse


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_a_share_that_leaves_nothing_to_compare_is_refused(share):
    with pytest.raises(ValueError, match="make no test"):
        Evidence(share)
