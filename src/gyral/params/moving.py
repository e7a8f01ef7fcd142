"""A shard's side of resharding: buckets leave and come while workers push, and each has exactly one owner at any moment.

The owner decides, and one durable write of it is the moment at which a bucket changes hands:

| step | whose | what happens | a crash before the next step |
|---|---|---|---|
| give | giver | the buckets' frames wait in line, their rows are handed out | nothing has happened |
| stage | taker | the parcel is on its disk, and counts for nothing | a file that nobody uses |
| commit | giver | a newer map is on its disk: **now they are the taker's**; who waited is told | the taker has the rows |
| learn | taker | whoever shows it that map makes it read the parcel, write it to its log and serve | it reads it again |

A giver that was killed between give and commit has forgotten the token, so a late commit is refused and the move begins again;
one that waits longer than `GIVE_S` for its mover serves on. A taker needs no word from the mover: a worker that was sent on by
the giver carries the map. A shard that is shown a map in which a bucket it holds is another's, without having given it, is an
old owner whose place was taken: it stops (`Superseded`).

Exactly once over a move: the parcel carries which push of each worker every bucket has had. All links to the taker end when
it learns, and what it says of durable pushes begins anew, so workers send it everything that is not durable; clocks go back to
the giver's where those were behind, so that under `bsp` a clock whose pushes are sent again is ended again, for those buckets.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from gyral.errors import ConflictError, GyralError, InputError
from gyral.faults import fail_point
from gyral.files import write_atomic
from gyral.params import ownership, parcel, wire
from gyral.params.consistency import Fenced
from gyral.params.keep import Kept
from gyral.params.parcel import Parcel
from gyral.params.spec import BUCKETS
from gyral.params.wire import Arrays, Head

if TYPE_CHECKING:
    from gyral.params.shard import Session, Shard

GIVE_S = 3.0
PIECE_BYTES = 1 << 19
"""A piece travels in the head of a frame, which may have 1 MB."""


class Superseded(Fenced):
    """This process answers for buckets that others own by now; it must stop."""


class Ask(msgspec.Struct):
    """Body of a mover's question; each means the same when it is asked twice."""

    token: str = ""
    buckets: bytes = b""
    taker: int = 0
    version: int = 0
    piece: int = 0
    of: int = 0
    data: bytes = b""
    words: bytes = b""


class Giving(NamedTuple):
    """Buckets that wait for the mover's commit."""

    about: Parcel
    data: bytes
    mask: np.ndarray
    due: float


class Staged(NamedTuple):
    """A parcel that is here and counts for nothing yet; `held` is where."""

    epoch: int
    numbers: np.ndarray
    held: Parcel | Path

    def read(self) -> Parcel:
        """Raises `InputError`: the disk has it otherwise than it was written."""
        return parcel.opened(self.held.read_bytes()) if isinstance(self.held, Path) else self.held


