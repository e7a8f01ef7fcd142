"""The journal of a learner: one line a step, on the disk before the step is pushed; followers read names and times from it."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import msgspec

from gyral.errors import InputError
from gyral.files import fsync_path

JOURNAL = "journal.jsonl"


class Step(msgspec.Struct, omit_defaults=True):
    """One line of the journal.

    Attributes
    ----------
    seq : its number, from 1.
    taken : partition → first entry and the one behind the last.
    objects, titles : that get the next codes.
    acknowledged : (microseconds since the epoch, events) of each entry.
    hour : of the newest event so far.
    """

    seq: int
    taken: dict[str, tuple[int, int]]
    objects: list[str] = []
    titles: list[str] = []
    acknowledged: list[tuple[int, int]] = []
    hour: int = 0


class Journal:
    """The steps of one learner in a file. What was torn off at its end was never pushed, and is cut off.

    Attributes
    ----------
    last : number of the newest step, 0 before the first.

    Raises
    ------
    InputError : a line before the last is none, or steps are missing.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / JOURNAL
        self._found: list[Step] = []
        whole = 0
        if self.path.exists():
            self._found, whole = read_steps(self.path)
        self.last = len(self._found)
        self._file = open(self.path, "ab")  # noqa: SIM115 (closed by close)
        self._file.truncate(whole)
        os.fsync(self._file.fileno())
        fsync_path(folder)

    def add(self, step: Step) -> None:
        """Durable when it returns."""
        self._file.write(msgspec.json.encode(step) + b"\n")
        self._file.flush()
        os.fdatasync(self._file.fileno())
        self.last = step.seq

    def found(self) -> list[Step]:
        """The steps that were there when it was opened. Told once: a step is 1 kB in memory, and there are ten a second."""
        steps, self._found = self._found, []
        return steps

    def close(self) -> None:
        """May be called twice."""
        self._file.close()


def read_steps(path: Path, offset: int = 0) -> tuple[list[Step], int]:
    """Whole lines from a place in the file on, and the place behind them."""
    with open(path, "rb") as file:
        file.seek(offset)
        body = file.read()
    whole = body.rfind(b"\n") + 1
    try:
        steps = [msgspec.json.decode(line, type=Step) for line in body[:whole].splitlines()]
    except msgspec.DecodeError as error:
        hint = "remove the folder to learn anew from the log"
        raise InputError("a line of the journal cannot be read", where=str(path), why=str(error), hint=hint) from None
    for before, after in pairwise(steps):
        if after.seq != before.seq + 1:
            hint = "put the file back from a copy"
            raise InputError(f"step {before.seq + 1:,} is not in the journal", where=str(path), hint=hint)
    return steps, offset + whole
