"""Keys and real worker processes: a key meets the same one, whatever dies in between, unless that one has too much to do."""

import asyncio
import os
import signal

from gyral.serve.choosing import FREE
from gyral.serve.pool import Settings

from .test_pool import ask, pids_of, until, with_pool

KEYS = [b"key %d" % number for number in range(40)]


async def homes(pool, first):
    """Key → number of the worker that answered it."""
    parts = [await pool.answer(ask(first + at, key=key)) for at, key in enumerate(KEYS)]
    return {key: part.props["worker"] for key, part in zip(KEYS, parts, strict=True)}


def test_a_key_goes_home_while_its_worker_is_there_and_again_when_it_is_back():
    async def test(pool):
        before = await homes(pool, 1)
        assert before == await homes(pool, 100) and set(before.values()) == {0, 1, 2}
        os.kill(pids_of(pool)[1], signal.SIGKILL)
        await until(lambda: len(pool._ready()) == 2)
        while_away = await homes(pool, 200)
        if pool.loads()[1].state != "ready":  # it may be back by now
            assert 1 not in while_away.values()
        assert all(while_away[key] == home for key, home in before.items() if home != 1)
        await until(lambda: len(pool._ready()) == 3)
        assert await homes(pool, 300) == before
        await pool.resize(2)
        fewer = await homes(pool, 400)
        assert all(fewer[key] == home for key, home in before.items() if home != 2) and set(fewer.values()) == {0, 1}

    with_pool(test, Settings(workers=3))


def test_a_worker_that_has_too_much_to_do_is_passed_over_and_every_room_is_used():
    async def test(pool):
        home = (await pool.answer(ask(1, key=b"hot"))).props["worker"]
        tasks = []
        for number in range(2, 2 + 12):
            tasks.append(asyncio.ensure_future(pool.answer(ask(number, "/wait", key=b"hot"))))
            await asyncio.sleep(0)
            held = {load.number: load.asks for load in pool.loads()}
            if number - 1 <= FREE:
                assert held[home] == number - 1  # as few as these disturb nobody
            assert max(held.values()) <= 8 and sum(held.values()) == min(number - 1, 16)
        held = {load.number: load.asks for load in pool.loads()}
        assert 7 <= held[home] <= 8 and sum(held.values()) == 12
        others = [asyncio.ensure_future(pool.answer(ask(number, "/wait", key=b"hot"))) for number in range(20, 26)]
        await asyncio.sleep(0)
        assert [load.asks for load in pool.loads()] == [8, 8] and pool.in_flight == 18
        for each in [*tasks, *others]:
            each.cancel()
        await asyncio.gather(*tasks, *others, return_exceptions=True)
        assert (await pool.answer(ask(30, key=b"hot"))).props["worker"] == home

    with_pool(test, Settings(workers=2, window=8))


def test_an_ask_that_named_a_version_meets_a_worker_that_has_it():
    async def test(pool):
        await pool.swap("a@2")
        told = [await pool.answer(ask(number, key=key, version="a@1")) for number, key in enumerate(KEYS, 1)]
        assert {part.props["version"] for part in told} == {"a@1"}
        os.kill(pids_of(pool)[0], signal.SIGKILL)  # it comes back with the newest alone
        await until(lambda: len(pool._ready()) == 1)
        await until(lambda: len(pool._ready()) == 2)
        told = [await pool.answer(ask(number, key=key, version="a@1")) for number, key in enumerate(KEYS, 100)]
        assert {(part.props["version"], part.props["worker"]) for part in told} == {("a@1", 1)}

    with_pool(test, Settings(workers=2))
