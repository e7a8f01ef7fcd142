"""Buckets of running shards, spread anew: the mover's side, which any client may be and which may die at any moment.

    client.reshard(3)                                                    # or, from a shell, of shards that others started:
    python -m gyral.params.reshard unix:///tmp/gyral-shards-x 3          # without a number: who has how many buckets and rows

It reads the map, plans the fewest buckets to move, and moves them in parcels of about `PARCEL_BYTES`: workers that touch those
wait for as long as one parcel takes to be written twice (tens of milliseconds), all others for nothing; then it rests as long
as that took, because a worker whose keys are everywhere would otherwise wait for every parcel in turn. What it does is only to
carry words between giver and taker (`gyral.params.moving`); all that must last is on their disks, so whoever runs it again
goes on from the map as it then is.
"""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from gyral.errors import ConfigError, GyralError, RankError
from gyral.params import ownership
from gyral.params.channels import Growing
from gyral.params.moving import Ask
from gyral.params.ownership import MAX_SHARDS, Share

if TYPE_CHECKING:
    from gyral.params.client import Client

PARCEL_BYTES = 4 << 20
MOST_BUCKETS = 256
STEP_S = 60.0
AGAIN_S = 0.05
MOVE_S = 300.0
MOST_REST_S = 0.25
SETTLE_S = 5.0


class Resharded(msgspec.Struct):
    """What was done.

    Attributes
    ----------
    again : moves that had to begin again, because a shard died or its mover was late.
    longest_s : a parcel's way, from give to learn: what workers may have waited.
    """

    shards: int
    buckets: int = 0
    parcels: int = 0
    size_bytes: int = 0
    again: int = 0
    took_s: float = 0.0
    longest_s: float = 0.0


def reshard(client: Client, shards: int, note: Callable[[str], None] = lambda _: None) -> Resharded:
    """Spread all buckets evenly over shards 0 to `shards` − 1, starting shards or ending them where the address can.

    Parameters
    ----------
    note : told how far it is.

    Raises
    ------
    ConfigError : the address has no such shard, and cannot start one.
    RankError : a shard stayed away for `MOVE_S`; what has moved has moved, run it again.
    """
    if not 0 < shards <= MAX_SHARDS:
        raise ConfigError(f"{shards} shards cannot be", hint=f"1 to {MAX_SHARDS}")
    transport, done, began = client.transport, Resharded(shards), time.monotonic()
    if isinstance(transport, Growing):
        transport.grow(shards)
    transport.refresh()
    if len(transport.names) < shards:
        raise ConfigError(
            f"this address has {len(transport.names)} shards, not {shards}",
            hint="start one with the `num` of the others and the next `number`, and open a client with its address too",
        )  # fmt: skip
    with client.another(-1) as looker:
        mover = Mover(looker)
        plan = ownership.planned(mover.read_map(), shards)
        total = sum(len(share.buckets) for share in plan)
        for share in plan:
            _move(mover, share, done, total, note)
        mover.tell_all()
    client.learn(mover.words)
    if isinstance(transport, Growing):
        transport.shrink(shards)
    done.took_s = time.monotonic() - began
    return done


