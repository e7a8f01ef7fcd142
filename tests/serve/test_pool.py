"""Real worker processes: killed, stopped, drained, placed, swapped, and asked more than they can answer."""

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from gyral.engine import ranks
from gyral.engine.links import LinkLost
from gyral.engine.listening import LOOPBACK, connect
from gyral.errors import ServeError
from gyral.serve.engine import Ask
from gyral.serve.job import Job
from gyral.serve.pool import Full, Settings
from gyral.serve.pooled import pooled

BACK_ENDS = Path(__file__).parent / "back_ends"


def job(version="a@1", **options):
    return Job(
        source="here", version=version, engine="arithmetic:make", options=options, environment={"PYTHONPATH": str(BACK_ENDS)}
    )


def with_pool(test, settings=None, of=None, timeout_s=60, **more):
    """Run a test on a loop with a pool, within bounds; all its processes are gone afterwards, and nothing is in flight."""

    async def run():
        notes = []
        async with pooled(of or job(), settings or Settings(), note=notes.append, **more) as pool:
            pool.notes = notes
            await test(pool)
            pids = pids_of(pool)
        assert pool.in_flight == 0 and len(pool._waiting) == 0 and len(pool._deadlines) == 0
        assert not [pid for pid in pids if is_running(pid)]

    asyncio.run(asyncio.wait_for(run(), timeout_s))


def pids_of(pool):
    processes = [kept.carrier.running.process for kept in pool._kept if kept.carrier is not None]
    return [each.pid for each in processes if hasattr(each, "pid")]  # those of Ray have none


