"""Membership by torchft's lighthouse: the same as by the own coordinator, whoever dies; and what a quorum means."""

import signal
import sys

import pytest

from gyral.errors import MissingExtra
from gyral.train.elastic import lighthouse
from gyral.train.elastic.lighthouse import Said, settled
from gyral.train.elastic.messages import Peer, Stand


@pytest.fixture
def lit(stage):
    """A run with a lighthouse."""
    pytest.importorskip("torchft")
    return lambda **settings: stage(membership="torchft", **settings)


def said(number, stand, epoch=0, others=(), is_whole=True, quorum=0, is_tired=False, is_sure=False):
    peer = Peer(f"m{number}", f"member {number}", "127.0.0.1", number)
    return Said(peer, Stand(*stand), epoch, list(others), is_whole, quorum, is_tired, is_sure, [])


def test_a_run_waits_for_its_workers_but_not_for_ever():
    one = {"m1": said(1, (0, 0))}
    assert settled(one, 1, workers=2) is None
    assert settled({"m1": said(1, (0, 0), is_tired=True)}, 1, workers=2).number == 1
    both = settled({"m2": said(2, (0, 0)), **one}, 7, workers=2)
    assert both.number == 7 and [peer.id for peer in both.members] == ["m1", "m2"] and both.healed == []


def test_an_epoch_stays_while_nothing_has_changed():
    again = {f"m{at}": said(at, (9, 4), 4, ["m1", "m2"]) for at in (1, 2)}
    assert settled(again, 3, workers=2).number == 4
    assert settled({**again, "m2": said(2, (9, 4), 4, ["m1", "m2"], is_whole=False)}, 3, workers=2).number == 5
    newcomer = settled({**again, "m3": said(3, (0, 0))}, 3, workers=2)
    assert newcomer.number == 5 and newcomer.healed == ["m3"] and newcomer.source == "m1" and newcomer.stand == Stand(9, 4)


def test_a_lighthouse_that_was_started_anew_is_not_believed_at_once():
    """It has heard one of two: both would go on alone. One that knows of a death has counted it."""
    alone = said(1, (9, 4), 4, ["m1", "m2"], is_whole=False, quorum=1)
    assert settled({"m1": alone}, 1, workers=2) is None
    assert settled({"m1": alone}, 2, workers=2).number == 5
    sure = said(1, (9, 4), 4, ["m1", "m2"], is_whole=False, quorum=1, is_sure=True)
    assert settled({"m1": sure}, 1, workers=2).number == 5
    assert settled({"m1": sure, "m3": said(3, (0, 0))}, 1, workers=2) is None


def test_of_equal_steps_the_later_epoch_is_the_truth():
    apart = {"m1": said(1, (9, 4), 4, ["m1", "m2"]), "m2": said(2, (9, 6), 6, ["m2", "m3"], is_whole=False)}
    found = settled(apart, 5, workers=2)
    assert found.number == 7 and found.source == "m2" and found.healed == ["m1"]


def test_without_torchft_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torchft.coordination", None)
    with pytest.raises(MissingExtra) as error:
        lighthouse.Lighthouse("http://127.0.0.1:1", tmp_path, tmp_path, workers=1, heartbeat_s=1, timeout_s=1, start_s=1)
    assert "gyral[torchft]" in error.value.hint


def test_a_member_of_a_lighthouse_is_killed_and_comes_back(lit, fault_free):
    free = fault_free(steps=60)
    run = lit(pause_s=0.05).open(2)
    first, _ = run.join(), run.join()
    run.until_step(10)
    run.kill(first)
    run.until(lambda: run.lines()[-1]["members"] == 1)
    run.join()
    run.ends_as(free)
    assert {line["members"] for line in run.lines()} == {1, 2} and run.lines()[-1]["members"] == 2


def test_the_lighthouse_dies_and_a_member_is_stopped(lit, fault_free):
    free = fault_free(steps=60)
    run = lit(pause_s=0.05).open(2)
    stopped, _ = run.join(), run.join()
    run.until_step(10)
    run.coordinator.kill()
    run.coordinator.wait()
    run.light()
    run.until_step(20)
    run.kill(stopped, signal.SIGSTOP)
    run.until(lambda: run.lines()[-1]["members"] == 1)
    run.kill(stopped, signal.SIGCONT)
    run.ends_as(free)
    assert {line["members"] for line in run.lines()} == {1, 2} and run.lines()[-1]["members"] == 2


@pytest.mark.parametrize("point", ["elastic.gathering:15", "elastic.committed:15"])
def test_whoever_writes_the_ledger_dies_where_it_hurts(lit, fault_free, point):
    free = fault_free(steps=60)
    run = lit(pause_s=0.05).open(2)
    run.join(GYRAL_FAULT=point)
    run.join()
    run.until(lambda: run.lines() and run.lines()[-1]["members"] == 1)
    run.join()
    run.ends_as(free)
    assert {line["members"] for line in run.lines()} == {1, 2}
