"""How much a text is like those that were called good: a linear classifier over hashed words and pairs of words.

Logistic regression on 2^20 weights sees what fastText does with its pairs of words, and needs one look-up a feature instead of
a row of a matrix: it scores 200 to 340 MB a CPU second (`benchmarks/curate/classifier.py`). With 2^16 weights, which stay
in the core's cache, it is a seventh faster, with 2^22 a third slower. What is summed is divided by the root of the number of
features up to 256 of them, so that a longer text is surer, and beyond counts as a mean. The root alone made long mails certain
of the wrong thing (AUC .990 instead of .999), the mean alone needed many more passes (.988 after eight).

A model is an Arrow file, one column `weight`, its facts as JSON in the schema's metadata. Its score is calibrated on texts
that were not learned (Platt 1999), so a threshold means a probability, given as many good as bad ones as in training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from gyral.config import Config
from gyral.curate.stage import Limit, Stage, add, numbers, utf8
from gyral.errors import InputError
from gyral.files import read_known, write_atomic

BITS, PASSES, RATE, HELD_OUT = 20, 8, 0.3, 0.1
_FORMAT = "gyral-linear-1"


@dataclass(frozen=True)
class Linear:
    """A trained classifier: `weights` float32 [2^bits], the bias, slope and intercept of its calibration, and its seed.

    `facts` say what it was trained on: `texts`, `positive`, `auc` and `loss` on those held out.
    """

    weights: np.ndarray
    bias: float
    slope: float
    intercept: float
    seed: int
    facts: dict[str, Any] = field(default_factory=dict)

    def score(self, texts: pa.Array) -> np.ndarray:
        """Probability of each text to be a good one; float32 [n], NaN for a null and for a text without words."""
        data, offsets = utf8(texts)
        return _sigmoid(self.slope * self._margins(data, offsets) + self.intercept).astype(np.float32)

    def save(self, path: Path) -> str:
        """Write the model; returns the digest that `Classifier` wants."""
        facts = {"format": _FORMAT, "tokenizer": _kernel().TOKENIZER, "seed": self.seed, "bias": self.bias}
        facts |= {"slope": self.slope, "intercept": self.intercept, "facts": self.facts}
        schema = pa.schema([("weight", pa.float32())], metadata={"gyral": json.dumps(facts)})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, schema) as writer:
            writer.write_batch(pa.record_batch([pa.array(self.weights)], schema=schema))
        data = sink.getvalue().to_pybytes()
        write_atomic(path, data)
        return hashlib.sha256(data).hexdigest()

    def _margins(self, data: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        out = np.empty(len(offsets) - 1, np.float32)
        _kernel().sums(data, offsets, self.weights, self.seed, out)
        return out + np.float32(self.bias)


@dataclass(frozen=True)
class Classifier(Stage):
    """Adds `quality_score`, the probability of a text to be a good one by a model; null where there is no word."""

    name: ClassVar[str] = "classifier"
    version: ClassVar[int] = 1

    model: str
    digest: str
    """sha256 of the model's file, in hexadecimal: another file under this name is an error."""

    @classmethod
    def of(cls, path: Path | str) -> Classifier:
        """The stage for a model's file as it is now."""
        return cls(str(path), hashlib.sha256(read_known(Path(path), "model", "", "`quality.model` is a file")).hexdigest())

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        scores = _model(self.model, self.digest).score(batch.column("text"))
        return add(batch, {"quality_score": pa.array(scores, from_pandas=True)})

    def limits(self, config: Config) -> Sequence[Limit]:
        least = config.quality.min_score
        return [
            Limit(
                "quality_score_low",
                "quality.min_score",
                ["quality_score"],
                lambda c: numbers(c, "quality_score"),
                "<",
                least,
            )
        ]


