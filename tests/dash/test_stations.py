"""Rates, lag and cost of the ring, against the records that they are read from."""

import json

import pytest

from gyral.dash.pages import app
from gyral.plan.cost import PRICES


@pytest.fixture
def home(project, overview, ask):
    """The data of the first page, and the page."""
    return lambda: (ask(app(project, overview), "/index.json").json(), ask(app(project, overview), "/"))


def test_costs_are_the_cpu_seconds_of_the_runs_by_what_they_made(home, edit_lineage, parse):
    for run, cpu_s in ((22, 4.0), (23, 1.5), (24, 30.0), (25, 2.5)):
        edit_lineage(run, cpu_s=cpu_s)
    data, page = home()
    costs = {each["what"]: each for each in data["costs"]}
    accepted = 77_415 - 12
    assert costs["a million events taken in"]["cpu_s"] == pytest.approx(4.0 / accepted * 1e6)
    assert costs["a model"]["cpu_s"] == pytest.approx(34.0)
    assert [each["run"] for each in costs["a model"]["runs"]] == [23, 24, 25] and "1,000 answers" not in costs
    price = PRICES["usd_core_hour"]
    assert costs["a model"]["usd"]["value"] == pytest.approx(34.0 / 3600 * price.value)
    assert costs["a model"]["usd"]["high"] == pytest.approx(34.0 / 3600 * price.high)
    assert (costs["a model"]["by"], costs["a model"]["usd_by"]) == ("measured", "assumed")
    text = parse(page.text).text
    assert "34 s" in text and "51.7 s" in text and "30 CPU-s" in text and "#23 #24 #25" in text


def test_the_ring_has_the_lag_of_the_last_turn_and_each_station_leads_to_its_run(home, parse):
    data, page = home()
    assert data["lag"] == {"seconds": 44.3 + 1.7 * 6, "of": "turn 6"}
    ring = page.text.partition('<svg class="ring"')[2].partition("</svg>")[0]
    assert "lag 54 s" in ring
    assert [href for href in parse(ring).hrefs] == ["runs/22", "runs/23", "runs/24", "runs/25", "runs/1"]


def test_a_live_loop_tells_its_stations_how_fast_it_goes_now(project, home, edit_lineage, this_process):
    edit_lineage(1, status="running", ended=None, started="2030-01-01T00:00:00Z", **this_process)
    edit_lineage(25, verb="serve", status="running", ended=None, started="2030-01-01T00:00:01Z", summary={}, **this_process)
    line = {"type": "live", "t": 9.0, "events_per_s": 1234.0, "rows_per_s": 5678.0, "freshness": {"p50": 0.21}}
    with open(project / "runs/1/metrics.jsonl", "a") as lines:
        lines.write(json.dumps(line) + "\n")
    asked = {"type": "serving", "t": 9.0, "requests": 900, "per_s": 321.0}
    (project / "runs/25/metrics.jsonl").write_text(json.dumps(asked) + "\n")
    data, page = home()
    rates = {each["verb"]: (each["rate"], each["unit"], each["run"]) for each in data["verbs"]}
    assert rates["ingest"] == (1234.0, "events", 1) and rates["train"] == (5678.0, "rows", 1)
    assert rates["serve"] == (321.0, "answers", 25) and data["lag"]["seconds"] == 0.21
    assert "1.2k events/s" in page.text and "lag .2 s" not in page.text and "lag 0.2 s" in page.text
    edit_lineage(25, status="done", ended="2030-01-01T01:00:00Z", summary={"impressions": 500}, cpu_s=2.0)
    data, page = home()
    assert next(each for each in data["verbs"] if each["verb"] == "serve")["rate"] == 100.0, "of all its time"
    assert next(each for each in data["costs"] if each["what"] == "1,000 answers")["cpu_s"] == 4.0
    assert "4 CPU-s / 1,000" in page.text


def test_a_live_loop_is_divided_by_its_processes_and_its_server_by_its_threads(project, home, edit_lineage, parse):
    spent = {"population": 50.0, "server": 29.0, "learner": 8.0, "shards": 2.0}
    edit_lineage(1, verb="loop", started="2030-01-01T00:00:00Z", summary={"learned": 4_000, "cpu_s": spent})
    with open(project / "runs/1/metrics.jsonl", "a") as lines:
        lines.write(json.dumps({"type": "live", "t": 9.0, "cpu_s": spent, "rows_per_s": 5.0}) + "\n")
    summary = {"impressions": 500, "accepted": 10_000, "taking_in_cpu_s": 6.0}
    edit_lineage(25, verb="serve", started="2030-01-01T00:00:01Z", cpu_s=30.0, summary=summary)
    data, page = home()
    parts = {each["part"]: each["cpu_s"] for each in data["parts"]}
    assert parts == {"population": 50.0, "taking in": 6.0, "answering": 24.0, "learner": 8.0, "shards": 2.0}
    assert sum(each["share"] for each in data["parts"]) == pytest.approx(1)
    verbs = {each["verb"]: each["cpu_s"] for each in data["verbs"]}
    assert (verbs["ingest"], verbs["train"], verbs["serve"]) == (6.0, 10.0, 24.0)
    costs = {each["what"]: (each["cpu_s"], [run["run"] for run in each["runs"]]) for each in data["costs"]}
    assert costs["a million events taken in"] == (pytest.approx(600), [25])
    assert costs["a million events learned live"] == (pytest.approx(2500), [1])
    assert costs["1,000 answers"] == (pytest.approx(48.0), [25])
    text = parse(page.text).text
    assert "the learner 8.0 s 8.9 %" in text and "events taken in, by the server 6.0 s 6.7 %" in text
    edit_lineage(25, summary={"impressions": 500})
    assert {each["part"] for each in home()[0]["parts"]} == set(spent), "one that does not tell them apart"
    edit_lineage(25, status="running", cpu_s=0.0, summary={})
    data, _ = home()
    assert {each["part"]: each["cpu_s"] for each in data["parts"]} == spent, "a server that runs says nothing of itself yet"


def test_a_home_of_several_loops_heads_with_the_newest_and_lists_the_newest_of_the_others(project, home, edit_lineage, parse):
    whole = json.loads((project / "runs/1/lineage.json").read_text())
    assert home()[0]["other_loops"] == [], "one loop is the head"
    for number, source, summary in (
        (31, "films.csv", whole["summary"]), (32, "films.csv", {"turns": []}),
        (33, "online_retail.parquet", {"visits": 3, "events": 9}),
    ):  # fmt: skip
        inputs = [{"kind": "source", "name": f"/data/{source}", "version": ""}]
        (project / f"runs/{number}").mkdir()
        if source == "online_retail.parquet":
            inputs = whole["inputs"]
        record = whole | {"run": number, "inputs": inputs, "summary": summary}
        (project / f"runs/{number}/lineage.json").write_text(json.dumps(record))
    data, page = home()
    assert data["loop"]["run"] == 33
    told = {each["run"]: (each["source"], each["over_frozen"]) for each in data["other_loops"]}
    assert told == {32: ("films.csv", None), 1: ("online_retail.parquet", pytest.approx(0.1987 / 0.1304 - 1))}
    text = parse(page.text).text
    assert "Other loops here" in text and "+52.4 %" in text and "runs/32" in parse(page.text).hrefs
