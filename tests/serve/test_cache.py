"""What a cache of answers keeps, for how long, and that an answer is made once however many wait for it."""

import asyncio

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from gyral.serve.cache import ENTRY_BYTES, Cache


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_an_answer_is_told_until_it_is_too_old():
    clock = Clock()
    cache = Cache(10_000, ttl_s=5, clock=clock)
    key = cache.key("/v1/recommend", "shop@1", b"{}")
    assert cache.get(key) is None
    cache.put(key, b"one")
    assert cache.get(key) == b"one"
    cache.put(key, b"two")
    assert cache.get(key) == b"two" and cache.counts().entries == 1
    clock.now = 5
    assert cache.get(key) is None and cache.counts().entries == cache.counts().num_bytes == 0


def test_keys_differ_by_each_part_and_by_where_one_ends():
    cache, other = Cache(1), Cache(1)
    asked = [
        ("/a", "m@1", b"x"),
        ("/a", "m@2", b"x"),
        ("/b", "m@1", b"x"),
        ("/a", "m@1", b"y"),
        ("/am", "@1", b"x"),
        ("/a", "m@", b"1x"),
    ]
    keys = [cache.key(*each) for each in asked]
    assert len(set(keys)) == len(asked) and keys[0] == cache.key(*asked[0]) and keys[0] != other.key(*asked[0])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 900), st.booleans()), max_size=300))
def test_it_never_holds_more_than_it_may_and_never_tells_another_answer(steps):
    cache, last = Cache(6_000, ttl_s=1e9), {}
    for number, size, is_put in steps:
        key = number.to_bytes(16, "little")
        if is_put:
            last[key] = bytes([number]) * size
            cache.put(key, last[key])
        else:
            assert cache.get(key) in (None, last.get(key))
        held = [*cache._small.items(), *cache._main.items()]
        counts = cache.counts()
        assert counts.num_bytes == sum(len(entry.answer) + ENTRY_BYTES for _, entry in held) <= 6_000
        assert counts.entries == len(held) == len({key for key, _ in held})
        assert cache._gone_bytes == sum(cache._gone.values()) <= 6_000 and not set(cache._gone) & {key for key, _ in held}


def test_a_scan_does_not_displace_what_is_asked_often():
    cache = Cache(100 * (ENTRY_BYTES + 10), ttl_s=1e9)
    often = [number.to_bytes(16, "little") for number in range(50)]
    for _ in range(3):
        for key in often:
            if cache.get(key) is None:
                cache.put(key, b"0123456789")
    for number in range(1_000, 11_000):
        key = number.to_bytes(16, "little")
        if cache.get(key) is None:
            cache.put(key, b"0123456789")
    assert sum(cache.get(key) is not None for key in often) >= 45


def test_what_fills_half_of_it_is_not_kept_and_nothing_is_where_there_is_no_room():
    cache = Cache(10_000)
    cache.put(b"a", bytes(100))
    cache.put(b"b", bytes(5_000))
    assert cache.get(b"b") is None and cache.get(b"a") is not None
    none = Cache(0)
    none.put(b"a", b"")
    assert none.get(b"a") is None


def test_many_who_ask_the_same_get_one_answer():
    cache, made = Cache(10_000), []

    async def make():
        made.append(1)
        await asyncio.sleep(0.01)
        return b"answer"

    async def main():
        told = await asyncio.gather(*(cache.ask(b"k", make) for _ in range(50)))
        return told, await cache.ask(b"k", make)

    told, later = asyncio.run(main())
    assert set(told) == {b"answer"} == {later} and len(made) == 1 and cache.counts().shared == 49


def test_an_error_is_everybodys_who_waits_and_is_not_kept():
    cache, made = Cache(10_000), []

    async def make():
        made.append(1)
        await asyncio.sleep(0.01)
        if len(made) == 1:
            raise ValueError("once")
        return b"answer"

    async def main():
        told = await asyncio.gather(*(cache.ask(b"k", make) for _ in range(5)), return_exceptions=True)
        return told, await cache.ask(b"k", make)

    told, later = asyncio.run(main())
    assert [str(each) for each in told] == ["once"] * 5 and later == b"answer" and len(made) == 2


@pytest.mark.parametrize("victim", [0, 2])
def test_who_is_cancelled_takes_nobody_along(victim):
    cache, made = Cache(10_000), []

    async def make():
        made.append(1)
        await asyncio.sleep(0.02)
        return b"answer"

    async def main():
        tasks = [asyncio.ensure_future(cache.ask(b"k", make)) for _ in range(5)]
        await asyncio.sleep(0.005)
        tasks[victim].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    told = asyncio.run(main())
    assert isinstance(told.pop(victim), asyncio.CancelledError) and set(told) == {b"answer"} and len(made) == 1 + (victim == 0)
    assert not cache._asking


def test_more_of_a_long_tail_is_hit_than_by_the_last_used():
    from collections import OrderedDict

    rng, room = np.random.default_rng(0), 500
    chance = 1 / np.arange(1, 20_001) ** 0.9
    asked = rng.choice(20_000, 100_000, p=chance / chance.sum())
    cache, lru, hits = Cache(room * (ENTRY_BYTES + 10), ttl_s=1e9), OrderedDict(), 0
    for number in asked.tolist():
        key = number.to_bytes(16, "little")
        if cache.get(key) is None:
            cache.put(key, b"0123456789")
        if key in lru:
            hits += 1
            lru.move_to_end(key)
        else:
            lru[key] = None
            if len(lru) > room:
                lru.popitem(last=False)
    assert cache.counts().hits > 1.1 * hits
    print(cache.counts().hits / len(asked), hits / len(asked))
