"""Every page and its JSON twin, through the ASGI application, against the files they were read from."""

import json
import re
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from gyral.dash.pages import TEMPLATES, app

LISTS = ["/", "/runs", "/runs/train", "/models", "/datasets", "/lake"]
SINGLE = [
    "/runs/1",
    "/runs/2",
    "/runs/3",
    "/runs/4",
    "/runs/5",
    "/models/online_retail@6",
    "/models/online_retail-int8@6",
    "/datasets/online_retail@3",
]


def twin(path):
    return "/index.json" if path == "/" else f"{path}.json"


def turn_lines(root):
    lines = [json.loads(line) for line in (root / "runs/1/metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["type"] == "turn"]


@pytest.mark.parametrize("path", LISTS + SINGLE)
def test_every_page_renders_and_has_a_twin(project, overview, ask, parse, path):
    dash = app(project, overview)
    page, data = ask(dash, path), ask(dash, twin(path))
    assert page.status_code == data.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert data.headers["content-type"] == "application/json"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "script" not in parse(page.text).tags
    assert page.text.count("<script") == 1, "the one that follows changes"
    assert not re.search(r"(src|href)=\"?https?:", page.text), "a page asks for nothing from outside"
    assert isinstance(data.json(), dict)


def test_every_address_has_a_twin_with_a_project_and_without(project, overview, empty_overview, tmp_path, ask):
    """All routes that the application has, as it lists them; where nothing was made yet as well."""
    for root, lake in ((project, overview), (tmp_path / "new", empty_overview)):
        dash = app(root, lake)
        addresses = [route.path for route in dash.routes if "{" not in route.path and route.path != "/changes"]
        pages = [address for address in addresses if not address.endswith(".json")]
        assert sorted(addresses) == sorted([*pages, *map(twin, pages)])
        assert {"/", "/live", "/params", "/serving", "/compare", "/search"} <= set(pages)
        for address in pages:
            page, data = ask(dash, address), ask(dash, twin(address))
            assert page.status_code == data.status_code == 200, address
            assert page.headers["content-type"].startswith("text/html"), address
            assert isinstance(data.json(), dict) and data.headers["content-type"] == "application/json", address
            assert f'{twin(address).removeprefix("/")}"' in page.text, address


@pytest.mark.parametrize("mount", ["", "/dash"])
def test_all_links_work_wherever_the_pages_are_mounted(project, overview, ask, parse, mount):
    dash = app(project, overview)
    outer = Starlette(routes=[Mount(mount, dash)]) if mount else dash
    assert ask(outer, mount or "/", follow_redirects=True).status_code == 200
    waiting, seen = [f"{mount}/"], set()
    while waiting:
        path = waiting.pop()
        seen.add(path)
        answer = ask(outer, path)
        assert answer.status_code == 200, path
        if path.endswith(".json"):
            answer.json()
            continue
        for href in parse(answer.text).hrefs:
            target = urlsplit(urljoin(f"http://dash{path}", href)).path
            assert target.startswith(f"{mount}/"), (path, href)
            if target not in seen and target not in waiting:
                waiting.append(target)
    pages = {path for path in seen if not path.endswith(".json")}
    assert {f"{mount}{path}" for path in LISTS + SINGLE} <= pages
    assert len(seen) == 2 * len(pages)


@pytest.mark.parametrize("path", ["/", "/models"])
def test_the_chart_of_turns_shows_the_numbers_of_the_metrics_file(project, overview, ask, parse, path):
    expected = {(name, str(row["turn"]), value) for row in turn_lines(project) for name, value in row["ndcg_at_10"].items()}
    dash = app(project, overview)
    marks = set(parse(ask(dash, path).text).marks)
    assert {mark for mark in marks if mark[0] not in ("size_bytes", "latency_ms")} == expected
    data = ask(dash, twin(path)).json()
    turns = data["turns"] if path == "/models" else data["loop"]["turns"]
    assert {(name, str(row["turn"]), value) for row in turns for name, value in row["ndcg_at_10"].items()} == expected


def test_a_loop_run_draws_all_its_metrics(project, overview, ask, parse):
    marks = parse(ask(app(project, overview), "/runs/1").text).marks
    rows = turn_lines(project)
    for row in rows:
        for values in (row["ndcg_at_10"], row["recall_at_10"], row["hit_at_10"], row["known"]["ndcg_at_10"]):
            assert {(name, str(row["turn"]), value) for name, value in values.items()} <= set(marks)
        assert {(step, f"turn {row['turn']}", value) for step, value in row["seconds"].items()} <= set(marks)
        assert ("Freshness", str(row["turn"]), row["freshness_s"]) in marks
        assert ("p99 latency", str(row["turn"]), row["p99_ms"]) in marks


def test_the_headline_is_the_looped_model_against_the_frozen_one(project, overview, ask, parse):
    dash = app(project, overview)
    gain = ask(dash, "/index.json").json()["loop"]["gain"]
    last = turn_lines(project)[-1]["ndcg_at_10"]
    assert gain["over_frozen"] == pytest.approx(last["looped"] / last["frozen"] - 1)
    assert gain["over_baseline"] == pytest.approx(last["looped"] / last["popularity"] - 1)
    assert f"{100 * gain['over_frozen']:+.1f} %" in parse(ask(dash, "/").text).text


def test_a_loss_is_called_a_loss(project, overview, ask, parse):
    rows = turn_lines(project)
    rows[-1]["ndcg_at_10"] = {"looped": 0.1, "frozen": 0.2, "popularity": 0.05}
    (project / "runs/1/metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "Closing the loop cost −50.0 %" in parse(ask(app(project, overview), "/").text).text


def test_home_shows_each_verb_with_its_last_run_and_rate(project, overview, ask, parse):
    dash = app(project, overview)
    verbs = {verb["verb"]: verb for verb in ask(dash, "/index.json").json()["verbs"]}
    assert list(verbs) == ["ingest", "curate", "train", "compress", "serve"]
    assert [verbs[verb]["run"] for verb in verbs] == [22, 23, 24, 25, 1]
    last = [json.loads(line) for line in (project / "runs/22/metrics.jsonl").read_text().splitlines()][-1]
    assert verbs["ingest"]["rate"] == last["rate"]
    assert verbs["serve"]["headline"] == "p99 4.6 ms"
    text = parse(ask(dash, "/").text).text
    assert "550,909" in text and "370k rows/s" in text


def test_runs_can_be_filtered(project, overview, ask):
    dash = app(project, overview)
    every = ask(dash, "/runs.json").json()
    assert [row["run"] for row in every["runs"]] == list(range(25, 0, -1))
    assert every["verbs"] == {"loop": 1, "ingest": 6, "curate": 6, "train": 6, "compress": 6}
    assert {row["verb"] for row in ask(dash, "/runs/curate.json").json()["runs"]} == {"curate"}


def test_lineage_links_lead_to_the_nouns(project, overview, ask, parse):
    data = ask(app(project, overview), "/runs/24.json").json()
    assert [item["page"] for item in data["inputs"] + data["outputs"]] == ["datasets/online_retail@6", "models/online_retail@6"]
    hrefs = parse(ask(app(project, overview), "/runs/24").text).hrefs
    assert {"../datasets/online_retail@6", "../models/online_retail@6", "../runs/1"} <= set(hrefs)


def test_an_evaluation_shows_the_model_beside_popularity(project, overview, edit_lineage, ask, parse):
    values = {"ndcg_at_10": {"model": 0.21, "popularity": 0.07}, "known_ndcg_at_10": {"model": 0.25, "popularity": 0.08}}
    edit_lineage(25, verb="eval", summary={"model": "online_retail@6", "subjects": 3112, **values})
    page = parse(ask(app(project, overview), "/runs/25").text)
    shown = {(series, name): value for series, name, value in page.marks if series in values}
    assert shown == {(metric, name): value for metric, row in values.items() for name, value in row.items()}
    assert "NDCG@10, people the model has met" in page.text


def test_a_server_that_runs_does_not_refresh_the_lists(project, overview, edit_lineage, this_process, ask):
    edit_lineage(25, verb="serve", status="running", ended=None, summary={}, **this_process)
    dash = app(project, overview)
    assert "refresh" not in ask(dash, "/").text
    assert 'http-equiv="refresh"' in ask(dash, "/runs/25").text
    assert ask(dash, "/index.json").json()["verbs"][4]["headline"] == "p99 4.6 ms"
    edit_lineage(25, started="2030-01-01T00:00:00.000Z")
    assert ask(dash, "/index.json").json()["verbs"][4]["headline"] == "", "the loop's latency is not that of a later server"


def test_the_funnel_accounts_for_every_row(project, overview, ask, parse):
    manifest = json.loads((project / "datasets/online_retail@6/manifest.json").read_text())
    marks = parse(ask(app(project, overview), "/datasets/online_retail@6").text).marks
    dropped = [(reason, value) for series, reason, value in marks if series == "dropped"]
    assert dropped == list(manifest["dropped"].items())
    values = {series: value for series, _, value in marks if series in ("read", "kept")}
    assert values["read"] - sum(value for _, value in dropped) == values["kept"] == manifest["rows_kept"]


def test_a_card_shows_candidates_against_the_floor_and_the_compression(project, overview, ask, parse):
    card = json.loads((project / "models/online_retail-int8@6/card.json").read_text())
    page = parse(ask(app(project, overview), "/models/online_retail-int8@6").text)
    shown = {(x, y) for series, x, y in page.marks if series == "ndcg_at_10"}
    assert shown == {(one["name"], one["ndcg_at_10"]) for one in card["candidates"]}
    floors = {y for series, _, y in page.marks if series == "floor"}
    assert floors == {card["candidates"][0]["ndcg_at_10"]}
    assert {y for series, _, y in page.marks if series == "bytes"} == {
        card["compression"]["bytes_before"],
        card["compression"]["bytes_after"],
    }
    assert "0.3 %, at most 1.0 % was allowed" in page.text
    assert "../models/online_retail@6" in page.hrefs


@pytest.mark.parametrize("path", ["/", "/runs", "/models", "/datasets", "/lake"])
def test_an_empty_folder_names_the_command_to_run(tmp_path, empty_overview, ask, parse, path):
    dash = app(tmp_path, empty_overview)
    assert "gyral loop --source FILE" in parse(ask(dash, path).text).text
    assert ask(dash, twin(path)).status_code == 200


def test_a_running_run_refreshes_and_shows_its_progress(project, overview, edit_lineage, this_process, ask, parse):
    edit_lineage(23, status="running", ended=None, **this_process)
    dash = app(project, overview)
    page = ask(dash, "/runs/23").text
    assert '<meta http-equiv="refresh" content="5">' in page
    assert "progress" in parse(page).tags
    assert 'http-equiv="refresh"' in ask(dash, "/").text
    assert 'http-equiv="refresh"' not in ask(dash, "/runs/22").text


def test_the_pages_write_nothing(project, overview, ask):
    def state():
        return {str(path): path.stat().st_mtime_ns for path in Path(project).rglob("*")}

    before = state()
    dash = app(project, overview)
    for path in LISTS + SINGLE:
        ask(dash, path)
    assert state() == before


def test_text_has_enough_contrast_in_both_themes():
    """WCAG 2.1 AA: 4.5 to 1 for text, on the page and on a card."""

    def luminance(colour):
        digits = colour if len(colour) == 6 else "".join(2 * digit for digit in colour)
        parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = re.findall(r":root\{(.*?)\}", (TEMPLATES / "style.css").read_text(), re.S)[:2]
    for theme in (light, dark):
        colours = dict(re.findall(r"--(\w+):#([0-9a-f]{3,6})", theme))
        for back in ("paper", "card"):
            for front in ("ink", "soft", "accent", "looped", "frozen", "popularity", "good", "bad", "warn", "live"):
                high, low = sorted((luminance(colours[front]), luminance(colours[back])), reverse=True)
                assert (high + 0.05) / (low + 0.05) >= 4.5, (front, back, colours[front], colours[back])
