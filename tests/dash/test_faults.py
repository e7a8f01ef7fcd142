"""The page of a soak, against the lines that it was drawn from; what is damaged is left out."""

import json
import re

import pytest

from gyral.config import load
from gyral.dash.pages import app
from gyral.run import Run


@pytest.fixture
def soaked(tmp_path):
    """A project in which a soak ran: two kinds of faults, one of which nobody recovered from, and a torn line."""
    with Run.start(tmp_path, "bench", load(tmp_path, [])) as run:
        for t in range(1, 300):
            held = {"gateway": 1e8 + t, "worker": 2e8}
            more = {"answered_per_s": t, "stored_per_s": 3, "not_answered_per_s": 0, "p99_ms": 2.5, "files": {"gateway": 20}}
            run.metric("soak", t=float(t), rss_bytes=held, **more)
        run.summarize(
            promises=[
                {"promised": "nothing is lost", "counted": "0 lost", "kept": True},
                {"promised": "nobody waits", "counted": "<1>", "kept": False},
            ],
            violations=[{"promised": "nobody waits", "after": "kill worker at 9.0 s", "event": 7}],
        )
    faults = [
        {"at": 9.0, "kind": "kill worker", "target": "worker", "harmed_s": 0.0, "recovered_s": 1.5, "note": ""},
        {"at": 50.0, "kind": "stop shard", "target": "shard", "harmed_s": 2.0, "recovered_s": None, "note": ""},
        {"at": 90.0, "kind": "kill worker", "target": "worker", "harmed_s": 0.0, "recovered_s": 2.25, "note": ""},
    ]
    text = "".join(json.dumps(each) + "\n" for each in faults) + '{"at": "soon", "kind": "x"}\n{"at": 4'
    (run.folder / "faults.jsonl").write_text(text)
    return tmp_path


def test_the_page_shows_each_fault_and_each_promise(soaked, ask):
    dash = app(soaked, lambda: None)
    told, page = ask(dash, "/faults.json").json(), ask(dash, "/faults")
    assert [(each["at"], each["until"]) for each in told["faults"]] == [(9.0, 10.5), (50.0, 112.0), (90.0, 92.25)]
    marks = re.findall(
        r'<rect class="(fill-\w+)" [^>]*data-series="(kill worker|stop shard)" data-x="([^"]*)" data-y="([^"]*)"', page.text
    )
    assert marks == [
        ("fill-one", "kill worker", "9.0", "1.5"),
        ("fill-one", "kill worker", "90.0", "2.25"),
        ("fill-dropped", "stop shard", "50.0", ""),
    ]
    assert "well after 2.25 s at most" in page.text and "not well within a minute" in page.text
    answered = dict(re.findall(r'data-series="answered" data-x="([^"]*)" data-y="([^"]*)"', page.text))
    assert answered and all(x.removesuffix(".0") == y for x, y in answered.items()) and len(answered) <= 240
    assert "1 of 2 promises kept" in page.text and "&lt;1&gt;" in page.text and "after kill worker at 9.0 s" in page.text


def test_without_a_soak_the_page_says_how_to_run_one(tmp_path, ask):
    missing = ask(app(tmp_path, lambda: None), "/faults")
    assert missing.status_code == 200 and "soak.py" in missing.text
