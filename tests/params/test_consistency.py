"""Clocks, bounds and leases; and all of a shard on a virtual clock, against an adversary."""

import pytest

from gyral.errors import ConfigError
from gyral.params.consistency import Clocks, Fenced, Staleness, parsed

from .simulator import Simulator, Violation


@pytest.mark.parametrize("words", ["bsp", "ssp:0", "ssp:4", "async"])
def test_rules_are_what_was_written(words):
    assert str(parsed(words)) == words


@pytest.mark.parametrize("words", ["", "ssp", "ssp:-1", "ssp:x", "bsp:1", "allreduce"])
def test_what_is_no_rule_is_said(words):
    with pytest.raises(ConfigError, match="ssp:4"):
        parsed(words)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("sync", ["bsp", "ssp:0", "ssp:1", "ssp:3", "async"])
def test_every_pull_sees_what_it_must(seed, sync):
    world = Simulator(seed, sync, workers=3 + seed % 2, shards=1 + seed % 3, cuts=0.1 * (seed % 3))
    world.run()
    bound = world.rule.bound
    if bound >= 0:
        assert world.lead <= bound  # of a clock that reads
        assert all(max(shard.staleness.clocks) <= bound for shard in world.shards)
    keys = world.workers[0].keys
    total = sum(shard.tables[0].table.pull(keys)[0] for shard in world.shards)
    assert (total == -world.clocks).all()  # each push once, links cut or not


def test_workers_do_run_ahead_as_far_as_they_may():
    leads = {sync: max(_lead(seed, sync) for seed in range(10)) for sync in ("bsp", "ssp:1", "ssp:3", "async")}
    assert leads.pop("async") > 4 and leads == {"bsp": 0, "ssp:1": 1, "ssp:3": 3}


def _lead(seed, sync):
    world = Simulator(seed, sync)
    world.run()
    return world.lead


@pytest.mark.parametrize("sync", ["bsp", "ssp:1", "ssp:3"])
def test_a_bound_that_is_one_looser_is_found_out(sync, monkeypatch):
    def loose(self, clock):
        finished = self.finished()
        return finished is None or finished >= clock - self.sync.bound - 1

    monkeypatch.setattr(Clocks, "may_pull", loose)
    found = 0
    for seed in range(12):
        try:
            Simulator(seed, sync).run()
        except Violation:
            found += 1
    assert found >= 6


def test_whoever_is_silent_no_longer_counts():
    clocks = Clocks(parsed("ssp:1"), lease_s=10, join_s=20)
    clocks.expect(2, now=0)
    clocks.join(0, 5, now=0)
    clocks.tick(0, 2)
    assert not clocks.may_pull(2) and clocks.behind(2) == "worker 1 has not come yet"
    clocks.check(0, 5, now=15)
    assert clocks.expire(19) == [] and clocks.expire(21) == [1]
    assert clocks.may_pull(2)
    assert clocks.expire(26) == [0]
    with pytest.raises(Fenced, match="silent"):
        clocks.check(0, 5, now=26)
    with pytest.raises(Fenced):
        clocks.join(0, 5, now=26)
    assert clocks.join(0, 6, now=26).ticked == 2
    with pytest.raises(Fenced, match="incarnation 6"):
        clocks.check(0, 5, now=27)


def test_one_that_comes_late_starts_where_the_others_are():
    clocks = Clocks(parsed("ssp:1"), lease_s=10)
    for worker in (0, 1):
        clocks.join(worker, 1, now=0)
        clocks.tick(worker, 7 + worker)
    assert clocks.join(9, 1, now=0).ticked == 7
    clocks.leave(0)
    clocks.leave(9)
    assert clocks.finished() == 8


def test_a_shard_that_comes_back_believes_no_clock_whose_pushes_it_may_have_lost():
    clocks = Clocks(parsed("ssp:1"), lease_s=10, join_s=20)
    for worker in (0, 1):
        clocks.join(worker, 3, now=0)
    clocks.tick(0, 4)
    safe = clocks.ticks()
    clocks.tick(0, 9)
    clocks.leave(1)
    again = Clocks(parsed("ssp:1"), lease_s=10, join_s=20)
    again.recall(clocks.noted(safe), now=100)
    assert again.ticks() == {0: 4, 1: 0} and again.members[1].is_live is False
    assert again.expire(119) == [] and again.expire(121) == [0]
    with pytest.raises(Fenced):
        again.join(0, 2, now=100)


def test_staleness_counts_pushes_of_others_since_the_last_pull():
    seen = Staleness()
    seen.pulled(0, 0)
    seen.pushed(1)  # has pulled nothing: 0
    seen.pushed(1)
    seen.pushed(0)  # 2
    seen.pulled(0, 3)
    seen.pushed(0)  # 0
    for _ in range(100):
        seen.pushed(1)
    seen.pushed(0)  # 100, counted as 64
    assert seen.told() == {"pushes": {0: 103, 2: 1, 64: 1}, "clocks": {0: 1, 3: 1}}