class Mover:
    """Carries buckets between shards that it only knows by their answers.

    Attributes
    ----------
    words : the newest map that any of them has shown.
    """

    def __init__(self, client: Client) -> None:
        self.client, self.words = client, client.map.copy()

    def say(self, shard: int, what: str, ask: Ask) -> dict[str, Any]:
        """Put a question, and look at the map that comes with the answer."""
        told = self.client.ask(shard, what, msgspec.msgpack.encode(ask), STEP_S)
        self.words = np.maximum(self.words, ownership.decoded(told["map"]))
        return told

    def read_map(self) -> np.ndarray:
        """Ask every shard that has buckets: the newest of all, bucket by bucket."""
        for shard in np.unique(ownership.owners_of(self.words)).tolist():
            self.say(shard, "map", Ask())
        return self.words

    def tell_all(self) -> None:
        """Shards that nobody asked about those buckets learn of them as well; nothing depends on it."""
        for shard in np.unique(ownership.owners_of(self.words)).tolist():
            self.say(shard, "learn", Ask(words=self.words.tobytes()))

    def num_of_a_parcel(self, shard: int) -> int:
        """Buckets of a parcel: their mean size decides."""
        told = self.client.ask(shard, "stats", timeout_s=STEP_S)
        size = sum(told["rows"][spec.name] * (12 + spec.body_bytes) for spec in self.client.specs)
        mean = size / max(told["buckets"], 1)
        return int(min(MOST_BUCKETS, max(1, PARCEL_BYTES // max(mean, 1))))

    def move(self, giver: int, taker: int, buckets: np.ndarray) -> int:
        """Move some buckets; the bytes they took, 0: it has to begin again, and nothing is lost."""
        token = secrets.token_hex(8)
        told = self.say(taker, "learn", Ask(words=self.words.tobytes()))  # it is there, else workers would wait for it
        version = max(ownership.version_of(self.words), told["version"])
        ask = Ask(token=token, buckets=buckets.astype(np.uint16).tobytes(), taker=taker, version=version)
        given = self.say(giver, "give", ask)
        if "refused" in given:
            return 0
        if not self._staged(giver, taker, token, given["pieces"]):
            self.say(giver, "abort", Ask(token=token))
            return 0
        self.say(giver, "commit", Ask(token=token))
        if (ownership.owners_of(self.words)[buckets] != taker).any():
            return 0
        self.say(taker, "learn", Ask(words=self.words.tobytes()))
        return int(given["bytes"])

    def wait_for_workers(self, share: Share) -> None:
        """Where workers wait for each other, let all find the buckets before the next go: else none might ever get on."""
        end = time.monotonic() + SETTLE_S
        while time.monotonic() < end and any(self.say(shard, "map", Ask())["away"] for shard in (share.giver, share.taker)):
            time.sleep(0.01)

    def _staged(self, giver: int, taker: int, token: str, num: int) -> bool:
        """Bring the pieces over; True: the taker has them all on its disk."""
        asked = [msgspec.msgpack.encode(Ask(token=token, piece=at)) for at in range(num)]
        pieces = self.client.ask_all(giver, "piece", asked, STEP_S)
        if any("refused" in each for each in pieces):
            return False
        bodies = [Ask(token=token, piece=at, of=num, data=each["data"]) for at, each in enumerate(pieces)]
        told = self.client.ask_all(taker, "stage", [msgspec.msgpack.encode(each) for each in bodies], STEP_S)
        return not any("refused" in each for each in told) and bool(self.say(taker, "staged", Ask(token=token))["staged"])


def _move(mover: Mover, share: Share, done: Resharded, total: int, note: Callable[[str], None]) -> None:
    """Move a share, parcel after parcel, until the map says that all are the taker's."""
    end = time.monotonic() + MOVE_S
    while True:
        left = share.buckets[ownership.owners_of(mover.words)[share.buckets] == share.giver]
        if not len(left):
            return
        if time.monotonic() > end:
            raise RankError(
                f"{len(left):,} buckets of shard {share.giver} did not get to shard {share.taker} in {MOVE_S:g} s",
                why="a shard is away, or dies again and again", hint="run it again: what has moved has moved",
            )  # fmt: skip
        parcel = left[: mover.num_of_a_parcel(share.giver)]
        at = time.monotonic()
        if size_bytes := mover.move(share.giver, share.taker, parcel):
            done.buckets, done.parcels, done.size_bytes = (
                done.buckets + len(parcel),
                done.parcels + 1,
                done.size_bytes + size_bytes,
            )
            done.longest_s = max(done.longest_s, time.monotonic() - at)
            note(f"{done.buckets:,} of {total:,} buckets have moved")
            time.sleep(min(time.monotonic() - at, MOST_REST_S))  # else whoever waited for this one waits for the next
            mover.wait_for_workers(share)
        else:
            done.again += 1
            time.sleep(AGAIN_S)
            mover.read_map()


def main(words: Sequence[str]) -> int:
    """Exit code of the process; what was done, and who has what, as a line of JSON each."""
    from gyral.params.client import Client
    from gyral.params.opening import found_at

    if len(words) not in (1, 2) or not all(word.isdecimal() for word in words[1:]):
        print("usage: python -m gyral.params.reshard unix://FOLDER|shards://FOLDER [SHARDS]", file=sys.stderr)
        return 2
    try:
        found, specs = found_at(words[0])
        with Client(found, specs, worker=-1) as client:
            if len(words) == 2:
                done = client.reshard(int(words[1]), lambda said: print(said, file=sys.stderr, flush=True))
                print(msgspec.json.encode(done).decode())
            for shard in client.stats()["shards"]:
                about = {name: shard[name] for name in ("shard", "buckets", "map", "rows", "bytes", "recovered_s")}
                print(msgspec.json.encode(about).decode())
    except GyralError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
