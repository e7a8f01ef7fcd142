"""Workers placed by a Ray of this machine: killed, placed again, swapped; requests travel over TCP and Ray carries none."""

import asyncio
import os
import signal

import pytest

from gyral.engine import ray_ranks
from gyral.serve.pool import Settings

from .test_pool import Load, until, with_pool

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]

pytest.importorskip("ray")


def test_a_placed_worker_that_dies_with_its_actor_or_alone_is_placed_again(tmp_path):
    async def test(pool):
        started = [kept.carrier.running.process for kept in pool._kept]
        assert all(isinstance(each, ray_ranks.Placed) for each in started)
        peers = [kept.carrier.running.link.socket.getpeername() for kept in pool._kept]
        assert [host for host, _ in peers] == ["127.0.0.1"] * 2
        load = Load(pool, 4)
        await asyncio.to_thread(started[0]._ray.kill, started[0]._actor)
        await until(lambda: pool.loads()[0].deaths == 1 and len(pool._ready()) == 2, 60)
        await until(lambda: len({pid for _, _, pid in load.answers}) == 3)
        os.kill(load.answers[-1][2], signal.SIGKILL)
        await until(lambda: sum(each.deaths for each in pool.loads()) == 2 and len(pool._ready()) == 2, 60)
        await pool.swap("a@2")
        await until(lambda: load.answers[-1][1] == "a@2")
        await load.stop()
        assert not load.errors and len(load.answers) > 100

    with_pool(test, Settings(workers=2), timeout_s=200, folder=tmp_path, on="ray://workers=3")
