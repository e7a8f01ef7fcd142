"""Pages of packages: drawn, escaped, told as JSON, and alone with what fails in them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from gyral import plugins
from gyral.dash.app import app
from gyral.dash.export import export
from gyral.dash.plugged import Page
from gyral.errors import InputError

TEMPLATE = '<p>{{ page.word }} in {{ page.num | count }} rows, <a href="{{ link("runs/1") }}">run</a></p>'
EVIL = '<script>alert("1")</script>'


def failing(root):
    raise InputError("no weather today", where="sky.csv", why="it rains", hint="look tomorrow")


def leaving(root):
    raise SystemExit(3)


@pytest.fixture
def plug(monkeypatch):
    """Give gyral pages, by name."""
    monkeypatch.setattr(plugins, "_registered", {})

    def registered(**pages):
        for name, page in pages.items():
            plugins.register("page", name, page)

    return registered


def test_a_page_is_drawn_and_has_its_twin_and_its_place_in_the_navigation(plug, project, overview, ask, parse):
    plug(weather=Page("Weather", lambda root: {"word": root.name, "num": 12_345}, TEMPLATE))
    served = app(project, overview)
    page = ask(served, "/pages/weather")
    seen = parse(page.text)
    assert page.status_code == 200 and "shop in 12,345 rows" in seen.text
    assert "../runs/1" in seen.hrefs and "../pages/weather.json" in seen.hrefs
    assert '<a href="../pages/weather" aria-current="page">Weather</a>' in page.text
    assert ask(served, "/pages/weather.json").json() == {"word": "shop", "num": 12_345}
    assert "pages/weather" in parse(ask(served, "/").text).hrefs
    assert ask(served, "/pages/other").status_code == 404


def test_numbers_of_numpy_and_paths_are_told_as_json_has_them(plug, project, overview, ask):
    plug(weather=Page("Weather", lambda root: {"one": np.float32(0.5), "all": np.arange(3), "at": Path("a/b")}, ""))
    assert ask(app(project, overview), "/pages/weather.json").json() == {"one": 0.5, "all": [0, 1, 2], "at": "a/b"}


def test_texts_are_escaped_even_those_that_say_they_need_not_be(plug, project, overview, ask):
    from markupsafe import Markup

    for word in (EVIL, Markup(EVIL)):
        plug(weather=Page(EVIL, lambda root, word=word: {"word": word, "num": 1}, TEMPLATE))
        page = ask(app(project, overview), "/pages/weather")
        assert page.status_code == 200 and EVIL not in page.text and "&lt;script&gt;" in page.text.partition("<h1>")[2]
        policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
        assert "unsafe" not in policy.get("script-src", policy["default-src"])


@pytest.mark.parametrize(
    ("page", "told"),
    [
        (Page("W", failing, ""), "it rains"),
        (Page("W", leaving, ""), "SystemExit: 3"),
        (Page("W", lambda root: {"file": object()}, ""), "TypeError"),
        (Page("W", lambda root: [1], ""), "a list, not a mapping"),
        (lambda root: {}, "not a `gyral.dash.plugged.Page`"),
    ],
    ids=["error", "exit", "no json", "no mapping", "no page"],
)
def test_what_fails_is_told_on_that_page_and_nowhere_else(page, told, plug, project, overview, ask):
    plug(weather=page, calm=Page("Calm", lambda root: {"word": "calm", "num": 1}, TEMPLATE))
    served = app(project, overview)
    for address in ("/pages/weather", "/pages/weather.json"):
        answer = ask(served, address)
        words = re.sub("`|</?code>", "", answer.text)
        assert answer.status_code == 500 and told.replace("`", "") in words
    assert set(json.loads(answer.text)) == {"what", "where", "why", "hint"}
    assert ask(served, "/pages/calm").status_code == ask(served, "/").status_code == 200


@pytest.mark.parametrize("template", ["{{ page.wind }}", "{% if %}"], ids=["undefined", "syntax"])
def test_a_template_that_fails_leaves_the_twin(template, plug, project, overview, ask):
    plug(weather=Page("Weather", lambda root: {"word": "calm"}, template))
    served = app(project, overview)
    assert ask(served, "/pages/weather").status_code == 500
    assert ask(served, "/pages/weather.json").json() == {"word": "calm"}


def test_pages_of_packages_are_exported_with_the_others(plug, project, overview, tmp_path):
    plug(weather=Page("Weather", lambda root: {"word": "calm", "num": 3}, TEMPLATE))
    export(project, overview, tmp_path / "out")
    assert "calm in 3 rows" in (tmp_path / "out" / "pages" / "weather.html").read_text()
    assert json.loads((tmp_path / "out" / "pages" / "weather.json").read_text()) == {"word": "calm", "num": 3}
