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
    assert expected <= names
    for file in files:
        json.loads(file.with_name(file.name.removesuffix(".html") + ".json").read_text())


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
