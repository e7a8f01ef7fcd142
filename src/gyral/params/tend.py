"""Two processes beside a server: one shows what its shards write to whoever serves here, one keeps their logs short.

    python -m gyral.params.tend follow server /dev/shm/replicas
    python -m gyral.params.tend fold server

Both need nothing but the folder that holds `shard0`, `shard1`, …, and may be killed and started again at any time: a follower
knows the versions of what it holds, and a fold is there whole or not at all. Neither ever makes a shard wait.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from pathlib import Path

from gyral.errors import GyralError
from gyral.params.chain import Chain, Folder, numbers
from gyral.params.deltas import compact
from gyral.params.follow import Follower
from gyral.params.replica import Weights, Writer
from gyral.params.spec import TableSpec

LOOK_S = 0.02
FOLD_S = 10.0
FOLD_CUTS = 100
"""Cuts after the newest base at which a log is folded."""


class Following:
    """Replicas of all tables of a server, from the logs of all its shards; new shards are found as they come.

    Parameters
    ----------
    server : folder of the shards' folders.
    replicas : folder that gets one file a table, `<table>`.
    dtype : weights are kept as; None: as each table has them.
    """

    def __init__(self, server: Path, replicas: Path, dtype: Weights | None = None, max_rows: int = 0) -> None:
        self._server, self._replicas, self._dtype, self._max_rows = server, replicas, dtype, max_rows
        self.writers: dict[str, Writer] = {}
        self.followers: dict[str, Follower] = {}

    def poll(self) -> int:
        """Show what came since; how many files that were."""
        for folder in shards(self._server):
            if folder.name not in self.followers and numbers(Folder(folder).names(), "cut"):
                self._begin(folder)
        return sum(follower.poll() for follower in self.followers.values())

    def close(self) -> None:
        """Let another process write the replicas."""
        for writer in self.writers.values():
            writer.close()

    def _begin(self, folder: Path) -> None:
        with Chain(Folder(folder), strict=False) as chain:
            for spec in chain.specs.values():
                if spec.name not in self.writers:
                    self.writers[spec.name] = self._writer(spec)
        self.followers[folder.name] = Follower(Folder(folder), self.writers)

    def _writer(self, spec: TableSpec) -> Writer:
        return Writer(self._replicas / spec.name, spec, self._dtype, self._max_rows)


def shards(server: Path) -> list[Path]:
    """Folders of a server's shards."""
    return sorted(path for path in server.glob("shard*") if path.is_dir())


def fold_all(server: Path, after: int = FOLD_CUTS) -> int:
    """Fold the logs that have `after` cuts or more since their base; how many."""
    count = 0
    for folder in shards(server):
        names = Folder(folder).names()
        if max(numbers(names, "cut"), default=0) - max(numbers(names, "base"), default=0) >= after:
            compact(folder)
            count += 1
    return count


def main() -> int:
    """Exit code of the process: 0 when it was asked to end."""
    parser = argparse.ArgumentParser(prog="python -m gyral.params.tend", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("what", choices=["follow", "fold"])
    parser.add_argument("server", type=Path)
    parser.add_argument("replicas", type=Path, nargs="?", default=Path("replicas"))
    parser.add_argument("--dtype", choices=["f32", "int8"])
    given = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        if given.what == "follow":
            _follow(Following(given.server, given.replicas, given.dtype), stop)
        while given.what == "fold" and not stop.is_set():
            fold_all(given.server)
            stop.wait(FOLD_S)
    except GyralError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


def _follow(following: Following, stop: threading.Event) -> None:
    """Until told; a line every ten seconds."""
    said = time.monotonic()
    try:
        while not stop.is_set():
            following.poll()
            if time.monotonic() > said + FOLD_S:
                said = time.monotonic()
                rows = {name: len(writer) for name, writer in following.writers.items()}
                print(f"rows {rows}, found {[vars(each.found) for each in following.followers.values()]}", flush=True)
            stop.wait(LOOK_S)
    finally:
        following.close()


if __name__ == "__main__":
    sys.exit(main())
