"""Near-duplicates against all pairs, in plain Python and numpy."""

from math import comb

import cv2
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gyral.curate.images import near_kernel
from gyral.curate.images.near_images import best_first, find_pairs, near_hashes, pictures, plan
from gyral.curate.images.near_kernel import likeness
from gyral.curate.images.pixels import look
from gyral.errors import InputError

ANYTHING = {"min_likeness": -2.0, "max_colour": 255.0}


def clusters(num, seed, flips=8):
    """Hashes around few centres: many are near, some are equal."""
    random = np.random.default_rng(seed)
    centres = random.integers(0, 2**64, max(num // 8, 1), dtype=np.uint64)
    hashes = centres[random.integers(0, len(centres), num)]
    for _ in range(flips):
        hashes ^= np.where(random.random(num) < 0.5, np.uint64(1) << random.integers(0, 64, num, dtype=np.uint64), np.uint64(0))
    return hashes


def all_pairs(hashes, max_distance):
    values = [int(each) for each in hashes]
    return {
        (i, j)
        for i in range(len(values))
        for j in range(i + 1, len(values))
        if (values[i] ^ values[j]).bit_count() <= max_distance
    }


@pytest.mark.parametrize("max_distance", [1, 2, 4, 6, 8, 10])
def test_every_pair_within_the_distance_is_found_once(max_distance):
    hashes = np.unique(clusters(700, max_distance, flips=max_distance + 1))
    pairs, skipped = near_hashes(hashes, max_distance)
    found = [tuple(sorted(pair)) for pair in pairs.tolist()]
    expected = all_pairs(hashes, max_distance)
    assert skipped == 0 and len(expected) > 5
    assert len(found) == len(set(found)) and set(found) == expected


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), max_size=30, unique=True), st.integers(0, 12), st.data())
def test_any_hashes(values, max_distance, data):
    values = sorted({*values, *(value ^ 1 << data.draw(st.integers(0, 63)) for value in values)})
    hashes = np.array(values, np.uint64)
    pairs, _ = near_hashes(hashes, max_distance)
    assert {tuple(sorted(pair)) for pair in pairs.tolist()} == (all_pairs(hashes, max_distance) if max_distance else set())


@pytest.mark.parametrize("num", [10, 10_000, 1_000_000, 100_000_000])
@pytest.mark.parametrize("max_distance", [1, 6, 16])
def test_a_plan_leaves_no_pair_out(num, max_distance):
    num_blocks, kept = plan(num, max_distance)
    assert num_blocks - max_distance == kept >= 1  # blocks without a difference
    assert comb(num_blocks, kept) <= 5_000


def thumbnails_of(num, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num, 384), dtype=np.uint8)


def test_pairs_are_the_same_in_any_order_and_the_better_one_comes_first():
    hashes = clusters(300, 1)
    thumbnails = np.tile(thumbnails_of(1), (300, 1))
    digests = np.random.default_rng(2).bytes(16 * 300)

    def found(order):
        parts = pa.array([digests[16 * each : 16 * each + 16] for each in order], pa.binary(16))
        sides = 100 + order % 5
        pairs = find_pairs(hashes[order], thumbnails[order], best_first=best_first(sides, sides, sides, parts), max_distance=6)
        assert pairs.skipped == 0
        return order[pairs.a].tolist(), order[pairs.b].tolist(), pairs.similarity.tolist()

    straight = found(np.arange(300))
    assert len(straight[0]) > 100
    assert found(np.random.default_rng(3).permutation(300)) == straight
    a, b, similarity = straight
    assert all(one % 5 >= two % 5 for one, two in zip(a, b, strict=True))
    assert similarity == [1 - int(hashes[i] ^ hashes[j]).bit_count() / 64 for i, j in zip(a, b, strict=True)]


def test_whatever_is_near_the_kept_ones_has_a_pair_with_one_of_them():
    """Many pictures of one hash: not all pairs are needed, but each that has a better one like it must have one such pair."""
    hashes, thumbnails = clusters(400, 5, flips=3), np.tile(thumbnails_of(1), (400, 1))
    pairs = find_pairs(hashes, thumbnails, max_distance=4)
    told = all_pairs(hashes, 4)
    assert {tuple(sorted(pair)) for pair in zip(pairs.a.tolist(), pairs.b.tolist(), strict=True)} <= told
    first = {min(i for i, k in told if k == j) for j in {j for _, j in told}}
    for hub in first:
        equal = np.flatnonzero(hashes == hashes[hub])
        if hub == equal[0]:
            near = [j for i, j in told if i == hub]
            assert set(near) <= set(pairs.b[pairs.a == hub].tolist()) | set(pairs.a[pairs.b == hub].tolist())


def test_a_hundred_thousand_equal_pictures_cost_no_more_than_a_pair_each():
    hashes = np.zeros(100_000, np.uint64)
    pairs = find_pairs(hashes, np.tile(thumbnails_of(1), (100_000, 1)))
    assert len(pairs.a) == 99_999 and set(pairs.a.tolist()) == {0} and pairs.skipped == 0