class Moves:
    """Of one shard."""

    def __init__(self, shard: Shard, folder: Path | None) -> None:
        self._shard, self._folder = shard, folder / "moves" if folder is not None else None
        self._giving: Giving | None = None
        self._line: list[tuple[Session, Head, Arrays]] = []
        self._coming: dict[str, dict[int, bytes]] = {}
        self._staged: dict[str, Staged] = {}
        self.counts = {"given": 0, "taken": 0, "given_up": 0}
        self.longest_s = 0.0
        self._began = 0.0
        if self._folder is not None and self._folder.is_dir():
            for path in self._folder.glob("*.move"):
                with contextlib.suppress(InputError, OSError):
                    about = parcel.opened(path.read_bytes())
                    self._staged[about.token] = Staged(about.epoch, about.numbers, path)

    @property
    def is_giving(self) -> bool:
        """Whether buckets wait for a mover's commit."""
        return self._giving is not None

    def answer(self, what: str, ask: Ask, now: float) -> dict[str, Any]:
        """What the mover is told; `refused` says why not."""
        steps: dict[str, Callable[[Ask, float], dict[str, Any]]] = {
            "give": self._give, "piece": self._piece, "stage": self._stage, "commit": self._commit, "abort": self._abort,
            "learn": self._learned, "staged": lambda ask, _: {"staged": ask.token in self._staged},
        }  # fmt: skip
        if what not in steps and what != "map":
            raise InputError(f"a shard does not know the question `{what}`")
        told = steps[what](ask, now) if what in steps else {}
        staged = max((each.epoch for each in self._staged.values()), default=0)
        about = {"version": max(self._shard.map_version, staged), "away": self._num_away()}
        return told | about | {"map": self._shard.words.tobytes()}

    def _num_away(self) -> int:
        """Workers that others may wait for here, and who have not come since links ended."""
        shard = self._shard
        here = {worker for worker, session in shard.sessions.items() if not session.is_closed}
        live = {worker for worker, member in shard.clocks.members.items() if member.is_live}
        return len(live - here) if shard.clocks.sync.bound >= 0 and shard.owned.any() else 0

    def holds(self, session: Session, head: Head, arrays: Arrays) -> bool:
        """Whether a frame waits in line: it is about buckets that are leaving, or comes after one that waits."""
        giving = self._giving
        if giving is None or isinstance(head, wire.Ask | wire.Beat | wire.Hello):
            return False
        waits = any(each is session for each, _, _ in self._line)
        if not waits and not (isinstance(head, wire.Pull | wire.Push) and self._touches(head.table, arrays[0], giving.mask)):
            return False
        self._line.append((session, head, [each.copy() for each in arrays]))  # their memory is the next frame's
        return True

    def _touches(self, table: int, keys_K: np.ndarray, mask: np.ndarray) -> bool:
        return 0 <= table < len(self._shard.tables) and self._shard.tables[table].has(keys_K, mask)

    def work(self, now: float) -> None:
        """Serve on when the mover is gone."""
        if self._giving is not None and now > self._giving.due:
            self._give_up(now)

    def _give(self, ask: Ask, now: float) -> dict[str, Any]:
        shard = self._shard
        if self._giving is None or self._giving.about.token != ask.token:
            if self._giving is not None:
                return {"refused": "another move is under way"}
            buckets = np.frombuffer(ask.buckets, np.uint16)
            mask = np.zeros(BUCKETS, np.uint8)
            mask[buckets] = 1
            if not len(buckets) or (mask & ~shard.owned & 1).any() or ask.taker == shard.number:
                return {"refused": "these buckets are not its own"}
            self._began = time.monotonic()
            epoch = max(shard.map_version, ask.version) + 1
            about = Parcel(
                ask.token, epoch, shard.number, ask.taker, buckets.tobytes(), shard.clocks.settled(),
                [parcel.packed(held.give(buckets.tolist())) for held in shard.tables],
            )  # fmt: skip
            data = parcel.sealed(about)
            self._giving = Giving(about, data, mask, now + GIVE_S)
            fail_point("params.move.given")
        return {"pieces": -(-len(self._giving.data) // PIECE_BYTES), "bytes": len(self._giving.data)}

    def _piece(self, ask: Ask, now: float) -> dict[str, Any]:
        if self._giving is None or self._giving.about.token != ask.token:
            return {"refused": "no such move"}
        return {"data": self._giving.data[ask.piece * PIECE_BYTES : (ask.piece + 1) * PIECE_BYTES]}

    def _abort(self, ask: Ask, now: float) -> dict[str, Any]:
        if self._giving is not None and self._giving.about.token == ask.token:
            self._give_up(now)
        return {}

    def _commit(self, ask: Ask, now: float) -> dict[str, Any]:
        """The moment: after this write they are the taker's."""
        if self._giving is None or self._giving.about.token != ask.token:
            return {"refused": "no such move"}  # the map says whether it was committed
        about, shard = self._giving.about, self._shard
        fail_point("params.move.committing")
        try:
            shard.leave(ownership.given(shard.words, about.numbers, about.taker, about.epoch))
        except ConflictError:
            raise
        except GyralError as error:
            self._give_up(now)
            return {"refused": error.what}
        fail_point("params.move.left")
        self.counts["given"] += len(about.numbers)
        self._end(now)
        return {}

    def _give_up(self, now: float) -> None:
        self.counts["given_up"] += 1
        self._end(now)

    def _end(self, now: float) -> None:
        """It is decided: who waited in line is answered."""
        self._giving = None
        self.longest_s = max(self.longest_s, time.monotonic() - self._began)
        line, self._line = self._line, []
        for session, head, arrays in line:
            self._shard.proceed(session, head, arrays, now)
        self._shard.look_at_parked()

    def _stage(self, ask: Ask, now: float) -> dict[str, Any]:
        if ask.token in self._staged:
            return {}
        pieces = self._coming.setdefault(ask.token, {})
        pieces[ask.piece] = ask.data
        if len(pieces) < ask.of:
            return {}
        data = b"".join(pieces[at] for at in range(ask.of))
        self._coming.clear()
        try:
            about = parcel.opened(data)
        except InputError as error:
            return {"refused": error.what}
        if about.token != ask.token or about.taker != self._shard.number or len(about.tables) != len(self._shard.specs):
            return {"refused": "a parcel for somebody else"}
        if not self._is_newest(about):
            return {"refused": "a parcel of these buckets and of this epoch is here already"}
        fail_point("params.move.staging")
        if self._folder is None:
            self._staged[about.token] = Staged(about.epoch, about.numbers, about)
            return {}
        path = self._folder / f"{about.token}.move"
        try:
            write_atomic(path, data)
        except OSError as error:
            return {"refused": f"its disk takes no parcel: {error.strerror}"}
        self._staged[about.token] = Staged(about.epoch, about.numbers, path)
        fail_point("params.move.staged")
        return {}

    def _is_newest(self, about: Parcel) -> bool:
        """A bucket's epoch must name one parcel: a move that came to nothing leaves one that may hold less than the next."""
        numbers = about.numbers
        known = [int(ownership.epochs_of(self._shard.words)[numbers].max())]
        known += [each.epoch for each in self._staged.values() if len(np.intersect1d(each.numbers, numbers))]
        return about.epoch > max(known)

    def _learned(self, ask: Ask, now: float) -> dict[str, Any]:
        self.learn(ownership.decoded(ask.words))
        return {}

    def learn(self, words: np.ndarray) -> None:
        """Somebody shows a map: take what it says is ours by now.

        Raises
        ------
        Superseded : it says that what we hold is another's, and we have not given it; or that what we never got is ours.
        """
        shard = self._shard
        words = np.maximum(words, shard.words)
        changed = words != shard.words
        if not changed.any():
            return
        ours, theirs = ownership.owners_of(shard.words) == shard.number, ownership.owners_of(words) != shard.number
        if (changed & ours).any():
            why = f"{int((changed & ours).sum()):,} of its buckets were given away by a process that took its place"
            raise Superseded(f"{shard.name} is an old owner", why=why, hint="it stops; the newer one answers")
        gained = changed & ~theirs
        parcels = self._parcels(words, gained)
        for about in parcels:
            try:
                self._take(about)
            except GyralError as error:
                shard.stop(error)  # half of it is in memory: what is on the disk is whole, so it begins again from there
                raise
        shard.know(words)
        self.clear()

    def _parcels(self, words: np.ndarray, gained: np.ndarray) -> list[Parcel]:
        """Of staged ones those that hold what is gained, oldest first."""
        found, left = [], gained.copy()
        for staged in list(self._staged.values()):
            numbers = staged.numbers
            if left[numbers].any() and (ownership.epochs_of(words)[numbers] == staged.epoch).all():
                left[numbers] = False
                found.append(staged.read())
        if left.any():
            raise Superseded(
                f"{self._shard.name} is to own {int(left.sum()):,} buckets whose rows it does not have",
                why="another process took its place and got them, or their parcel is gone from its folder",
                hint="let only the newest process of a folder run; if there is one alone, restore the folder",
            )  # fmt: skip
        return sorted(found, key=lambda about: about.epoch)

    def _take(self, about: Parcel) -> None:
        """Own what a parcel holds; it is in the log when this returns.

        The map that says so is in the last part alone, so a crash between parts leaves the parcel to be taken again.
        """
        shard = self._shard
        fail_point("params.move.taking")
        shard.cutter.owner_epoch = max(shard.cutter.owner_epoch, about.epoch)
        words = np.maximum(shard.words, ownership.given(shard.words, about.numbers, shard.number, about.epoch))
        shard.start_over(about.ticks)
        parts: list[tuple[int, list[Kept]]] = []
        for number, (held, packed) in enumerate(zip(shard.tables, about.tables, strict=True)):
            parts += [(number, run) for run in runs(parcel.unpacked(packed, held.table.spec))]
        for at, (number, run) in enumerate(parts):
            if at == len(parts) - 1:
                shard.know(words)
            shard.cutter.write_now(shard.tables[number].take(run, shard.noted(), shard.cutter.owner_epoch))
            fail_point("params.move.part")
        self.counts["taken"] += len(about.numbers)
        fail_point("params.move.taken")

    def clear(self) -> None:
        """Parcels that can never be asked for: all of their buckets have gone on to another epoch, or are ours."""
        epochs = ownership.epochs_of(self._shard.words)
        for token, staged in list(self._staged.items()):
            if (epochs[staged.numbers] >= staged.epoch).all():
                del self._staged[token]
                if isinstance(staged.held, Path):
                    staged.held.unlink(missing_ok=True)


def runs(moved: Sequence[Kept]) -> list[list[Kept]]:
    """Buckets without a gap between them: a part of a cut says something of all buckets of its range."""
    return [
        [kept for _, kept in group] for _, group in itertools.groupby(enumerate(moved), lambda pair: pair[1].bucket - pair[0])
    ]
