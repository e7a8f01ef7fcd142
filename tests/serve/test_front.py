"""The application before workers: the same answers and the same log as where one process does it, and what only it has."""

import asyncio
import contextlib
import hashlib
import json
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gyral.config.rerank import Rerank
from gyral.config.sections import Caller, DeviceTier, Serve
from gyral.http import Refused
from gyral.model.tiers import tiers
from gyral.serve.app import App
from gyral.serve.feedback import Impression
from gyral.serve.front import Front
from gyral.serve.gateway import Gateway
from gyral.serve.http1.answer import Response
from gyral.serve.opening import opened
from gyral.serve.pool import Settings
from gyral.serve.pooled import pooled
from gyral.serve.slots import DEFAULT, Slots

from .test_app import call
from .test_gateway import PLAIN
from .test_pool import job


class Kept(list):
    """Where impressions go."""

    appended = dropped = 0

    def add(self, one):
        self.append(one.logged() if isinstance(one, Impression) else one)


@contextlib.asynccontextmanager
async def arithmetic(config, kept=None, workers=1):
    """A front whose model adds: `/add` may be told again, `/sleep` not."""
    room = []
    async with pooled(job(), Settings(workers=workers), note=print, on_room=lambda: room and room[0].pump()) as pool:
        gateway = Gateway(pool, {DEFAULT: [PLAIN]}, tiers({}))
        room.append(gateway)
        front = Front(pool, gateway, None, config, kept)
        await front.learn()
        front.gateway = gateway
        yield front
        gateway.close()


def asked(front, path="/add", body=None, **headers):
    named = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    begun = front.begin(path, lambda name: named.get(name, b""), json.dumps(body or {"n": 1}).encode())
    if isinstance(begun, Response):
        begun, told = asyncio.get_running_loop().create_future(), begun
        begun.set_result(told)
    return begun


def run(test, *args, **options):
    async def inside():
        async with arithmetic(*args, **options) as front:
            await test(front)
            assert front.gateway.in_flight == 0

    asyncio.run(asyncio.wait_for(inside(), 60))


def metrics(front):
    """Name and labels → value, read by another parser than the writer."""
    families = text_string_to_metric_families(front.metrics.text().decode())
    return {(each.name, *sorted(each.labels.values())): each.value for family in families for each in family.samples}


def test_answers_and_the_log_are_those_of_one_process(made):
    bodies = [
        {"subject": "17850", "k": 3},
        {"subject": "nobody", "context": {"country": "France"}},
        {"subject": "17850", "k": 4, "model": "popularity"},
        {"subject": "13047", "k": 5, "context": {"recent": ["85123A", "22423"], "country": "France"}},
    ]
    slots, expected, mine = Slots(made.root, "shop", print), Kept(), Kept()
    app = App(slots, Serve(), expected)
    there = [json.loads(call(app, "POST", "/v1/recommend", json.dumps(each).encode())[2]) for each in bodies]
    slots.close()

    async def test():
        async with opened(made.root, "shop", Serve(workers=1, variants=["shop-int8"]), Rerank(), mine, {}, print) as front:
            told = [await asked(front, "/v1/recommend", each, x_min_quality="1") for each in bodies]
            assert [each.status for each in told] == [200] * 4
            assert {dict(each.headers)[b"x-model-version"] for each in told} == {b"1"}
            here = [json.loads(each.body) for each in told]
            for one, other in zip(here, there, strict=True):
                assert one.pop("request_id") != other.pop("request_id") and one == other
            for one, other in zip(mine, expected, strict=True):
                assert one._replace(request_id="", time_us=0) == other._replace(request_id="", time_us=0)
            assert json.loads((await asked(front, "/v1/recommend", bodies[0])).body)["model"] in ("shop@1", "shop-int8@1")
            too_many = await asked(front, "/v1/recommend", {"subject": "1", "k": 5_000})
            error = json.loads(too_many.body)["error"]
            assert too_many.status == 400 and error["where"] == "/v1/recommend" and error["hint"] == "at most 1,000"
            with pytest.raises(Refused, match="no model `other`"):
                asked(front, "/v1/recommend", {"subject": "1", "model": "other"})
            with pytest.raises(Refused, match="not a request"):
                front.begin("/v1/recommend", lambda name: b"", b"{")
            described = json.loads((await get(front, "/v1/model"))[2])
            assert described["model"] == "shop@1" and described["variants"] == {"shop": "shop@1", "shop-int8": "shop-int8@1"}
            assert described["card"]["model"] == "shop@1" and "quality" in described["chosen"][DEFAULT]
            assert (await get(front, "/v1/nothing"))[0] == 404

    asyncio.run(asyncio.wait_for(test(), 120))


