"""One member of an elastic run: find the others, train, and let one of those that are left at the end write what was made."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

import msgspec

from gyral.config.training import Elastic as Settings
from gyral.engine.listening import LOOPBACK, Listener
from gyral.errors import ConfigError, UsageError
from gyral.files import write_atomic
from gyral.model.card import write_weights
from gyral.train import device, loop
from gyral.train.elastic import lighthouse
from gyral.train.elastic.contact import Contact
from gyral.train.elastic.launch import AT
from gyral.train.elastic.membership import Fixed, Membership, Over
from gyral.train.elastic.strategy import Elastic
from gyral.train.parallel.wire import Wire
from gyral.train.rank import RESULT, Job, Trained, publishable, work
from gyral.train.saved import LEDGER

LISTEN = "GYRAL_LISTEN"
ADVERTISE = "GYRAL_ADVERTISE"


def take_part(job: Job) -> None:
    """Train as one of those whom the coordinator, or torchrun, brings together.

    `GYRAL_COORDINATOR_AT` is `HOST:PORT` of the coordinator; without it RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT are what
    torchrun sets. `GYRAL_LISTEN` is `HOST` or `HOST:PORT` to listen on, 127.0.0.1 if not set; `GYRAL_ADVERTISE` is
    `HOST:PORT` under which others reach it, where that is another one.

    Raises
    ------
    GyralError : whatever cannot be used, or was waited for in vain.
    """
    elastic, folder = job.config.train.elastic, Path(job.folder)
    if elastic.leaves > job.config.train.batch:
        raise UsageError(
            f"a batch of {job.config.train.batch} has no {elastic.leaves} leaves", hint="lower `train.elastic.leaves`"
        )
    membership, strategy = enter(elastic, folder, job.config.train.wire)
    strategy.autocast = partial(device.autocast, job.config.train.precision)
    try:
        trained = work(job, strategy=strategy, keep=lambda step: membership.record(step.step, msgspec.json.encode(step)))
        if membership.ended():
            write(job, trained)
            membership.done()
    except Over:
        print("the others have ended the run", file=sys.stderr)
    finally:
        strategy.close()
        membership.close()


def enter(settings: Settings, folder: Path, wire: Wire = "f32") -> tuple[Membership, Elastic]:
    """Who to train with, and how; the environment says where they are.

    Raises
    ------
    ConfigError : the same bits are asked for over a wire that rounds.
    """
    if wire == "int8" or (wire != "f32" and settings.leaves):
        why = "what travels depends on who takes part" if settings.leaves else "members of `elastic` send f32 or bf16"
        hint = "`train.wire = 'f32'`, or `train.elastic.leaves = 0` with `bf16`"
        raise ConfigError(f"`elastic` with `train.wire = '{wire}'`", why=why, where="train.wire", hint=hint)
    if settings.membership == "torchft" or AT in os.environ:
        advertised = _address(os.environ[ADVERTISE]) if ADVERTISE in os.environ else None
        membership = _lighthouse(settings, folder, advertised) if settings.membership == "torchft" else Contact(
            _address(os.environ[AT]), heartbeat_s=settings.heartbeat_s, timeout_s=settings.timeout_s, advertised=advertised
        )  # fmt: skip
        host, _, port = os.environ.get(LISTEN, LOOPBACK).partition(":")
        listener = Listener(membership.secret, host=host, port=int(port or 0))
        return membership, Elastic(membership, listener, settings.leaves, wire)
    fixed = Fixed(folder / LEDGER, timeout_s=settings.timeout_s)
    return fixed, Elastic(fixed, fixed.meet(Listener), settings.leaves, wire)


def _lighthouse(settings: Settings, folder: Path, advertised: tuple[str, int] | None) -> Membership:
    if lighthouse.AT not in os.environ:
        raise UsageError(f"`{lighthouse.AT}` is not set", hint="it is where torchft's lighthouse is, `http://HOST:PORT`")
    return lighthouse.Lighthouse(
        os.environ[lighthouse.AT], folder / LEDGER, folder / RESULT, workers=int(os.environ.get("WORLD_SIZE", "1")),
        heartbeat_s=settings.heartbeat_s, timeout_s=settings.timeout_s, start_s=settings.start_s, advertised=advertised,
    )  # fmt: skip


def write(job: Job, trained: Trained) -> None:
    """Weights and result; the losses come from the ledger, as whoever writes may have joined late."""
    folder = Path(job.folder)
    with open(folder / LEDGER, "rb") as file:
        losses = [msgspec.json.decode(line, type=loop.Step).loss for line in file]
    result = trained.result
    metrics = result.metrics
    if not metrics:  # another member evaluated, and is gone
        model = trained.task.build(0)
        model.load_state_dict(trained.weights, strict=False)
        metrics = loop.evaluate(trained.task, model)
    write_weights(folder, publishable(trained))
    write_atomic(folder / RESULT, msgspec.json.encode(msgspec.structs.replace(result, loss=losses, metrics=metrics)))


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)
