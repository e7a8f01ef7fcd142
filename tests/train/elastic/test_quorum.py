"""The membership as a game: members beat, stand, die and come back in any order, and the rules of the protocol hold."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gyral.train.elastic.messages import Beat, Hello, Peer, Ready, Stand
from gyral.train.elastic.quorum import Quorum

HEARTBEAT_S = 1.0


def quorum(workers=2, **options):
    return Quorum(workers, heartbeat_s=HEARTBEAT_S, timeout_s=30.0, start_s=10.0, **options)


def peer(name):
    return Peer(name, name, "127.0.0.1", 1)


FRESH = Stand()


def come(found, name, now, stand=FRESH, epoch=0, others=()):
    found.hello(Hello(peer(name), stand, epoch, list(others)), now)
    found.ready(name, Ready(stand, epoch), now)


def test_a_run_begins_when_all_workers_are_there():
    found = quorum(2)
    come(found, "a", 0.0)
    assert found.tick(0.1) is None
    come(found, "b", 0.2)
    epoch = found.tick(0.3)
    assert [each.id for each in epoch.members] == ["a", "b"] and epoch.number == 1 and epoch.healed == []


def test_or_with_fewer_after_a_while():
    found = quorum(2)
    come(found, "a", 0.0)
    for tenth in range(1, 100):
        found.beat("a", Beat("wait", 0, 0, []), tenth / 10)
        assert found.tick(tenth / 10) is None
    found.beat("a", Beat("wait", 0, 0, []), 10.1)
    assert found.tick(10.2) is not None


def test_the_greatest_stand_heals_the_others():
    found = quorum(3)
    come(found, "a", 0.0)
    come(found, "b", 0.0, Stand(5, 2), 2, ["b", "c"])
    come(found, "c", 0.0, Stand(5, 1), 1, [])
    epoch = found.tick(0.1)
    assert (epoch.stand, epoch.source, epoch.healed) == (Stand(5, 2), "b", ["a", "c"])
    assert epoch.number == 3


def test_a_new_coordinator_waits_for_those_it_hears_of():
    found = quorum(2, epoch=4, now=100.0)
    come(found, "a", 100.1, Stand(9, 4), 4, ["a", "b"])
    assert found.tick(100.2) is None and found.is_pending
    found.beat("a", Beat("wait", 4, 0, []), 101.9)
    assert found.tick(101.9) is None
    found.beat("a", Beat("wait", 4, 0, []), 102.2)
    assert [each.id for each in found.tick(102.2).members] == ["a"]


def test_a_cut_leaves_out_who_is_in_most_waits():
    found = quorum(3)
    for name in "abc":
        come(found, name, 0.0)
    epoch = found.tick(0.1)
    for tenth in range(1, 40):
        for name, waits in [("a", ["b"]), ("b", ["a", "c"]), ("c", ["b"])]:
            found.beat(name, Beat("wait", epoch.number, 0, waits), tenth / 10)
        found.tick(tenth / 10)
    assert found.left_out == ["b"] and "nothing moved" in found.broken


def test_a_member_that_only_computes_for_long_is_no_cut():
    found = quorum(2)
    come(found, "a", 0.0)
    come(found, "b", 0.0)
    epoch = found.tick(0.1)
    for tenth in range(1, 100):
        found.beat("a", Beat("wait", epoch.number, 0, ["b"]), tenth / 10)
        found.beat("b", Beat("work", epoch.number, 0, []), tenth / 10)
        assert found.tick(tenth / 10) is None
    assert found.left_out == [] and not found.broken


class Member:
    """What a real member does with what it is told, with a number for its weights: the history of epochs that it applied."""

    def __init__(self, name):
        self.name, self.stand, self.epoch, self.history = name, Stand(), None, ()
        self.is_ready = False


class Game(RuleBasedStateMachine):
    """Any interleaving of computing, partial reductions, deaths, silence, joins and a new coordinator."""

    def __init__(self):
        super().__init__()
        self.now, self.count = 0.0, 0
        self.members = {}
        self.quorum = quorum(1)
        self.used = set()

    def _stand(self, member, why=""):
        member.is_ready = True
        self.quorum.ready(member.name, Ready(member.stand, member.epoch.number if member.epoch else 0, why), self.now)

    def _tick(self):
        for name in self.members:
            self.quorum.beat(name, Beat("work", 0, 0, []), self.now)
        epoch = self.quorum.tick(self.now)
        if epoch is None:
            return
        inside = [self.members[each.id] for each in epoch.members]
        assert all(member.is_ready for member in inside)
        source = self.members[epoch.source]
        for member in inside:
            if member.name in epoch.healed:
                member.stand, member.history = source.stand, source.history
            member.epoch, member.is_ready = epoch, False
        assert {member.stand for member in inside} == {epoch.stand} and len({member.history for member in inside}) == 1
        assert epoch.number not in self.used
        self.used.add(epoch.number)

    @precondition(lambda self: len(self.members) < 5)
    @rule()
    def join(self):
        self.count += 1
        member = self.members[f"m{self.count}"] = Member(f"m{self.count}")
        self.quorum.hello(Hello(peer(member.name), member.stand, 0, []), self.now)
        self._stand(member)

    @rule(data=st.data())
    def step(self, data):
        """A step of the epoch that stands reaches some of its members; the others have lost it."""
        self._tick()
        epoch = self.quorum.epoch
        if epoch is None or self.quorum.broken:
            return
        inside = [self.members[each.id] for each in epoch.members]
        if any(member.is_ready or member.epoch is not epoch for member in inside):
            return
        got = data.draw(st.sets(st.sampled_from(range(len(inside))))) if data.draw(st.booleans()) else range(len(inside))
        for at in got:
            member = inside[at]
            member.history += ((member.stand.step, epoch.number),)
            member.stand = Stand(member.stand.step + 1, epoch.number)
        if len(got) < len(inside):
            for at, member in enumerate(inside):
                self._stand(member, "" if at in got else "a chunk did not come")

    @rule()
    def meet(self):
        """All see that somebody waits, and stand at the same boundary."""
        epoch = self.quorum.epoch
        if epoch is not None and (self.quorum.is_pending or self.quorum.broken):
            for each in epoch.members:
                if each.id in self.members and not self.members[each.id].is_ready:
                    self._stand(self.members[each.id])
        self._tick()

    @precondition(lambda self: self.members)
    @rule(data=st.data())
    def die(self, data):
        name = data.draw(st.sampled_from(sorted(self.members)))
        del self.members[name]
        self.quorum.lost(name, self.now)

    @rule()
    def coordinator_dies(self):
        self.quorum = quorum(1, epoch=self.quorum.last, now=self.now)
        for member in self.members.values():
            epoch = member.epoch
            others = [each.id for each in epoch.members] if epoch else []
            self.quorum.hello(Hello(peer(member.name), member.stand, epoch.number if epoch else 0, others), self.now)
            self._stand(member)

    @rule(seconds=st.floats(0.01, 0.4))
    def wait(self, seconds):
        self.now += seconds
        self._tick()

    @invariant()
    def those_who_train_together_have_the_same_weights(self):
        by_stand = {}
        for member in self.members.values():
            by_stand.setdefault(member.stand, set()).add(member.history)
        assert all(len(histories) == 1 for histories in by_stand.values()), by_stand

    @invariant()
    def each_step_is_applied_once_on_the_way_to_any_weights(self):
        for member in self.members.values():
            assert [step for step, _ in member.history] == list(range(member.stand.step))


Game.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestGame = Game.TestCase
