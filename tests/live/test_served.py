"""A live model that is let go, one behind workers, and one whose learner dies all day."""

import asyncio
import errno
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import httpx
import numpy as np

from gyral.config.rerank import Rerank
from gyral.config.sections import Serve
from gyral.live import watched
from gyral.live.learner import Job, Learner
from gyral.model import card as cards
from gyral.model.card import Card, Weights
from gyral.model.live import places
from gyral.model.live.following import Follower
from gyral.model.live.journal import Journal, Step
from gyral.model.live.known import Known
from gyral.model.live.served import LIVE, Freshness
from gyral.serve.opening import opened
from gyral.train.gate import Verdict


def followers():
    return [each for each in threading.enumerate() if each.name == "live"]


def waits_for(what, seconds=20):
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until
        time.sleep(0.02)


def publish(root):
    settings = {"kind": "live", "name": "days", "dim": 8, "seed": 0}
    return cards.publish(root, "days-live", Weights({"none": np.zeros(1)}, settings), None, Card(family="live")).model


def test_a_model_that_nobody_holds_is_followed_no_more(tmp_path):
    folder = tmp_path / "models" / publish(tmp_path)
    before = len(followers())
    served = LIVE.load(folder)
    assert len(followers()) == before + 1 and served.card["live"]["version"] == 0
    del served
    gc.collect()
    waits_for(lambda: len(followers()) == before)


def test_a_clock_that_jumped_does_not_stay_in_what_is_told(tmp_path, monkeypatch):
    fresh, journal, now, steady = Freshness(), Journal(tmp_path), time.time(), time.monotonic()
    follower = Follower(tmp_path, Known(4), fresh.add)
    for seq, ahead_s in enumerate((0, 2 * 86_400, -3_600, 0), 1):
        monkeypatch.setattr(time, "time", lambda ahead_s=ahead_s: now + ahead_s)
        monkeypatch.setattr(time, "monotonic", lambda seq=seq: steady + 6 * seq)
        journal.add(Step(seq, {}, [], [], [(int(1e6 * (now + ahead_s)) - 50_000, seq)], 0))
        places.publish(tmp_path, places.Published(version=seq, step=seq))
        assert follower.poll() and round(follower.told()["silent_s"], 2) == 0.05
        assert len(fresh._recent) == min(seq, 2)  # of ten seconds, whatever the clock said meanwhile
    assert fresh.told()["events"] == 10
    fresh.add(-3_600.0, 1_000)  # the clock of who took them is ahead
    assert fresh.told()["recent_p50"] == 0.0
    monkeypatch.setattr(time, "time", lambda: now - 3_600)
    assert follower.told()["silent_s"] == 0.0
    journal.close()


def test_behind_workers_it_says_how_it_is_now_and_not_how_it_was_when_they_began(tmp_path):
    name = publish(tmp_path)

    async def version(front):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(front), base_url="http://front") as client:
            return (await client.get("/v1/model")).json()["card"]["live"]["version"]

    async def test():
        async with opened(tmp_path, name, Serve(workers=1), Rerank(), None, {}, print) as front:
            assert await version(front) == 0
            folder = places.folder_of(tmp_path, "days")
            folder.mkdir(parents=True)
            places.publish(folder, places.Published(version=7))
            until = time.monotonic() + 20
            while await version(front) != 7:
                assert time.monotonic() < until

    asyncio.run(asyncio.wait_for(test(), 90))


def test_a_full_disk_puts_a_publication_off_and_ends_no_learner():
    class Full:
        published, refusals = places.Published(), 1

        def newest(self):
            return places.Published(version=self.published.version + 1)

        def publish(self, newest):
            if self.refusals:
                self.refusals -= 1
                raise OSError(errno.ENOSPC, "No space left on device")
            self.published = newest

    learner = Learner.__new__(Learner)
    learner.server, learner.model = Full(), None
    learner.online = SimpleNamespace(hour=9, cut=lambda published: None)
    learner.gate = SimpleNamespace(check=lambda *_: Verdict(True, 0.0, 0.0, False))
    learner.publish()
    assert learner.server.published.version == 0
    learner.publish()
    assert learner.server.published == places.Published(version=1, hour=9)


def test_a_learner_that_had_worked_is_started_again_however_often(tmp_path, monkeypatch):
    """Three deaths are one more than is allowed in a row; a life of .3 s is not young here."""
    monkeypatch.setattr(watched, "RESTARTS", 2)
    monkeypatch.setattr(watched, "BACKOFF_S", 0.0)
    code = "import sys, time; print('{}', flush=True); sys.stdin.read() and 0"

    class Stub(watched.Watched):
        def _one(self):
            command = [sys.executable, "-c", code]
            monkeypatch.setattr(watched.subprocess, "Popen", lambda _, **more: subprocess_popen(command, **more))
            return super()._one()

    subprocess_popen = subprocess.Popen
    for young_s, is_given_up in ((0.1, False), (60.0, True)):
        monkeypatch.setattr(watched, "YOUNG_S", young_s)
        folder = tmp_path / str(young_s)
        folder.mkdir()
        (folder / "learner.json").write_text(json.dumps({}))
        with Stub(Job(str(folder), "days", {}), folder, lambda _: None) as learner:
            for deaths in range(1, 4):
                waits_for(lambda: learner.pid or learner.error)
                time.sleep(0.3)
                if learner.error is None:
                    os.kill(learner.pid, signal.SIGKILL)
                    waits_for(lambda deaths=deaths: learner.restarts == deaths or learner.error)
            assert (learner.error is not None) is is_given_up
