"""Checkpoints of a training: saved while it goes on, loaded into any other mesh.

**Format.** Each rank writes its chunks into one safetensors file whose header says where they belong (`DCP_SHARDING_INFO`, as
torch's `HuggingFaceStorageWriter` does), so torch's own `dcp.load` reads our folders, and resharding is DCP's planner: what a
rank needs is cut out of whatever chunks there are. DCP's usual format keeps pickled metadata and numbers; here numbers are JSON
in the manifest. We write by ourselves and not by `dcp.async_save`, which gathers and scatters pickled plans by
all ranks at each save, allocates its staging anew, and whose safetensors writer refuses numbers.

**Saving** costs the training thread one copy of the rank's own chunks into a buffer that is kept (memory: once the state, split
over the ranks). A thread hashes and writes it, both outside Python's lock. No rank waits for another: each leaves a mark, and
the first rank's thread waits for all marks, writes the manifest, gives the folder its name, reads it back, and only then
deletes older ones.

Source: Wang et al. 2023 (Gemini) and Eisenman et al. 2022 (Check-N-Run) on snapshot, then persist.
"""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import msgspec
import torch
from torch import nn

from gyral import __version__
from gyral.errors import RankError
from gyral.faults import fail_point
from gyral.files import fsync_path, make_folder, write_atomic
from gyral.train import layout, saved
from gyral.train.fill import wanted
from gyral.train.loader import Order
from gyral.train.loop import Position
from gyral.train.parallel.strategy import Strategy
from gyral.train.saved import FOLDER, MANIFEST, FileMark, Manifest, Pins, Saved
from gyral.train.shards import header_of, read_into, reader_of, shapes_in, written

WAIT_S = 300.0
"""How long the first rank waits for the others' files, and a save for the one before."""


class HasInner(Protocol):
    """`gyral.train.optim.Optimizer`: `inner` is torch's, or a list of them."""

    inner: Any


class Keeps(Protocol):
    """A part of a training that has a state of its own: the strategy, a moving average, a guard."""

    def state(self) -> dict[str, Any]:
        """Nested dicts of tensors and of what JSON can hold."""

    def load(self, state: dict[str, Any]) -> None:
        """The way back; tensors that `state` gave are filled already."""


class Mark(msgspec.Struct):
    """What a rank leaves beside its file when it is written."""

    files: dict[str, FileMark]
    numbers: dict[str, Any]
    aliases: dict[str, str]


