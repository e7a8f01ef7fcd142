"""Two runs side by side, against the files that they left."""

import json

import pytest

from gyral.dash.pages import app


@pytest.fixture
def compared(project, overview, ask):
    """The JSON of two runs, and the page."""
    dash = app(project, overview)
    return lambda a, b: (ask(dash, f"/compare.json?a={a}&b={b}").json(), ask(dash, f"/compare?a={a}&b={b}"))


def test_settings_that_differ_are_listed_and_no_others(project, compared, parse):
    (project / "runs/8/config.toml").write_text(
        'on = "local"\n\n[train]\nfamily = "recommender"\nseed = 8\nsteps = 5\nlocal = true\n'
    )
    data, page = compared(4, 8)
    assert data["settings"] == [
        {"name": "train.local", "a": None, "b": True, "change": None},
        {"name": "train.seed", "a": 4, "b": 8, "change": 1.0},
        {"name": "train.steps", "a": None, "b": 5, "change": None},
    ]
    told = parse(page.text).text
    assert "train.steps" in told and "train.local – true –" in told and "train.family" not in page.text


def test_results_stand_side_by_side_with_their_change(project, compared):
    data, _ = compared(4, 8)
    first, second = (json.loads((project / f"runs/{run}/lineage.json").read_text())["summary"] for run in (4, 8))
    row = next(each for each in data["results"] if each["name"] == "ndcg_at_10")
    assert (row["a"], row["b"]) == (first["ndcg_at_10"], second["ndcg_at_10"])
    assert row["change"] == pytest.approx(second["ndcg_at_10"] / first["ndcg_at_10"] - 1)


def test_losses_of_two_trainings_are_drawn_over_each_other(project, compared, parse):
    for run, start in ((4, 5.0), (8, 4.0)):
        lines = [{"type": "step", "step": step, "loss": start / step, "seconds": 0.1} for step in range(1, 6)]
        (project / f"runs/{run}/metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    _, page = compared(4, 8)
    marks = {(series, x): value for series, x, value in parse(page.text).marks}
    assert len(marks) == 10 and marks["#4", "2"] == 2.5 and marks["#8", "4"] == 1.0


def test_without_a_question_the_newest_two_of_a_verb_are_compared(project, overview, ask):
    data = ask(app(project, overview), "/compare.json").json()
    assert (data["a"]["run"], data["b"]["run"]) == (21, 25)


@pytest.mark.parametrize("pair", [(1, 99), ("x", 1), ("../1", 1), ("", 1)])
def test_a_run_that_is_not_there_is_not_found(compared, pair):
    data, page = compared(*pair)
    assert page.status_code == 404 and data["what"] == "there is no such run to compare"


def test_damaged_settings_break_nothing(project, compared):
    (project / "runs/8/config.toml").write_text("[train\nseed = ")
    data, page = compared(4, 8)
    assert page.status_code == 200 and {row["name"]: row["b"] for row in data["settings"]}["train.seed"] is None
