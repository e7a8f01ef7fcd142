"""Edits of texts, against plain Python."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from gyral.lake.documents import Edits, edited

REPLACEMENTS = [b"", b"<X>", "<Ä>".encode()]
TEXT = st.text(st.sampled_from("aä日 \n"), max_size=12)


@st.composite
def documents(draw):
    """Texts and, for each, its pieces: (bytes, number of a replacement or None)."""
    found = []
    for _ in range(draw(st.integers(1, 6))):
        if draw(st.integers(0, 5)) == 0:
            found.append(None)
            continue
        found.append(
            [(draw(TEXT).encode(), draw(st.sampled_from([None, None, 0, 1, 2]))) for _ in range(draw(st.integers(0, 5)))]
        )
    return found


@given(documents(), st.integers(0, 2), st.integers(1, 3))
def test_edits_replace_their_ranges(pieces, skipped, step):
    """Only some rows of a dataset are read: those that are kept."""
    rows, bounds, codes, texts, expected = [], [], [], [], []
    for row, each in enumerate(pieces):
        if each is None:
            texts.append(None)
            expected.append(None)
            continue
        at, result = 0, b""
        for body, code in each:
            if code is not None and body:
                rows.append(row)
                bounds.append((at, at + len(body)))
                codes.append(code)
                result += REPLACEMENTS[code]
            else:
                result += body
            at += len(body)
        texts.append(b"".join(body for body, _ in each).decode())
        expected.append(result.decode())
    edits = Edits(np.array(rows, np.int64), np.array(bounds, np.int32).reshape(-1, 2), REPLACEMENTS, np.array(codes, np.int32))
    chosen = np.arange(skipped, len(texts), step)
    if len(chosen):
        array = pa.array(texts, pa.string()).take(pa.array(chosen))
        made = edited(array, chosen, edits)
        made.validate(full=True)
        assert made.to_pylist() == [expected[row] for row in chosen]


def test_a_slice_of_an_array_is_edited_where_it_is():
    edits = Edits(
        np.array([5, 5, 7]), np.array([[0, 1], [2, 3], [1, 2]], np.int32), REPLACEMENTS, np.array([1, 0, 2], np.int32)
    )
    array = pa.array(["zzzz", "abc", None, "xyz", "tail"]).slice(1, 4)
    rows = np.array([5, 6, 7, 8])
    assert edited(array, rows, edits).to_pylist() == ["<X>b", None, "x<Ä>z", "tail"]
    assert edited(array.slice(2), rows[2:], edits).to_pylist() == ["x<Ä>z", "tail"]
