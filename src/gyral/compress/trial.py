"""A variant in a process of its own: what it gains by loading the model, and how long answers take.

`python -P -m gyral.compress.trial FOLDER` loads a model folder, writes a line of JSON, and for each line that it reads times a
round and writes another. Variants stay loaded side by side and are asked in turn, A B C A B C, so what else the machine does in
a minute falls on all of them. Times are CPU times of the process in one thread: on a quiet machine they are the time that
passes, and on a busy one they do not count the others.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from gyral.errors import InputError
from gyral.memory import resident_bytes

BATCHES = (1, 8)
ROUND_S = 0.12
"""CPU time of a round for each batch size, and for counting."""
MOST_CALLS = 400
CLOSING_S = 5


class Loaded(msgspec.Struct):
    """The first line: what loading the model once more and answering once has added to the process."""

    memory_bytes: int
    unit: str


class Round(msgspec.Struct):
    """A further line: seconds of calls by batch size, and what was counted in how many seconds."""

    calls: dict[str, list[float]]
    units: int
    units_s: float


class Tried:
    """A process with a variant. `round` may be called again and again.

    Raises
    ------
    InputError : it ended before it answered.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        command = [sys.executable, "-P", "-m", __name__, str(folder)]
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env={**os.environ, **threads})
        self.loaded = msgspec.json.decode(self._line(), type=Loaded)

    def round(self) -> Round:
        """Time one round."""
        if self._process.stdin is not None:
            try:
                self._process.stdin.write(b"\n")
                self._process.stdin.flush()
            except BrokenPipeError:
                pass  # said by the line that is missing
        return msgspec.json.decode(self._line(), type=Round)

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(CLOSING_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _line(self) -> bytes:
        line = self._process.stdout.readline() if self._process.stdout is not None else b""
        if not line:
            self.close()
            why = f"its process ended with {self._process.returncode}"
            raise InputError("a variant cannot be timed", why=why, where=str(self._folder))
        return line


@contextmanager
def trying(folder: Path) -> Iterator[Tried]:
    """A variant's process for a block."""
    tried = Tried(folder)
    try:
        yield tried
    finally:
        tried.close()


def main(folder: Path) -> None:
    """Load, tell, and time a round for each line that comes."""
    from gyral import plugins
    from gyral.model import card as cards
    from gyral.model.family import RecommenderFamily

    card = cards.read_card(folder)
    family: Any = plugins.find("family", card.family)
    if not isinstance(family, RecommenderFamily) or _has_net(folder):
        import torch

        torch.set_num_threads(1)
    _loaded(family, folder)  # kernels are compiled and libraries loaded: they are not the model's
    before = resident_bytes(settled=True)
    servable = _loaded(family, folder)
    trial = family.trial(servable)
    for size in BATCHES:
        trial.answer(size)
    _tell(Loaded(max(0, resident_bytes(settled=True) - before), trial.unit))
    for _ in sys.stdin:
        calls = {str(size): _timed(lambda size=size: trial.answer(size)) for size in BATCHES}
        units, begin = 0, time.process_time()
        while (took := time.process_time() - begin) < ROUND_S:
            units += trial.work()
        _tell(Round(calls, units, took))


def _loaded(family: Any, folder: Path) -> Any:
    servable = family.load(folder)
    servable.warm()
    return servable


def _timed(call: Any) -> list[float]:
    found: list[float] = []
    while sum(found) < ROUND_S and len(found) < MOST_CALLS:
        begin = time.process_time()
        call()
        found.append(time.process_time() - begin)
    return found


def _has_net(folder: Path) -> bool:
    from safetensors import safe_open

    from gyral.model.card import WEIGHTS

    with safe_open(folder / WEIGHTS, framework="numpy") as file:
        return "net" in msgspec.json.decode((file.metadata() or {}).get("gyral", "{}"))


def _tell(line: msgspec.Struct) -> None:
    sys.stdout.write(msgspec.json.encode(line).decode() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
