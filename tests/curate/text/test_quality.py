"""The classifier: sums and learning against plain Python, calibration and ranks against definitions, models as files."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gyral.config import load as load_config
from gyral.curate.text import quality
from gyral.curate.text.quality import Classifier, Linear, auc, load, train
from gyral.errors import InputError

GOOD = [
    f"the committee published its report on {subject} in spring and explained each finding {number}"
    for number, subject in enumerate(["rivers", "schools", "trade", "law", "bridges"] * 12)
]
BAD = [
    f"click here to win {prize} now now now cheap offer {number} click"
    for number, prize in enumerate(["cash", "phones", "trips", "gold"] * 15)
]


@pytest.fixture(scope="module")
def model():
    return train(GOOD, BAD, seed=3, bits=12)


def test_it_learns_what_is_there_to_learn(model):
    new = pa.array(["the committee explained its report on gold", "win cheap phones now click here", None, "… !!"])
    good, bad, null, wordless = model.score(new)
    assert good > 0.6 and bad < 0.4 and np.isnan(null) and np.isnan(wordless)
    assert model.facts["auc"] == 1.0 and model.facts["texts"] == 120 and model.facts["held_out"] == 12


def test_the_same_seed_gives_the_same_model(model):
    again, other = train(GOOD, BAD, seed=3, bits=12), train(GOOD, BAD, seed=4, bits=12)
    assert (again.weights == model.weights).all() and again.slope == model.slope
    assert (other.weights != model.weights).any()


def features(text: str, own: list[str]) -> list[int]:
    """Places of a text's features, told by a model whose weights are all 0 but one."""
    seen = []
    for place in range(64):
        weights = np.zeros(64, np.float32)
        weights[place] = 1
        sums = Linear(weights, 0.0, 1.0, 0.0, 7)._margins(
            np.frombuffer(text.encode(), np.uint8), np.array([0, len(text)], np.int32)
        )
        number = 2 * len(own) - 1
        seen += [place] * round(float(sums[0]) / (math.sqrt(min(number, 256)) / number))
    return seen


def test_features_are_words_and_pairs_of_words():
    one, other = features("a b c", list("abc")), features("a c", list("ac"))
    assert len(one) == 5 and len(other) == 3
    words = [features(word, [word])[0] for word in "abc"]
    assert sorted(words + features("a b", list("ab")) + features("b c", list("bc"))) == sorted(one + words[:2] + words[1:])


@given(st.integers(1, 2000))
def test_a_long_text_is_a_mean(count):
    text = " ".join(["a"] * count)
    weights = np.full(16, 0.5, np.float32)
    margin = Linear(weights, 0.25, 1.0, 0.0, 1)._margins(
        np.frombuffer(text.encode(), np.uint8), np.array([0, len(text)], np.int32)
    )
    number = 2 * count - 1
    assert margin[0] == pytest.approx(0.25 + 0.5 * math.sqrt(min(number, 256)), rel=1e-4)


def test_one_step_is_that_of_adagrad():
    data, offsets = np.frombuffer(b"x", np.uint8), np.array([0, 1], np.int32)
    weights, squares, bias = np.zeros(4, np.float32), np.zeros(4, np.float32), np.zeros(2, np.float32)
    kernel = quality._kernel()
    loss = kernel.learn(data, offsets, np.array([0]), np.array([1], np.uint8), weights, squares, bias, 5, 0.3)
    assert loss == pytest.approx(math.log(2))
    (place,) = np.flatnonzero(weights)
    # the gradient is -1/2, its square 1/4: a step of the whole rate
    assert weights[place] == pytest.approx(0.3, rel=1e-5) and squares[place] == pytest.approx(0.25)
    assert bias.tolist() == pytest.approx([0.3, 0.25], rel=1e-5)
    kernel.learn(data, offsets, np.array([0]), np.array([1], np.uint8), weights, squares, bias, 5, 0.3)
    error = 1 / (1 + math.exp(-0.6)) - 1
    assert weights[place] == pytest.approx(0.3 - 0.3 * error / math.sqrt(0.25 + error**2), rel=1e-4)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30))
def test_auc_is_the_share_of_pairs_in_order(rows):
    good = [score for score, label in rows if label]
    bad = [score for score, label in rows if not label]
    pairs = [(a > b) + (a == b) / 2 for a in good for b in bad]
    scores, labels = np.array([score for score, _ in rows]), np.array([label for _, label in rows]).astype(int)
    assert auc(scores, labels) == pytest.approx(sum(pairs) / max(len(pairs), 1))


def test_scores_are_probabilities():
    chance = np.random.default_rng(0)
    margins = chance.normal(0, 20, 20_000)
    labels = (chance.random(20_000) < 1 / (1 + np.exp(-(0.15 * margins - 1)))).astype(np.uint8)
    assert quality._platt(margins.astype(np.float32), labels) == pytest.approx((0.15, -1.0), abs=0.06)
    slope, intercept = quality._platt(np.array([-900.0, -800, 700, 800]), np.array([0, 0, 1, 1]))
    assert 0 < slope < 1 and np.isfinite(intercept)
    assert quality._platt(np.array([1.0, 2.0, -1.0]), np.array([0, 0, 1]))[0] > 0


def test_a_model_is_a_file_with_a_digest(model, tmp_path):
    path = tmp_path / "good.arrow"
    digest = model.save(path)
    again = load(path, digest)
    assert (again.weights == model.weights).all() and again.facts == model.facts
    assert again.score(pa.array(GOOD)).tolist() == model.score(pa.array(GOOD)).tolist()
    with pytest.raises(InputError, match="not the model that was asked for"):
        load(path, "0" * 64)
    path.write_bytes(b"no model")
    with pytest.raises(InputError, match="not a classifier of this version"):
        load(path)
    with pytest.raises(InputError, match="cannot be read"):
        Classifier.of(tmp_path / "gone")
    with pytest.raises(InputError, match="too few"):
        train(["a"] * 9, BAD)


def test_the_stage_scores_and_the_limit_drops(model, tmp_path):
    model.save(tmp_path / "good.arrow")
    stage = Classifier.of(tmp_path / "good.arrow")
    out = stage(pa.record_batch({"text": ["skipped", GOOD[0], BAD[0], None]}).slice(1))
    assert out.schema.field("quality_score").type == pa.float32()
    assert out["quality_score"].null_count == 1
    (limit,) = stage.limits(load_config(tmp_path, ["quality.min_score=0.7"]))
    assert limit.op == "<" and (limit.value({"quality_score": out["quality_score"]}) < limit.threshold).tolist() == [
        False,
        True,
        False,
    ]
