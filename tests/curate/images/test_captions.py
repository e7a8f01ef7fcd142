"""Captions in several languages, odd ones and hostile ones."""

import time

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gyral.config import Config, load
from gyral.curate.images.captions import SIGNALS, Captions, common, count_pictures, describe
from gyral.curate.stage import DOCUMENT


def batch(*texts):
    rows = [{"file": "f", "offset": number, "media": "image", "text": text} for number, text in enumerate(texts)]
    return pa.RecordBatch.from_pylist(rows, schema=DOCUMENT)


def dropped(config, *texts):
    """The first reason for each, as the limits are applied."""
    found = Captions()(batch(*texts))
    reasons = [None] * len(texts)
    for limit in Captions().limits(config):
        values = limit.value({name: found.column(name) for name in limit.columns})
        holds = {"<": np.less, ">": np.greater}[limit.op](values, limit.threshold)
        reasons = [reason or (limit.reason if held else None) for reason, held in zip(reasons, holds, strict=True)]
    return reasons


@pytest.mark.parametrize(
    "text, chars, words, letters",
    [
        ("A dog on the beach", 14, 5, 1.0),
        ("mother-in-law's 2 dogs", 20, 3, 16 / 20),
        ("猫", 2, 1, 1.0),
        ("猫がソファの上で寝ている", 24, 6, 1.0),
        ("고양이 한 마리", 12, 3, 1.0),
        ("แมวบนโซฟา", 9, 3, 1.0),
        ("नमस्ते दुनिया", 12, 2, 1.0),
        ("кошка на диване", 13, 3, 1.0),
        ("e\u0301te\u0301", 5, 1, 1.0),
        ("$$$ ★ 99", 6, 1, 0.0),
        ("", 0, 0, 0.0),
    ],
)
def test_counts_in_many_scripts(text, chars, words, letters):
    found = describe(text)
    assert (found.chars, found.words) == (chars, words)
    assert found.letters == pytest.approx(letters)


@pytest.mark.parametrize(
    "text",
    ["IMG_1234", "img-20240103-wa0001.jpg", "DSC00012.JPG", "my holiday.png", "DSCN0042", "P1010023", "a3f9c2e8b1d4", "photo 3",
     "http://example.org/a", "www.example.org/b", "3f2504e0-4f89-11d3-9a0c-0305e82c3301", "my_holiday_pic",
     "Screenshot 2024-01-03 at 10.22.33", "/images/a.webp?w=200"],
)  # fmt: skip
def test_names_of_files_are_no_captions(text):
    assert describe(text).is_file_name
    assert dropped(Config(), text)[0] is not None


@pytest.mark.parametrize(
    "text", ["Image of", "photo", "Untitled", "placeholder image 3", "No description available", "12345", "Stock photo", "写真",
             "Click here to enlarge", "logo", "null", "Featured image:", "stock photo - Getty Images"],
)  # fmt: skip
def test_boilerplate_alone_is_no_caption(text):
    assert describe(text).is_boilerplate
    assert dropped(Config(), text)[0] is not None


def without(text):
    """The text as a reader sees it."""
    raw, cuts = text.encode(), describe(text).cuts
    for begin, end in reversed(list(zip(cuts[::2], cuts[1::2], strict=True))):
        raw = raw[:begin] + raw[end:]
    return raw.decode()


@pytest.mark.parametrize(
    "text, left",
    [
        ("image of a dog", "a dog"),
        ("A close-up photo of ducks", "ducks"),
        ("red car - stock photo", "red car"),
        ("Stock image of a café | Shutterstock", "a café"),
        ("Ein Bild von Häusern", "Häusern"),
        ("una foto de un gato", "un gato"),
        ("猫の写真", "猫"),
        ("фото кошки", "кошки"),
        ("image may contain: 1 person", "1 person"),
    ],
)
def test_boilerplate_around_a_caption_is_cut(text, left):
    assert without(text) == left
    assert dropped(Config(), text) == [None]


