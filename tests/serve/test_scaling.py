"""Workers come with the load and go without it, and no answer is lost on the way."""

import asyncio
import json
import time

import pytest

from gyral.model.tiers import tiers
from gyral.serve.gateway import Demand, Gateway
from gyral.serve.pool import Settings
from gyral.serve.pooled import pooled
from gyral.serve.scaling import Scaler

from .test_gateway import PLAIN, answer
from .test_pool import job


class Told:
    """A gateway whose load is what a test says."""

    demand_ = Demand(0.0, 0, 100.0)

    def demand(self):
        return self.demand_


@pytest.mark.slow
def test_workers_come_and_go_with_the_load():
    async def run():
        notes, told = [], Told()
        async with pooled(job(), Settings(), note=notes.append) as pool:
            scaler = Scaler(pool, told, 1, 3, notes.append, down_s=1.0, every_s=0.1)
            task = asyncio.create_task(scaler.keep())
            gateway = Gateway(pool, {"": [PLAIN]}, tiers({}))
            told.demand_ = Demand(180.0, 0, 100.0)
            end = time.monotonic() + 30
            answers = []
            while pool.num_ready < 3 and time.monotonic() < end:
                answers.append(answer(gateway, n=len(answers)))
                await asyncio.sleep(0.05)
            assert pool.num_ready == 3
            told.demand_ = Demand(10.0, 0, 100.0)
            while pool.num_ready > 1 and time.monotonic() < end:
                answers.append(answer(gateway, n=len(answers)))
                await asyncio.sleep(0.05)
            assert pool.num_ready == 1
            assert [json.loads(each.body)["n"] for each in await asyncio.gather(*answers)] == [*range(1, len(answers) + 1)]
            task.cancel()
            gateway.close()
        assert any("1 to 3 workers" in each for each in notes) and any("to 1 workers" in each for each in notes)

    asyncio.run(asyncio.wait_for(run(), 60))
