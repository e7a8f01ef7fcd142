"""A worker's links to all shards: what is under way, what is sent again, and what to do when a link or a map is lost.

A link that ends, or on which a frame is lost, repeated or out of order, is made anew; then every push that is not durable there
is sent again in order, and every pull that is not answered. When buckets have moved, all is split anew and all links are. So
there is one way back from anything, and shards need not know what happened.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from gyral.engine.links import LinkLost
from gyral.errors import ConfigError, GyralError, InputError, RankError
from gyral.params import ownership, wire
from gyral.params.asked import BACKOFF_S, Asking, Lane, Order, Pulling, Pushing
from gyral.params.channels import Transport
from gyral.params.consistency import Fenced
from gyral.params.routing_kernel import gathered, route
from gyral.params.spec import BUCKETS, TableSpec
from gyral.params.wire import Arrays, Head

WAIT_S = 0.02
PROBE_S = 1.0
"""Of silence of a shard that has something to answer; then a beat shows whether a frame was lost."""
GREET_S = 10.0
"""For the welcome on a new link."""


class Lanes:
    """Of one incarnation of a worker; not for several threads at once.

    Parameters
    ----------
    hello : the first frame of a link.
    timeout_s : for any answer.
    beat_s : at most without a frame while somebody waits.

    Attributes
    ----------
    kept : pushes that are not durable everywhere, in order; `kept_bytes` of memory.
    pulls, questions : that are not answered.
    error : that the next call must raise; `is_broken`: and all after it.
    """

    def __init__(self, transport: Transport, specs: Sequence[TableSpec], hello: Head, timeout_s: float, beat_s: float) -> None:
        self.transport, self._hello, self.timeout_s, self._beat_s = transport, hello, timeout_s, beat_s
        self._salts = [np.uint64(spec.salt) for spec in specs]
        self._map_version, self._owners, self._words = 0, np.zeros(BUCKETS, np.uint16), np.zeros(BUCKETS, np.uint64)
        self._has: set[int] | None = None
        self.all = [Lane(number, name) for number, name in enumerate(transport.names)]
        self.kept: deque[Pushing] = deque()
        self.kept_bytes = 0
        self.pulls: list[Pulling] = []
        self.questions: list[Asking] = []
        self.error: GyralError | None = None
        self.is_broken = False
        self._ticked = (1.0, b"")
        self.clock, self.num_again, self._beaten = 0, 0, time.monotonic()

    @property
    def needed(self) -> list[Lane]:
        """Links to shards that own something; before the first of them has said who does, all."""
        return self.all if self._has is None else [lane for lane in self.all if lane.shard in self._has]

    @property
    def words(self) -> np.ndarray:
        """The newest map that was heard of, see `gyral.params.ownership`."""
        return self._words

    def start_pull(self, pulling: Pulling) -> None:
        """Ask the shards that have its keys."""
        pulling.start(self.split(pulling.table, pulling.keys))
        if pulling.left:
            self.pulls.append(pulling)
        for shard in pulling.parts:
            self.send_pull(self.all[shard], pulling)

    def start_push(self, pushing: Pushing) -> None:
        """Keep it, and send their part to the shards that have its keys."""
        pushing.parts = self.split(pushing.table, pushing.keys)
        pushing.left = set(pushing.parts)
        if not pushing.parts:
            return
        self.kept.append(pushing)
        self.kept_bytes += pushing.size_bytes
        for shard in pushing.parts:
            self.send_push(self.all[shard], pushing)

    def start_questions(self, asked: Sequence[Asking]) -> None:
        """Ask each its shard."""
        self.questions += asked
        for each in asked:
            self.send_question(self.all[each.shard], each)

    def tick(self, scale: float = 1.0, decided: bytes = b"") -> None:
        """A clock is finished; its pushes remember their scale, in case they are sent again."""
        for pushing in reversed(self.kept):
            if pushing.clock != self.clock:
                break
            pushing.scale = scale
        self.clock, self._ticked = self.clock + 1, (scale, decided)
        for lane in self.all:
            self.say(lane, lambda number: wire.Tick(number, self.clock, scale, decided))

    def leave(self, timeout_s: float) -> None:
        """Say that this worker is done, to all that there is a link to."""
        for lane in self.all:
            self.say(lane, wire.Leave)
        told = [(lane, lane.sent) for lane in self.all if lane.is_ready]
        self.wait(lambda: all(lane.expected >= sent or not lane.is_ready for lane, sent in told), "let go", timeout_s=timeout_s)

    def split(self, table: int, keys_K: np.ndarray) -> dict[int, Order]:
        """Which shards have these keys."""
        if not len(keys_K):
            return {}
        if len(self.all) == 1:
            return {0: None}
        starts, order = np.empty(len(self.all) + 1, np.int64), np.empty(len(keys_K), np.int64)
        route(keys_K, self._salts[table], self._owners, starts, order)
        bounds = starts.tolist()
        return {shard: order[first:last] for shard, (first, last) in enumerate(itertools.pairwise(bounds)) if last > first}

    def say(
        self, lane: Lane, make: Callable[[int], Head], arrays: Arrays = (), asked: Pulling | Pushing | Asking | None = None
    ) -> None:
        """Send a frame, if there is a link; else it goes when there is one."""
        if lane.channel is None or not lane.is_ready:
            return
        number, lane.sent = lane.sent, lane.sent + 1
        if asked is not None:
            lane.open[number] = asked
        try:
            lane.channel.send(make(number), arrays)
        except LinkLost as error:
            self._lose(lane, error.why or error.what)

    def send_pull(self, lane: Lane, pulling: Pulling) -> None:
        order = pulling.parts[lane.shard]
        keys = pulling.keys if order is None else pulling.keys[order]
        self.say(
            lane, lambda number: wire.Pull(number, pulling.table, pulling.clock, self._map_version, len(keys)), (keys,), pulling
        )

    def send_push(self, lane: Lane, pushing: Pushing) -> None:
        order, arrays = pushing.parts[lane.shard], [pushing.keys, pushing.grads]
        if pushing.base is not None:
            arrays.append(pushing.base)
        if order is not None:
            wholes, arrays = arrays[1:], [pushing.keys[order]]
            for whole in wholes:
                arrays.append(np.empty((len(order), whole.shape[1]), np.float32))
                gathered(whole, order, arrays[-1])
        told = (pushing.table, pushing.clock, pushing.seq, pushing.at, self._map_version, len(arrays[0]), len(arrays) > 2)
        self.say(lane, lambda number: wire.Push(number, *told, pushing.factor, pushing.scale), arrays, pushing)

    def send_question(self, lane: Lane, each: Asking) -> None:
        self.say(lane, lambda number: wire.Ask(number, each.what, each.value, each.ask), (), each)

    def check(self) -> None:
        """Take in what has come, and raise what went wrong meanwhile."""
        self.pump()
        if self.error is not None:
            error = self.error
            if not self.is_broken:
                self.error = None
            raise error

    def seen(self, error: GyralError | None) -> None:
        """Somebody has raised it."""
        if error is self.error and not self.is_broken:
            self.error = None

    def wait(self, until: Callable[[], bool], what: str, *, is_urgent: bool = False, timeout_s: float | None = None) -> None:
        """Go on until something is so; `what` a shard is waited for to do."""
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        end, urge_at = time.monotonic() + timeout_s, 0.0
        while True:
            self.pump()
            if self.is_broken and self.error is not None:
                raise self.error
            if until():
                return
            now = time.monotonic()
            if now > end:
                late = [lane for lane in self.needed if lane.open or not lane.is_ready] or self.all
                names = ", ".join(lane.name for lane in late)
                why = "; ".join(sorted({lane.trouble for lane in late if lane.trouble}))
                raise RankError(f"waited {timeout_s:g} s for {names} to {what}", why=why, hint="is it running, and reachable?")
            if is_urgent and now >= urge_at:
                urge_at = now + WAIT_S
                self.beat(is_urgent=True)
            elif now - self._beaten > min(self._beat_s, PROBE_S):
                self.beat()
            self.transport.wait([lane.channel for lane in self.all if lane.channel is not None], WAIT_S)

    def pump(self) -> None:
        for lane in list(self.all):
            if lane.channel is None:
                if self._has is None or lane.shard in self._has or any(each.shard == lane.shard for each in self.questions):
                    self._join(lane)
                continue
            if not lane.is_ready and time.monotonic() > lane.retry_at:
                self._lose(lane, f"no welcome for {GREET_S:g} s")
                continue
            try:
                frames = lane.channel.pump()
            except LinkLost as error:
                self._lose(lane, error.why or error.what)
                continue
            for head, arrays in frames:
                if head.number != lane.expected:
                    self._lose(lane, "a frame was lost, repeated or out of order")
                    break
                lane.expected += 1
                self._take(lane, head, arrays)
                if lane.channel is None:
                    break

    def _take(self, lane: Lane, head: wire.FromShard, arrays: Arrays) -> None:
        match head:
            case wire.Welcome():
                self._welcome(lane, head)
            case wire.Rows():
                pulling = lane.open.pop(head.to, None)
                if isinstance(pulling, Pulling):
                    pulling.take(lane.shard, arrays[0], arrays[1])
                    if not pulling.left:
                        self.pulls.remove(pulling)
                self._hear(lane, head.durable)
            case wire.Done():
                pushing = lane.open.pop(head.to, None)
                if isinstance(pushing, Pushing):
                    pushing.left.discard(lane.shard)
                self._hear(lane, head.durable)
            case wire.Parked():
                lane.trouble = head.why
            case wire.Told():
                asking = lane.open.pop(head.to, None)
                if isinstance(asking, Asking):
                    asking.body = head.body
                    self.questions.remove(asking)
            case wire.Refused():
                self._refused(lane, head)

    def _hear(self, lane: Lane, durable: int) -> None:
        """Let go of what is on the disks."""
        lane.durable = durable
        while self.kept and not (first := self.kept[0]).left:
            if any(self.all[shard].durable < first.seq for shard in first.parts):
                return
            self.kept.popleft()
            self.kept_bytes -= first.size_bytes

    def _refused(self, lane: Lane, head: wire.Refused) -> None:
        asked = lane.open.pop(head.to, None)
        if head.kind == "moved":
            if not self.learn(ownership.decoded(head.owners)):
                self._lose(lane, "it does not know the newest map yet")
            return
        kind = {"fenced": Fenced, "input": InputError}.get(head.kind, ConfigError)
        error = kind(head.what, where=head.where, why=head.why, hint=head.hint)
        if isinstance(error, Fenced):
            error.epoch = head.epoch
        if isinstance(asked, Pulling | Pushing) and asked.error is not None:
            return  # another shard has said so
        self.error, self.is_broken = error, self.is_broken or head.kind != "input"
        if isinstance(asked, Pulling | Pushing):
            asked.error = error
            asked.left.clear()
            if asked in self.pulls:
                self.pulls.remove(asked)
            if asked in self.kept:
                self.kept.remove(asked)  # type: ignore[arg-type]
                self.kept_bytes -= asked.size_bytes  # type: ignore[union-attr]

    def _lose(self, lane: Lane, why: str) -> None:
        lane.lose(why, time.monotonic())

    def _join(self, lane: Lane) -> None:
        if time.monotonic() < lane.retry_at:
            return
        try:
            lane.channel = self.transport.connect(lane.shard)
            lane.sent, lane.expected, lane.retry_at = 1, 0, time.monotonic() + GREET_S
            known = self._words.tobytes() if self._map_version else b""
            lane.channel.send(msgspec.structs.replace(self._hello, owners=known))
        except LinkLost as error:
            self._lose(lane, error.why or error.what)
        except GyralError as error:
            self.error, self.is_broken = error, True

    def _welcome(self, lane: Lane, head: wire.Welcome) -> None:
        """The link is there: send again what this shard may not have."""
        if lane.birth and head.birth != lane.birth and not head.keeps:
            what = f"{lane.name} came back without its rows"
            hint = "give the server a folder, so that a shard that dies comes back with them"
            self.error, self.is_broken = RankError(what, why="it keeps nothing on a disk", hint=hint), True
            return
        if self.learn(ownership.decoded(head.owners)):
            return
        lane.birth, lane.keeps, lane.is_ready = head.birth, head.keeps, True
        lane.seq, lane.clock, lane.backoff_s, lane.trouble = head.seq, head.clock, BACKOFF_S, ""
        for pushing in list(self.kept):
            if lane.shard not in pushing.parts:
                continue
            if pushing.seq <= lane.durable:
                pushing.left.discard(lane.shard)
            else:
                self.num_again += 1
                self.send_push(lane, pushing)
        if self.clock:
            self.say(lane, lambda number: wire.Tick(number, self.clock, *self._ticked))
        for pulling in list(self.pulls):
            if lane.shard in pulling.left:
                self.send_pull(lane, pulling)
        for each in self.questions:
            if each.shard == lane.shard:
                self.send_question(lane, each)

    def learn(self, words: np.ndarray) -> bool:
        """Merge a map. Where buckets have moved, split anew what is under way and begin again with every shard.

        False: nothing has to begin again.
        """
        merged = np.maximum(self._words, words)
        is_first = self._has is None
        if not is_first and (merged == self._words).all():
            return False
        self._words, self._owners, self._map_version = merged, ownership.owners_of(merged), ownership.version_of(merged)
        self._has = set(np.unique(self._owners).tolist())
        if not self._know_all():
            return True
        if is_first:
            return False
        now = time.monotonic()
        for lane in self.all:
            lane.lose("buckets have moved", now)
            lane.retry_at, lane.backoff_s, lane.durable = now, BACKOFF_S, 0
        for pushing in self.kept:
            pushing.parts = self.split(pushing.table, pushing.keys)
            pushing.left = set(pushing.parts)
        for pulling in self.pulls:
            pulling.start(self.split(pulling.table, pulling.keys))
        return True

    def _know_all(self) -> bool:
        """Have a link for every shard of the map."""
        if self._has and max(self._has) >= len(self.all):
            self.transport.refresh()
            self.all += [Lane(number, name) for number, name in enumerate(self.transport.names)][len(self.all) :]
        if self._has and max(self._has) >= len(self.all):
            what = f"shard {max(self._has)} owns buckets, and this address does not say where it is"
            self.error, self.is_broken = ConfigError(what, hint="open the client again with the addresses of all shards"), True
            return False
        return True

    def beat_if_due(self) -> None:
        """At most `beat_s` apart."""
        if time.monotonic() - self._beaten >= self._beat_s:
            self.beat()

    def beat(self, is_urgent: bool = False) -> None:
        self._beaten = time.monotonic()
        for lane in self.all:
            self.say(lane, lambda number: wire.Beat(number, is_urgent))