@pytest.mark.parametrize(
    "text",
    ["A dog on the beach", "Photography in the 19th century", "a beautiful picture", "The imagery of water", "facade",
     "Photoshop tutorial", "deadbeef", "2 cats", "A. B. Smith, 1902", "Oversized stockings", "Logo of the BBC",
     "café.com opens in Paris"],
)  # fmt: skip
def test_captions_stay_as_they_are(text):
    found = describe(text)
    assert not found.is_file_name and not found.is_boilerplate and found.cuts == []
    assert dropped(Config(), text) == [None]


def test_limits_and_their_settings(tmp_path):
    texts = ["x", "x" * 3000, "one two", "--- !!! ok", "IMG_1234", "Untitled", None]
    assert dropped(Config(), *texts) == [
        "caption_short",
        "caption_long",
        None,
        "caption_few_letters",
        "caption_file_name",
        "caption_boilerplate",
        "caption_short",
    ]
    sets = ["min_caption_chars=0", "max_caption_chars=9999", "min_caption_words=2", "min_caption_letters=0",
            "file_name_captions=true", "boilerplate=true"]  # fmt: skip
    kept = load(tmp_path, [f"images.{each}" for each in sets])
    assert dropped(kept, *texts) == [
        *["caption_few_words"] * 2,
        None,
        "caption_few_words",
        None,
        "caption_few_words",
        "caption_few_words",
    ]
    assert [cut.column for cut in Captions().cuts(Config())] == ["caption_cuts"] and not Captions().cuts(kept)


def test_rows_without_pictures_or_captions():
    rows = [
        {"file": "a", "offset": 0, "media": "text", "text": "words"},
        {"file": "b", "offset": 0, "media": "image", "text": "words", "rejected": "corrupt_image"},
        {"file": "c", "offset": 0, "media": "image", "text": "words"},
    ]
    given = pa.RecordBatch.from_pylist(rows, schema=DOCUMENT)
    found = Captions()(given)
    assert found.schema == pa.schema([*DOCUMENT, *SIGNALS]) and found.select(DOCUMENT.names).equals(given)
    assert [row["caption_words"] for row in found.to_pylist()] == [None, None, 1]
    assert Captions()(given.slice(0, 0)).schema == found.schema


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(), max_size=60) | st.text("image of sta-|.123 _写真", max_size=40))
def test_any_text(text):
    found = describe(text)
    assert 0 <= found.letters <= 1 and found.words <= found.chars
    raw = text.encode("utf-8", "replace")
    assert found.cuts == sorted(set(found.cuts)) and len(found.cuts) % 2 == 0
    assert all(0 <= place <= len(raw) for place in found.cuts)
    if not any("\ud800" <= each <= "\udfff" for each in text):
        assert not found.cuts or without(text).strip()


@pytest.mark.parametrize(
    "text", [" " * 100_000, "1" * 199 + "x", "1 " * 5_000, "(" * 10_000, "a_" * 499, ".jpg" * 240 + "!", "-" * 199,
             "stock " * 33, "image of " * 20, "stock photo " * 16 + "x"],
)  # fmt: skip
def test_no_text_takes_long(text):
    start = time.process_time()
    describe(text)
    assert time.process_time() - start < 0.1


def test_captions_that_differ_in_case_blanks_and_numbers_are_one():
    hashes = [describe(text).hash for text in ("View 12 of Rome", "VIEW 3  of rome", "view of Rom")]
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize("seed", range(5))
def test_pictures_of_a_caption_are_counted_once_each(seed):
    random = np.random.default_rng(seed)
    captions = random.integers(0, 20, 200).astype(np.uint64) << np.uint64(59)
    pictures = random.integers(0, 30, 200)
    seen = {}
    for caption, picture in zip(captions.tolist(), pictures.tolist(), strict=True):
        seen.setdefault(caption, set()).add(picture)
    assert count_pictures(captions, pictures).tolist() == [len(seen[caption]) for caption in captions.tolist()]


def test_common_captions_are_dropped():
    counts = count_pictures(np.array([1] * 101 + [2] * 3, np.uint64), np.arange(104))
    limit = common(Config())
    values = limit.value({"caption_pictures": pa.array(counts)})
    assert limit.op == ">" and (values > limit.threshold).tolist() == [True] * 101 + [False] * 3
    assert count_pictures(np.zeros(0, np.uint64), np.zeros(0, np.int64)).tolist() == []
