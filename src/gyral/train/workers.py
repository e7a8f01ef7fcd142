"""Workers of a parameter server as processes: shards and ranks are started, and each rank knows where it was.

Under `bsp` all ranks are needed for each step, so when one dies the run ends, and `--resume` goes on from its checkpoint with
the same bits. Under `ssp` and `async` whoever dies is started again and goes on from the steps that the server has of it; the
others wait for it no longer than `train.server.lease_s`. A shard that dies comes back from its folder in either case.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from torch import nn

from gyral.config.training import Train
from gyral.engine import ranks
from gyral.engine.ray import address_of
from gyral.errors import ConfigError, GyralError
from gyral.files import write_atomic
from gyral.model.card import write_weights
from gyral.model.roles import Roles
from gyral.params import client as clients
from gyral.params.client import Client
from gyral.params.deltas import compact
from gyral.params.opening import opened
from gyral.params.shard import Settings
from gyral.params.spec import TableSpec
from gyral.train import device, loop, saved
from gyral.train.parallel import mesh
from gyral.train.parallel.beside import Beside
from gyral.train.parallel.parameter_server import Bsp, ParameterServer, tables_of
from gyral.train.rank import MEET, RESULT, Job, grouped, publishable, work
from gyral.train.saved import LEDGER

SHARDS = "GYRAL_SHARDS"
"""Where ranks find the shards."""
FOLDER = "server"
FOREVER_S = 1e6
COMPACT_S = 60.0
RESULT_S = 600.0


def num_workers(train: Train) -> int:
    """Workers of a training.

    Raises
    ------
    ConfigError : a mesh of other axes than `data`, or settings that do not go together.
    """
    axes = mesh.parse(train.parallel)
    if set(axes) - {"data"} or train.tables != "replicate" or train.outer.every or train.wire != "f32":
        hint = "`--parallel data=N` alone; `train.tables`, `train.outer` and `train.wire` are of `--sync allreduce`"
        raise ConfigError(f"`--sync {train.sync}` is of workers that have the whole model", where="train.sync", hint=hint)
    if train.server.dense == "allreduce" and train.sync != "bsp":
        hint = "`--sync bsp`, or `train.server.dense = 'server'`"
        raise ConfigError(f"an all-reduce waits for everybody, and `--sync {train.sync}` does not", where="train.server.dense",
                          hint=hint)  # fmt: skip
    num = mesh.num_ranks(axes)
    if train.server.at.startswith("local://") and num > 1:
        hint = "`train.server.at = 'proc://1'`"
        raise ConfigError(f"`{train.server.at}` has one worker, and there are {num}", where="train.server.at", hint=hint)
    return num


def settings_of(train: Train, num: int) -> Settings:
    """Of the shards."""
    lease_s = FOREVER_S if train.sync == "bsp" else train.server.lease_s
    return Settings(train.sync, num, lease_s, max(lease_s, 120.0), train.server.cut_s)


@contextlib.contextmanager
def shards(model: nn.Module, roles: Roles, train: Train, folder: Path, on: str = "local") -> Iterator[str]:
    """Shards of `train.server.at` for a model; the address for its workers. Their folder goes when all is well.

    Parameters
    ----------
    on : as `--on`: where it names a cluster, shards of this machine are no use to workers, and `proc://N` is placed there.
    """
    at, num = train.server.at, num_workers(train)
    if at.startswith("proc://") and (cluster := address_of(on)):
        at = f"ray://{cluster},shards={at.removeprefix('proc://')}"
    if not at.startswith(("proc://", "ray://")):
        yield at
        return
    specs = [table.spec for table in tables_of(model, roles, train, num)]
    place = folder / FOLDER
    found = opened(at, specs, settings_of(train, num), place, b"", "f32", "", "")
    over = threading.Event()
    folding = threading.Thread(target=_fold, args=(place, over), name="folding", daemon=True)
    folding.start()
    try:
        yield found.address
    finally:
        over.set()
        folding.join()
        found.transport.close()
    shutil.rmtree(place, ignore_errors=True)


def _fold(place: Path, over: threading.Event) -> None:
    """Keep the shards' logs short."""
    while not over.wait(COMPACT_S):
        for folder in sorted(place.glob("shard*/")):
            with contextlib.suppress(GyralError, OSError):
                compact(folder, 0.0, 0)


def launch(
    job: Path, train: Train, num: int, folder: Path, address: str, look: Callable[[], None], note: Callable[[str], None],
    start: ranks.Start = ranks.start,
) -> None:  # fmt: skip
    """Run the workers until their steps are done.

    Raises
    ------
    RankError : one stopped, under `bsp`; or died too often.
    """
    command, given, meet = ["-m", "gyral.train.rank", str(job)], {SHARDS: address}, folder / "meet"
    if train.sync == "bsp":
        ranks.launch(command, num, folder, {**given, MEET: f"file://{meet.resolve()}"}, look, start)
        meet.unlink(missing_ok=True)
    else:
        ranks.supervise(command, num, folder, given, look, restarts=train.elastic.restarts, note=note, start=start)


def strategy_of(train: Train, rank: int, num: int, folder: Path, address: str) -> ParameterServer:
    """The strategy of a worker."""

    def connect(specs: Sequence[TableSpec], seq: int, clock: int) -> Client:
        server = train.server
        secret = Path(server.secret).read_bytes() if server.secret else b""
        return clients.open(
            address,
            specs,
            settings=settings_of(train, num),
            worker=rank,
            seq=seq,
            clock=clock,
            coding=server.wire,
            secret=secret,
        )

    kind: Any = ParameterServer
    if train.sync == "bsp":
        kind = Beside if train.server.dense == "allreduce" else Bsp
    strategy: ParameterServer = kind(train, rank, num, folder, connect)
    strategy.autocast = partial(device.autocast, train.precision)
    strategy.follows_rows = train.optim.tables == "rowwise_adagrad"
    return strategy


class Ledger:
    """The first worker's ledger: a step that it does again is not written twice."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._num = len(path.read_bytes().splitlines()) if path.exists() else 0

    def __call__(self, step: loop.Step) -> None:
        if step.step >= self._num:
            with open(self._path, "ab", buffering=0) as file:
                file.write(msgspec.json.encode(step) + b"\n")
            self._num += 1


def take_part(job: Job) -> None:
    """One worker, from its start to the end of the run."""
    train, folder, rank = job.config.train, Path(job.folder), int(os.environ["RANK"])
    num = num_workers(train)
    with grouped() if train.server.dense == "allreduce" else contextlib.nullcontext():
        strategy = strategy_of(train, rank, num, folder, os.environ[SHARDS])
        trained = work(job, strategy=strategy, keep=Ledger(folder / LEDGER) if rank == 0 else _nothing)
    if rank == 0:
        write_weights(folder, publishable(trained))
        losses = [msgspec.json.decode(line, type=loop.Step).loss for line in saved.ledger_until(folder / LEDGER, job.steps)]
        write_atomic(folder / RESULT, msgspec.json.encode(msgspec.structs.replace(trained.result, loss=losses)))
        return
    end = time.monotonic() + RESULT_S  # whoever ends first ends the run
    while not (folder / RESULT).exists() and time.monotonic() < end:
        time.sleep(0.05)


def _nothing(_: loop.Step) -> None:
    """The ledger is the first worker's."""
