"""Versions swapped under load: one that loads takes over between batches, one that does not changes nothing."""

import asyncio
import json
import os
import signal
import time
from pathlib import Path

import pytest

from gyral.errors import ServeError
from gyral.serve.pool import Settings

from .test_pool import Load, ask, job, pids_of, until, with_pool


def in_order(answers, swaps):
    """Asked after a swap was done: answered by it or a later one; asked before one began: not by it."""
    for began, version, _ in answers:
        number = int(version.partition("@")[2])
        done = [n for n, (_, end) in swaps.items() if end < began]
        assert number >= max(done, default=1), "an old version answered"
    return True


def test_swaps_under_load_lose_nothing_and_mix_nothing():
    async def test(pool):
        load, swaps = Load(pool), {}
        for number in range(2, 22):
            start = time.monotonic()
            await pool.swap(f"a@{number}")
            swaps[number] = (start, time.monotonic())
            await asyncio.sleep(0.1)
        await load.stop()
        assert not load.errors and in_order(load.answers, swaps)
        assert {version for _, version, _ in load.answers} == {f"a@{number}" for number in range(1, 22)}
        assert [each.versions for each in pool.loads()] == [["a@20", "a@21"]] * 2  # what nobody goes back to is let go

    with_pool(test, Settings(workers=2))


def test_memory_follows_the_versions_that_are_kept():
    async def test(pool):
        for number in range(2, 12):
            await pool.swap(f"a@{number}")
        await asyncio.sleep(0.2)
        resident = int(Path(f"/proc/{pids_of(pool)[0]}/statm").read_text().split()[1]) * 4096
        assert resident < (30 + 3 * 20) << 20  # eleven would be 220 MB

    with_pool(test, of=job(ballast=20 << 20))


def test_a_stream_is_of_one_version_to_its_end():
    async def test(pool):
        stream = pool.stream(ask(1, "/count", 400, is_stream=True))
        versions = [json.loads((await anext(stream)).body)["version"]]
        await pool.swap("a@2")
        await pool.swap("a@3")  # a@1 is forgotten now, and goes on for this one
        assert pool.loads()[0].versions == ["a@2", "a@3"]
        assert json.loads((await pool.answer(ask(2))).body)["version"] == "a@3"
        versions += [json.loads(each.body)["version"] async for each in stream]
        assert versions == ["a@1"] * 400

    with_pool(test)


@pytest.mark.parametrize(("version", "why"), [("missing@2", "there is no"), ("broken@2", "damaged weights")])
def test_a_version_that_cannot_be_loaded_changes_nothing(version, why):
    async def test(pool):
        load = Load(pool, 4)
        with pytest.raises(ServeError) as error:
            await pool.swap(version)
        assert why in str(error.value)
        await asyncio.sleep(0.1)
        await load.stop()
        assert not load.errors and {version for _, version, _ in load.answers} == {"a@1"}
        assert [each.deaths for each in pool.loads()] == [0, 0]
        assert [each.versions for each in pool.loads()] == [["a@1"]] * 2

    with_pool(test, Settings(workers=2))


def test_a_version_that_takes_its_process_along_costs_one_worker_and_no_request():
    async def test(pool):
        load = Load(pool, 4)
        with pytest.raises(ServeError, match="ended while it loaded `crash@2`"):
            await pool.swap("crash@2")
        await until(lambda: len(pool._ready()) == 2)
        await load.stop()
        assert not load.errors and {version for _, version, _ in load.answers} == {"a@1"}
        assert sum(each.deaths for each in pool.loads()) == 1

    with_pool(test, Settings(workers=2))


def test_going_back_is_at_once_and_an_ask_may_name_its_version():
    async def test(pool):
        with pytest.raises(ServeError, match="no version to go back to"):
            await pool.roll_back()
        await pool.swap("slow@2")
        began = time.monotonic()
        await pool.roll_back()
        assert (await pool.answer(ask(1))).props["version"] == "a@1"
        await pool.roll_back()
        assert (await pool.answer(ask(2))).props["version"] == "slow@2"
        assert time.monotonic() - began < 2.0  # which loading it takes
        assert (await pool.answer(ask(3, version="a@1"))).props["version"] == "a@1"
        missing = await pool.answer(ask(4, version="a@7"))
        assert missing.status == 404 and b"`a@7` is not loaded" in missing.body

    with_pool(test, of=job(slow_s=2.0))


def test_a_version_that_takes_too_long_is_given_up():
    async def test(pool):
        with pytest.raises(ServeError, match=r"has not loaded it in 0\.2 s"):
            await pool.swap("slow@2")
        assert (await pool.answer(ask(1))).props["version"] == "a@1"
        await asyncio.sleep(0.6)
        assert (await pool.answer(ask(2))).props["version"] == "a@1"
        assert pool.loads()[0].versions == ["a@1"]  # it came after all, and was let go

    with_pool(test, Settings(load_s=0.2), of=job(slow_s=0.5))


def test_a_worker_that_starts_again_has_the_version_in_use():
    async def test(pool):
        await pool.swap("a@2")
        os.kill(pids_of(pool)[0], signal.SIGKILL)
        await until(lambda: pool.loads()[0].deaths == 1)
        swapping = asyncio.ensure_future(pool.swap("a@3"))  # while it starts
        await swapping
        await until(lambda: len(pool._ready()) == 2)
        parts = await asyncio.gather(*(pool.answer(ask(n)) for n in range(50)))
        assert {part.props["version"] for part in parts} == {"a@3"}
        assert {each.version for each in pool.loads()} == {"a@3"}

    with_pool(test, Settings(workers=2))


def test_a_gateway_that_starts_again_has_the_version_in_use(tmp_path):
    async def first(pool):
        await pool.swap("a@2")

    async def second(pool):
        assert (await pool.answer(ask(1))).props["version"] == "a@2"
        await pool.roll_back()

    async def third(pool):
        assert (await pool.answer(ask(1))).props["version"] == "a@1"

    for test in (first, second, third):
        with_pool(test, folder=tmp_path / "workers")
    (tmp_path / "workers" / "version.json").write_text("{")
    with pytest.raises(ServeError, match="the version in use is not known"):
        with_pool(first, folder=tmp_path / "workers")
