"""Training end to end by gradients, alone and by several ranks: the same losses."""

import pytest

from gyral.model import card as cards
from gyral.model.card import read_weights

from ..verbs import gyral, result


def trained(root, parallel, *words):
    sizes = ["lm.depth=2", "lm.length=32", "train.batch=8", "train.steps=12"]
    sets = [word for size in sizes for word in ("--set", size)]
    return result("train", "docs", "--family", "lm", *sets, "--parallel", parallel, *words, "--root", root)


def test_two_ranks_learn_what_one_learns(written):
    one, two = trained(written, ""), trained(written, "data=2")
    assert one["ranks"] == 1 and two["ranks"] == 2 and one["steps"] == 12
    assert len(one["loss"]) == 12 and one["loss"][-1] < one["loss"][0] - 0.5
    assert max(abs(a - b) for a, b in zip(one["loss"], two["loss"], strict=True)) <= 2e-6
    assert 0 < one["metrics"]["bits_per_byte"] < 8


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["shard=2", "tensor=2"])
def test_ranks_that_hold_parts_learn_and_publish_what_one_does(written, parallel):
    one, two = trained(written, ""), trained(written, parallel)
    assert max(abs(a - b) for a, b in zip(one["loss"], two["loss"], strict=True)) <= 2e-6
    assert two["metrics"]["bits_per_byte"] == pytest.approx(one["metrics"]["bits_per_byte"], abs=1e-5)
    own, parts = (read_weights(cards.find(written, each["model"])).arrays for each in (one, two))
    assert own.keys() == parts.keys()
    assert all(own[name].shape == parts[name].shape and abs(own[name] - parts[name]).max() < 1e-4 for name in own)


def test_a_mesh_that_does_not_divide_is_refused_before_ranks_start(written):
    words = ["train", "docs", "--family", "lm", "--set", "train.steps=2", "--set", "lm.depth=2", "--parallel", "tensor=3"]
    done = gyral(*words, "--root", written)
    assert done.returncode == 2, done.stderr
    assert "`train.parallel.tensor = 3` does not divide the model's 2 heads" in done.stderr
    assert "hint: use 1 or 2" in done.stderr
