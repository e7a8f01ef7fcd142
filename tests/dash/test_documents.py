"""The page of a dataset of documents: numbers, samples and clusters of its own files, damage tolerated."""

import json
from pathlib import Path

import pytest

from gyral.dash.documents import difference, samples
from gyral.dash.pages import app

MANIFEST = {
    "format": 1, "dataset": "pages@1", "kind": "text", "created": "2026-11-26T02:00:00Z", "run": 3, "rows_in": 10,
    "rows_kept": 6,
    "dropped": {"gopher_short_doc": 3, "duplicate_near": 1}, "source": "apt:some-docs", "stages": ["extract", "digest"],
    "size_bytes": 4_000, "shards": [], "decisions": "decisions.parquet",
    "report": {
        "bytes": 9_000, "bytes_kept": 7_000, "edits": {"dedup.paragraphs": {"ranges": 4, "documents": 2, "bytes": 300}},
        "languages": {
            "en": {"documents": 7, "kept": 4, "bytes": 6_000, "bytes_kept": 5_000, "dropped": {"gopher_short_doc": 3}},
            "de": {"documents": 3, "kept": 2, "bytes": 3_000, "bytes_kept": 2_000, "dropped": {"duplicate_near": 1}},
        },
        "domains": {}, "declared": {"de": {"de": 2, "en": 4}, "en": {"en": 3}},
        "probe": [
            {"name": "result", "bits_per_byte": 2.1, "low": 2.0, "high": 2.2, "bytes": 5_000, "change": 0.0, "change_low": 0.0,
             "change_high": 0.0, "shared_bytes": 0},
            {"name": "without dedup.near", "bits_per_byte": 2.15, "low": 2.05, "high": 2.25, "bytes": 5_000, "change": 0.05,
             "change_low": 0.01, "change_high": 0.09, "shared_bytes": 0},
        ],
    },
}  # fmt: skip
SAMPLES = {
    "kept": [{"document": "a.html", "language": "en", "text": "Kept <b>text</b>."}],
    "dropped": [
        {"reason": "gopher_short_doc", "rule": "quality.gopher.min_words", "threshold": 50, "count": 3,
         "documents": [{"document": "s.html", "language": "en", "text": "Short.", "value": 1.0}]},
    ],
    "clusters": [
        {"kept": {"document": "a.html", "language": "en", "text": "one two three"}, "size": 2,
         "members": [{"document": "b.html", "language": "en", "text": "one 2 three", "jaccard": 0.8125}]},
    ],
}  # fmt: skip


@pytest.fixture
def get(ask, overview, project):
    return lambda path: ask(app(project, overview), path)


@pytest.fixture
def pages(project: Path) -> Path:
    folder = project / "datasets/pages@1"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps(MANIFEST))
    (folder / "samples.json").write_text(json.dumps(SAMPLES))
    return folder


def test_the_page_says_what_the_files_say(pages, get):
    page, twin = get("/datasets/pages@1"), get("/datasets/pages@1.json")
    text = page.text
    assert page.status_code == 200
    for said in (
        "apt:some-docs",
        "quality.gopher.min_words = 50",
        "value 1<",
        "Jaccard 0.81",
        "+0.0500",
        "+0.0100 to +0.0900",
    ):
        assert said in text, said
    assert "Kept &lt;b&gt;text&lt;/b&gt;." in text and "<mark>2</mark>" in text and "<mark>two</mark>" in text
    told = json.loads(twin.text)
    assert told["agreement"] == {"the same": 5, "another": 4} and told["mislabelled"] == [["de", "en", 4]]
    assert told["samples"]["clusters"][0]["members"][0]["jaccard"] == 0.8125
    assert "pages@1" in get("/datasets").text


@pytest.mark.parametrize("damage", ["", "{", "[1]", '{"kept": 3, "clusters": [1, {"members": []}]}'])
def test_damaged_samples_cost_only_themselves(pages, get, damage):
    (pages / "samples.json").write_text(damage)
    assert get("/datasets/pages@1").status_code == 200
    (pages / "samples.json").unlink()
    assert samples(pages) == {"kept": [], "dropped": [], "clusters": []}
    assert get("/datasets/pages@1").status_code == 200


def test_an_empty_report_is_no_reason_to_fail(pages, get):
    (pages / "manifest.json").write_text(json.dumps(MANIFEST | {"report": {}}))
    assert get("/datasets/pages@1").status_code == 200


def test_differences_are_of_words_and_lose_nothing():
    left, right = difference("The file  is here.\nTwo lines", "The page is  here.\nTwo more lines")
    assert "".join(piece["text"] for piece in left) == "The file  is here.\nTwo lines"
    assert "".join(piece["text"] for piece in right) == "The page is  here.\nTwo more lines"
    assert next(piece["text"] for piece in right if not piece["same"]).startswith("page")
