"""The map of buckets: plans that move no more than they must, and maps that meet in any order and are the same."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gyral.params import ownership
from gyral.params.spec import BUCKETS


def applied(words, plan, epoch):
    for at, share in enumerate(plan):
        assert (ownership.owners_of(words)[share.buckets] == share.giver).all() and share.giver != share.taker
        words = ownership.given(words, share.buckets, share.taker, epoch + at)
    return words


@settings(max_examples=40)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_a_plan_makes_it_even_and_moves_no_bucket_more_than_it_must(numbers):
    words = ownership.first_words(numbers[0])
    for epoch, num in enumerate(numbers[1:], 1):
        before = np.bincount(ownership.owners_of(words), minlength=256)
        plan = ownership.planned(words, num)
        words = applied(words, plan, 1000 * epoch)
        after = np.bincount(ownership.owners_of(words), minlength=256)
        assert after.sum() == BUCKETS and after[:num].max() - after[:num].min() <= 1 and not after[num:].any()
        moved = sum(len(share.buckets) for share in plan)
        assert moved == np.maximum(after - before, 0).sum()
        least, more = divmod(BUCKETS, num)
        richest = np.sort(before[:num])[::-1]
        assert moved == sum(max(0, least + (at < more) - has) for at, has in enumerate(richest))
        assert not ownership.planned(words, num)


@given(st.permutations(range(5)), st.permutations(range(5)))
def test_maps_that_meet_in_any_order_are_the_same(one, other):
    """Owners give away different buckets at once, some of them twice: whoever hears of it in whatever order agrees."""
    first = ownership.first_words(3)
    maps = [ownership.given(first, np.arange(10 * at, 10 * at + 30), at, 1 + at) for at in range(5)]

    def met(order):
        words = first
        for at in order:
            words = np.maximum(words, maps[at])
        return words

    assert np.array_equal(met(one), met(other))
    assert ownership.version_of(met(one)) == 5 and ownership.owners_of(met(one))[69] == 4


def test_a_word_holds_its_epoch_and_its_shard():
    words = ownership.given(ownership.first_words(2), np.array([7, 4095]), 65535, 1 << 40)
    assert ownership.owners_of(words)[[0, 7, 4094, 4095]].tolist() == [0, 65535, 1, 65535]
    assert ownership.epochs_of(words)[[0, 7]].tolist() == [0, 1 << 40]
    assert np.array_equal(ownership.decoded(words.tobytes()), words)
