"""What was foretold of a run beside what it came to, on its page, in the list and between two runs."""

import json

import pytest

from gyral.dash import foretold
from gyral.dash.pages import app
from gyral.plan.hindsight import hindsight


@pytest.fixture
def told(project, edit_lineage):
    """Ingestions on their own, of this machine: three alike, and one that took ten times as long."""
    for run, cpu_s in ((2, 2.0), (6, 2.1), (10, 1.9), (14, 20.0)):
        edit_lineage(run, parent=None, machine={}, elapsed_s=cpu_s, cpu_s=cpu_s, peak_bytes=400_000_000)
    return project


def test_a_run_shows_what_the_runs_before_it_foretold(told, overview, ask, parse):
    dash = app(told, overview)
    rows = {each["name"]: each for each in ask(dash, "/runs/10.json").json()["foretold"]}
    past = next(each for each in hindsight(told) if each.run == 10)
    assert rows["CPU time"]["value"] == past.told["processor"].value and rows["CPU time"]["took"] == 1.9
    assert rows["CPU time"]["low"] < 1.9 < rows["CPU time"]["high"] and rows["CPU time"]["inside"] is True
    late = {each["name"]: each for each in ask(dash, "/runs/14.json").json()["foretold"]}
    assert late["CPU time"]["inside"] is False and late["CPU time"]["off"] == pytest.approx(late["CPU time"]["value"] / 20 - 1)
    page = parse(ask(dash, "/runs/14").text)
    assert {("took", name, row["took"]) for name, row in late.items()} <= set(page.marks)
    assert 'class="fill-dropped"' in ask(dash, "/runs/14").text and "runs 2, 6, 10 of this project" in page.text


def test_the_list_counts_what_was_inside_and_parts_of_a_loop_are_left_out(told, overview, ask, parse):
    dash = app(told, overview)
    rows = {each["run"]: each["foretold"] for each in ask(dash, "/runs.json").json()["runs"]}
    assert foretold.verdict(rows[10]) == "3 of 3" and foretold.verdict(rows[14]) == "1 of 3" and rows[3] == []
    assert "1 of 3" in parse(ask(dash, "/runs").text).text


def test_two_runs_are_compared_by_what_was_foretold_of_them(told, overview, ask, parse):
    dash = app(told, overview)
    data, page = ask(dash, "/compare.json?a=10&b=14").json(), parse(ask(dash, "/compare?a=10&b=14").text)
    assert [each["inside"] for each in data["b"]["foretold"]] == [False, False, True]
    assert "CPU time" in page.text and "elapsed s" not in page.text and "took" in page.text
    assert "Nothing was foretold of #3" in parse(ask(dash, "/compare?a=3&b=10").text).text


def test_a_loss_that_a_law_foretold_stands_beside_what_the_training_ended_with(project, overview, ask):
    card = project / "models/online_retail@6/card.json"
    budget = {"loss": 2.0, "loss_80": [1.9, 2.2], "metric": "loss", "form": "chinchilla", "rows": 9, "ended": 2.5}
    card.write_text(json.dumps(json.loads(card.read_text()) | {"training": {"budget": budget}}))
    row = ask(app(project, overview), "/runs/24.json").json()["foretold"][0]
    assert (row["value"], row["low"], row["high"], row["took"], row["inside"]) == (2.0, 1.9, 2.2, 2.5, False)
    assert row["off"] == pytest.approx(-0.2) and row["why"] == "chinchilla through 9 runs"


def test_records_of_another_time_foretell_nothing_and_break_no_page(told, overview, ask, edit_lineage):
    edit_lineage(1, parent=None, machine={}, summary={"turns": [3, {"events": "many"}]})
    edit_lineage(6, summary={"rows_in": 77_415, "duplicate": "few"})
    card = told / "models/online_retail@6/card.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"training": {"budget": {"loss": 2.0, "loss_80": "wide"}}}))
    dash = app(told, overview)
    for page in ("/runs", "/runs/1", "/runs/6", "/runs/24", "/compare?a=1&b=6"):
        assert ask(dash, page).status_code == 200, page
    row = ask(dash, "/runs/24.json").json()["foretold"][0]
    assert (row["low"], row["high"], row["took"], row["inside"]) == (2.0, 2.0, None, None)


def test_each_step_of_a_loop_has_what_the_loops_before_it_foretold(project, overview, ask, parse, edit_lineage):
    from gyral.plan.verbs.loop import STEPS

    turns = json.loads((project / "runs/1/lineage.json").read_text())["summary"]["turns"]
    record = json.loads((project / "runs/1/lineage.json").read_text()) | {"run": 30, "machine": {}}
    twice = [{**turn, "seconds": {name: 2 * took for name, took in turn["seconds"].items()}} for turn in turns]
    (project / "runs/30").mkdir()
    (project / "runs/30/lineage.json").write_text(json.dumps(record | {"summary": {"turns": twice}}))
    (project / "runs/30/config.toml").write_text('[train]\nbudget = "600s"\n')
    (project / "runs/1/config.toml").write_text('[train]\nbudget = "600s"\n')
    edit_lineage(1, machine={})
    dash = app(project, overview)
    first, second = ({row["name"]: row for row in ask(dash, f"/runs/{run}.json").json()["foretold_steps"]} for run in (1, 30))
    assert list(first) == list(second) == list(STEPS)
    assert {row["by"] for row in first.values()} == {"sheet"} and {row["by"] for row in second.values()} == {"calibrated"}
    for name, row in second.items():
        took = sum(turn["seconds"][name] for turn in turns)
        assert row["took"] == pytest.approx(2 * took) and row["unit"] == "s", name
        assert row["value"] == pytest.approx(took, rel=0.3), "as the loop before took"
        assert row["off"] == pytest.approx(row["value"] / row["took"] - 1) and "run 1 of this project" in row["why"]
    page = parse(ask(dash, "/runs/30").text)
    assert {("took", name, row["took"]) for name, row in second.items()} <= set(page.marks) and "step by step" in page.text
    assert ask(dash, "/runs/3.json").json()["foretold_steps"] == []
    (project / "runs/30/config.toml").write_text("[train")
    assert ask(dash, "/runs/30.json").json()["foretold_steps"] == []