async def get(app, path, *headers):
    return await asyncio.to_thread(call, app, "GET", path, b"", headers)


def test_an_answer_that_may_be_told_again_is_asked_for_once_and_logged_each_time():
    kept = Kept()

    async def test(front):
        told = await asyncio.gather(*(asked(front) for _ in range(5)), asked(front, body={"n": 7}))
        again = await asked(front)
        numbers = [json.loads(each.body)["n"] for each in [*told, again]]
        assert numbers == [2] * 5 + [8, 2] and len(kept) == 7
        ids = {json.loads(each.body)["request_id"] for each in [*told, again]}
        assert len(ids) == 7 and ids == {each.request_id for each in kept}
        found = metrics(front)
        assert found["gyral_requests_total", "/add", "200"] == 7 and found["gyral_cache_hits_total",] == 1
        assert found["gyral_request_seconds_count", "/add"] == 7

    run(test, Serve(cache_bytes=1 << 20), kept)


def test_without_a_cache_every_answer_is_made():
    async def test(front):
        await asyncio.gather(*(asked(front) for _ in range(5)))
        assert metrics(front)["gyral_cache_hits_total",] == 0

    run(test, Serve())


def test_one_client_that_goes_takes_no_answer_from_another():
    async def test(front):
        busy = asked(front, "/sleep", {"n": 0.3})
        await asyncio.sleep(0.05)
        one, other, alone = asked(front), asked(front), asked(front, body={"n": 3})
        one.cancel()
        alone.cancel()
        await asyncio.sleep(0)
        assert front.gateway.in_flight == 2
        assert json.loads((await other).body)["n"] == 2
        await busy
        assert metrics(front)["gyral_requests_total", "/add", "499"] == 2

    run(test, Serve(cache_bytes=1 << 20))


def test_a_client_that_goes_as_its_answer_comes_takes_nothing_from_who_asks_the_same_next():
    async def test(front):
        one, next_ = asked(front), []
        heard = front._heard

        def at_once(*told):
            front._heard = heard
            one.cancel()
            heard(*told)
            next_.append(asked(front))

        front._heard = at_once
        while not next_:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        next_.append(asked(front))
        assert front.gateway.in_flight == 1
        assert [json.loads((await each).body)["n"] for each in next_] == [2, 2]

    run(test, Serve(cache_bytes=1))  # shared while it is asked for, never kept


def test_a_swap_of_a_variant_does_not_make_the_model_newer_and_one_on_trial_begins_its_trial_anew(shop, publish):
    async def test():
        mine, others = (
            Caller(name=name, sha256=hashlib.sha256(name.encode()).hexdigest(), models=models)
            for name, models in (("mine", ["shop"]), ("others", ["shop-int"]))
        )
        key = (b"authorization", b"Bearer mine")
        config = Serve(workers=1, variants=["shop-int8"], canary="shop-int8", keys=[mine, others])
        async with opened(shop.root, "shop", config, Rerank(), None, {}, print) as front:

            async def swapped(name):
                version = publish(shop.root, name)
                while (told := json.loads((await get(front, "/v1/model", key))[2]))["variants"][name] != version:
                    await asyncio.sleep(0.02)
                return told["loaded_at"]

            first = json.loads((await get(front, "/v1/model", key))[2])["loaded_at"]
            wanted = {"subject": "17850", "k": 2, "model": "canary"}
            answer = await asked(front, "/v1/recommend", wanted, authorization="Bearer mine")
            assert json.loads(answer.body)["model"] == "shop-int8@1", "what was compressed from its model is its own"
            with pytest.raises(Refused, match="`others` may not ask `shop-int8@1`"):
                asked(front, "/v1/recommend", wanted, authorization="Bearer others")
            assert (await get(front, "/v1/model", (b"authorization", b"Bearer others")))[0] == 403
            assert await swapped("shop-int8") == first
            assert (front.trial.canary.old, front.trial.canary.new) == ("shop@1", "shop-int8@2")
            assert await swapped("shop") > first
            assert (front.trial.canary.old, front.trial.canary.new) == ("shop@2", "shop-int8@2")

    asyncio.run(asyncio.wait_for(test(), 120))


