"""Requests before real worker processes: batched, given up, cancelled, asked again when a worker is killed, and swapped."""

import asyncio
import json
import math
import os
import signal
import time

import pytest

from gyral.http import Refused
from gyral.model.tiers import tiers
from gyral.serve.gateway import Gateway, Wanted
from gyral.serve.pool import Settings
from gyral.serve.pooled import pooled
from gyral.serve.scheduling.cost import Curve
from gyral.serve.scheduling.router import Variant

from .test_pool import job, pids_of

PLAIN = Variant("a", 1.0, 1, 1, {"server": Curve(1e-3, 1e-4)})


def with_gateway(test, slots=None, workers=1, **more):
    """Run a test with a gateway whose batches are written down; nothing is left afterwards."""

    async def run():
        room, batches = [], []
        on_room = lambda: room[0].pump() if room else None  # noqa: E731
        async with pooled(job(), Settings(workers=workers), note=lambda text: None, on_room=on_room) as pool:
            gateway = Gateway(
                pool, slots or {"": [PLAIN]}, tiers({}), on_batch=lambda *batch: batches.append(batch), draw=lambda: 0.5, **more
            )
            room.append(gateway)
            gateway.batches, gateway.pool = batches, pool
            await test(gateway)
            assert gateway.in_flight == gateway.waiting == 0
            gateway.close()

    asyncio.run(asyncio.wait_for(run(), 60))


def answer(gateway, path="/add", n=0, **more):
    """A future of the part."""
    future = asyncio.get_running_loop().create_future()
    future.id = None
    future.id = gateway.ask(Wanted(path, json.dumps({"n": n}).encode(), **more), future.set_result)
    return future


def test_what_comes_in_one_turn_goes_together_and_everybody_gets_their_own_answer():
    async def test(gateway):
        parts = await asyncio.gather(*(answer(gateway, n=n) for n in range(200)))
        assert [json.loads(part.body)["n"] for part in parts] == list(range(1, 201))
        sizes = [size for _, size, _ in gateway.batches]
        assert sum(sizes) == 200 and max(sizes) == 32 and len(sizes) <= 8
        await asyncio.gather(*(answer(gateway, n=n) for n in range(3)))
        assert gateway.batches[-1][1] == 3 and 0 < gateway.batches[-1][2] < 5

    with_gateway(test, max_batch=32)


def test_who_would_be_too_late_is_told_before_the_worker_is_free():
    async def test(gateway):
        busy = answer(gateway, "/sleep", 2.0)
        await asyncio.sleep(0.1)
        began = time.monotonic()
        late = answer(gateway, n=1, until=began + 0.15)
        patient = answer(gateway, n=2)
        part = await late
        assert part.status == 504 and b"deadline" in part.body and time.monotonic() - began < 1.8 and not busy.done()
        assert (await patient).status == 200 and (await busy).status == 200
        with pytest.raises(Refused, match="no answer in this time") as refused:
            answer(gateway, until=time.monotonic() - 1)
        assert refused.value.status == 504
        with pytest.raises(Refused, match="as good") as refused:
            answer(gateway, floor=2.0)
        assert refused.value.status == 400
        assert gateway.not_answered() == {"full": 0, "late": 0, "hopeless": 2, "crowded": 0}

    with_gateway(test)


def test_who_goes_is_forgotten_waiting_or_not():
    async def test(gateway):
        busy = answer(gateway, "/sleep", 0.4)
        await asyncio.sleep(0.1)
        waits = answer(gateway, n=1)
        gateway.cancel(waits.id)
        gateway.cancel(busy.id)
        gateway.cancel(busy.id)
        assert gateway.in_flight == 0
        assert (await answer(gateway, n=5)).status == 200 and not waits.done() and not busy.done()
        assert [size for _, size, _ in gateway.batches] == [1]  # the one that was left before its end says nothing

    with_gateway(test)


def test_a_worker_that_is_killed_costs_no_answer():
    async def test(gateway):
        futures = [answer(gateway, n=n) for n in range(300)]
        await asyncio.sleep(0.01)
        os.kill(pids_of(gateway.pool)[0], signal.SIGKILL)
        futures += [answer(gateway, n=n) for n in range(300, 600)]
        parts = await asyncio.gather(*futures)
        assert [json.loads(part.body)["n"] for part in parts] == list(range(1, 601))

    with_gateway(test, workers=2)


def test_too_many_are_refused_and_told_when_to_come_back():
    async def test(gateway):
        busy = answer(gateway, "/sleep", 0.3)
        await asyncio.sleep(0.05)
        waiting = [answer(gateway, n=n) for n in range(4)]
        with pytest.raises(Refused, match="too many") as refused:
            answer(gateway)
        assert refused.value.status == 503 and int(dict(refused.value.headers)[b"retry-after"]) >= 1
        await asyncio.gather(busy, *waiting)

    with_gateway(test, max_waiting=4)


def test_slots_have_queues_of_their_own_and_a_slot_that_goes_refuses_who_waits():
    async def test(gateway):
        busy = answer(gateway, "/sleep", 0.5)
        await asyncio.sleep(0.1)
        plain, other = answer(gateway, n=1), answer(gateway, n=2, slot="other")
        better = PLAIN._replace(quality=1.0, name="b")
        gateway.use({"": [better]})
        gone = await other
        assert gone.status == 503 and b"changed" in gone.body
        assert (await plain).status == 200 and (await busy).status == 200
        assert [name for name, _, _ in gateway.batches] == ["a", "b"]
        assert gateway.choices()[""].variant.name == "b"

    with_gateway(test, slots={"": [PLAIN], "other": [PLAIN]})


def test_what_batches_cost_outlives_a_swap():
    async def test(gateway):
        for _ in range(8):
            await answer(gateway, "/sleep", 0.05)
        gateway.use({"": [PLAIN], "new": [PLAIN]})
        with pytest.raises(Refused, match="no answer in this time"):
            answer(gateway, until=time.monotonic() + 0.01)  # as a guess would take 1 ms
        gateway.use({"": [PLAIN], "new": [PLAIN]})
        assert gateway.not_answered()["hopeless"] == 1
        assert (await answer(gateway, slot="new", until=time.monotonic() + 5)).status == 200
        with pytest.raises(Refused, match="nothing answers") as refused:
            answer(gateway, slot="gone")
        assert refused.value.status == 503

    with_gateway(test)


def test_a_floor_is_kept_and_a_deadline_that_only_the_small_one_keeps_has_it_answer():
    slow = PLAIN._replace(name="slow", curves={"server": Curve(5.0, 0.0)})
    fast = PLAIN._replace(name="fast", quality=0.9)

    async def test(gateway):
        for _ in range(3):
            assert (await answer(gateway, until=time.monotonic() + 2)).status == 200
        assert {name for name, _, _ in gateway.batches} == {"fast"}
        assert (await answer(gateway, floor=0.95, until=math.inf)).status == 200
        assert gateway.batches[-1][0] == "slow"

    with_gateway(test, slots={"": [slow, fast]})
