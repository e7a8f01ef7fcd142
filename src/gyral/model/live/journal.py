"""The journal of a learner: one line a step, on the disk before the step is pushed; followers read names and times from it.

So that it does not grow for ever, steps that everybody may read become its first line, a `Base`: what they came to, without
when. The file is replaced by one that begins with that line and goes on with the steps after it; whoever dies meanwhile leaves
the one file or the other, which say the same. The last `KEPT` steps stay as they are, because followers take from them how
fresh they are, and it waits until half of the file could go, so that a step is copied twice at most, however long it runs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import msgspec

from gyral.errors import InputError
from gyral.faults import fail_point
from gyral.files import fsync_path, write_atomic

JOURNAL = "journal.jsonl"
KEPT = 1_024
"""Steps that stay: a minute and more, at the most steps a second that a learner does."""
LEAST_BYTES = 1 << 18
"""Of steps that could go: below, nothing is gained."""
HEAD_BYTES = 48
"""By which a file is told from the one that took its place: they begin with a base's number, or with the first step."""
_BASE = b'{"base":'
Offsets = Mapping[str, int]


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


class Base(msgspec.Struct):
    """What all steps up to one came to.

    Attributes
    ----------
    seq : number of that step.
    offsets : partition → the entry behind the last that was taken.
    objects, titles : by code.
    seen : events that were looked at.
    hour : of the newest event.
    since : offsets from which on event ids are remembered, of the older and of the newer ones (`gyral.train.online`).
    """

    seq: int = 0
    offsets: dict[str, int] = {}
    objects: list[str] = []
    titles: list[str] = []
    seen: int = 0
    hour: int = 0
    since: tuple[dict[str, int], dict[str, int]] = ({}, {})


class Read(NamedTuple):
    """Whole lines of a journal.

    Attributes
    ----------
    base : of its first line; None where that is a step, or was not read.
    end : the place behind the last line.
    head : how the file begins.
    """

    base: Base | None
    steps: list[Step]
    end: int = 0
    head: bytes = b""


class Journal:
    """The steps of one learner in a file. What was torn off at its end was never pushed, and is cut off.

    Attributes
    ----------
    last : number of the newest step, 0 before the first.
    cut_at : of the newest of those that are one line now.

    Raises
    ------
    InputError : a line before the last is none, or steps are missing.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / JOURNAL
        self._found = read(self.path) if self.path.exists() else Read(None, [])
        base, steps, whole, _ = self._found
        self.cut_at = base.seq if base else 0
        self._cut_bytes = len(_line(base)) if base else 0
        self.last = steps[-1].seq if steps else self.cut_at
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

    def found(self) -> tuple[Base, list[Step]]:
        """What was there when it was opened. Told once: a step is 1 kB in memory, and there are ten a second."""
        base, steps, *_ = self._found
        self._found = Read(None, [])
        return base or Base(), steps

    def can_cut(self, published: int) -> bool:
        """Whether it is worth it, where everybody may read up to a step."""
        least = max(LEAST_BYTES, self._cut_bytes)
        return min(published, self.last - KEPT) - self.cut_at >= KEPT and self._file.tell() - self._cut_bytes >= 2 * least

    def cut(self, published: int, since: Sequence[tuple[int, Offsets]]) -> None:
        """Let the oldest steps become one line. Where the disk is full, all stays as it is.

        Parameters
        ----------
        published : the last step that everybody may read: it is not done again whatever happens.
        since : (step, offsets) where the newest collections of event ids begin, oldest first; two at least.

        Raises
        ------
        OSError : the new file is there, and whether it will be after a power cut is not known.
        """
        base, steps, *_ = read(self.path)
        until = min(published, self.last - KEPT)
        begun = [dict(offsets) for seq, offsets in since if seq <= until][-2:]
        new = _line(joined(base or Base(), [step for step in steps if step.seq <= until], (begun[0], begun[-1])))
        tail = b"".join(msgspec.json.encode(step) + b"\n" for step in steps if step.seq > until)
        fail_point("live.cutting")
        try:
            write_atomic(self.path, new + tail)
        except OSError:
            if os.path.samestat(os.fstat(self._file.fileno()), os.stat(self.path)):
                return
            raise
        fail_point("live.cut")
        self._file.close()
        self._file = open(self.path, "ab")  # noqa: SIM115 (closed by close)
        self.cut_at, self._cut_bytes = until, len(new)

    def close(self) -> None:
        """May be called twice."""
        self._file.close()


def joined(base: Base, steps: Sequence[Step], since: tuple[dict[str, int], dict[str, int]]) -> Base:
    """What a base and the steps behind it came to."""
    return Base(
        steps[-1].seq if steps else base.seq,
        base.offsets | {name: end for step in steps for name, (_, end) in step.taken.items()},
        [*base.objects, *(name for step in steps for name in step.objects)],
        [*base.titles, *(title for step in steps for title in step.titles)],
        base.seen + sum(events for step in steps for _, events in step.acknowledged),
        max([base.hour, *(step.hour for step in steps)]),
        since,
    )


def read(path: Path, offset: int = 0, head: bytes = b"") -> Read:
    """Whole lines from a place in the file on, or from its beginning where it is another file than one that began with `head`.

    Raises
    ------
    InputError : one is none, or steps are missing.
    """
    with open(path, "rb") as file:
        begins = file.read(HEAD_BYTES)
        offset = offset if begins == head else 0
        file.seek(offset)
        body = file.read()
    whole = body.rfind(b"\n") + 1
    lines = body[:whole].splitlines()
    base: Base | None = None
    try:
        if lines and not offset and begins.startswith(_BASE):
            base = msgspec.json.decode(lines.pop(0), type=dict[str, Base])["base"]
        steps = [msgspec.json.decode(line, type=Step) for line in lines]
    except msgspec.DecodeError as error:
        hint = "remove the folder to learn anew from the log"
        raise InputError("a line of the journal cannot be read", where=str(path), why=str(error), hint=hint) from None
    first = [base.seq if base else 0] if not offset else []
    for before, after in pairwise([*first, *(step.seq for step in steps)]):
        if after != before + 1:
            hint = "put the file back from a copy"
            raise InputError(f"step {before + 1:,} is not in the journal", where=str(path), hint=hint)
    return Read(base, steps, offset + whole, begins)


def _line(base: Base) -> bytes:
    return msgspec.json.encode({"base": base}) + b"\n"
