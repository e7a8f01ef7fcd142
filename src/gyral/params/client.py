"""A worker's side of the parameter server: one call for tables wherever their shards live.

    client = open("proc://2", [TableSpec("items", 32)], folder="server", sync="ssp:4")
    items = client.table("items")
    rows_KD, held_K = items.pull(keys_K)
    items.push(keys_K, grads_KD, at=seconds)
    client.tick()

| address | where the shards are |
|---|---|
| `local://N` | in this process; N > 1: a thread each |
| `proc://N` | in N processes of this machine, started, watched, and started again from their folder |
| `unix://folder` | those that another process's `proc://` has started |
| `tcp://host:port,host:port` | where `gyral.params.serve` runs |
| `ray://shards=N`, `ray://auto,shards=N` | wherever Ray has placed them; rows go over shared memory or TCP |
| `shards://folder` | those that another process's `ray://` has placed |

A push is kept here until every shard that has a part of it says that it is on its disk, so a shard that is killed gets it
again; arrays that were pushed must not be changed afterwards. `clock` and `seq` belong into a worker's checkpoint: one that
starts again with them and pushes the same again changes nothing twice.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from gyral.errors import GyralError, InputError, NotFound, did_you_mean
from gyral.params import carried, wire
from gyral.params.asked import Asking, Pulling, Pushing
from gyral.params.batch import Batch, batch_of
from gyral.params.channels import Transport
from gyral.params.consistency import Fenced
from gyral.params.handle import Handle as Handle
from gyral.params.held import is_small
from gyral.params.lanes import Lanes
from gyral.params.meeting import Met, met
from gyral.params.opening import Opened, opened
from gyral.params.shard import Settings
from gyral.params.spec import BUCKETS, TableSpec

if TYPE_CHECKING:
    from gyral.params.reshard import Resharded

TIMEOUT_S = 300.0
CLOSE_S = 5.0
AWAY_S = 0.2
"""How often links are looked at while nobody calls."""
RETAIN_BYTES = 1 << 30
SAMPLE, REPEATED = 2048, 0.8
"""Keys looked at, and the share of different ones among them above which all travel."""


def open(
    address: str, specs: Sequence[TableSpec], *, folder: Path | str | None = None, settings: Settings = Settings(),  # noqa: B008
    worker: int = 0, epoch: int | None = None, seq: int | None = None, clock: int | None = None, coding: str = "f32",
    secret: bytes = b"", timeout_s: float = TIMEOUT_S, retain_bytes: int = RETAIN_BYTES, table: str = "", keep: str = "",
) -> Client:  # fmt: skip
    """Start shards, or find them, and join them as a worker.

    Parameters
    ----------
    folder : of shards that are started here; None: rows are lost with them.
    settings : `sync` (`bsp`, `ssp:4`, `async`), `workers`, leases; those of shards that run already must be the same.
    worker, epoch, seq, clock : see `Client`.
    coding : of rows over TCP: `f32`, `bf16` or `int8`.
    secret : of servers behind TCP.
    table, keep : other classes than `gyral.params`' own, as `module:name`.

    Raises
    ------
    ConfigError : of the address, or shards have other tables or settings.
    RankError : a shard does not answer.
    """
    found = opened(address, specs, settings, Path(folder) if folder else None, secret, coding, table, keep)
    return Client(
        found, specs, worker=worker, epoch=epoch, seq=seq, clock=clock, coding=coding, timeout_s=timeout_s,
        retain_bytes=retain_bytes,
    )  # fmt: skip


class Client:
    """One incarnation of one worker.

    Parameters
    ----------
    worker : its number; −1 only looks.
    epoch : of this incarnation, higher than that of any before; None: the time.
    seq, clock : of its checkpoint; None: continue after what the shards have.

    Attributes
    ----------
    seq : number of the last push.

    Raises
    ------
    RankError : a shard does not answer, for `timeout_s`.
    ConfigError : it is of another version, or has other tables.
    """

    def __init__(
        self, found: Opened, specs: Sequence[TableSpec], *, worker: int = 0, epoch: int | None = None, seq: int | None = None,
        clock: int | None = None, coding: str = "f32", timeout_s: float = TIMEOUT_S, retain_bytes: int = RETAIN_BYTES,
    ) -> None:  # fmt: skip
        self.specs, self.worker, self._found, self._retain_bytes = list(specs), worker, found, retain_bytes
        self.epoch = time.time_ns() if epoch is None else epoch
        hello = wire.Hello(0, worker, self.epoch, found.settings.sync, wire.digest(specs), coding)
        self._beat_s = found.settings.lease_s / 4
        self._transport: Transport = found.transport
        self._lock, self._is_closed = threading.RLock(), threading.Event()
        self._lanes = lanes = self._welcomed(hello, timeout_s, is_told=epoch is not None)
        self._is_bsp = found.settings.sync == "bsp"
        self._is_checked = len(lanes.all) > 1 or self._is_bsp  # else the table does it, before anything changes
        self._counts = {"rows_pulled": 0, "rows_pushed": 0}
        self.seq = max(lane.seq for lane in lanes.all) if seq is None else seq
        lanes.clock = max(lane.clock for lane in lanes.all) if clock is None else clock
        if worker >= 0 or self._beat_s < float("inf"):
            threading.Thread(target=self._keep_beating, name="beats", daemon=True).start()

    @property
    def clock(self) -> int:
        """Ticks so far."""
        return self._lanes.clock

    @property
    def address(self) -> str:
        """Where workers of other processes find these shards; empty: nowhere."""
        return self._found.address

    def another(self, worker: int, **options: Any) -> Client:
        """A client of the same shards for another worker, in this process; it must end before this one does."""
        return Client(self._found.again(), self.specs, worker=worker, **options)

    def table(self, name: str) -> Handle:
        """Raises `NotFound`: there is no such table."""
        names = [spec.name for spec in self.specs]
        if name not in names:
            raise NotFound(f"there is no table `{name}`", hint=did_you_mean(name, names))
        return Handle(self, names.index(name))

    def pull(self, table: int, keys_K: np.ndarray) -> Pulling:
        """See `Handle`."""
        with self._lock:
            self._check()
            keys = np.ascontiguousarray(keys_K, dtype=np.int64)
            self._counts["rows_pulled"] += len(keys)
            batch = self._fewer(table, keys)
            keys = keys if batch is None else batch.keys
            pulling = Pulling(table, keys, self.clock, self.specs[table].dim, {}, self._finish_pull, batch)
            self._lanes.start_pull(pulling)
            return pulling

    def push(
        self, table: int, keys_K: np.ndarray, grads_KD: np.ndarray, at: int = 0, base_KD: np.ndarray | None = None,
        factor: float = 1.0,
    ) -> Pushing:  # fmt: skip
        """See `Handle`."""
        with self._lock:
            self._check()
            keys, grads = np.ascontiguousarray(keys_K, np.int64), np.ascontiguousarray(grads_KD, np.float32)
            spec, lanes = self.specs[table], self._lanes
            base = np.ascontiguousarray(base_KD, np.float32) if spec.optimizer.compensation and base_KD is not None else None
            self._check_push(spec, keys, grads, at, base)
            if lanes.kept_bytes > self._retain_bytes:
                lanes.wait(lambda: lanes.kept_bytes <= self._retain_bytes, "write pushes to its disk", is_urgent=True)
            self._counts["rows_pushed"] += len(keys)
            batch = None if self._is_bsp else self._fewer(table, keys)
            if batch is not None:
                keys, grads, base = batch.keys, batch.totals(grads), None if base is None else base[batch.first]
            self.seq += 1
            pushing = Pushing(table, keys, grads, base, self.clock, self.seq, at, factor, {}, self._finish_push)
            lanes.start_push(pushing)
            return pushing

    def _check_push(self, spec: TableSpec, keys: np.ndarray, grads: np.ndarray, at: int, base: np.ndarray | None) -> None:
        """Refuse what any shard would, so that none has a part of it."""
        for what, array in (("gradients", grads), ("rows", base)):
            if array is not None and array.shape != (len(keys), spec.dim):
                raise InputError(f"{what} of a push of `{spec.name}` are {array.shape}", why=f"not ({len(keys)}, {spec.dim})")
        if not 0 <= at < 1 << 32:
            raise InputError(f"the event time {at} is not in seconds since 1970", where=f"a push of `{spec.name}`")
        if self.worker < 0 or (self._is_checked and not is_small(grads)):
            what = "a gradient is not a number to learn from" if self.worker >= 0 else "this client only looks"
            raise InputError(what, why="NaN, infinite or beyond 2^57" * (self.worker >= 0), where=f"a push of `{spec.name}`")

    def _fewer(self, table: int, keys_K: np.ndarray) -> Batch | None:
        """Keys that repeat travel once, where a look at the first ones says that this pays; None: it does not.

        A table that counts occurrences gets all of them.
        """
        if not self._transport.is_copying or len(keys_K) < 2 * SAMPLE or not self.specs[table].admits_all:
            return None
        salt = np.uint64(self.specs[table].salt)
        if len(batch_of(keys_K[:SAMPLE], salt).keys) > REPEATED * SAMPLE:
            return None
        return batch_of(keys_K, salt)

    def tick(self, scale: float = 1.0, decided: bytes = b"") -> None:
        """This worker has finished its clock.

        Parameters
        ----------
        scale : under `bsp`, of the gradients of this clock, and the same of all workers; 0: they are not learned from.
        decided : what they have agreed on, for one that has not heard it from all.
        """
        with self._lock:
            self._check()
            self._lanes.tick(scale, decided)

    def meet(self, body: bytes) -> Met:
        """Under `bsp`, when all of a clock is pushed and before its tick: say something to all workers, and hear them all.

        Raises
        ------
        RankError : they did not all come in `timeout_s`.
        """
        return met(self._ask_all("meet", self.clock, body))

    def flush(self) -> None:
        """Return when everything pushed so far is durable (under `bsp`, when the others have ticked)."""
        with self._lock:
            self._check()
            kept, last = self._lanes.kept, self.seq
            self._lanes.wait(lambda: not kept or kept[0].seq > last, "write pushes to its disk", is_urgent=True)

    @property
    def durable_seq(self) -> int:
        """The last push that is durable with all before it: what a worker's checkpoint may claim."""
        with self._lock:
            self._lanes.pump()
            return self._lanes.kept[0].seq - 1 if self._lanes.kept else self.seq

    def expire(self, now: int) -> int:
        """Rows of all tables that are too old at this event time, removed."""
        return sum(told["expired"] for told in self._ask("expire", now))

    def stats(self) -> dict[str, Any]:
        """Counts of this client, and of its shards since they began; `staleness` sums those of the shards."""
        shards = self._ask("stats")
        total: dict[str, dict[int, int]] = {"pushes": {}, "clocks": {}}
        for told in shards:
            for kind, histogram in told["staleness"].items():
                for value, num in histogram.items():
                    total[kind][int(value)] = total[kind].get(int(value), 0) + num
        lanes = self._lanes
        links = {"links_lost": sum(lane.losses for lane in lanes.all), "pushes_sent_again": lanes.num_again}
        return {**self._counts, **links, "kept_bytes": lanes.kept_bytes, "staleness": total, "shards": shards}

    @property
    def map(self) -> np.ndarray:
        """The newest map of buckets that this client has heard of, see `gyral.params.ownership`."""
        return self._lanes.words

    def learn(self, words: np.ndarray) -> None:
        """Take in a map that a shard has shown."""
        with self._lock:
            self._check()
            self._lanes.learn(words)

    @property
    def transport(self) -> Transport:
        """How it reaches its shards."""
        return self._transport

    def reshard(self, shards: int, note: Callable[[str], None] = lambda _: None) -> Resharded:
        """Spread all buckets evenly over `shards` shards, while workers go on; see `gyral.params.reshard`."""
        from gyral.params.reshard import reshard

        return reshard(self, shards, note)

    def export(self, table: int) -> bytes:
        """A table whole as it is, with its optimizer's state and which pushes it holds; pushes may go on meanwhile."""
        bodies, places = [], {lane.shard: 0 for lane in self._lanes.needed}
        while places:
            asked = {shard: Asking(shard, "export", table * BUCKETS + first) for shard, first in places.items()}
            for shard, body in zip(asked, self._answers(list(asked.values()), "export"), strict=True):
                told = msgspec.msgpack.decode(body)
                bodies.append(told["buckets"])
                places[shard] = told["next"]
            places = {shard: first for shard, first in places.items() if first < BUCKETS}
        return carried.packed(bodies)

    def load(self, table: int, whole: bytes) -> None:
        """Put what `export` gave into the shards, whichever they are; it is on their disks when this returns."""
        for body in carried.unpacked(whole):
            self._ask_all("load", table * BUCKETS, body)

    def close(self) -> None:
        """Leave, so that nobody waits for this worker; what is not durable yet is up to the shards. May be called twice."""
        with self._lock:
            if self._is_closed.is_set():
                return
            self._is_closed.set()
            try:
                if not self._lanes.is_broken and self.worker >= 0:
                    self._lanes.leave(CLOSE_S)
            except GyralError:
                pass  # its lease runs out
            finally:
                self._drop()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, shard: int, what: str, body: bytes = b"", timeout_s: float | None = None) -> dict[str, Any]:
        """Put a question to one shard: for movers and tools. Waits while the shard is away."""
        return self._asked([Asking(shard, what, 0, body)], what, timeout_s)[0]

    def ask_all(self, shard: int, what: str, bodies: Sequence[bytes], timeout_s: float | None = None) -> list[dict[str, Any]]:
        """Several questions at once."""
        return self._asked([Asking(shard, what, 0, body) for body in bodies], what, timeout_s)

    def _ask(self, what: str, value: int = 0) -> list[dict[str, Any]]:
        return self._asked([Asking(lane.shard, what, value) for lane in self._lanes.needed], what)

    def _ask_all(self, what: str, value: int, body: bytes) -> list[bytes]:
        return self._answers([Asking(lane.shard, what, value, body) for lane in self._lanes.needed], what)

    def _asked(self, asked: list[Asking], what: str, timeout_s: float | None = None) -> list[dict[str, Any]]:
        return [msgspec.msgpack.decode(body, strict=False) for body in self._answers(asked, what, timeout_s)]

    def _answers(self, asked: list[Asking], what: str, timeout_s: float | None = None) -> list[bytes]:
        with self._lock:
            self._check()
            lanes = self._lanes
            lanes.start_questions(asked)
            try:
                lanes.wait(lambda: all(each.body is not None for each in asked), f"answer `{what}`", timeout_s=timeout_s)
            finally:
                lanes.questions = [each for each in lanes.questions if each not in asked]
            return [each.body or b"" for each in asked]

    def _check(self) -> None:
        if self._is_closed.is_set():
            raise GyralError("the client is closed")
        self._lanes.check()

    def _welcomed(self, hello: wire.Hello, timeout_s: float, is_told: bool) -> Lanes:
        """Links to all shards.

        The time is an epoch only while clocks go forward: where one went back since another incarnation joined, whose epoch
        is in the future now, this one takes the next above it.
        """
        while True:
            self.epoch = hello.epoch
            self._lanes = lanes = Lanes(self._transport, self.specs, hello, timeout_s, self._beat_s)
            try:
                lanes.wait(lambda: all(lane.is_ready for lane in self._lanes.needed), "welcome this worker")
                return lanes
            except Fenced as error:
                if is_told or error.epoch < hello.epoch:
                    self._drop()
                    raise
                hello = msgspec.structs.replace(hello, epoch=error.epoch + 1)
                self._hang_up()
            except BaseException:
                self._drop()
                raise

    def _drop(self) -> None:
        self._is_closed.set()
        self._hang_up()
        self._transport.close()

    def _hang_up(self) -> None:
        for lane in self._lanes.all:
            if lane.channel is not None:
                lane.channel.close()

    def _keep_beating(self) -> None:
        """While nobody calls: whoever waits in a call beats by itself. A link that was lost is made anew sooner: under `bsp`
        others may wait for what is sent again."""
        while not self._is_closed.wait(min(self._beat_s, AWAY_S)):
            if self._lock.acquire(blocking=False):
                try:
                    if not self._is_closed.is_set() and not self._lanes.is_broken:
                        self._lanes.pump()
                        self._lanes.beat_if_due()
                finally:
                    self._lock.release()

    def _finish_pull(self, pulling: Pulling) -> None:
        with self._lock:
            self._lanes.wait(lambda: not pulling.left, f"answer a pull of `{self.specs[pulling.table].name}`")

    def _finish_push(self, pushing: Pushing) -> None:
        with self._lock:
            self._lanes.wait(lambda: not pushing.left, f"take a push of `{self.specs[pushing.table].name}`")
            self._lanes.seen(pushing.error)
