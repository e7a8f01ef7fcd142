"""The curves of a training run: thinned as numpy thins them, drawn with the values that the JSON twin has."""

import json
import re

import numpy as np
import pytest

from gyral.dash.curves import MAX_POINTS, curves, thinned
from gyral.dash.pages import app

NUM = 1000


def step_lines():
    draw = np.random.default_rng(0)
    losses = 2 + 4 * np.exp(-np.arange(NUM) / 150) + 0.1 * draw.normal(size=NUM)
    rows = [
        {
            "time": 1.7e9 + number,
            "type": "step",
            "step": number,
            "loss": float(loss),
            "norm": 0.7,
            "rate": 0.001,
            "seconds": 0.05,
        }
        for number, loss in enumerate(losses)
    ]
    rows[500] |= {"loss": 40.0, "skipped": True}
    rows[501] |= {"loss": 41.0, "skipped": True, "back": 450}
    held = [
        {"time": 1.7e9 + step, "type": "held_out", "step": step, "is_best": step <= 800, "loss": 3 - step / 1000}
        for step in range(200, NUM + 1, 200)
    ]
    return rows + held


@pytest.fixture
def lines():
    return step_lines()


def test_a_curve_is_the_mean_of_as_many_steps_as_numpy_says(lines):
    losses = np.array([row["loss"] for row in lines if row["type"] == "step"])
    every = -(-NUM // MAX_POINTS)
    oracle = [losses[start : start + every].mean() for start in range(0, NUM, every)]
    data = curves(lines)
    assert data["every"] == every == 5 and len(data["loss"]) == len(oracle) <= MAX_POINTS
    np.testing.assert_allclose([y for _, y in data["loss"]], oracle)
    assert data["loss"][0][0] == 4 and data["loss"][-1][0] == NUM - 1
    assert data["num_left_out"] == 2 and data["went_back"] == [[501, 450]] and data["best_step"] == 800


def test_what_is_not_finite_and_what_is_no_number_is_left_out():
    points = [(0, 1.0), (1, None), (2, float("nan")), (3, "x"), (4, True), (5, 3.0)]
    assert thinned(points, max) == [[0, 1.0], [5, 3.0]]


def test_a_step_that_was_done_again_counts_as_it_was_last():
    data = curves([{"type": "step", "step": 0, "loss": 9.0}, {"type": "step", "step": 0, "loss": 2.0}])
    assert data["loss"] == [[0, 2.0]] and data["num_steps"] == 1 and data["rate"] == []


def test_a_run_without_steps_has_no_curves():
    assert curves([{"type": "progress", "step": 1}, {"type": "turn"}]) is None


def test_the_page_draws_what_the_twin_tells(project, overview, ask, lines):
    file = project / "runs/4/metrics.jsonl"
    file.write_text(file.read_text() + "".join(json.dumps(row) + "\n" for row in lines))
    dash = app(project, overview)
    data, page = ask(dash, "/runs/4.json").json()["curves"], ask(dash, "/runs/4").text
    drawn = re.findall(r'data-series="trained on" data-x="([^"]+)" data-y="([^"]+)"', page)
    assert [(float(x), float(y)) for x, y in drawn] == [tuple(point) for point in data["loss"]]
    held = re.findall(r'data-series="held out" data-x="([^"]+)" data-y="([^"]+)"', page)
    assert [(float(x), float(y)) for x, y in held] == [tuple(point) for point in data["held_out"]]
    for title in ("Loss", "Learning rate", "Gradient norm", "Time of a step"):
        assert f"<figcaption>{title}" in page
    assert "2 left out" in page and "back to the weights of step 450" in page and "the mean of 5 steps" in page


def test_a_run_that_learns_nothing_by_steps_has_no_such_section(project, overview, ask):
    dash = app(project, overview)
    assert "<h2>Training</h2>" not in ask(dash, "/runs/4").text and ask(dash, "/runs/4.json").json()["curves"] is None