def is_running(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


def ask(id, path="/add", n=None, **more):
    return Ask(id, path, json.dumps({"n": id if n is None else n}).encode(), **more)


async def until(check, timeout_s=20.0):
    end = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < end, "it did not become so"
        await asyncio.sleep(0.01)


class Load:
    """Asks all the time, `at_once` in flight; every answer is checked against the sum and kept by status and version."""

    def __init__(self, pool, at_once=16, first=1_000_000):
        self.pool, self.id, self.is_over = pool, first, False
        self.answers, self.errors, self.delays = [], [], []
        self.tasks = [asyncio.ensure_future(self._go()) for _ in range(at_once)]

    async def _go(self):
        while not self.is_over:
            self.id += 1
            id, began = self.id, time.monotonic()
            part = await self.pool.answer(ask(id, deadline_s=30.0))
            self.delays.append((began, time.monotonic() - began))
            if part.status != 200:
                self.errors.append(part)
                continue
            told = json.loads(part.body)
            assert told["n"] == id + 1 and told["version"] == part.props["version"]
            self.answers.append((began, told["version"], told["pid"]))

    async def stop(self):
        self.is_over = True
        await asyncio.wait_for(asyncio.gather(*self.tasks), 40)


def test_answers_and_streams_come_from_two_workers():
    async def test(pool):
        parts = await asyncio.gather(*(pool.answer(ask(n)) for n in range(200)))
        told = [json.loads(part.body) for part in parts]
        assert [each["n"] for each in told] == list(range(1, 201)) and {part.status for part in parts} == {200}
        assert {each["pid"] for each in told} == set(pids_of(pool))
        assert parts[0].props.pop("worker") in (0, 1) and parts[0].props == {"kind": "add", "version": "a@1"}
        events = [part async for part in pool.stream(ask(1_000, "/count", 5, is_stream=True))]
        assert [json.loads(each.body)["at"] for each in events] == [1, 2, 3, 4, 5]
        assert [each.is_last for each in events] == [False] * 4 + [True]

    with_pool(test, Settings(workers=2))


def test_bodies_of_every_size_come_back_as_they_were():
    async def test(pool):
        sizes = [0, 1, 65_535, 65_536, 65_537, 1 << 20, 9 << 20]
        bodies = [random.Random(size).randbytes(size) for size in sizes]
        parts = await asyncio.gather(*(pool.answer(Ask(n, "/blob", body)) for n, body in enumerate(bodies)))
        assert [part.body for part in parts] == [body[::-1] for body in bodies]

    with_pool(test)


def test_props_that_cannot_travel_lose_themselves_and_not_the_answer():
    async def test(pool):
        odd = await pool.answer(ask(1, "/odd", 3))
        assert odd.status == 200 and odd.props == {"path": "/", "large": "xxx", "version": "a@1", "worker": 0}
        large, small = await asyncio.gather(pool.answer(ask(2, "/odd", 2 << 20)), pool.answer(ask(3)))
        assert large.status == 200 and "too large" in large.props["lost"] and small.status == 200

    with_pool(test)


def test_an_engine_that_raises_fails_its_asks_and_answers_the_next():
    async def test(pool):
        first, second = await asyncio.gather(pool.answer(ask(1, "/raise")), pool.answer(ask(2, "/wait", deadline_s=5.0)))
        assert first.status == second.status == 500 and b"could not answer" in first.body
        assert (await pool.answer(ask(3))).status == 200
        assert pool.loads()[0].deaths == 0
        assert "an engine with a fault" in (pool._folder / "worker0.log").read_text()

    with_pool(test)


def test_killed_under_load_again_and_again_no_request_fails():
    async def test(pool):
        load = Load(pool)
        for dead in range(1, 7):
            await until(lambda: len(pool._ready()) == 2)
            os.kill(pids_of(pool)[dead % 2], signal.SIGKILL)
            await until(lambda dead=dead: sum(each.deaths for each in pool.loads()) == dead)
        await until(lambda: len(pool._ready()) == 2)
        await load.stop()
        assert not load.errors and len(load.answers) > 500
        assert len({pid for _, _, pid in load.answers}) > 4

    with_pool(test, Settings(workers=2))


def test_what_kills_workers_kills_two_and_a_stream_that_had_begun_ends_with_an_error():
    async def test(pool):
        streams = [pool.stream(ask(n, "/count", 100_000, is_stream=True)) for n in range(2)]
        begun = [await anext(each) for each in streams]
        assert [each.status for each in begun] == [200, 200]
        part = await pool.answer(ask(5, "/die"))
        assert part.status == 502 and b"2 workers ended" in part.body
        for stream in streams:
            *_, last = [each async for each in stream]
            assert last.status == 502 and last.is_last and b"in the midst" in last.body
        await until(lambda: pool._ready())
        assert (await pool.answer(ask(6))).status == 200
        assert sum(each.deaths for each in pool.loads()) == 2

    with_pool(test, Settings(workers=2))


def test_a_worker_that_hangs_is_found_and_its_asks_are_answered_by_another():
    async def test(pool):
        stopped = pids_of(pool)[0]
        os.kill(stopped, signal.SIGSTOP)
        began = time.monotonic()
        parts = await asyncio.gather(*(pool.answer(ask(n)) for n in range(20)))
        assert {part.status for part in parts} == {200} and time.monotonic() - began < 10
        await until(lambda: not is_running(stopped))
        await until(lambda: any("not a word" in note for note in pool.notes))
        await until(lambda: len(pool._ready()) == 2)

    with_pool(test, Settings(workers=2, hang_s=1.5))


def test_how_busy_a_worker_is_is_known():
    async def test(pool):
        await pool.answer(ask(1))
        await until(lambda: pool.loads()[0].resident_bytes > 0)
        load = Load(pool, 1)
        load.stop_soon = [asyncio.ensure_future(pool.answer(ask(n, "/sleep", 0.2))) for n in range(8)]
        await until(lambda: pool.loads()[0].busy > 0.5 and pool.loads()[0].step_s > 0.1)
        await load.stop()
        await asyncio.gather(*load.stop_soon)
        await until(lambda: pool.loads()[0].busy < 0.1)

    with_pool(test, Settings(hang_s=4.0))


def test_workers_end_with_a_gateway_that_is_killed():
    code = f"""
import asyncio, os
from gyral.serve.pool import Job, Settings
from gyral.serve.pooled import pooled
async def main():
    async with pooled(Job(source="", version="a@1", engine="arithmetic:make", environment={{"PYTHONPATH": {str(BACK_ENDS)!r}}}),
                      Settings(workers=2)) as pool:
        print(*[kept.carrier.running.process.pid for kept in pool._kept], flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as gateway:
        pids = [int(each) for each in gateway.stdout.readline().split()]
        assert len(pids) == 2 and all(is_running(pid) for pid in pids)
        gateway.kill()
    end = time.monotonic() + 20
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < end, "a worker has outlived its gateway"
        time.sleep(0.05)


def test_a_step_that_is_long_but_shorter_than_allowed_is_no_hang():
    async def test(pool):
        assert (await pool.answer(ask(1, "/sleep", 0.8))).status == 200
        assert pool.loads()[0].deaths == 0

    with_pool(test, Settings(hang_s=2.0))


def test_a_deadline_is_kept_and_the_work_is_cancelled_where_it_is_done(tmp_path):
    cancelled = tmp_path / "cancelled"

    async def test(pool):
        began = time.monotonic()
        part = await pool.answer(ask(1, "/wait", deadline_s=0.2))
        assert part.status == 504 and 0.19 < time.monotonic() - began < 5.0
        await until(lambda: cancelled.exists() and cancelled.read_text() == "1\n")
        left_s = json.loads((await pool.answer(ask(2, deadline_s=7.0))).body)["left_s"]
        assert 6 < left_s <= 7
        waits = asyncio.ensure_future(pool.answer(ask(3, "/wait")))  # its client leaves
        await asyncio.sleep(0.1)
        waits.cancel()
        await until(lambda: cancelled.read_text() == "1\n3\n")
        async for _ in pool.stream(ask(4, "/count", 100_000, is_stream=True)):
            break
        await until(lambda: cancelled.read_text() == "1\n3\n4\n")
        assert pool.in_flight == 0

    with_pool(test, of=job(cancelled=str(cancelled)))


def test_more_asks_than_the_workers_take_wait_and_then_are_refused():
    async def test(pool):
        told = []
        pool._on_room = lambda: told.append(pool.room)
        asks = [asyncio.ensure_future(pool.answer(ask(n, "/sleep", 0.01))) for n in range(14)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert pool.room == 0 and pool.loads()[0].asks == 4
        with pytest.raises(Full, match="workers are busy"):
            await pool.answer(ask(100))
        assert {part.status for part in await asyncio.gather(*asks)} == {200}
        assert told and told[0] > 0 and pool.room == 4
        with pytest.raises(ServeError, match="does not take ask"):
            await pool.answer(Ask(1, "/" + "x" * 5_000, b""))

    with_pool(test, Settings(window=4, max_waiting=10))


def test_a_client_that_reads_slowly_is_told_and_costs_the_worker_nothing_more():
    async def test(pool):
        stream = pool.stream(ask(1, "/count", 10_000_000, is_stream=True), max_parts=50)
        assert (await anext(stream)).status == 200
        await until(lambda: pool.loads()[0].asks == 0)
        parts = [each async for each in stream]
        assert len(parts) <= 52 and parts[-1].status == 503 and b"too slowly" in parts[-1].body

    with_pool(test, of=job(pad=10_000))


def test_a_gateway_that_is_slow_stops_the_worker_and_not_its_memory():
    async def test(pool):
        stream = pool.stream(ask(1, "/count", 3_000, is_stream=True), max_parts=100_000)
        await anext(stream)
        time.sleep(1.0)  # the loop reads nothing; without a limit 60 MB would be made meanwhile
        before = Path(f"/proc/{pids_of(pool)[0]}/statm").read_text().split()[1]
        assert int(before) * 4096 < 80 << 20
        assert len([each async for each in stream]) == 2_999

    with_pool(test, of=job(pad=60_000, step_s=0.0))


def test_a_gateway_that_was_stopped_itself_kills_nobody():
    async def test(pool):
        await asyncio.sleep(0.3)
        time.sleep(1.5)
        await asyncio.sleep(0.5)
        assert pool.loads()[0].deaths == 0

    with_pool(test, Settings(hang_s=0.8))


def test_workers_are_added_drained_and_taken_away_under_load():
    async def test(pool):
        load = Load(pool)
        first = pids_of(pool)[0]
        await pool.resize(3)
        assert len(set(pids_of(pool))) == 3
        await pool.resize(1)
        assert pids_of(pool) == [first]
        await pool.drain(0)
        assert len(pids_of(pool)) == 1 and pids_of(pool) != [first] and not is_running(first)
        os.kill(pids_of(pool)[0], signal.SIGTERM)  # somebody else ends it: it says so first
        await until(lambda: pool.loads()[0].deaths == 1 and pool._ready())
        await load.stop()
        assert not load.errors and len(load.answers) > 100

    with_pool(test)


def test_closing_answers_what_is_in_flight():
    async def run():
        async with pooled(job(), note=lambda _: None) as pool:
            asks = [asyncio.ensure_future(pool.answer(ask(n, "/sleep", 0.01))) for n in range(20)]
            await asyncio.sleep(0)
        assert {part.status for part in await asyncio.gather(*asks)} == {200}
        with pytest.raises(Full, match="being stopped"):
            await pool.answer(ask(100))
        async with pooled(job(), Settings(drain_s=0.2), note=lambda _: None) as pool:
            never = asyncio.ensure_future(pool.answer(ask(1, "/wait")))
            await asyncio.sleep(0.1)
        assert (await never).status in (502, 503)

    asyncio.run(asyncio.wait_for(run(), 30))


@pytest.mark.parametrize(
    ("of", "why"),
    [
        (job("missing@1"), "there is no `missing@1`"),
        (job("broken@1"), "damaged weights"),
        (Job(source="", version="a@1", engine="no_such_module:make"), "no_such_module"),
        (Job(source="", version="a@1", python="/no/such/python"), "/no/such/python"),
    ],
)
def test_workers_that_cannot_start_say_why(of, why):
    with pytest.raises(ServeError) as error:
        with_pool(None, of=of)
    assert why in str(error.value)


def test_another_python_runs_a_back_end_with_nothing_of_this_one(tmp_path):
    async def test(pool):
        assert json.loads((await pool.answer(ask(1))).body)["n"] == 2
        command = Path(f"/proc/{pids_of(pool)[0]}/cmdline").read_bytes()
        assert command.startswith(str(python).encode())

    python, packages = tmp_path / "python", tmp_path / "packages"
    python.symlink_to(sys.executable)  # outside of its environment it has no packages but these
    packages.mkdir()
    (packages / "msgspec").symlink_to(Path(msgspec.__file__).parent)
    of = msgspec.structs.replace(job(), python=str(python), environment={"PYTHONPATH": f"{BACK_ENDS}:{packages}"})
    with_pool(test, of=of)


def test_workers_elsewhere_join_over_tcp_and_strangers_do_not():
    async def test(pool):
        listener = pool._starter._listener
        with pytest.raises(LinkLost):
            await asyncio.to_thread(connect, (LOOPBACK, listener.port), b"guess" * 7, peer="the gateway")
        known = await asyncio.to_thread(connect, (LOOPBACK, listener.port), pool._starter._secret, b"of nobody", peer="it")
        load = Load(pool, 4)
        os.kill(pids_of(pool)[0], signal.SIGKILL)
        await until(lambda: pool.loads()[0].deaths == 1 and len(pool._ready()) == 2)
        await pool.swap("a@2")
        await until(lambda: load.answers[-1][1] == "a@2")
        await load.stop()
        known.close()
        assert not load.errors and {version for _, version, _ in load.answers} == {"a@1", "a@2"}

    with_pool(test, Settings(workers=2), start=ranks.start, host=LOOPBACK)


@pytest.mark.parametrize("num", [15_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_nothing_of_many_requests_stays(num):
    async def test(pool):
        async def some(first, num):
            for at in range(first, first + num, 100):
                parts = await asyncio.gather(*(pool.answer(ask(id, deadline_s=60.0)) for id in range(at, at + 100)))
                assert all(part.status == 200 for part in parts)

        def resident_bytes():
            return [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 for pid in (os.getpid(), *pids_of(pool))]

        await some(0, 5_000)
        before = resident_bytes()
        await some(10_000, num)
        assert all(after - old < 2 << 20 for after, old in zip(resident_bytes(), before, strict=True))
        assert len(pool._deadlines) < 2_000

    with_pool(test)


def test_a_pool_needs_no_heavy_import():
    code = "import sys, gyral.serve.pool, gyral.serve.worker; sys.exit(bool({'numpy', 'torch', 'pyarrow'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)
