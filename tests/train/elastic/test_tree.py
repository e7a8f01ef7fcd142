"""Any split of the leaves gives the bits of the whole tree, whose oracle here is a recursion over numpy slices."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gyral.train.elastic.peers import added
from gyral.train.elastic.tree import Node, Pile, share


def whole(values):
    """Halves of the next power of two, the left one first."""
    if len(values) == 1:
        return values[0]
    half = 1 << (len(values) - 1).bit_length() - 1
    return whole(values[:half]) + whole(values[half:])


def leaves_of(num, seed):
    """Of very different sizes, so that each order of additions rounds differently."""
    draw = np.random.default_rng(seed)
    return [(draw.normal(size=16) * 10.0 ** draw.integers(-6, 6, 16)).astype(np.float32) for _ in range(num)]


@given(num=st.integers(1, 40), cuts=st.lists(st.integers(0, 40), max_size=8), seed=st.integers(0, 9))
def test_any_members_get_the_bits_of_one(num, cuts, seed):
    values = leaves_of(num, seed)
    bounds = sorted({0, num, *(cut % (num + 1) for cut in cuts)})
    top = Pile(num, added)
    for low, high in pairwise(bounds):
        own = Pile(num, added)
        for leaf in range(low, high):
            own.push(Node(0, leaf), values[leaf].copy())
        assert len(own.nodes) <= max(1, 2 * num.bit_length())
        for node, value in zip(own.nodes, own.values, strict=True):
            top.push(node, value)
    assert top.root.tobytes() == whole(values).tobytes()


def test_an_all_reduce_in_order_of_members_would_not():
    values = leaves_of(8, 0)
    two = sum(values[:4]) + sum(values[4:])
    four = sum(sum(values[at : at + 2]) for at in range(0, 8, 2))
    assert two.tobytes() != four.tobytes()


@given(count=st.integers(1, 20), leaves=st.integers(1, 40))
def test_shares_are_all_leaves_once(count, leaves):
    shares = [share(index, count, leaves) for index in range(count)]
    assert [leaf for low, high in shares for leaf in range(low, high)] == list(range(leaves))


def test_what_is_missing_is_said():
    pile = Pile(4, added)
    pile.push(Node(0, 0), np.ones(1))
    with pytest.raises(ValueError, match="not whole"):
        _ = pile.root
    with pytest.raises(ValueError, match="does not follow"):
        pile.push(Node(0, 2), np.ones(1))