def train(positive: Iterable[str], negative: Iterable[str], seed: int = 0, *, bits: int = BITS, passes: int = PASSES) -> Linear:
    """Learn to tell good texts from others.

    Parameters
    ----------
    positive, negative : texts, at least ten each; a tenth of them is held out for calibration.
    seed : of the order of learning, of what is held out and of the hashes; the same input and seed give the same model.
    bits : 2^bits weights, 4 bytes each.
    passes : over all texts.

    Raises
    ------
    InputError : there are too few texts.

    Source: logistic regression by AdaGrad (Duchi, Hazan, Singer 2011); hashed features (Weinberger et al. 2009); calibration
    by Platt (1999), with his targets that are not 0 and 1.
    """
    good, bad = pa.array(positive, pa.string()), pa.array(negative, pa.string())
    if min(len(good), len(bad)) < 10:
        raise InputError(
            f"{len(good)} good and {len(bad)} other texts are too few to learn from", hint="give at least ten of each"
        )
    data, offsets = utf8(pa.concat_arrays([good, bad]))
    labels = np.concatenate([np.ones(len(good), np.uint8), np.zeros(len(bad), np.uint8)])
    chance = np.random.default_rng(seed)
    held = np.zeros(len(labels), bool)
    for label in (0, 1):
        own = np.flatnonzero(labels == label)
        held[chance.permutation(own)[: max(1, int(HELD_OUT * len(own)))]] = True
    learned = np.flatnonzero(~held)
    weights, squares = (np.zeros(1 << bits, np.float32) for _ in range(2))
    bias = np.zeros(2, np.float32)
    salt = int(chance.integers(1, 1 << 62))
    loss = 0.0
    for number in range(passes):
        order = chance.permutation(learned)
        loss = _kernel().learn(data, offsets, order, labels, weights, squares, bias, salt, RATE * (1 - number / passes))
    model = Linear(weights, float(bias[0]), 1.0, 0.0, salt)
    margins = np.nan_to_num(model._margins(data, offsets)[held], nan=model.bias)  # a text without words tells nothing
    slope, intercept = _platt(margins, labels[held])
    facts: dict[str, Any] = {
        "texts": len(labels),
        "positive": len(good),
        "held_out": int(held.sum()),
        "seed": seed,
        "passes": passes,
    }
    facts |= {"loss": round(float(loss), 6), "auc": round(auc(margins, labels[held]), 6)}
    return Linear(weights, model.bias, slope, intercept, salt, facts)


def load(path: Path | str, digest: str = "") -> Linear:
    """Read a model.

    Raises
    ------
    InputError : there is no such file, it is none of ours, or its digest is not the one that was asked for.
    """
    path = Path(path)
    data = read_known(path, "model", digest, "`quality.model` is a file: put it back, or run the recipe anew with this one")
    try:
        table = pa.ipc.open_file(pa.py_buffer(data)).read_all()
        facts = json.loads((table.schema.metadata or {})[b"gyral"])
        weights = table["weight"].combine_chunks().to_numpy(zero_copy_only=False).astype(np.float32)
        known = facts["format"] == _FORMAT and facts["tokenizer"] == _kernel().TOKENIZER
        if not known or not len(weights) or len(weights) & (len(weights) - 1):
            raise ValueError(f"it is of the format {facts['format']}")
        return Linear(
            weights, float(facts["bias"]), float(facts["slope"]), float(facts["intercept"]), int(facts["seed"]), facts["facts"]
        )
    except (pa.ArrowException, KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"`{path.name}` is not a classifier of this version",
            where=str(path),
            why=str(error),
            hint="train one with `gyral.curate.text.quality.train`",
        ) from None


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Chance that a good text scores above another, ties half: the area under the ROC curve (Mann and Whitney 1947)."""
    _, ranks, counts = np.unique(scores, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts - 1) / 2
    good = labels == 1
    many, others = int(good.sum()), int((~good).sum())
    return float((middle[ranks][good].sum() - many * (many + 1) / 2) / max(many * others, 1))


def _platt(margins: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of the logistic curve through what was held out: Newton's method with halved steps."""
    many, others = int((labels == 1).sum()), int((labels == 0).sum())
    target = np.where(labels == 1, (many + 1) / (many + 2), 1 / (others + 2))
    width = max(float(np.std(margins)), 1e-6)
    x = np.stack([margins.astype(np.float64) / width, np.ones(len(margins))], axis=1)

    def loss(theta: np.ndarray) -> float:
        z = x @ theta
        return float((np.logaddexp(0, z) - target * z).sum() + 1e-3 * theta @ theta)

    theta = np.array([1.0, 0.0])
    for _ in range(100):
        chance = _sigmoid(x @ theta)
        gradient = x.T @ (chance - target) + 2e-3 * theta
        step = np.linalg.solve(x.T @ (x * (chance * (1 - chance))[:, None]) + 2e-3 * np.eye(2), gradient)
        size = 1.0
        while size > 1e-6 and loss(theta - size * step) > loss(theta):
            size /= 2
        theta = theta - size * step
        if np.abs(size * step).max() < 1e-8:
            break
    return max(float(theta[0]) / width, 1e-6), float(theta[1])  # the order of texts is never turned around


def _sigmoid(value: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * value.astype(np.float64))))


@lru_cache(maxsize=2)
def _model(path: str, digest: str) -> Linear:
    return load(path, digest)


def _kernel() -> Any:
    from gyral.curate.text import hashed_words_kernel

    return hashed_words_kernel
