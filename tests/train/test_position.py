"""The position of a run is one integer: whoever resumes, wherever, sees exactly what is left, in the same order."""

import itertools
import json
import time

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gyral.train.loader import Order, Part


def trained_on(order, begin, end, workers):
    """Examples of each step in the order of ranks, as that many workers would take them."""
    for step in range(begin, end):
        examples = order.examples(step)
        cuts = [Part(index, workers).cut(len(examples)) for index in range(workers)]
        yield [examples[low:high] for low, high in cuts]


sizes = st.integers(1, 500)


@given(sizes, st.integers(1, 64), st.integers(0, 2**63), st.data())
def test_every_pass_has_each_example_once_whoever_resumes_where(num_rows, batch, seed, data):
    order = Order(num_rows, min(batch, num_rows), seed)
    total = 2 * -(-num_rows // order.batch) + 1
    stops = sorted(data.draw(st.lists(st.integers(0, total), max_size=4)))
    seen = []
    for begin, end in itertools.pairwise([0, *stops, total]):
        workers = data.draw(st.integers(1, 9))
        for parts in trained_on(Order(num_rows, order.batch, seed), begin, end, workers):
            assert max(map(len, parts)) - min(map(len, parts)) <= 1
            seen += np.concatenate(parts).tolist()
    straight = np.concatenate([order.examples(step) for step in range(total)])
    assert seen == straight.tolist()
    for number in range(len(seen) // num_rows):
        assert sorted(seen[number * num_rows : (number + 1) * num_rows]) == list(range(num_rows))
    step = data.draw(st.integers(0, total))
    number, place = order.position(step)
    assert number * num_rows + place == step * order.batch


@given(st.integers(2, 400), st.integers(0, 2**32), st.integers(0, 2**32))
def test_two_passes_or_seeds_are_in_another_order(num_rows, seed, other):
    order = Order(num_rows, num_rows, seed)
    first, second = order.examples(0), order.examples(1)
    assert sorted(first) == sorted(second)
    if num_rows > 20:
        assert not np.array_equal(first, second)
        assert seed == other or not np.array_equal(first, Order(num_rows, num_rows, other).examples(0))


def test_a_resume_within_a_billion_examples_takes_no_time_and_no_state():
    order = Order(1_000_000_000, 1024, 7)
    order.examples(0)
    step = 123_456_789 % (10**9 // 1024)
    begun = time.process_time()
    found = Order(**json.loads(state := json.dumps({"num_rows": 1_000_000_000, "batch": 1024, "seed": 7}))).examples(step)
    taken = time.process_time() - begun
    assert taken < 0.05 and len(state) < 1000
    assert len(np.unique(found)) == 1024 and np.array_equal(found, order.examples(step))
    assert not np.intersect1d(found, order.examples(step + 1)).size
