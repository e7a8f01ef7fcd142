"""A language model answers: bits add up, letters are whole, and what it learned by heart it writes."""

import json

import numpy as np
import pytest
import torch

from gyral.config.training import Optim
from gyral.errors import InputError, UsageError
from gyral.model.decoder import Decoder
from gyral.model.lm import LM, Reader
from gyral.model.nets.llama import Shape
from gyral.model.quant.linear import fill
from gyral.model.tasks.next_token import NextToken, Text
from gyral.train.optim import Optimizer

from .. import verbs

LINE = "Größe: 日本, zwei – drei."


@pytest.fixture(scope="module")
def reader():
    """A model that knows one line by heart."""
    torch.set_num_threads(1)
    task = NextToken(Shape(257, 48, 2, 4, 2, 96), 48, Text([LINE.encode()] * 8))
    model = task.build(0)
    optimizer = Optimizer(model, Optim(rate=1e-2, warmup=5), 150)
    batch = task.batch(np.arange(4), 0)
    for step in range(150):
        sums = task.loss(model, batch, lambda tensor: tensor)
        (sums.loss / sums.weight).backward()
        optimizer.step(step)
        optimizer.zero_grad()
    return Reader(Decoder(task.shape, 48, "llama", dict(model.state_dict()), "bytes", b"", 256))


def test_it_writes_what_it_knows(reader):
    done = reader.complete("", max_tokens=100, temperature=0)
    assert done.text == LINE and done.ended_by == "end" and done.tokens == [*LINE.encode(), 256]
    assert len(done.logprobs) == len(done.tokens) and all(-1 < each <= 0 for each in done.logprobs)
    assert reader.complete("Größe: ", temperature=0).text == LINE.removeprefix("Größe: ")
    stopped = reader.complete("", temperature=0, stop=["zwei", "本"])
    assert stopped.text == "Größe: 日" and stopped.ended_by == "stop"
    cut = reader.complete("", max_tokens=9, temperature=0)  # in the midst of a letter
    assert cut.text == "Größe: " and cut.ended_by == "length" and len(cut.tokens) == 9
    assert reader.complete("x", max_tokens=0).text == ""


def test_whatever_it_draws_is_text(reader):
    for seed in range(20):
        first, again = (reader.complete("日", max_tokens=60, temperature=5.0, seed=seed) for _ in range(2))
        assert first == again
        first.text.encode()
    assert len({reader.complete("", 20, 3.0, seed=seed).text for seed in range(5)}) > 1
    with pytest.raises(UsageError, match="cannot be made"):
        reader.complete("a", top_p=0)


def test_scores_add_up(reader):
    scores = reader.score([LINE, "qqqqqqqqqqqqqqqq", ""])
    assert scores.size_bytes.tolist() == [len(LINE.encode()), 16, 0]
    assert scores.bits[0] < 10 < scores.bits[1]
    whole = reader.score([LINE] * 3)
    np.testing.assert_allclose(whole.bits, scores.bits[0], rtol=1e-3)
    assert abs(whole.bits_per_byte - scores.bits[0] / len(LINE.encode())) < 1e-3
    done = reader.complete("", temperature=0)
    assert abs(-sum(done.logprobs) / np.log(2) - scores.bits[0]) < 1e-2


def test_equal_texts_have_equal_vectors(reader):
    vectors = reader.embed([LINE, "another", LINE, ""])
    assert vectors.shape == (4, 48) and np.isfinite(vectors).all()
    np.testing.assert_array_equal(vectors[0], vectors[2])
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-2
    reader.warm()


def test_values_of_another_model_are_refused(reader):
    state = dict(reader.model.state_dict())
    state.pop("norm.weight")
    with pytest.raises(InputError, match=r"norm\.weight"):
        fill(reader.model, state)
    with pytest.raises(InputError, match="do not fit"):
        fill(reader.model, {**reader.model.state_dict(), "norm.weight": torch.zeros(3)})


@pytest.mark.slow
def test_it_is_trained_exported_and_trained_on(tmp_path):
    """Files → a model over bytes → a folder of transformers → a model that begins where the other ended."""
    (tmp_path / "pages").mkdir()
    for number in range(40):
        lines = [f"Page {number} says {number * 7 + line} in line {line}." for line in range(12)]
        (tmp_path / "pages" / f"{number}.txt").write_text("\n".join(lines))

    def gyral(*words, code=0):
        done = verbs.gyral(*words, "--root", tmp_path, "--json")
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout.splitlines()[-1]) if done.stdout and not code else done.stderr

    sizes = [
        "lm.depth=2",
        "lm.width=32",
        "lm.heads=2",
        "lm.kv_heads=1",
        "lm.length=32",
        "train.batch=8",
        "train.optim.rate=0.01",
    ]
    sets = [word for size in sizes for word in ("--set", size)]
    rules = ["--set", "curate.stages=['extract', 'repair', 'digest']"]
    gyral("curate", "pages", "--source", str(tmp_path / "pages"), *rules)
    first = gyral("train", "pages", "--family", "lm", *sets, "--set", "train.steps=30")
    found = LM.load(tmp_path / "models" / "pages@1")
    assert 0 < first["metrics"]["bits_per_byte"] < 6
    assert found.complete("Page ", 20, temperature=0).text
    told = gyral("show", "pages@1", "--export", str(tmp_path / "out"))
    assert told == gyral_told(tmp_path)
    sets = [
        "--set",
        f"train.start={tmp_path / 'out'}",
        "--set",
        "lm.length=32",
        "--set",
        "train.steps=1",
        "--set",
        "train.batch=8",
    ]
    later = gyral("train", "pages", "--family", "lm", *sets)
    assert later["model"] == "pages@2" and later["loss"][0] < first["loss"][0] - 1
    again = gyral("train", "pages", "--family", "lm", *sets, "--set", "train.start=pages@1")
    assert abs(again["loss"][0] - later["loss"][0]) < 1e-6
    assert "no model" in gyral("train", "pages", "--family", "lm", "--set", "train.start=nothing", code=1)
    assert "gyral show MODEL --export" in gyral("show", "pages", "--export", str(tmp_path / "x"), "--where", "a", code=2)


def gyral_told(root):
    return {"model": "pages@1", "folder": str(root / "out")}
