"""The loop over documents, as a process: what comes is foretold by the served model before anybody has learned it."""

import json
import random

import pyarrow.parquet as pq
import pytest

from gyral.course.content import slices_of
from gyral.lake.table import Lake

from .. import verbs

WORDS = [
    "gyre",
    "tide",
    "drift",
    "salt",
    "wave",
    "current",
    "shore",
    "deep",
    "north",
    "wind",
    "cold",
    "warm",
    "light",
    "dark",
    "fish",
    "ship",
    "sail",
    "rope",
]
SMALL = [
    "lm.depth=1", "lm.width=64", "lm.length=64", "train.batch=8", "train.steps=25", "train.optim.rate=3e-3",
    "curate.stages=['extract', 'repair', 'digest']",
]  # fmt: skip


def a_page(number):
    draw = random.Random(number)
    return " ".join("The " + " ".join(draw.choices(WORDS, k=6)) + "." for _ in range(12)) + f" Page {number}.\n"


@pytest.fixture(scope="module")
def looped(tmp_path_factory):
    """One finished loop of two turns over 60 pages."""
    root = tmp_path_factory.mktemp("content")
    pages = root / "pages"
    pages.mkdir()
    for number in range(60):
        (pages / f"p{number}.txt").write_text(a_page(number))
    sets = [word for each in SMALL for word in ("--set", each)]
    return root, verbs.result("loop", "--family", "lm", "--source", pages, "--turns", 2, *sets, "--root", root)


def test_the_model_that_goes_on_learning_foretells_better(looped):
    _, result = looped
    first, last = (row["scores"] for row in result["turns"])
    assert first["looped"] == first["frozen"] and last["looped"] < last["frozen"] - 0.2
    assert 0 < last["xz"] < 8 and all(row["metric"] == "bits_per_byte" and row["num_asked"] > 5 for row in result["turns"])
    assert result["turns"][0]["model"] == "pages-int8@1" and result["model"] == "pages-int8@2"


def test_only_what_was_foretold_is_in_the_lake_and_every_answer_is(looped):
    root, result = looped
    rows = Lake(root).snapshot("events").read(["event_id", "kind", "object", "props"]).to_pylist()
    documents = {row["object"] for row in rows if row["kind"] == "document"}
    number = slices_of([f"p{each}.txt" for each in range(60)], 3)
    assert documents == {f"p{each}.txt" for each in range(60) if number[each] < 2}
    scores = [row for row in rows if row["kind"] == "score"]
    assert len(scores) == 2 * sum(row["num_asked"] for row in result["turns"])
    asked = {row["object"] for row in scores if json.loads(row["props"])["slot"] == "default"}
    assert asked == {f"p{each}.txt" for each in range(60) if number[each] > 0}


def test_what_it_did_worst_on_is_read_more_often_in_the_next_turn(looped):
    root, _ = looped
    rows = Lake(root).snapshot("events").read(["kind", "object", "props"]).to_pylist()
    answered = {row["object"] for row in rows if row["kind"] == "feedback_rejected"}
    decided = pq.read_table(root / "datasets/pages@2/decisions.parquet")
    signals = [pq.read_table(path, columns=["file"]) for path in sorted((root / "datasets/pages@2/shards").glob("*.signals.*"))]
    files = [name for table in signals for name in table["file"].to_pylist()]
    twice = {file for file, copies in zip(files, decided["copies"].to_pylist(), strict=True) if copies == 2}
    assert twice and twice <= answered


def test_a_slice_holds_all_that_has_one_name():
    names = ["de/a.page", "ja/a.page", "de/b.page", "img/google/64/1f994.png", "img/twitter/64/1f994.png"]
    numbers = slices_of(names, 7)
    assert (
        numbers[0] == numbers[1] and numbers[3] == numbers[4] and len(set(slices_of([f"{n}.txt" for n in range(99)], 7))) == 7
    )
