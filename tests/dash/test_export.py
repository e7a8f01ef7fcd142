"""The pages as files: all there, all links lead to a file, same numbers."""

import asyncio
import json
from urllib.parse import unquote

from gyral.dash.export import export


def test_every_link_leads_to_a_file(project, overview, tmp_path, parse):
    folder = tmp_path / "pages"
    assert export(project, overview, folder) == folder / "index.html"
    files = sorted(folder.rglob("*.html"))
    for file in files:
        page = parse(file.read_text())
        assert "refresh" not in file.read_text()
        for href in page.hrefs:
            if not href.startswith("#"):
                assert (file.parent / unquote(href)).is_file(), (file.name, href)
    names = {str(file.relative_to(folder)) for file in files}
    expected = {"index.html", "runs.html", "models.html", "datasets.html", "lake.html", "runs/train.html"}
    expected |= {f"runs/{number}.html" for number in range(1, 26)} | {
        f"models/online_retail-int8@{turn}.html" for turn in range(1, 7)
    }
    expected |= {"live.html", "params.html", "serving.html", "scaling.html", "faults.html", "plan.html", "compare.html"}
    assert expected <= names and "search.html" not in names
    for file in files:
        json.loads(file.with_name(file.name.removesuffix(".html") + ".json").read_text())


def test_pages_of_a_live_loop_of_a_server_and_of_a_soak_are_files_with_their_numbers(project, overview, tmp_path, parse):
    """Each a run of its own, by the lines that such runs write."""
    for number, verb, line in (
        (26, "loop", {"type": "live", "t": 9.0, "events": 4321, "freshness": {"p50": 0.5, "p99": 1.5}}),
        (27, "serve", {"type": "serving", "t": 9.0, "requests": 765, "statuses": {"200": 765}, "latency_ms": [[1.0, 765]]}),
        (28, "bench", {"type": "soak", "t": 9.0, "answered_per_s": 77, "stored_per_s": 3, "p99_ms": 2.5}),
    ):
        record = json.loads((project / "runs/25/lineage.json").read_text()) | {"run": number, "verb": verb, "summary": {}}
        (project / f"runs/{number}").mkdir()
        (project / f"runs/{number}/lineage.json").write_text(json.dumps(record))
        (project / f"runs/{number}/metrics.jsonl").write_text(json.dumps(line) + "\n")
    folder = export(project, overview, tmp_path / "pages").parent
    told = {name: json.loads((folder / f"{name}.json").read_text()) for name in ("live", "serving", "faults")}
    assert told["live"]["live"]["events"] == 4321 and told["serving"]["serving"]["answered"] == 765
    assert told["faults"]["soak"]["points"][0]["answered_per_s"] == 77
    for name, text in (("live", "4,321 events"), ("serving", "765 requests"), ("faults", "0 faults")):
        page = parse((folder / f"{name}.html").read_text())
        assert text in page.text and "compare.html" not in page.hrefs and f"{name}.json" in page.hrefs


def test_of_one_run_only_its_pages_are_written_and_no_link_is_dead(project, overview, tmp_path, parse):
    folder = tmp_path / "pages"
    everything = export(project, overview, tmp_path / "all").parent
    export(project, overview, folder, run=2)
    files = sorted(folder.rglob("*.html"))
    for file in files:
        for href in parse(file.read_text()).hrefs:
            if not href.startswith("#"):
                assert (file.parent / unquote(href)).is_file(), (file.name, href)
    names = {str(file.relative_to(folder)) for file in files}
    assert {"index.html", "runs.html", "lake.html", "runs/2.html"} <= names and "runs/7.html" not in names
    assert {"live.html", "serving.html", "faults.html"} <= names and "plan.html" not in names
    assert len(names) < len(list(everything.rglob("*.html"))) / 2
    assert parse((folder / "runs.html").read_text()).text == parse((everything / "runs.html").read_text()).text


def test_the_numbers_are_those_of_the_run(project, overview, tmp_path, parse):
    page = parse(export(project, overview, tmp_path / "pages").read_text())
    lines = [json.loads(line) for line in (project / "runs/1/metrics.jsonl").read_text().splitlines()]
    expected = {
        (name, str(row["turn"]), value) for row in lines if row["type"] == "turn" for name, value in row["ndcg_at_10"].items()
    }
    assert set(page.marks) == expected
    assert "ago" not in page.text.split(), "a file stays, so its times are absolute"


def test_it_works_inside_an_event_loop_and_twice(project, overview, tmp_path):
    async def twice():
        export(project, overview, tmp_path / "pages")
        return export(project, overview, tmp_path / "pages")

    assert asyncio.run(twice()).is_file()


def test_an_empty_folder_exports(tmp_path, empty_overview, parse):
    page = export(tmp_path / "nothing", empty_overview, tmp_path / "pages")
    assert "gyral loop --source FILE" in parse(page.read_text()).text
    assert not (tmp_path / "nothing").exists()


def test_nothing_is_written_outside_the_folder(project, overview, tmp_path, edit_lineage):
    edit_lineage(
        1,
        outputs=[
            {"kind": "model", "name": "../../escape", "version": "1"},
            {"kind": "dataset", "name": "../x@1", "version": ""},
        ],
    )
    before = {path for path in tmp_path.rglob("*")}
    export(project, overview, tmp_path / "pages")
    assert {path for path in tmp_path.rglob("*") if tmp_path / "pages" not in [path, *path.parents]} == before
