"""The page of a parameter server, against the lines of its run and the folder of its shards."""

import json

import pytest

from gyral.config import load
from gyral.dash.pages import app
from gyral.run import Run


@pytest.fixture
def learned(tmp_path):
    """A project with a live loop whose tables lie in two shards."""
    with Run.start(tmp_path, "loop", load(tmp_path, [])) as run:
        for t in range(1, 20):
            learner = {"staleness": {"0": 6 * t, "2": 2 * t}, "published": t, "refused": 1, "objects": 12, "subjects": 5}
            fresh = {"p50": 0.2, "p99": 0.9, "recent_p50": 0.2, "recent_p99": 0.3}
            run.metric("live", t=float(t), events=100 * t, rows_per_s=1_000 + t, freshness=fresh, learner=learner, served={})
    shards = tmp_path / "live" / "shop-1" / "shards"
    for name, size in (("shard0", 300), ("shard1", 500)):
        (shards / name).mkdir(parents=True)
        (shards / name / "base").write_bytes(bytes(size))
        (shards / name / "cut").write_bytes(bytes(size))
    published = {"version": 7, "cuts": {"shard0": 3, "shard1": 4, "../../models": 1}, "step": 9, "hour": 1, "refused": 0}
    (shards.parent / "published.json").write_text(json.dumps(published))
    (tmp_path / "live" / "shop-11").mkdir()
    return tmp_path


def test_the_page_shows_freshness_staleness_and_shards(learned, ask, parse):
    dash = app(learned, dict)
    data, page = ask(dash, "/params.json").json(), parse(ask(dash, "/params").text)
    assert data["pushes"] == 19 * 8 and data["mean_staleness"] == pytest.approx(2 * 2 / 8)
    shards = [{"shard": "shard0", "cut": 3, "bytes": 600}, {"shard": "shard1", "cut": 4, "bytes": 1_000}]
    assert data["tables"] == [{"name": "shop-1", "version": 7, "step": 9, "shards": shards, "problem": ""}]
    assert {("staleness", "0", 114.0), ("staleness", "2", 38.0), ("bytes", "shard1", 1_000.0)} <= set(page.marks)
    assert ("p99", "19.0", 0.3) in page.marks and ("rows", "19.0", 1_019.0) in page.marks
    assert "0.50" in page.text and "version 7" in page.text


def test_a_damaged_folder_says_so(learned, ask):
    (learned / "live" / "shop-1" / "published.json").write_text("{")
    dash = app(learned, dict)
    assert ask(dash, "/params.json").json()["tables"][0]["problem"]
    assert "live/shop-1" in ask(dash, "/params").text
