"""The live page in a real browser, against its JSON twin and the lines it was drawn from. Needs Chromium and its driver."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from gyral.dash import gather, live
from gyral.errors import NotFound

from .. import chromium, verbs

SEEN = """
const seen = {width: document.documentElement.scrollWidth, window: window.innerWidth};
seen.follows = document.querySelector("#live [role=status]").textContent;
for (const mark of document.querySelectorAll("[data-series]"))
    (seen[mark.dataset.series] ??= {})[mark.dataset.x] = mark.dataset.y;
return seen;
"""


def line(t, looped, p99, staleness):
    slots = {"looped": looped, "frozen": looped and looped / 2, "frozen_recent": looped and looped * 0.7, "popularity": 0.04}
    fresh = {"events": 10 * t, "p50": 0.2, "p99": p99, "max": 1.0, "recent_p50": 0.2, "recent_p99": p99}
    learner = {
        "staleness": staleness, "dropped": {"return": 3, "robot": 7}, "published": t, "refused": 1, "went_back": 0, "rows": 100,
        "objects": 12, "subjects": 5,
    }  # fmt: skip
    return {
        "time": 1.0 + t, "type": "live", "t": float(t), "event_time": 1_300_000_000 + t, "events": 100 * t, "events_per_s": 100,
        "rows_per_s": 1_000 + t, "lag_s": 0.01 * t, "asked": t, "recall_at_10": slots, "ndcg_at_10": slots, "freshness": fresh,
        "served": {"silent_s": 0.4, "trouble": ""}, "learner": learner, "restarts": 0, "cold_s": [0.3, 0.2], "p99_ms": 5.0,
    }  # fmt: skip


@pytest.fixture
def project(tmp_path):
    """A folder with one live loop that runs."""
    run = tmp_path / "runs" / "1"
    run.mkdir(parents=True)
    lines = [
        line(t, None if t < 100 else 0.1 + t / 5_000, 0.3 + (t % 7) / 10, {"0": 10 * t, "12": 2, "40": 3})
        for t in range(1, 400)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    started = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    lineage = {
        "run": 1, "verb": "loop", "status": "running", "started": "2026-11-26T12:00:00.000Z", "pid": os.getpid(),
        "pid_started": started,
    }  # fmt: skip
    (run / "lineage.json").write_text(json.dumps(lineage))
    return tmp_path, lines


def test_the_page_says_what_the_lines_say(project):
    root, lines = project
    told = live.page(root)["live"]
    assert told["num_points"] == 399 and len(told["points"]) <= 240
    assert told["points"][-1]["t"] == 399 and told["points"][-1]["recall"] == lines[-1]["recall_at_10"] == told["recall_at_10"]
    assert gather.home(root, dict)["live"] == "39,900 events of people, recall@10 0.180, served 0.20 s after they were stored"
    assert told["staleness"] == {"0": 3_990, "12": 2, "40": 3} and told["cold_s"] == [0.2, 0.3]
    by_t = {each["t"]: each for each in lines}
    assert all(point["p99"] == by_t[point["t"]]["freshness"]["recent_p99"] for point in told["points"])
    with pytest.raises(NotFound, match="no live loop"):
        live.page(root / "nothing")


def test_lines_that_were_cut_off_or_are_of_another_time_break_nothing(project):
    root, _ = project
    with open(root / "runs" / "1" / "metrics.jsonl", "a") as file:
        file.write('{"type": "live", "t": 400.0, "events": 5}\n{"type": "live", "t"')
    told = live.page(root)["live"]
    assert told["num_points"] == 400 and told["events"] == 5
    for chart in (live.recall_chart, live.freshness_chart, live.staleness_chart, live.dropped_chart):
        assert "<" in chart(told)


@pytest.mark.browser
@pytest.mark.timeout(120)
@pytest.mark.skipif(not chromium.IS_HERE, reason=chromium.WHY_NOT)
def test_what_a_browser_draws_is_what_the_twin_says(project, tmp_path):
    root, _ = project
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-P", "-m", "gyral", "dash", "--root", str(root), "--port", str(port)]
    pages = verbs.popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/live.json", timeout=5) as answer:
                    twin = json.load(answer)
                break
            except OSError:
                assert time.monotonic() < until
                time.sleep(0.1)
        driver = chromium.started(tmp_path / "profile", "--window-size=400,900")
        try:
            driver.get(f"http://127.0.0.1:{port}/live")
            seen = driver.execute_script(SEEN)  # at once: the page is another one every two seconds
            last = twin["live"]["points"][-1]
            for slot, name in live.SLOTS.items():
                assert float(seen[name]["399.0"]) == last["recall"][slot]
            assert float(seen["p99"]["399.0"]) == last["p99"]
            assert {key: float(value) for key, value in seen["staleness"].items()} == {"0": 3_990, "8 or more": 5}
            assert seen["width"] <= seen["window"] and seen["follows"] in ("", "Live")
        finally:
            driver.quit()
    finally:
        pages.terminate()
        pages.wait(20)