class Checkpoints:
    """The checkpoints of one run, as one rank sees them; every rank makes one and calls it at the same steps.

    Parameters
    ----------
    folder : of the run.
    parts : further parts of the training that have a state, by name.
    mesh : ranks along each axis, for the record.
    keep : how many sound ones are left.
    before : files to be on the disk before a checkpoint gets its name: the ledger that leads up to it.
    rank, count : ranks that have parts of the state; with several, `exchange` tells all what each says.
    """

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        optimizer: HasInner,
        strategy: Strategy,
        order: Order,
        *,
        parts: Mapping[str, Keeps] | None = None,
        pins: Pins | None = None,
        mesh: dict[str, int] | None = None,
        keep: int = 2,
        before: Sequence[Path] = (),
        rank: int = 0,
        count: int = 1,
        exchange: Callable[[bytes], list[bytes]] = layout.exchanged,
    ) -> None:
        self.folder, self.model, self.order = folder, model, order
        self.parts: dict[str, Keeps] = {"strategy": strategy, **(parts or {})}
        self.optimizers: list[torch.optim.Optimizer] = (
            list(optimizer.inner) if isinstance(optimizer.inner, list | tuple) else [optimizer.inner]
        )
        self.pins, self.mesh, self.keep, self.before = pins or Pins(), mesh or {}, keep, tuple(before)
        self.rank, self.count, self._exchange = rank, count, exchange
        self.blocked_s: list[float] = []
        """How long each save held up the training thread."""
        self._session = ""
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self._keys: set[str] = set()
        self._chosen: set[str] = set()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(self, position: Position) -> None:
        """Copy the state and have it written while training goes on; a save before that still writes is waited for.

        Raises
        ------
        OSError, GyralError : the save before failed.
        """
        begun = time.perf_counter()
        self.wait()
        state = layout.state_of(self.model, self.optimizers, self._parts())
        chunks = layout.chunks_of(state.tensors)
        chunks = self._mine(chunks)
        size = sum(each.values.nbytes for each in chunks)
        if self._buffer.numel() != size:
            self._buffer = torch.zeros(size, dtype=torch.uint8)  # touched: pages are there when the next save copies
        start = 0
        for each in chunks:
            room = self._buffer[start : start + each.values.nbytes].view(each.values.dtype).view(each.shape)
            room.copy_(each.values)
            start += each.values.nbytes
        header = header_of(chunks)
        manifest = self._manifest(position)
        self._thread = threading.Thread(
            target=self._write, args=(header, manifest, Mark({}, state.numbers, state.aliases)), name="checkpoint"
        )
        self._thread.start()
        self.blocked_s.append(time.perf_counter() - begun)

    def _mine(self, chunks: list[layout.Chunk]) -> list[layout.Chunk]:
        """Those that this rank writes; agreed anew when any rank has others than at the save before."""
        keys = {each.key for each in chunks}
        if any(told == b"new" for told in self._exchange(b"new" if keys != self._keys else b"same")):
            self._session = self._session or self._exchange(secrets.token_hex(4).encode())[0].decode()
            self._keys, self._chosen = keys, {each.key for each in layout.mine(chunks, self._exchange, self.rank)}
        return [each for each in chunks if each.key in self._chosen]

    def wait(self) -> None:
        """Until the last save is on the disk.

        Raises
        ------
        OSError, GyralError : it failed.
        """
        if self._thread is not None:
            self._thread.join(2 * WAIT_S)
            if self._thread.is_alive():
                raise RankError(f"a checkpoint was not written in {2 * WAIT_S:.0f} s", where=str(self.folder / FOLDER))
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def begin(self, step: int) -> Position:
        """Where a run begins: at the checkpoint of this step, which the verb has verified; 0: at the beginning.

        Raises
        ------
        InputError : it is of a run over other examples, in another order.
        """
        if step == 0:
            return Position()
        found = saved.opened(self.folder, step)
        order = asdict(self.order)
        there = found.manifest.order
        differ = [f"{name} {there.get(name)} there, {value} here" for name, value in order.items() if there.get(name) != value]
        if differ:
            raise saved.refused("the checkpoint is of another order of examples", ", ".join(differ), found.folder)
        return self.load(found)

    def latest(self) -> Saved | None:
        """The newest sound one; all ranks of a run see the same one once a save before is written."""
        self.wait()
        return saved.newest(self.folder)

    def load(self, found: Saved) -> Position:
        """Fill the model, the optimizer and the strategy, whatever mesh wrote the checkpoint.

        Raises
        ------
        InputError : it lacks a tensor, or one has another shape: it is of another model.
        """
        from safetensors import SafetensorError

        try:
            reader, metadata = reader_of(found.folder)
            filled, given = wanted(found, shapes_in(metadata), self.model, self.optimizers, self._parts())
            read_into(reader, metadata, filled)
        except (OSError, SafetensorError) as error:
            raise saved.refused("the checkpoint cannot be read", str(error), found.folder) from None
        for name, part in self.parts.items():
            if kept := layout.nested({**given, **found.manifest.numbers}, name):
                part.load(kept)
        return Position(found.manifest.step, found.manifest.skipped)

    def _parts(self) -> dict[str, dict[str, Any]]:
        return {name: part.state() for name, part in self.parts.items()}

    def _manifest(self, position: Position) -> Manifest:
        return Manifest(position.step, asdict(self.order), position.skipped, self.mesh, self.pins, {}, versions())

    def _write(self, header: bytes, manifest: Manifest, mark: Mark) -> None:
        """In a thread: write, and on the first rank publish."""
        place = self.folder / FOLDER / str(manifest.step)
        staging = place.with_name(f".{manifest.step}.{self._session}.tmp")
        try:
            make_folder(staging)
            name = f"rank{self.rank}.safetensors"
            mark.files[name] = written(staging / name, [header, self._buffer.numpy().data])
            write_atomic(staging / f"rank{self.rank}.json", msgspec.json.encode(mark))
            fail_point("checkpoint.written")
            if self.rank == 0:
                publish(staging, place, manifest, gathered_marks(staging, self.count), self.before)
                saved.prune(self.folder, self.keep)
                sweep(self.folder / FOLDER, self._session)
        except BaseException as error:
            self._error = error


def publish(staging: Path, place: Path, manifest: Manifest, marks: Sequence[Mark], before: Sequence[Path]) -> None:
    """Write the manifest of what all ranks wrote, and give the folder its name."""
    files = {name: each for mark in marks for name, each in mark.files.items()}
    numbers = {name: each for mark in reversed(marks) for name, each in mark.numbers.items()}
    aliases = {name: each for mark in reversed(marks) for name, each in mark.aliases.items()}
    for path in before:
        if path.exists():
            fsync_path(path)
    whole = msgspec.structs.replace(manifest, files=files, numbers=numbers, aliases=aliases)
    write_atomic(staging / MANIFEST, msgspec.json.format(msgspec.json.encode(whole)))
    for rank in range(len(marks)):
        (staging / f"rank{rank}.json").unlink()
    fsync_path(staging)
    fail_point("checkpoint.publish")
    if place.exists():  # of the same step, by a run that went back
        shutil.rmtree(place)
    os.rename(staging, place)
    fsync_path(place.parent)


def gathered_marks(staging: Path, count: int) -> list[Mark]:
    """The marks of all ranks, as soon as they are there.

    Raises
    ------
    RankError : one did not come in time; it is named.
    """
    end = time.monotonic() + WAIT_S
    while missing := [rank for rank in range(count) if not (staging / f"rank{rank}.json").exists()]:
        if time.monotonic() > end:
            ranks = ", ".join(map(str, missing))
            raise RankError(f"the checkpoint waited {WAIT_S:.0f} s for the part of rank {ranks}", where=str(staging))
        time.sleep(0.01)
    return [msgspec.json.decode((staging / f"rank{rank}.json").read_bytes(), type=Mark) for rank in range(count)]


def sweep(place: Path, session: str) -> None:
    """Remove what saves of earlier processes left half done."""
    for left in [*place.glob(".*.tmp"), *place.glob(".*.going")]:
        if f".{session}." not in left.name:
            shutil.rmtree(left, ignore_errors=True)


def versions() -> dict[str, str]:
    """What computes."""
    return {"gyral": __version__, "torch": str(torch.__version__), "python": platform.python_version()}
