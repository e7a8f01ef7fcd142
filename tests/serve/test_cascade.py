"""Two variants before one gateway: the small one is asked first, and the large one where it is unsure."""

import asyncio
import json
import time

import msgspec
import pytest

from gyral.model.cascade import Cascade
from gyral.model.tiers import tiers
from gyral.serve.gateway import Gateway, Wanted
from gyral.serve.pool import Settings
from gyral.serve.pooled import pooled
from gyral.serve.scheduling.cost import Curve

from .test_gateway import PLAIN
from .test_pool import job

SURE = Cascade(0.5, 0.8, 0.9, 0.01, 500, "", small=0.8, large=0.91, path="/sure", given={"of": "numbers"})
LARGE = PLAIN._replace(name="large", curves={"server": Curve(20e-3, 1e-3)})
SMALL = PLAIN._replace(name="small", quality=0.9, cascade=SURE)


def with_cascade(test, variants=(LARGE, SMALL), slow=None, has_cascade=True):
    async def run():
        room = []
        work = job(sure_s=slow or {})
        async with pooled(work, Settings(workers=1), note=lambda text: None, on_room=lambda: room and room[0].pump()) as pool:
            gateway = Gateway(pool, {"": variants}, tiers({}), draw=lambda: 0.5, cascade=has_cascade)
            room.append(gateway)
            await test(gateway)
            assert gateway.in_flight == gateway.waiting == 0
            gateway.close()

    asyncio.run(asyncio.wait_for(run(), 60))


async def ask(gateway, sure, path="/sure", **more):
    """Who answered, and how."""
    future = asyncio.get_running_loop().create_future()
    gateway.ask(Wanted(path, json.dumps({"n": sure}).encode(), **more), future.set_result)
    part = await future
    assert part.status == 200, part.body
    return json.loads(part.body).get("by"), part.props.get("cascade")


def test_the_large_one_is_asked_where_the_small_one_is_unsure_and_it_is_counted():
    async def test(gateway):
        assert await ask(gateway, 0.9) == ("small", "kept")
        assert await ask(gateway, 0.5) == ("small", "kept")
        assert await ask(gateway, 0.49) == ("large", "escalated")
        assert await ask(gateway, 1, "/add") == (None, None), "another route has no cascade"
        assert await ask(gateway, 0.9, floor=0.95) == ("small", "kept"), "what is kept of the accuracy is .99"
        assert await ask(gateway, 0.9, floor=0.999) == ("large", None)
        first = gateway.cascades()[""]
        assert first.counts == {"kept": 3, "escalated": 1, "late": 0}
        assert "small first, large where it is less sure than 0.5" in first.explain() and "3 kept, 1 asked" in first.explain()
        assert set(gateway.choices()) == {""}

    with_cascade(test)


def test_an_answer_of_another_kind_than_was_measured_is_asked_again():
    other = SMALL._replace(cascade=msgspec.structs.replace(SURE, given={"of": "words"}))

    async def test(gateway):
        assert await ask(gateway, 0.9) == ("large", "escalated")

    with_cascade(test, (LARGE, other))


def test_without_the_setting_or_a_measure_the_first_answers():
    async def test(gateway):
        assert await ask(gateway, 0.9) == ("large", None) and not gateway.cascades()

    with_cascade(test, has_cascade=False)
    with_cascade(test, (LARGE, SMALL._replace(cascade=None)))
    with_cascade(test, (LARGE, SMALL._replace(cascade=Cascade(path="/sure"))))  # too few examples to keep any


def test_what_cannot_be_asked_again_in_time_keeps_the_small_answer_only_where_the_floor_allows_it():
    patient = LARGE._replace(curves={"server": Curve(0.2, 1e-3)})
    slow = {"small": 0.4}  # what nobody expected

    async def allowed(gateway):
        assert await ask(gateway, 0.1, until=time.monotonic() + 0.5) == ("small", "late")
        assert await ask(gateway, 0.1) == ("large", "escalated")
        assert gateway.cascades()[""].counts == {"kept": 0, "escalated": 1, "late": 1}
        assert sum(gateway.not_answered().values()) == 0, "it was refused to be asked again, and answered"

    async def not_allowed(gateway):
        with pytest.raises(AssertionError, match="no answer in this time"):
            await ask(gateway, 0.1, until=time.monotonic() + 0.5, floor=0.95)
        assert gateway.cascades()[""].counts == {"kept": 0, "escalated": 0, "late": 0}
        assert gateway.not_answered()["hopeless"] == 1

    with_cascade(allowed, (patient, SMALL), slow)
    with_cascade(not_allowed, (patient, SMALL), slow)


def test_a_deadline_that_leaves_no_time_for_both_is_the_routers():
    async def test(gateway):
        assert await ask(gateway, 0.9, until=time.monotonic() + 0.6) == ("small", None)
        assert "too few for both" in gateway.cascades()[""].why

    with_cascade(test, (LARGE._replace(curves={"server": Curve(1.0, 0.0)}), SMALL))


def test_who_waits_for_the_second_answer_can_go_and_a_swap_takes_them_along():
    async def test(gateway):
        told = []
        id = gateway.ask(Wanted("/sure", b'{"n": 0.1}'), told.append)
        while not gateway._requests[id].is_again:
            await asyncio.sleep(0.001)
        gateway.cancel(id)
        assert gateway.in_flight == 0
        heard, judged = asyncio.Event(), gateway._judge
        gateway._judge = lambda *told: (judged(*told), gateway.use({"": [LARGE, SMALL]}), heard.set())
        assert await ask(gateway, 0.1) == ("large", None) and heard.is_set(), "it waited for the large one, and was asked anew"
        gateway._judge = judged
        asked = asyncio.ensure_future(ask(gateway, 0.1))
        await asyncio.sleep(0)
        gateway.use({"": [LARGE]})
        assert await asked == ("large", None) and not told and not gateway.cascades()

    with_cascade(test, (LARGE._replace(curves={"server": Curve(0.2, 0.0)}), SMALL), {"large": 0.05, "small": 0.02})
