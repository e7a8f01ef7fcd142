"""The tree of beginnings against a dictionary of whole beginnings; pages are never lost and never held twice over."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gyral.errors import UsageError
from gyral.model.decoding.page_kernel import PAGE
from gyral.model.decoding.pages import Pages
from gyral.model.decoding.prefix import Prefixes


def block(letter):
    return (letter,) * PAGE


def walk(tree, root, text):
    """How many pages of a text are found."""
    node, found = tree.root(root), 0
    for letter in text:
        node = tree.child(node, block(letter))
        if node is None:
            break
        found += 1
    return found


def put(tree, pages, root, text):
    """What a sequence does: read what is missing, put it in, leave."""
    node, held = tree.root(root), []
    for letter in text:
        child = tree.child(node, block(letter))
        if child is None:
            held.append(pages.take())
            child = tree.add(node, block(letter), held[-1])
        else:
            held.append(pages.hold(child.page))
        node = child
    return held


texts = st.lists(st.integers(0, 3), min_size=1, max_size=5)


@given(st.lists(st.tuples(st.sampled_from(["1", "2"]), texts), max_size=12), texts, st.sampled_from(["1", "2"]))
@settings(max_examples=150)
def test_it_finds_what_a_dictionary_of_beginnings_finds(put_in, asked, root):
    pages = Pages(64, 1, 1, 4)
    tree, known = Prefixes(pages), set()
    for version, text in put_in:
        for page in put(tree, pages, version, text):
            pages.drop(page)
        known |= {(version, *text[:end]) for end in range(1, len(text) + 1)}
    expected = max(end for end in range(len(asked) + 1) if end == 0 or (root, *asked[:end]) in known)
    assert walk(tree, root, asked) == expected
    assert tree.num == len(known) == 64 - pages.num_free
    assert Counter(pages.holders.tolist()) == Counter({1: len(known), 0: 64 - len(known)})
    tree.clear()
    assert pages.num_free == 64


def test_leaves_go_longest_unused_first_and_what_is_held_stays():
    pages = Pages(8, 1, 1, 4)
    tree = Prefixes(pages)
    for text in ([1, 2], [1, 3], [4]):
        for page in put(tree, pages, "v", text):
            pages.drop(page)
    held = put(tree, pages, "v", [4])
    walk(tree, "v", [1, 2])
    assert tree.evict(1) == 1
    assert [walk(tree, "v", text) for text in ([1, 2], [1, 3], [4])] == [2, 1, 1]
    assert tree.evict(8) == 2  # [1, 2], then [1]; [4] is in use
    assert [walk(tree, "v", text) for text in ([1], [4])] == [0, 1]
    pages.drop(held[0])
    assert tree.evict(8) == 1
    assert pages.num_free == 8


def test_a_page_that_agrees_in_part_is_found():
    pages = Pages(4, 1, 1, 4)
    tree = Prefixes(pages)
    put(tree, pages, "v", [7])
    page, agree = tree.partial(tree.root("v"), [7, 7, 7, 8])
    assert agree == 3
    assert pages.holders[page] == 2
    assert tree.partial(tree.root("v"), [8]) == (-1, 0)
    assert tree.partial(tree.root("other"), [7]) == (-1, 0)


def test_a_copy_is_one_in_all_layers():
    pages = Pages(3, 2, 1, 4, is_int8=True)
    for number, layer in enumerate(pages.layers, 1):
        layer.keys[0], layer.values[0], layer.scales[:, 0] = number, -number, number / 2
    pages.copy(0, 2)
    for number, layer in enumerate(pages.layers, 1):
        assert (layer.keys[2] == number).all()
        assert (layer.values[2] == -number).all()
        assert (layer.scales[:, 2] == number / 2).all()
        assert not layer.keys[1].any()
    assert Pages.size_bytes(2, 1, 4, True) * 3 == sum(part.nbytes for layer in pages.layers for part in layer)


def test_pages_run_out():
    pages = Pages(1, 1, 1, 4)
    pages.take()
    with pytest.raises(UsageError, match="no page is free"):
        pages.take()
    with pytest.raises(UsageError, match="no pages can be made"):
        Pages(4, 1, 1, 6)
