"""A model on trial: who sees it, what stops it, and what nobody sees of it."""

import asyncio
import json

import pytest

from gyral.config.sections import Serve
from gyral.model.tiers import tiers
from gyral.serve.engine import Part
from gyral.serve.following import CANARY
from gyral.serve.front import Front
from gyral.serve.gateway import Gateway
from gyral.serve.pool import Settings
from gyral.serve.pooled import pooled
from gyral.serve.said import Said
from gyral.serve.slots import DEFAULT
from gyral.serve.trial import Trial

from .test_front import Kept, asked
from .test_gateway import PLAIN
from .test_pool import job


def with_trial(test, kept=None, **config):
    """A front with a model on trial; both are answered by the same back end, so a test says which one fails."""

    async def run():
        room = []
        version = f"a=a@1 slot:{CANARY}=a@2"
        settings = Serve(canary="a@2", **{"canary_share": 0.25, **config})
        on_room = lambda: room and room[0].pump()  # noqa: E731
        async with pooled(job(version), Settings(), note=print, on_room=on_room) as pool:
            gateway = Gateway(pool, {DEFAULT: [PLAIN], CANARY: [PLAIN._replace(name=f"slot:{CANARY}")]}, tiers({}))
            room.append(gateway)
            front = Front(pool, gateway, None, settings, kept, note=print)
            await front.learn()
            front.gateway = gateway
            await test(front)
            gateway.close()

    asyncio.run(asyncio.wait_for(run(), 60))


async def slots(front, kept):
    """The slot that each of 400 subjects was answered by, as the log has it."""
    told = await asyncio.gather(*(asked(front, body={"n": 1, "subject": f"s{n}"}) for n in range(400)))
    logged = {each.request_id: each.props["slot"] for each in kept}
    return [logged[json.loads(each.body)["request_id"]] for each in told]


def test_somebody_is_always_in_one_arm_and_the_log_says_which_and_with_what_chance():
    kept = Kept()

    async def test(front):
        first, again = [await slots(front, kept) for _ in range(2)]
        assert first == again and set(first) == {DEFAULT, CANARY}
        assert 60 < first.count(CANARY) < 140  # 100 with a deviation of 9
        chances = {(each.props["slot"], each.props["propensity"]) for each in kept}
        assert chances == {(DEFAULT, 0.75), (CANARY, 0.25)}
        front.trial.canary.stop()
        kept.clear()
        await asyncio.gather(*(asked(front, body={"n": 1, "subject": f"s{n}"}) for n in range(50)))
        assert {each.props["slot"] for each in kept} == {DEFAULT}

    with_trial(test, kept)


def test_shadowed_requests_are_asked_of_both_and_answered_by_one():
    async def test(front):
        told = await asyncio.gather(*(asked(front, body={"n": 1, "subject": f"s{n}"}) for n in range(60)))
        assert {each.status for each in told} == {200}
        while front.gateway.in_flight:
            await asyncio.sleep(0.01)
        assert 30 <= len(front.trial._pairs) <= 60 and set(front.trial._pairs) == {(False, False)}

    with_trial(test, shadow_share=1.0)


def test_a_swap_of_either_begins_another_trial_and_what_was_asked_before_counts_for_the_old_one():
    async def test(front):
        def answers(version):
            return front._pool.swap(version)

        first = front.trial
        await answers(f"a=a@3 slot:{CANARY}=a@2")
        waits = asked(front, body={"n": 1, "subject": "s"})
        front._renew()
        second = front.trial
        assert (second.canary.old, second.canary.new) == ("a@3", "a@2") and second is not first
        await waits
        assert not second._who and len(first._who) == 1
        told = await asked(front, body={"n": 1, "subject": "s"})
        front.said([Said(json.loads(told.body)["request_id"], "rejected")])
        tests = [each.canary._tests["rejected"] for each in (first, second)]
        assert [each.here + each.there for each in tests] == [0, 1]
        front._renew()
        assert front.trial is second
        second.canary.stop("for the test")
        await answers(f"a=a@4 slot:{CANARY}=a@2")
        front._renew()
        assert front.trial is second  # a model that was stopped is not let in by its neighbour's swap
        await answers(f"a=a@4 slot:{CANARY}=a@5")
        front._renew()
        assert (front.trial.canary.old, front.trial.canary.new) == ("a@4", "a@5") and not front.trial.canary.is_stopped

    with_trial(test, Kept())


@pytest.mark.parametrize("measure", ["error", "late", "rejected"])
def test_a_worse_model_is_stopped_and_one_that_is_as_bad_is_not(measure, monkeypatch):
    # Who is in which arm is drawn for each trial, and one as bad is stopped in up to one of three hundred of them.
    monkeypatch.setattr("gyral.serve.scheduling.canary.secrets.token_hex", lambda size: "fixed")

    def run(is_worse):
        notes = []
        trial = Trial("a@1", "a@2", 0.2, 0.0, notes.append)
        for n in range(2_000):
            subject = f"s{n}"
            is_new = trial.arm(subject).version == "a@2"
            if n % (3 if is_new and is_worse else 12) == 0:
                status = {"error": 500, "late": 504, "rejected": 200}[measure]
                trial.answered(f"r{n}", subject, Part(0, status, b""))
                if measure == "rejected":
                    trial.said([Said(f"r{n}", "rejected"), Said("unknown", "rejected"), Said(f"r{n}", "chosen")])
        return trial.canary.is_stopped, notes

    stopped, notes = run(True)
    assert stopped and len(notes) == 1 and f"`{measure}`" in notes[0] and "a@2" in notes[0]
    assert run(False) == (False, [])


def test_answers_that_nobody_sees_stop_it_where_they_fail_alone():
    notes = []
    trial = Trial("a@1", "a@2", 0.2, 1.0, notes.append)
    for _ in range(50):
        trial.shadowed(Part(0, 500, b""), Part(0, 500, b""))
    assert not trial.canary.is_stopped
    for _ in range(50):
        trial.shadowed(Part(0, 200, b""), Part(0, 500, b""))
    assert trial.canary.is_stopped and len(notes) == 1
