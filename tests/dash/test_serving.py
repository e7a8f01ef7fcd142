"""The page of a server, against the lines that it was drawn from."""

import json
import re

import pytest

from gyral.config import load
from gyral.dash import serving
from gyral.dash.pages import app
from gyral.run import Run


def line(t, requests, **more):
    return {"t": t, "requests": requests, "per_s": 10.0 * t, "p50_ms": 1.0, "p99_ms": None, "waiting": 2, **more}


@pytest.fixture
def served(tmp_path):
    """A project in which a server ran, and one that was asked nothing."""
    config = load(tmp_path, [])
    with Run.start(tmp_path, "serve", config) as run:
        run.reads("model", "shop")
        for t in range(1, 600):
            run.metric("serving", **line(t, t, statuses={"200": t}))
        last = {
            "statuses": {"200": 640, "503": 5},
            "latency_ms": [[0.631, 100], [1.0, 200], [1.58, 300], [None, 45]],
            "batches": {"shop": [[1.0, 4], [64.0, 10]], "shop-int8": [[64.0, 2]]},
            "answered_by": {"shop": 600, "shop-int8": 45},
            "not_answered": {"full": 5, "late": 0},
            "cache": {"hits": 30, "misses": 70, "bytes": 2_048},
            "workers": [{"number": 0, "state": "ready", "resident_bytes": 5_000_000, "busy": 0.25, "deaths": 1}],
            "trial": {"why": "goes on: <b>"},
            "chosen": {"default": "shop: kept"},
            "tiers": {"phone": 400, "server": 245},
            "cascade": {"default": {"told": "shop-int8 first, shop where it is less sure", "kept": 3}},
        }
        run.metric("serving", **line(600, 645, **last))
    with Run.start(tmp_path, "serve", config):
        pass
    return tmp_path


def test_the_page_shows_what_the_lines_say(served, ask, parse):
    dash = app(served, lambda: None)
    data, page = ask(dash, "/serving.json").json(), ask(dash, "/serving")
    told = data["serving"]
    assert data["model"] == "shop" and told["requests"] == 645 and told["hit_share"] == 0.3 and len(told["points"]) <= 240
    assert told["points"][-1]["t"] == 600 and told["points"][0]["per_s"] == 10.0 * told["points"][0]["t"]
    shown = re.findall(r'data-series="(\w+)" data-x="([^"]*)" data-y="([^"]*)"', page.text)
    values = {
        (series, x): float(y) for series, x, y in shown if series in ("latency", "batches", "variants", "refused", "tiers")
    }
    assert values == {
        ("latency", "to 0.631 ms"): 100, ("latency", "to 1.58 ms"): 500, ("latency", "longer"): 45,
        ("batches", "to 1"): 4, ("batches", "to 64"): 12, ("variants", "shop"): 600, ("variants", "shop-int8"): 45,
        ("refused", "too many waited"): 5, ("tiers", "phone"): 400, ("tiers", "server"): 245,
    }  # fmt: skip
    assert "goes on: &lt;b&gt;" in page.text and "busy 25.0 %" in page.text and "1 death<" in page.text
    assert "default: shop-int8 first, shop where it is less sure" in page.text
    lineage = json.loads((served / "runs/1/lineage.json").read_text())
    (served / "runs/1/lineage.json").write_text(json.dumps(lineage | {"cpu_s": 3.2}))
    assert ask(dash, "/serving.json").json()["cpu_s_of_1000"] == 5.0
    assert "5 s of CPU for 1,000" in ask(dash, "/serving").text
    assert "Answered by" in ask(dash, "/runs/1").text and json.loads(ask(dash, "/runs/1.json").text)["serving"] == told
    assert "script" not in parse(page.text).tags


def test_a_project_without_a_server_says_how_to_start_one(tmp_path, ask):
    answer = ask(app(tmp_path, lambda: None), "/serving")
    assert answer.status_code == 200 and "gyral serve MODEL" in answer.text
    assert serving.of_lines([{"type": "progress"}]) is None
