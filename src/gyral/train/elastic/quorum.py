"""Who takes part, decided from what members say and when: a state machine without sockets, threads or clock.

**What must hold.** Each step's update is applied exactly once on the way to the weights that are kept, whoever dies when, and
members that train together have the same weights, bit for bit.

**Why a step needs no vote.** In an epoch every chunk of a step's sum is added up by one member and sent to all, so whoever gets
all chunks of step s in epoch e gets the same bytes: (s + 1, e), a *stand*, names one set of weights. A step that some have and
others have not (its sender died between two sends) is settled at the next boundary: everybody says its stand, the greatest is
the truth, and the others are *healed*: they take weights and optimizer from a member that stands there, and go on with its next
step. If that member dies first, nobody who is left has its step, and it is computed again. Either way it counts once.

- A member of e can be one step ahead of another of e, not two: step s + 1 needs a part of everybody.
- A member cut off alone at (s + 1, e) cannot go on, as nobody adds with it. If the others then compute s once more, they stand
  at (s + 1, e') with e' > e: equal but for the order of additions, and the later epoch is the truth when it returns.
- Numbers of epochs are written to the disk before they are said (`coordinator`), so none is used twice, restarts included.

**When an epoch ends.** It is *broken* by a member whose connection ends (a kill: at once), who misses its heartbeats (stopped
or cut off: after one `heartbeat_s`), or who says that a reduction failed; all of it are told and give the step up. A newcomer
breaks nothing: it is announced, the word travels with the next reduction, and all meet at the same boundary.

**A cut between two members who both reach the coordinator** shows as everybody waiting while no byte moves for two
`heartbeat_s`: longer than a silence takes to be noticed, or whoever waits for a stopped member would be left out in its place.
Then the member that takes part in most of the waits is left out, of equals the newest, and may try again after a pause that
doubles.

**When one begins.** As soon as all who live stand at the boundary. A new coordinator gives those named by others one second to
come back; a new run waits for all workers, or `start_s`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gyral.train.elastic.messages import Beat, Epoch, Hello, Peer, Ready, Stand

RETURN_S = 1.0
"""How long a new coordinator waits for members it only knows from others, and the shortest pause of one who was left out."""
MAX_PAUSE_S = 60.0


@dataclass
class _Member:
    peer: Peer
    stand: Stand
    number: int
    heard: float
    since: float
    is_ready: bool = False
    asked: float = 0.0
    epoch: int = 0
    phase: str = "work"
    moved: int = -1
    changed: float = 0.0
    waits_for: list[str] = field(default_factory=list)


class Quorum:
    """The membership of one run.

    Parameters
    ----------
    workers : members that a new run waits for.
    heartbeat_s : of silence, after which a member is left out.
    timeout_s : that a living member may take to come to the boundary.
    start_s : that a new run waits for all its workers.
    epoch : number of the last one.
    now : seconds of any clock that only rises, here and everywhere below.
    """

    def __init__(
        self, workers: int, *, heartbeat_s: float, timeout_s: float, start_s: float, epoch: int = 0, now: float = 0.0
    ) -> None:
        self.workers, self.heartbeat_s, self.timeout_s, self.start_s = workers, heartbeat_s, timeout_s, start_s
        self.last = epoch
        self.epoch: Epoch | None = None
        self.broken = ""
        self.is_done = False
        self.left_out: list[str] = []
        """Ids whose connection the caller is to end; it empties the list."""
        self._members: dict[str, _Member] = {}
        self._named: set[str] = set()
        self._pauses: dict[str, tuple[float, float]] = {}
        self._begun, self._now, self._count = now, now, 0

    @property
    def is_pending(self) -> bool:
        """Whether somebody who is not in the epoch wants to be."""
        if self.is_ending:
            return False
        if self.epoch is None:
            return any(member.epoch for member in self._members.values())
        inside = self._inside()
        return any(member.is_ready and id not in inside for id, member in self._admitted().items())

    @property
    def is_ending(self) -> bool:
        """Whether a member has done all steps."""
        return self.is_done or any(member.phase == "end" for member in self._members.values())

    @property
    def writer(self) -> str:
        """The oldest of those that have done all steps."""
        return min(((m.number, id) for id, m in self._members.items() if m.phase == "end"), default=(0, ""))[1]

    def hello(self, said: Hello, now: float) -> None:
        """Somebody came, or came back."""
        id, self._now = said.peer.id, now
        known = self._members.get(id)
        self._count += 1
        number = known.number if known else self._count
        self._members[id] = _Member(said.peer, said.stand, number, now, since=now, changed=now, epoch=said.epoch)
        self._named.update(said.others)
        self.last = max(self.last, said.epoch)

    def beat(self, id: str, said: Beat, now: float) -> None:
        """Somebody lives."""
        member = self._members.get(id)
        if member is None:
            return
        member.heard = now
        if (said.moved, said.epoch, said.phase) != (member.moved, member.epoch, member.phase):
            member.changed = now
        member.moved, member.epoch, member.phase, member.waits_for = said.moved, said.epoch, said.phase, said.waits_for

    def ready(self, id: str, said: Ready, now: float) -> None:
        """Somebody stands at the boundary."""
        member = self._members.get(id)
        if member is None:
            return
        member.heard, member.stand, member.is_ready, member.phase = now, said.stand, True, "wait"
        if said.why and self.epoch is not None and said.epoch == self.epoch.number:
            self._break(f"{member.peer.name}: {said.why}", now)

    def lost(self, id: str, now: float, why: str = "its connection ended") -> None:
        """Somebody is gone."""
        member = self._members.pop(id, None)
        if member is not None and id in self._inside():
            self._break(f"{member.peer.name} is gone: {why}", now)

    def tick(self, now: float) -> Epoch | None:
        """Judge who is silent or stuck; a new epoch, when one can begin."""
        self._now = now
        for id, member in list(self._members.items()):
            if now - member.heard > self.heartbeat_s and len(self._members) > 1:  # nobody goes on without the last one
                self._leave_out(id, now, f"no heartbeat for {now - member.heard:.2f} s")
        self._look_for_cuts(now)
        inside = self._inside()
        is_met = any(member.is_ready for id, member in self._members.items() if id in inside)
        if self.epoch is not None and not (self.broken or self.is_pending or is_met):
            return None
        waiting = {id: member for id, member in self._members.items() if not member.is_ready and member.phase != "end"}
        for id, member in waiting.items():
            member.asked = member.asked or now
            if (self.broken or self.epoch is None) and now - member.asked > self.timeout_s:
                self._leave_out(id, now, f"it came to no boundary within {self.timeout_s:g} s")
        standing = {id: member for id, member in self._admitted().items() if member.is_ready}
        if waiting or not standing or self.is_ending or not self._may_begin(standing, now):
            return None
        return self._begin(standing)

    def _admitted(self) -> dict[str, _Member]:
        """Those that have no pause; all, when nobody else is there."""
        free = {id: member for id, member in self._members.items() if self._pauses.get(id, (0.0, 0.0))[0] <= self._now}
        return free or self._members

    def _may_begin(self, standing: dict[str, _Member], now: float) -> bool:
        if self.epoch is not None:
            return True
        if any(member.stand > Stand() or member.epoch for member in standing.values()):
            return self._named <= set(standing) or now - self._begun > max(RETURN_S, 2 * self.heartbeat_s)
        first = min(member.since for member in standing.values())
        return len(standing) >= self.workers or now - first > self.start_s

    def _begin(self, standing: dict[str, _Member]) -> Epoch:
        order = sorted(standing, key=lambda id: standing[id].number)
        truth = max(standing[id].stand for id in order)
        source = next(id for id in order if standing[id].stand == truth)
        healed = [id for id in order if standing[id].stand != truth]
        self.last += 1
        self.epoch = Epoch(self.last, [standing[id].peer for id in order], truth, source, healed)
        self.broken = ""
        for member in standing.values():
            member.is_ready, member.asked, member.stand = False, 0.0, truth
        return self.epoch

    def _inside(self) -> set[str]:
        return {peer.id for peer in self.epoch.members} if self.epoch is not None else set()

    def _break(self, why: str, now: float) -> None:
        if not self.broken:
            self.broken = why
            for member in self._members.values():
                member.asked = now

    def _leave_out(self, id: str, now: float, why: str) -> None:
        self.left_out.append(id)
        self.lost(id, now, why)

    def _look_for_cuts(self, now: float) -> None:
        """Leave out members between whom nothing moves although all wait."""
        if self.epoch is None or self.broken:
            return
        inside = {id: self._members[id] for id in self._inside() if id in self._members}
        is_stuck = all(
            member.phase == "wait" and member.epoch == self.epoch.number and now - member.changed > 2 * self.heartbeat_s
            and not member.is_ready
            for member in inside.values()
        )  # fmt: skip
        if not is_stuck:
            return
        names = {member.peer.name: id for id, member in inside.items()}
        waits = {frozenset((id, names[name])) for id, member in inside.items() for name in member.waits_for if name in names}
        waits = {pair for pair in waits if len(pair) == 2}
        while waits:
            worst = max(inside, key=lambda id: (sum(id in pair for pair in waits), inside[id].number))
            waits = {pair for pair in waits if worst not in pair}
            pause = min(2 * self._pauses.get(worst, (0.0, RETURN_S / 2))[1], MAX_PAUSE_S)
            self._pauses[worst] = (now + pause, pause)
            self._leave_out(worst, now, "nothing moved although all waited")
