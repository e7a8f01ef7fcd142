"""What a live stream was read as: one line a range, on the disk before anybody learns from it.

    runs/<n>/stream.jsonl    {"type":"begin",…}                    what is followed, and from where
                             {"type":"range","number":0,…}         from … to …, rows, tokens, examples, digest
                             {"type":"end",…}                      the stream is over: nothing came, or all steps are done

A live stream is no function of the step until somebody has said what is in it. Here that is said once: position stays one
integer, a place in the ranges one after the other, and a run that is killed and goes on has the same examples in each step.

Any rank may write, whoever gets the lock; all read. A line ends in a checksum of itself and is flushed before the lock is let
go. A last line that was torn by a kill counts for nobody, as nobody can have read it, and the next writer cuts it off.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from gyral.errors import InputError
from gyral.faults import fail_point
from gyral.files import fsync_path, hold

FILE, LOCK = "stream.jsonl", "stream.lock"
_SUM = len(',"crc":"01234567"}')


class Begin(msgspec.Struct, frozen=True, tag="begin", tag_field="type"):
    """What is followed, and the offsets of the lake's log at which the first range begins."""

    stream: str
    since: dict[str, int]


class Range(msgspec.Struct, frozen=True, tag="range", tag_field="type"):
    """What came in between two looks at the lake.

    Attributes
    ----------
    since, until : offsets of each partition that moved: [since, until).
    version : of the table, as it was when it was read first; any later one has the same rows.
    events, documents, aside : rows of the lake; texts made of them that are trained on; texts that are measured on.
    tokens, examples : of the stream up to the end of this range, what is trained on; an example may begin in a range before.
    digest : of the ids of the events and of the texts.
    also : digest of a text that is measured on from here on though its hash says otherwise, so that there is one; or empty.
    """

    number: int
    since: dict[str, int]
    until: dict[str, int]
    version: int
    events: int
    documents: int
    aside: int
    tokens: int
    examples: int
    digest: str
    also: str = ""


class End(msgspec.Struct, frozen=True, tag="end", tag_field="type"):
    """Why nothing more is read, after how many steps; `unread` examples are there that no step was trained on."""

    steps: int
    unread: int
    why: str


class Ranges:
    """The file of one run, as one rank sees it.

    Parameters
    ----------
    folder : of the run, seen by all ranks.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.begin: Begin | None = None
        self.ranges: list[Range] = []
        self.end: End | None = None
        self._at = 0
        self.read()

    @property
    def examples(self) -> int:
        """How many there are so far."""
        return self.ranges[-1].examples if self.ranges else 0

    @property
    def tokens(self) -> int:
        """How many there are so far."""
        return self.ranges[-1].tokens if self.ranges else 0

    def until(self) -> dict[str, int]:
        """Offsets up to which there are ranges."""
        found = dict(self.begin.since) if self.begin else {}
        for each in self.ranges:
            found.update(each.until)
        return found

    def read(self) -> bool:
        """Take in lines that were written since; whether there were any.

        Raises
        ------
        InputError : the file is damaged, and not at its end.
        """
        try:
            with open(self.path, "rb") as file:
                file.seek(self._at)
                lines = file.read().splitlines(keepends=True)
        except FileNotFoundError:
            return False
        for number, line in enumerate(lines):
            try:
                found = decoded(line)
            except ValueError as error:
                if number + 1 == len(lines):  # torn, or half of it written
                    return number > 0
                why = f"the line at byte {self._at:,} is not what was written: {error}"
                raise InputError("the ledger of the stream is damaged", why=why, where=str(self.path)) from None
            self._add(found)
            self._at += len(line)
        return bool(lines)

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """A block in which nobody else writes; False: somebody does now. What was torn is cut off before."""
        held = hold(self.path.with_name(LOCK))
        if held is None:
            yield False
            return
        with held:
            self.read()
            if self.path.exists() and self.path.stat().st_size > self._at:
                os.truncate(self.path, self._at)
            yield True

    def write(self, line: Begin | Range | End) -> None:
        """Add a line, within `alone`; when it returns, the line is on the disk."""
        is_new = not self.path.exists()
        fail_point(f"stream.{type(line).__name__.lower()}")
        body = encoded(line)
        with open(self.path, "ab", buffering=0) as file:
            if file.write(body) != len(body):
                raise InputError(
                    "the ledger of the stream could not be written",
                    why="the disk is full",
                    where=str(self.path),
                    hint="make room, then go on with `--resume`",
                )
            os.fsync(file.fileno())
        if is_new:
            fsync_path(self.path.parent)
        self._at += len(body)
        self._add(line)
        fail_point("stream.written")

    def told(self) -> dict[str, Any]:
        """In numbers, for the card of a model."""
        sums = {name: sum(getattr(each, name) for each in self.ranges) for name in ("events", "documents", "aside")}
        end = self.end or End(0, 0, "")
        return {"ranges": len(self.ranges), **sums, "examples": self.examples, "unread": end.unread, "ended": end.why}

    def _add(self, line: Begin | Range | End) -> None:
        if isinstance(line, Range):
            self.ranges.append(line)
        elif isinstance(line, Begin):
            self.begin = line
        else:
            self.end = line


def encoded(line: Begin | Range | End) -> bytes:
    """A line with its checksum."""
    body = msgspec.json.encode(line)[:-1]
    return b'%s,"crc":"%08x"}\n' % (body, zlib.crc32(body))


def decoded(line: bytes) -> Begin | Range | End:
    """The way back.

    Raises
    ------
    ValueError : it was torn or damaged.
    """
    body = line[: -_SUM - 1]
    if line[-_SUM - 1 :] != b',"crc":"%08x"}\n' % zlib.crc32(body):
        raise ValueError("its checksum differs")
    found: Begin | Range | End = msgspec.json.decode(body + b"}", type=Begin | Range | End)
    return found


def taken_over(folder: Path) -> bytes:
    """What a run that goes on from the one of a folder reads again: all ranges, and not that the stream had ended.

    A range may be one that nobody had learned from. The end was of that run: what has come in since is read by the next.
    """
    found = Ranges(folder)
    begin = encoded(found.begin) if found.begin else b""
    return begin + b"".join(map(encoded, found.ranges))
