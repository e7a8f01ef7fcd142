import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gyral.serve.scheduling.replicas import BOUND, Replicas, score

KEYS = [b"key%d" % n for n in range(20_000)]


def homes(replicas):
    found = {}
    for key in KEYS:
        routed = replicas.pick(key)
        found[key] = routed.name
        replicas.end(routed.name)
    return found


def test_a_copy_that_goes_moves_only_its_own_keys_and_one_that_comes_takes_its_share():
    four = homes(Replicas(dict.fromkeys("abcd", 1.0)))
    three = homes(Replicas(dict.fromkeys("abc", 1.0)))
    assert all(three[key] == home for key, home in four.items() if home != "d")
    for name, count in Counter(four.values()).items():
        assert count == pytest.approx(5000, rel=0.06), name


def test_a_copy_that_is_twice_as_large_gets_twice_as_many():
    count = Counter(homes(Replicas({"a": 2.0, "b": 1.0, "c": 1.0})).values())
    assert count["a"] == pytest.approx(10_000, rel=0.05)


def test_gateways_agree_without_speaking_and_the_order_starts_with_the_home():
    one, other = Replicas(dict.fromkeys("abcd", 1.0)), Replicas(dict.fromkeys("dcba", 1.0))
    for key in KEYS[:200]:
        assert one.order(key) == other.order(key)
        routed = one.pick(key)
        assert routed.name == one.order(key)[0] and routed.place == 0
        one.end(routed.name)


@given(st.lists(st.integers(0, 3), max_size=200), st.integers(1, 6))
def test_no_copy_has_more_than_its_bound_however_hot_a_key_is(keys, count):
    replicas = Replicas({f"copy{n}": 1.0 for n in range(count)})
    for number, key in enumerate(keys, start=1):
        routed = replicas.pick(b"%d" % key)
        assert replicas.under_way[routed.name] <= math.ceil(BOUND * number / count)
    assert sum(replicas.under_way.values()) == len(keys)


def test_nine_of_ten_requests_find_their_cache_on_four_copies():
    """Zipf keys, 40 requests under way; a cache is warm when the key was at this copy before."""
    rng = np.random.default_rng(0)
    weights = 1 / np.arange(1, 501) ** 0.9
    replicas = Replicas(dict.fromkeys("abcd", 1.0))
    warm, hits, under_way = set(), 0, []
    drawn = rng.choice(500, 20_000, p=weights / weights.sum())
    for number in drawn.tolist():
        routed = replicas.pick(b"%d" % number)
        hits += (number, routed.name) in warm
        warm.add((number, routed.name))
        under_way.append(routed.name)
        if len(under_way) > 40:
            replicas.end(under_way.pop(int(rng.integers(len(under_way)))))
    single = len(drawn) - len(set(drawn.tolist()))
    assert hits >= 0.9 * single


def test_copies_that_are_gone_get_nothing_and_without_any_there_is_no_answer():
    replicas = Replicas({"a": 1.0})
    assert replicas.pick(b"k").name == "a"
    replicas.remove("a")
    replicas.end("a")
    assert replicas.pick(b"k") is None
    replicas.add("b")
    assert replicas.pick(b"k").name == "b" and len(replicas) == 1


def test_a_prompt_goes_where_it_is_cached_unless_that_copy_is_much_busier():
    assert score(900, 1000, 10, 10) > score(0, 1000, 10, 10)
    assert score(900, 1000, 30, 10) < score(0, 1000, 5, 10)


def test_loads_that_somebody_else_counts_choose_as_its_own_do():
    replicas = Replicas(dict.fromkeys("abcd", 1.0))
    for key in KEYS[:200]:
        first, second, *_ = replicas.order(key)
        loads = dict.fromkeys("abcd", 3)
        assert replicas.find(key, loads).name == first
        assert replicas.find(key, loads | {first: 9}).name == second
        assert replicas.find(key, loads | {first: 9}, free=10).name == first
        del loads[first]
        assert replicas.find(key, loads) == (second, 1)
    assert replicas.find(b"k", {}) is None and set(replicas.under_way.values()) == {0}
