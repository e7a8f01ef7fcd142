"""Paragraphs and digests of texts, against plain Python."""

import re

import pyarrow as pa
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from gyral.curate.text.digest import Digest
from gyral.curate.text.paragraphs import Paragraphs

PIECES = st.sampled_from(["ab", "ä", "日本", " ", "\n", "\n\n", " \n \n", "\t", "word and more", "."])
TEXTS = st.lists(st.one_of(st.none(), st.lists(PIECES, max_size=12).map("".join)), min_size=1, max_size=6)


def batch_of(texts):
    return pa.RecordBatch.from_arrays([pa.array(["text"] * len(texts)), pa.array(texts, pa.string())], ["media", "text"])


def paragraphs_of(text: str, min_chars: int) -> list[tuple[str, str]]:
    """(normalised paragraph, its characters with the white space behind) of a text."""
    found = []
    for match in re.finditer(r"\S(?:.*?)(?=[ \t]*\n[ \t]*\n|\s*\Z)", text, re.DOTALL):
        rest = re.match(r"\s*", text[match.end() :]).group(0)
        found.append((" ".join(match.group(0).split()), match.group(0) + rest))
    return [each for each in found if len(each[0]) >= min_chars]


@given(TEXTS, st.sampled_from([1, 4, 9]))
def test_paragraphs_are_what_stands_between_empty_lines(texts, min_chars):
    made = Paragraphs(min_chars)(batch_of(texts)).to_pydict()
    names: dict[str, int] = {}
    for text, hashes, bounds in zip(texts, made["paragraphs"], made["paragraph_bounds"], strict=True):
        expected = paragraphs_of(text or "", min_chars)
        data = (text or "").encode()
        assert [data[begin:end].decode() for begin, end in zip(bounds[::2], bounds[1::2], strict=True)] == [
            raw for _, raw in expected
        ]
        for (plain, _), value in zip(expected, hashes, strict=True):
            assert names.setdefault(plain, value) == value
    assert len(set(names.values())) == len(names)


@given(TEXTS)
def test_digests_are_those_of_the_bytes(texts):
    made = Digest()(batch_of(texts).slice(0, len(texts))).to_pydict()
    for text, digest, size in zip(texts, made["digest"], made["num_bytes"], strict=True):
        assert size == len((text or "").encode())
        assert digest == (xxhash.xxh3_128_digest(text.encode()) if text else None)


def test_a_slice_of_a_batch_gives_what_its_rows_give():
    texts = ["one\n\ntwo", None, "drei\n\nvier und mehr", "fünf"]
    whole = Paragraphs(1)(Digest()(batch_of(texts))).slice(1, 2).to_pydict()
    assert Paragraphs(1)(Digest()(batch_of(texts).slice(1, 2))).to_pydict() == whole
