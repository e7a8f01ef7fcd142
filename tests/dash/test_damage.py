"""What must not break a page: hostile names and text, killed and failed runs, torn and half-written files."""

import json
from urllib.parse import urljoin, urlsplit

import pytest

from gyral.dash.pages import app
from gyral.errors import NotFound

HOSTILE = [
    "/runs/%2e%2e",
    "/runs/..%5c..",
    "/runs/0",
    "/runs/01",
    "/runs/99",
    "/runs/99999999999999999999",
    "/runs/%D9%A1",
    "/runs/nothing",
    "/runs/1/lineage.json",
    "/models/..%2F..%2Fsecret@1",
    "/models/%2e%2e%2f%2e%2e%2fsecret@1",
    "/models/../../secret@1",
    "/models/..@1",
    "/models/%00@1",
    "/models/online_retail@6%0A",
    "/models/online_retail@06",
    "/models/<script>alert(1)<%2Fscript>@1",
    "/models/online_retail@7",
    "/datasets/.online_retail@4.17.tmp",
    "/datasets/nothing@1",
    "/index.html",
    "/runs/1/2/3",
]


def turn_lines(root):
    lines = [json.loads(line) for line in (root / "runs/1/metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["type"] == "turn"]


def test_a_folder_that_is_not_there_is_an_empty_one(tmp_path, empty_overview, ask):
    assert ask(app(tmp_path / "nowhere", empty_overview), "/").status_code == 200
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("error", [NotFound("there is no lake", hint="gyral ingest FILE"), OSError("disk on fire")])
def test_a_lake_that_cannot_be_read_is_said_and_breaks_nothing(project, ask, parse, error):
    def broken():
        raise error

    dash = app(project, broken)
    assert ask(dash, "/").status_code == 200
    assert ("there is no lake" if isinstance(error, NotFound) else "disk on fire") in parse(ask(dash, "/lake").text).text


def test_a_killed_run_is_told_from_a_running_one(project, overview, edit_lineage, ask, parse):
    edit_lineage(23, status="running", ended=None)
    page = ask(app(project, overview), "/runs/23")
    assert "killed" in parse(page.text).text
    assert "refresh" not in page.text
    assert ask(app(project, overview), "/runs/23.json").json()["status"] == "killed"


def test_a_failed_run_shows_the_error_in_four_parts(project, overview, edit_lineage, ask, parse):
    error = {
        "what": "`a.csv` has no <script>alert(1)</script>",
        "where": "a.csv, line 7",
        "why": "it ends",
        "hint": "gyral ingest b.csv",
    }
    edit_lineage(2, status="failed", error=error)
    page = ask(app(project, overview), "/runs/2").text
    assert "<code>a.csv</code> has no &lt;script&gt;alert(1)&lt;/script&gt;" in page
    for part in ("a.csv, line 7", "it ends", "gyral ingest b.csv"):
        assert part in parse(page).text
    assert "script" not in parse(page).tags


def test_hostile_text_stays_text(project, overview, edit_lineage, ask, parse):
    bad = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    edit_lineage(
        4,
        verb=bad,
        status=bad,
        command=bad,
        inputs=[{"kind": bad, "name": bad, "version": bad}],
        summary={bad: bad, "rows_in": bad, "turns": bad},
    )
    metric = {"time": 1, "type": "metric", "candidate": bad, "ndcg_at_10": 0.1}
    progress = {
        "time": 2,
        "type": "progress",
        "verb": bad,
        "unit": bad,
        "done": 1,
        "total": 2,
        "rate": 3.5,
        "eta": 1,
        "elapsed": 1,
        "metric": {},
    }
    (project / "runs/4/metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (metric, progress, progress)))
    (project / "runs/4/log.txt").write_text(bad)
    (project / "runs/4/config.toml").write_text(bad)
    card = json.loads((project / "models/online_retail@6/card.json").read_text())
    (project / "models/online_retail@6/card.json").write_text(
        json.dumps(card | {"dataset": bad, "model": bad, "family": bad, "measured_on": bad})
    )
    manifest = json.loads((project / "datasets/online_retail@6/manifest.json").read_text())
    (project / "datasets/online_retail@6/manifest.json").write_text(
        json.dumps(manifest | {"dataset": bad, "dropped": {bad: 3}, "kind": bad})
    )
    (project / "datasets" / "<script>alert(1)<").mkdir()
    numbers = overview()
    numbers["tables"]["events"]["countries"] = {bad: 3}
    numbers["tables"][bad] = {"rows": 1}
    dash = app(project, lambda: numbers)
    for path in (
        "/",
        "/runs",
        "/runs/4",
        "/models",
        "/models/online_retail@6",
        "/datasets",
        "/datasets/online_retail@6",
        "/lake",
    ):
        answer = ask(dash, path)
        assert answer.status_code == 200, path
        assert not {"script", "img"} & parse(answer.text).tags, path
        assert "<script>alert" not in answer.text


@pytest.mark.parametrize("path", HOSTILE)
def test_unknown_and_hostile_addresses_are_not_found(project, overview, ask, parse, path):
    secret = project.parent / "secret@1"
    secret.mkdir()
    (secret / "card.json").write_text('{"model": "SECRET"}')
    answer = ask(app(project, overview), path)
    assert answer.status_code == 404
    assert "SECRET" not in answer.text
    assert "script" not in parse(answer.text).tags
    for href in parse(answer.text).hrefs:
        target = urlsplit(urljoin(str(answer.url), href)).path
        if not target.endswith(".json") and not href.startswith("#"):
            assert ask(app(project, overview), target).status_code == 200


def test_a_missing_twin_is_json_too(project, overview, ask):
    answer = ask(app(project, overview), "/models/nothing@1.json")
    assert answer.status_code == 404
    assert answer.json()["what"] == "there is no model `nothing@1`"


def test_torn_and_half_written_files_render(project, overview, ask, parse):
    with open(project / "runs/1/metrics.jsonl", "ab") as file:
        file.write(b'null\n[1]\n{"type":"turn"}\n{"type":"turn","turn":"x"}\n{"type":"turn","turn":7,"ndcg_at_10":{"loop')
    (project / "runs/4/lineage.json").write_text('{"run": 4, "ver')
    (project / "runs/5/lineage.json").unlink()
    (project / "runs/40").mkdir()
    (project / "runs/41").write_text("a file where a folder should be")
    (project / "models/online_retail@6/card.json").write_text("{")
    (project / "models/empty@1").mkdir()
    (project / "datasets/online_retail@6/manifest.json").unlink()
    (project / "datasets/.online_retail@9.12.tmp").mkdir()
    dash = app(project, overview)
    for path in (
        "/",
        "/runs",
        "/runs/1",
        "/runs/4",
        "/runs/5",
        "/runs/40",
        "/models",
        "/models/online_retail@6",
        "/models/empty@1",
        "/datasets",
    ):
        answer = ask(dash, path)
        assert answer.status_code == 200, path
        parse(answer.text)
    assert len(ask(dash, "/index.json").json()["loop"]["turns"]) == 6
    assert "left no record" in parse(ask(dash, "/runs/40").text).text
    assert "card.json is missing" in parse(ask(dash, "/models/empty@1").text).text
    assert "manifest.json is missing" in parse(ask(dash, "/datasets/online_retail@6").text).text
    assert ask(dash, "/datasets/.online_retail@9.12.tmp").status_code == 404


def test_null_metrics_are_gaps(project, overview, ask, parse):
    rows = turn_lines(project)
    rows[2]["ndcg_at_10"]["looped"] = None
    rows[3]["p99_ms"] = None
    (project / "runs/1/metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    marks = parse(ask(app(project, overview), "/").text).marks
    assert [x for series, x, _ in marks if series == "looped"] == ["1", "2", "4", "5", "6"]
    assert ask(app(project, overview), "/runs/1").status_code == 200
