"""Contamination against sets of tuples of words; words against `str.lower` and categories; files of evaluation sets."""

import json
import re
import unicodedata
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gyral.config import load as load_config
from gyral.curate.stage import utf8
from gyral.curate.text.contamination import LONG, MAX_ITEMS, SHORT, Contamination, build, load
from gyral.curate.text.evaluation_sets import Item, items_of
from gyral.curate.text.hashed_words_kernel import next_word
from gyral.errors import InputError

ALONE = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00010000-\U0010ffff]"
)


def words(text: str) -> list[str]:
    """The oracle: characters one by one, in plain Python."""
    found, word = [], ""
    for char in text:
        alone = ALONE.match(char) and (ord(char) > 0xFFFF or unicodedata.category(char)[0] in "LNM")
        if unicodedata.category(char)[0] in "LNM" and not alone:
            word += char.lower()[0]
            continue
        found += [each for each in (word, char if alone else "") if each]
        word = ""
    return found + ([word] if word else [])


def runs(text: str, size: int) -> set[tuple[str, ...]]:
    every = words(text)
    return {tuple(every[at : at + size]) for at in range(len(every) - size + 1)}


def item_runs(text: str) -> set[tuple[str, ...]]:
    return runs(text, LONG) or runs(text, SHORT)


def shares(items: list[str], text: str) -> list[float]:
    common = Counter(run for item in items for run in item_runs(item))
    out = []
    for item in items:
        own = {run for run in item_runs(item) if common[run] <= MAX_ITEMS}
        size = LONG if runs(item, LONG) else SHORT
        out.append(len(own & runs(text, size)) / len(own) if own else 0.0)
    return out


def hashes(text: str) -> list[int]:
    data = np.frombuffer(text.encode() + b"abc", np.uint8)  # what follows is not of the text
    end, place, found = np.uint64(len(data) - 3), np.uint64(0), []
    while True:
        word, place = next_word(data, np.uint64(place), end)
        if not word:
            return found
        found.append(word)


TEXT = st.text(st.sampled_from("aAbB09 .,-_éÉßЖжΣσ\u0301\n世界ก😀。\u3000\u00a0İ"), max_size=60)


@settings(max_examples=300, deadline=None)
@given(st.lists(TEXT, min_size=2, max_size=6))
def test_words_are_those_of_the_oracle(texts):
    pairs = [pair for text in texts for pair in zip(words(text), hashes(text), strict=True)]
    assert len({word for word, _ in pairs}) == len({hashed for _, hashed in pairs}) == len(set(pairs))


def test_words_ignore_case_and_punctuation():
    assert hashes("Hello, WORLD! Ünïcode") == hashes("hello world ünïcode") != hashes("world hello ünïcode")
    assert len(hashes("東京タワー")) == 5 and hashes("...") == []


WORDS = st.lists(st.sampled_from(["a", "b", "c", "dé", "e", "世"]), max_size=40).map(" ".join)


@settings(max_examples=150, deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=5), st.lists(WORDS, max_size=4))
def test_shares_are_those_of_sets_of_tuples(items, texts):
    index = build({"set": [Item(str(number), item) for number, item in enumerate(items)]})
    texts = [*texts, *items, " ".join(items)]
    found, best = index.find(pa.array(texts))
    for text, share, item in zip(texts, found, best, strict=True):
        expected = shares(items, text)
        assert share == pytest.approx(max(expected)) and (item < 0) == (max(expected) == 0)
        if item >= 0:
            assert expected[item] == pytest.approx(share)


QUESTION = "In which year did the first person who was born in the town of Ulm leave it for good?"
SHORT_ITEM = "What is the capital of the state of Bremen?"


@pytest.fixture
def files(tmp_path):
    rows = [
        {"id": "q1", "question": QUESTION, "choices": [{"a": "in 1880"}, "in 1905"]},
        {"text": SHORT_ITEM, "more": "no"},
        {"q": "Why?"},
    ]
    (tmp_path / "quiz.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    (tmp_path / "plain.txt").write_text(
        "one two three four five six seven eight nine ten eleven twelve thirteen\n\ntoo short\n"
    )
    pq.write_table(pa.table({"id": [7], "text": ["zero " * 20]}), tmp_path / "other.parquet")
    return {"quiz": "quiz.jsonl", "plain": "plain.txt", "other": "other.parquet"}


def test_the_stage_names_the_set_and_the_item(files, tmp_path):
    stage = Contamination.of(files, tmp_path, tmp_path / "indexes")
    texts = [
        "skipped",
        f"He was asked: «{QUESTION.upper()}» — «In 1880, in 1905», he said.",
        "what is the capital of the state of bremen",
        "what is the capital of the state of Saxony, and how is life there in these times",
        "ten eleven. One two three, four five six seven eight nine ten eleven twelve thirteen",
        None,
        "",
    ]
    out = stage(pa.record_batch({"text": texts}).slice(1))
    assert out["contamination"].to_pylist() == pytest.approx([1.0, 1.0, 0.5, 1.0, 0.0, 0.0])
    assert out["contamination_set"].to_pylist() == ["quiz", "quiz", "quiz", "plain", None, None]
    assert out["contamination_item"].to_pylist() == ["q1", "1", "1", "0", None, None]
    (limit,) = stage.limits(load_config(tmp_path))
    dropped = limit.value({"contamination": out["contamination"]}) > limit.threshold
    assert dropped.tolist() == [True, True, False, True, False, False]


def test_the_index_is_made_once_and_known_by_its_digest(files, tmp_path):
    first = Contamination.of(files, tmp_path, tmp_path / "indexes")
    written = (tmp_path / "indexes").stat().st_mtime_ns
    assert Contamination.of(dict(reversed(files.items())), tmp_path, tmp_path / "indexes") == first
    assert (tmp_path / "indexes").stat().st_mtime_ns == written
    index = load(first.index, first.digest)
    assert index.report()["quiz"] == {"items": 3, "not_looked_for": 1}
    (tmp_path / "plain.txt").write_text("another\n")
    assert Contamination.of(files, tmp_path, tmp_path / "indexes").index != first.index
    with pytest.raises(InputError, match="not the index that was asked for"):
        load(first.index, "0" * 64)
    (tmp_path / "x.arrow").write_bytes(b"no index")
    with pytest.raises(InputError, match="not an index of this version"):
        load(tmp_path / "x.arrow")


def test_what_many_items_share_does_not_count():
    form = "which of the following statements about the given text is the one that is correct"
    items = [f"{form} {number} x{number} y{number}" for number in range(MAX_ITEMS + 1)]
    index = build({"set": [Item(str(number), item) for number, item in enumerate(items)]})
    found, best = index.find(pa.array([form, items[3]]))
    assert found.tolist() == pytest.approx([max(shares(items, form)), 1.0]) == [0.0, 1.0]
    assert best.tolist() == [-1, 3]


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.csv", b"x", "no known form"),
        ("a.jsonl", b'{"a": 1}\n{', "not JSON"),
        ("a.parquet", b"x", "not a Parquet"),
        ("gone.txt", None, "cannot be read"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, name, content, match):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=match):
        items_of("set", tmp_path / name)
    with pytest.raises(InputError, match="no items"):
        build({"set": []})


def test_texts_do_not_see_each_other():
    index = build({"set": [Item("0", "a b c d e f g h")]})
    data, _ = utf8(pa.array(["a b c d", "e f g h"]))
    assert bytes(data[:14]) == b"a b c de f g h"
    assert index.find(pa.array(["a b c d", "e f g h"]))[0].tolist() == [0.0, 0.0]