def test_keys_have_what_they_were_given_and_no_more():
    digest = hashlib.sha256(b"secret").hexdigest()

    async def test(front):
        with pytest.raises(Refused, match="wants a key") as refused:
            asked(front)
        assert refused.value.status == 401
        first = asked(front, authorization="Bearer secret", body={"n": 0.2}, path="/sleep")
        with pytest.raises(Refused, match="under way") as refused:
            asked(front, authorization="Bearer secret")
        assert refused.value.status == 429
        assert (await first).status == 200
        assert (await asked(front, authorization="Bearer secret")).status == 200
        gone = asked(front, "/sleep", {"n": 0.1}, authorization="Bearer secret")
        gone.cancel()
        await asyncio.sleep(0)
        assert (await asked(front, authorization="Bearer secret")).status == 200
        found = metrics(front)
        assert found["gyral_requests_total", "/add", "401"] == found["gyral_requests_total", "/add", "429"] == 1

    run(test, Serve(keys=[Caller(name="one", sha256=digest, at_once=1)]))


@pytest.mark.parametrize(("header", "value"), [("x_deadline_ms", "-1"), ("x_deadline_ms", "soon"), ("x_min_quality", "nan")])
def test_headers_that_say_nothing_are_refused(header, value):
    async def test(front):
        with pytest.raises(Refused, match="`x-") as refused:
            asked(front, **{header: value})
        assert refused.value.status == 400

    run(test, Serve())


def test_a_deadline_is_that_of_the_request_or_else_of_the_server():
    async def test(front):
        busy = asked(front, "/sleep", {"n": 2.0}, x_deadline_ms="9000")
        await asyncio.sleep(0.05)
        began = time.monotonic()
        late = await asked(front)
        assert late.status == 504 and json.loads(late.body)["error"]["where"] == "/add" and time.monotonic() - began < 1.8
        assert (await busy).status == 200 and (await asked(front, x_deadline_ms="5000")).status == 200

    run(test, Serve(deadline_ms=100))


def test_a_tier_says_deadline_and_floor_where_the_request_does_not_and_is_counted():
    phone = DeviceTier(memory_bytes=1, deadline_ms=8_000, round_trip_ms=2_000)
    own = {"phone": phone, "strict": DeviceTier(memory_bytes=1, min_quality=1.0)}

    async def test(front):
        async def left_s(**headers):
            return json.loads((await asked(front, **headers)).body)["left_s"]

        assert 5 < await left_s(x_gyral_tier="phone") < 6
        assert 6 < await left_s(x_gyral_tier="phone", rtt="500") < 7.5
        assert 2 < await left_s(x_gyral_tier="phone", x_deadline_ms="3000") < 3
        assert 59 < await left_s() < 60 and 59 < await left_s(x_gyral_tier="strict") < 60
        front.gateway.use({DEFAULT: [PLAIN._replace(quality=0.9)]})
        with pytest.raises(Refused, match="no variant is as good"):
            asked(front, x_gyral_tier="strict")
        await asked(front, x_gyral_tier="strict", x_min_quality="0.5")
        with pytest.raises(Refused) as told:
            asked(front, x_gyral_tier="phon")
        assert told.value.status == 400 and "`phone`" in told.value.hint
        with pytest.raises(Refused) as told:
            asked(front, x_gyral_tier="fridge")
        assert "`laptop`, `phone`, `server`, `strict`" in told.value.hint
        counted = metrics(front)
        assert counted[("gyral_tier_requests_total", "phone")] == 3 and counted[("gyral_tier_requests_total", "strict")] == 3
        assert counted[("gyral_tier_requests_total", "server")] == 1

    run(test, Serve(tiers=own, deadline_ms=60_000))
