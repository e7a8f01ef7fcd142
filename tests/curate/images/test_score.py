"""Scores of pairs by a real, if small, encoder: colour words against the mean colour."""

import sys
import types

import cv2
import numpy as np
import pyarrow as pa
import pytest

from gyral.config import Config, load
from gyral.curate.images.score import COLUMN, Score
from gyral.curate.stage import DOCUMENT
from gyral.errors import ConfigError

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 180, 40),
    "blue": (30, 50, 220),
    "yellow": (230, 220, 40),
    "white": (250, 250, 250),
}
NAMES = list(COLOURS)


def by_colour(pictures, captions):
    """The share that the colour a caption names has among all, by distance to the picture's mean colour."""
    means = np.array([picture.reshape(-1, 3).mean(0) for picture in pictures])
    near = np.exp(-np.linalg.norm(means[:, None] - np.array(list(COLOURS.values())), axis=2) / 40)
    near /= near.sum(1, keepdims=True)
    named = np.array([[name in caption.lower() for name in NAMES] for caption in captions])
    return np.where(named.any(1), (near * named).sum(1), np.nan)


@pytest.fixture
def encoders(monkeypatch):
    module = types.ModuleType("my_encoders")
    module.calls = []
    module.by_colour = lambda pictures, captions: module.calls.append(len(pictures)) or by_colour(pictures, captions)
    module.wrong = lambda pictures, captions: np.zeros((len(pictures), 2))
    module.number = 3
    monkeypatch.setitem(sys.modules, "my_encoders", module)
    return module


def pair(name, text, **more):
    noise = np.random.default_rng(len(text)).normal(0, 15, (500, 700, 3))
    picture = np.clip(np.array(COLOURS[name]) + noise, 0, 255).astype(np.uint8)[:, :, ::-1]
    raw = cv2.imencode(".jpg", picture)[1].tobytes()
    return {"file": "f", "offset": 0, "media": "image", "raw": raw, "text": text, **more}


def test_pairs_that_fit_score_more_than_those_that_do_not(encoders, tmp_path):
    captions = [f"a {name} wall" for name in NAMES]
    given = pa.RecordBatch.from_pylist([pair(name, text) for name in NAMES for text in captions], schema=DOCUMENT)
    found = Score("my_encoders:by_colour", pairs=7)(given)
    assert encoders.calls == [7, 7, 7, 4]
    scores = found.column(COLUMN).to_numpy().reshape(5, 5)
    assert scores.argmax(0).tolist() == scores.argmax(1).tolist() == [0, 1, 2, 3, 4]
    config = load(tmp_path, ["images.min_score=0.5"])
    (limit,) = Score().limits(config)
    kept = limit.value({COLUMN: found.column(COLUMN)}) >= limit.threshold
    assert kept.reshape(5, 5).tolist() == np.eye(5, dtype=bool).tolist()
    assert list(Score().limits(Config())) == []


def test_pairs_that_have_no_score(encoders):
    rows = [
        pair("red", "red"),
        pair("red", "no colour at all"),
        {**pair("red", "red"), "text": None},
        {**pair("red", "red"), "raw": None, "rejected": "too_large"},
        {**pair("red", "red"), "raw": b"no picture"},
        {**pair("red", "red"), "raw": pair("red", "red")["raw"][:3000]},
        {**pair("red", "red"), "media": "text"},
        pair("blue", "blue"),
    ]
    given = pa.RecordBatch.from_pylist(rows, schema=DOCUMENT)
    found = Score("my_encoders:by_colour")(given)
    assert found.select(DOCUMENT.names).equals(given)
    assert [score is not None for score in found.column(COLUMN).to_pylist()] == [True, *[False] * 6, True]
    small = Score("my_encoders:by_colour", max_pixels=1000)(given)
    assert small.column(COLUMN).null_count == len(rows)


def test_an_encoder_sees_red_green_blue_of_a_reduced_picture(encoders):
    seen = []
    encoders.by_colour = lambda pictures, captions: seen.extend(pictures) or np.zeros(len(pictures))
    Score("my_encoders:by_colour", side=100)(pa.RecordBatch.from_pylist([pair("red", "red")], schema=DOCUMENT))
    assert seen[0].dtype == np.uint8 and seen[0].shape == (125, 175, 3) and seen[0].flags.c_contiguous
    assert seen[0].mean((0, 1)) == pytest.approx(COLOURS["red"], abs=6)


@pytest.mark.parametrize("encoder", ["", "my_encoders", "my_encoders:none", "no_such_module_at_all:f", "my_encoders:number"])
def test_what_is_no_encoder(encoders, encoder):
    with pytest.raises(ConfigError) as raised:
        Score(encoder)(pa.RecordBatch.from_pylist([pair("red", "red")], schema=DOCUMENT))
    assert raised.value.where == "images.encoder"


def test_an_encoder_must_give_a_number_a_pair(encoders):
    with pytest.raises(ConfigError, match="one number a pair"):
        Score("my_encoders:wrong")(pa.RecordBatch.from_pylist([pair("red", "red")], schema=DOCUMENT))
