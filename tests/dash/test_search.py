"""The search over runs, datasets and models."""

import pytest

from gyral.dash.pages import app


@pytest.fixture
def found(project, overview, ask):
    """Ask for words; the names that were found."""
    return lambda words: [
        one["name"] for one in ask(app(project, overview), "/search.json", params={"q": words}).json()["found"]
    ]


def test_every_word_has_to_be_there_in_capitals_or_not(found):
    assert found("INT8 online_retail@6") == ["online_retail-int8@6", "#25 compress"]
    assert found("dataset @3") == ["online_retail@3"]
    assert found("train done #24") == ["#24 train"]
    assert len(found("online_retail")) == 12 + 6 + 25, "runs by what they read and made"
    assert found("online_retail nobody") == found("") == found("   ") == []


def test_the_page_links_to_what_it_found_and_its_twin_has_the_same_question(project, overview, ask, parse):
    dash = app(project, overview)
    page = parse(ask(dash, "/search?q=int8+model").text)
    assert {f"models/online_retail-int8@{turn}" for turn in range(1, 7)} <= set(page.hrefs)
    assert "search.json?q=int8+model" in page.hrefs and "6 entries with “int8 model”" in page.text
    assert all(ask(dash, f"/{href}").status_code == 200 for href in page.hrefs if href.startswith("models/"))


def test_what_is_asked_is_text_and_bounded(project, overview, ask, parse):
    dash = app(project, overview)
    answer = ask(dash, "/search", params={"q": '"><script>alert(1)</script>'})
    assert "<script" not in answer.text and "script" not in parse(answer.text).tags
    assert "Nothing here has all of these words" in answer.text
    assert len(ask(dash, "/search.json", params={"q": "x" * 5_000}).json()["query"]) == 200
