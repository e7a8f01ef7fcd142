"""Whole runs over simulated devices: the same bits however they are computed, private where they say so, and servable."""

import numpy as np
import pytest

from gyral import config as configs
from gyral.config import Config
from gyral.config.training import Train
from gyral.errors import ConfigError
from gyral.model import card as cards
from gyral.model.family import RECOMMENDER
from gyral.model.inputs import load
from gyral.train.sync import trainer_of

from ...verbs import result

MASKED = {"wire": "int8", "clip": 1.0}


def net_of(fitted):
    names = ("bias", "gain", "mix", "objects.weight", "answers.weight")
    return np.concatenate([fitted.weights.arrays[name].ravel() for name in names])


def test_workers_change_no_bit(trained):
    one = trained(cohort=70)
    assert len(one.training["loss"]) == 4 and one.training["loss"][-1] < one.training["loss"][0]
    for on in ("local://threads=3", "local://processes=2"):
        assert np.array_equal(net_of(one), net_of(trained(on, cohort=70)))
    assert not np.array_equal(net_of(one), net_of(trained(cohort=69)))


def test_masks_change_no_bit_of_the_model(trained):
    """Where every device answers; where some vanish, groups that lose too many are told and their answers missing."""
    pytest.importorskip("cryptography")
    plain, masked = trained(**MASKED), trained(**MASKED, secure_sum=True, group=8)
    assert np.array_equal(net_of(plain), net_of(masked))
    assert masked.training["federated"]["lost"] == 0
    assert masked.training["federated"]["up_bytes"] > 2 * plain.training["federated"]["up_bytes"]
    some = trained(**MASKED, secure_sum=True, group=10, fleet="mixed")
    facts = some.training["federated"]
    assert facts["gone"] > 0 and facts["answers"] + facts["lost"] + facts["gone"] + facts["late"] == facts["asked"]


def test_int8_is_near_and_a_limit_is_kept(trained):
    whole, small = trained(rounds=8), trained(rounds=8, wire="int8")
    assert small.training["federated"]["up_bytes"] < 0.4 * whole.training["federated"]["up_bytes"]
    assert small.training["loss"][-1] == pytest.approx(whole.training["loss"][-1], rel=0.02)
    limited = trained(clip=0.01)
    assert limited.training["federated"]["share_clipped"] > 0.9


def test_noise_is_accounted_and_hurts(trained):
    pytest.importorskip("opacus")
    private = trained(clip=0.5, noise=1.0)
    told = private.training["federated"]["privacy"]
    assert 0.5 < told["epsilon"] < 50 and told["delta"] == 1e-5 and "the server is trusted" in told["claim"]
    assert trained().training["federated"]["privacy"] == {"epsilon": None, "claim": "none: no noise was added"}
    assert not np.array_equal(net_of(private), net_of(trained(clip=0.5)))


def test_late_answers_count_in_a_later_round(trained):
    slow = {"fleet": "mixed", "cohort": 60, "deadline_s": 0.05}
    dropped, kept = trained(**slow), trained(**slow, late="next", rounds=4)
    assert kept.training["federated"]["answers"] > dropped.training["federated"]["answers"]


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"secure_sum": True}, "adds integers"),
        ({"secure_sum": True, "wire": "int8"}, "one scale for all"),
        ({"noise": 1.0}, "noise hides what is limited"),
        ({"noise": 1.0, "clip": 1.0, "over": 1.3}, "who else was asked"),
        ({"noise": 1.0, "clip": 1.0, "late": "next"}, "twice in one sum"),
        ({"secure_sum": True, **MASKED, "late": "next"}, "another"),
    ],
)
def test_what_does_not_go_together_is_refused(trained, values, why):
    with pytest.raises(ConfigError, match=why):
        trained(**values)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"parallel": "data=2"}, "does not go with `--sync federated`"),
        ({"family": "lm"}, "does not go with `--sync federated`"),
        ({"task": "two_tower"}, "does not go with `--sync federated`"),
    ],
)
def test_other_ways_are_refused_with_what_to_do(values, told):
    with pytest.raises(ConfigError, match=told) as error:
        trainer_of(Config(train=Train(**{"sync": "federated", **values})))
    assert error.value.hint


def test_a_way_nobody_knows_is_no_setting(tmp_path):
    with pytest.raises(ConfigError, match=r"`train.sync = \"sometimes\"` cannot be used"):
        configs.load(tmp_path, [], {"train.sync": "sometimes"})


def test_what_is_published_knows_nobody_and_answers_everybody(shop):
    sets = ["recommend.history_width=4", "recommend.length=20", "train.federated.rounds=12", "train.federated.cohort=60"]
    words = [word for each in sets for word in ("--set", each)]
    told = result("train", "shop", "--family", "recommender", "--sync", "federated", *words, "--root", shop)
    assert told["steps"] == 12 and len(told["loss"]) == 12 and told["metrics"]["ndcg_at_10"] > 0.3
    folder = cards.find(shop, told["model"])
    assert load(folder).subjects == [] and len(load(folder).objects) == 40
    weights = cards.read_weights(folder)
    assert all(len(weights.arrays[name]) == 0 for name in ("sequence", "sequence_time", "history"))
    model = RECOMMENDER.load(folder)
    asked = model.recommend("s1", 5, {"recent": ["o33", "o33", "o07"]})
    assert not asked.known and {item.object for item in asked.items[:2]} == {"o33", "o07"}
    anybody = model.recommend("s1", 5, {})
    assert [item.object for item in anybody.items] == [item.object for item in model.popular("", 5, {}).items]