def test_different_pictures_of_one_hash_stay_and_what_was_not_searched_is_counted():
    thumbnails = thumbnails_of(20)
    pairs = find_pairs(np.full(20, 7, np.uint64), thumbnails)
    assert len(pairs.a) == 0 and pairs.skipped == 20 - near_kernel.MAX_HUBS


def test_a_full_bucket_is_searched_in_part_and_counted():
    hashes = np.arange(3 * 4096, dtype=np.uint64)  # equal in most of their bits
    pairs, skipped = near_hashes(hashes, 8)
    assert skipped > 0 and len(pairs) > 4096
    assert (np.bitwise_count(hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]]) <= 8).all()


def alike_by_the_book(one, two, max_colour):
    luma, other = one[:256].astype(float), two[:256].astype(float)
    if np.abs(one[256:].astype(int) - two[256:]).mean() > max_colour:
        return -1.0
    if luma.std() < 2 or other.std() < 2:
        return 1.0 if luma.std() < 2 and other.std() < 2 and abs(luma.mean() - other.mean()) <= 4 else -1.0
    if not 1 / 3 <= luma.std() / other.std() <= 3:
        return -1.0
    return np.corrcoef(luma, other)[0, 1]


@pytest.mark.parametrize("seed", range(60))
def test_likeness_is_the_correlation(seed):
    random = np.random.default_rng(seed)
    one = random.integers(0, 256, 384).astype(np.uint8)
    two = np.clip(one * random.choice([0.01, 0.2, 0.6, 1.0]) + random.normal(0, random.choice([0.1, 5, 40]), 384), 0, 255)
    if seed % 7 == 0:
        one[:256] = random.integers(90, 94)
    for pair in ((one, two.astype(np.uint8)), (one, one), (two.astype(np.uint8), two.astype(np.uint8))):
        for max_colour in (3.0, 255.0):
            assert likeness(*pair, max_colour) == pytest.approx(alike_by_the_book(*pair, max_colour), abs=1e-9)


def heart(colour, side=64):
    picture = np.full((side, side, 3), 255, np.uint8)
    cv2.circle(picture, (side * 3 // 8, side * 3 // 8), side // 5, colour, -1)
    cv2.circle(picture, (side * 5 // 8, side * 3 // 8), side // 5, colour, -1)
    cv2.fillPoly(picture, [np.array([[side // 5, side // 2], [side * 4 // 5, side // 2], [side // 2, side * 9 // 10]])], colour)
    cv2.line(picture, (0, side // 4), (side, side * 7 // 8), (0, 0, 0), side // 16)
    cv2.circle(picture, (side * 7 // 8, side // 6), side // 12, (0, 0, 0), -1)
    return picture


def test_hashes_collide_where_pictures_do_not():
    """Three hearts, the first larger once more, blank pages of two greys: only the hearts of one colour are a pair."""
    shown = [
        heart((40, 40, 220)),
        cv2.resize(heart((40, 40, 220)), (96, 96), interpolation=cv2.INTER_CUBIC),
        heart((220, 60, 120)),
        np.full((64, 64, 3), 255, np.uint8),
        np.full((64, 64, 3), 90, np.uint8),
    ]
    looks = [look(picture) for picture in shown]
    hashes = np.array([each.image_hash for each in looks], np.uint64)
    thumbnails = np.array([np.frombuffer(each.thumbnail, np.uint8) for each in looks])
    blind = find_pairs(hashes, thumbnails, **ANYTHING)
    assert {(0, 2), (3, 4)} <= set(zip(blind.a.tolist(), blind.b.tolist(), strict=True))
    seen = find_pairs(hashes, thumbnails)
    assert list(zip(seen.a.tolist(), seen.b.tolist(), strict=True)) == [(0, 1)]


def test_rows_of_one_picture_are_one_node():
    digests = pa.array([b"b" * 16, b"a" * 16, b"b" * 16, b"\xff" * 16, b"a" * 16], pa.binary(16))
    first, node = pictures(digests)
    assert first.tolist() == [1, 0, 3] and node.tolist() == [1, 0, 1, 2, 0]
    first, node = pictures(digests.slice(1, 3))
    assert first.tolist() == [0, 1, 2] and node.tolist() == [0, 1, 2]
    assert [len(each) for each in pictures(digests.slice(0, 0))] == [0, 0]


def test_larger_pictures_come_first_then_more_bytes_then_the_digest():
    digests = pa.array([bytes([value] * 16) for value in (9, 200, 3, 1)], pa.binary(16))
    assert best_first([10, 20, 20, 20], [10, 20, 20, 20], [99, 50, 50, 60], digests).tolist() == [3, 2, 1, 0]


def test_arrays_that_do_not_belong_together():
    with pytest.raises(InputError):
        find_pairs(np.zeros(3, np.uint64), thumbnails_of(2))
    nothing = find_pairs(np.zeros(0, np.uint64), thumbnails_of(0))
    assert len(nothing.a) == len(nothing.b) == len(nothing.similarity) == nothing.skipped == 0
