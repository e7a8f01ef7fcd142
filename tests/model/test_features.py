"""Features as a ranking net sees them, against plain loops over the events."""

import math

import numpy as np
import pyarrow as pa
import pytest

from gyral.errors import InputError
from gyral.lake.dataset import Manifest
from gyral.model.features import Features, Known, columns_of, without_subject

NUM, SUBJECTS, OBJECTS, BUCKETS = 80, 7, 9, 1 << 20
PLACES = {"mood": "subject", "seats": "subject", "price": "object", "shelf": "object", "never": "subject", "new": "object"}
RNG = np.random.default_rng(0)
SUBJECT, OBJECT = (RNG.integers(0, size, NUM).astype(np.int32) for size in (SUBJECTS, OBJECTS))


def some(values):
    return [None if RNG.random() < 0.3 else value for value in values]


ROWS = pa.table(
    {
        "mood": some(RNG.choice(["calm", "wild"], NUM).tolist()),
        "seats": some(RNG.integers(-3, 90, NUM).tolist()),
        "price": pa.array(some((RNG.random(NUM) * 100).tolist())),
        "shelf": some(RNG.choice(["top", "low", "back"], NUM).tolist()),
        "never": pa.nulls(NUM),
        "new": some((RNG.random(NUM) < 0.5).tolist()),
    }
)
LEARNED = 60


def made():
    columns = columns_of(Manifest(select={"features_of": PLACES}), ROWS, LEARNED)
    return columns, Features(columns, ROWS, SUBJECT, OBJECT, BUCKETS)


def logarithm(value):
    return math.copysign(math.log1p(abs(value)), value)


def number(name, value):
    """What a column's value is to be: from the definition, over the events that are learned."""
    if value is None:
        return [0.0, 0.0]
    known = [logarithm(each) for each in ROWS[name].to_pylist()[:LEARNED] if each is not None]
    return [(logarithm(value) - np.mean(known)) / np.std(known), 1.0]


def before(object_, event):
    """The latest event of an object before an event."""
    return max((at for at in range(event) if OBJECT[at] == object_), default=None)


def test_a_row_has_its_subjects_own_values_and_what_its_object_had_earlier():
    columns, read = made()
    assert [each.name for each in columns] == ["mood", "seats", "price", "shelf", "new"] and read.sizes == (6, 2)
    events = np.array([0, 1, 5, 30, 55, 79, 79])
    objects = np.array([OBJECT[0], 3, OBJECT[5], 4, 8, OBJECT[79], 1])
    numbers, words = read.at(events, objects)
    for row, (event, object_) in enumerate(zip(events.tolist(), objects.tolist(), strict=True)):
        earlier = before(object_, event)
        of_object = [None if earlier is None else ROWS[name][earlier].as_py() for name in ("price", "new")]
        wanted = number("seats", ROWS["seats"][event].as_py()) + number("price", of_object[0]) + number("new", of_object[1])
        assert np.allclose(numbers[row], wanted, atol=1e-5)
        shelf = None if earlier is None else ROWS["shelf"][earlier].as_py()
        assert (words[row] == 0).tolist() == [ROWS["mood"][event].as_py() is None, shelf is None]


def test_equal_words_share_a_row_and_others_do_not():
    _, read = made()
    _, words = read.at(np.arange(NUM), np.full(NUM, OBJECT[0]))
    by_word = {}
    for word, row in zip(ROWS["mood"].to_pylist(), words[:, 0].tolist(), strict=True):
        by_word.setdefault(word, set()).add(row)
    assert all(len(rows) == 1 for rows in by_word.values()) and len(set.union(*by_word.values())) == 3
    assert words.max() < BUCKETS


def test_what_is_served_is_what_was_last_known():
    _, read = made()
    known = Known(read.latest(LEARNED, SUBJECTS + 1, OBJECTS))
    numbers, words = known.of(np.array([2, SUBJECTS, -1]))
    last = max(at for at in range(LEARNED) if SUBJECT[at] == 2)
    for object_ in range(OBJECTS):
        earlier = before(object_, LEARNED)
        wanted = number("seats", ROWS["seats"][last].as_py()) + [
            each for name in ("price", "new") for each in number(name, ROWS[name][earlier].as_py())
        ]
        assert np.allclose(numbers[0, object_], wanted, atol=1e-5)
        assert not numbers[1:, object_, :2].any() and np.allclose(numbers[2, object_, 2:], wanted[2:], atol=1e-5)
    assert not words[1:, :, 0].any() and words.shape == (3, OBJECTS, 2)


def test_who_was_erased_has_no_features():
    _, read = made()
    arrays = read.latest(NUM, SUBJECTS, OBJECTS)
    left = without_subject(arrays, 4)
    assert not left["features_subject_numbers"][4].any() and not left["features_subject_words"][4].any()
    assert np.array_equal(left["features_subject_numbers"][3], arrays["features_subject_numbers"][3])
    assert arrays["features_subject_numbers"][4].any()


def test_what_is_neither_number_nor_word_is_refused():
    rows = pa.table({"tags": [["a"], ["b", "c"]]})
    with pytest.raises(InputError, match="`tags` is neither a number nor a word"):
        columns_of(Manifest(select={"features_of": {"tags": "object"}}), rows, 2)
