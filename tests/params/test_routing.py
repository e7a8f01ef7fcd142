"""Keys to shards, against a few lines of Python."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gyral.params import routing_kernel as kernel
from gyral.params.shard import even_map

from . import plain

SALT = 12345


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=60), st.integers(1, 7))
def test_keys_go_to_the_owner_of_their_bucket_in_their_order(keys, num):
    owners = even_map(num)
    starts, order = np.zeros(num + 1, np.int64), np.zeros(len(keys), np.int64)
    kernel.route(np.array(keys, np.int64), np.uint64(SALT), owners, starts, order)
    found = [order[starts[shard] : starts[shard + 1]].tolist() for shard in range(num)]
    places = range(len(keys))
    assert found == [[at for at in places if owners[plain.bucket_of(keys[at], SALT)] == shard] for shard in range(num)]


def test_all_shards_have_as_many_buckets():
    for num in (1, 2, 3, 7, 256):
        counts = np.bincount(even_map(num), minlength=num)
        assert counts.max() - counts.min() <= 1 and (np.diff(even_map(num)) >= 0).all()


def test_rows_go_there_and_back():
    rows = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    order = np.random.default_rng(1).permutation(50)[:20]
    out, back = np.empty((20, 3), np.float32), np.zeros((50, 3), np.float32)
    kernel.gathered(rows, order, out)
    kernel.scattered(out, order, back)
    assert np.array_equal(out, rows[order]) and np.array_equal(back[order], rows[order]) and back.sum() != rows.sum()
