"""The runs that `gyral law sweep` makes."""

import pytest

from gyral import config as configs
from gyral.errors import ConfigError, UsageError
from gyral.law import runs
from gyral.law.places import runs_of
from gyral.train import sweep

from .. import verbs

LM = ["train.family=lm", "train.batch=1", "lm.length=16", "train.optim.warmup=2", "lm.held_out_bytes=500"]


def test_a_sweep_is_one_that_a_law_can_be_fitted_to(written):
    config = configs.load(written, LM)
    made = sweep.planned(written, "docs", config, 60, set())
    flops = [each.steps * each.sized.flops for each in made]
    assert 50 < sum(each.seconds for each in made) <= 60
    assert max(flops) / min(flops) > 10**1.5 and len(made) == 20 and min(each.steps for each in made) >= sweep.LEAST_STEPS
    for at in range(0, 20, 4):  # one amount of compute, four sizes
        assert max(flops[at : at + 4]) / min(flops[at : at + 4]) < 1.06
        assert len({each.sized.N for each in made[at : at + 4]}) == 4
    longer = sweep.planned(written, "docs", config, 600, set())
    assert max(each.sized.N for each in longer) > max(each.sized.N for each in made)


def test_what_cannot_be_swept_says_so(written):
    config = configs.load(written, LM)
    with pytest.raises(ConfigError, match="pays no sweep"):
        sweep.planned(written, "docs", config, 0.5, set())
    with pytest.raises(UsageError, match="has 0 sizes to sweep"):
        sweep.planned(written, "docs", config, 60, {"lm.width", "lm.depth"})


def test_every_training_is_a_row(written):
    words = [word for each in LM for word in ("--set", each)]
    told = verbs.result("law", "sweep", "docs", "--family", "lm", "--budget", "20s", *words, "--root", written)["runs"]
    rows = runs.load(runs_of(written)).to_pylist()
    assert [row["run"] for row in rows] == [each["model"] for each in told] and len({row["settings"] for row in rows}) == 1
    assert [(row["N"], row["D"], row["C"]) for row in rows] == [(each["N"], each["D"], each["C"]) for each in told]
    assert len({row["N"] for row in rows}) >= 4 and all(row["group"] == "lm/default docs@1" for row in rows)
