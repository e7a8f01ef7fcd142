"""A setting that a command line gives and the training never reads is refused; one of a file for all verbs is not."""

import pytest

from gyral import config as configs
from gyral.errors import ConfigError
from gyral.train import reading

from .. import verbs

LM = "train.family=lm"


def check(tmp_path, *sets):
    given = {each.partition("=")[0]: f"--set {each}" for each in sets}
    reading.check(configs.load(tmp_path, sets), given)


@pytest.mark.parametrize(
    ("sets", "hint"),
    [
        (["train.distill=nobody"], "train.task=sequence"),
        (["train.start=nobody"], "train.task=sequence"),
        (["train.optim.rate=3e-3"], "train.task=sequence"),
        (["train.sync=federated", "train.steps=3"], "train.federated"),
        ([LM, "train.federated.rounds=3"], "--sync federated"),
        ([LM, "train.server.at=proc://2"], "--sync bsp"),
        ([LM, "train.elastic.leaves=4"], "--parallel elastic=N"),
        ([LM, "train.outer.rate=1"], "train.outer.every=N"),
        (["train.task=sequence", "train.distill_weight=0.9"], "--distill MODEL"),
    ],
)
def test_what_would_not_be_read_is_refused_with_what_reads_it(tmp_path, sets, hint):
    with pytest.raises(ConfigError, match="is not read by this training") as caught:
        check(tmp_path, *sets)
    assert hint in caught.value.hint and caught.value.where == f"--set {sets[-1]}"


@pytest.mark.parametrize(
    "sets",
    [
        ["train.seed=3", "train.budget=5s", "train.distill=''", "train.steps=0"],  # the last two are as if nobody said them
        ["train.task=sequence", "train.distill=shop", "train.distill_weight=0.9", "train.start=shop"],
        ["train.sync=federated", "train.federated.rounds=3", "train.evaluate_every=2"],
        [LM, "train.sync=ssp:4", "train.server.at=proc://2", "train.steps=3"],
        [LM, "train.parallel='data=2'", "train.outer.every=5", "train.outer.rate=1"],
        [LM, "train.parallel='elastic=2'", "train.elastic.leaves=4"],
    ],
)
def test_what_is_read_passes(tmp_path, sets):
    check(tmp_path, *sets)


def test_a_verb_refuses_before_anything_is_made_and_a_file_for_all_verbs_is_left_alone(tmp_path):
    root = ("--root", str(tmp_path))
    for words in (["train", "shop", "--distill", "nobody"], ["loop", "--source", "x.csv", "--set", "train.steps=5"]):
        for plan in ([], ["--plan"]):
            done = verbs.gyral(*words, *plan, *root)
            assert done.returncode == 2 and "is not read by this training" in done.stderr
    assert not list(tmp_path.iterdir())
    (tmp_path / "gyral.toml").write_text("[train]\nsteps = 7\ndistill = 'pages'\n")
    assert "there is no dataset `shop`" in verbs.gyral("train", "shop", *root).stderr
