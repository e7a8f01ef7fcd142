"""Training on what comes into the lake while it is trained: which example a step has, and the wait until it is there.

New documents are read a range at a time (`gyral.lake.arrivals`), and each range is written to the run's `stream.jsonl` before
any rank sees an example of it (`gyral.train.ranges`). All texts one after the other are one stream of tokens, example k is its
tokens [k T, (k + 1) T), so what is left over of a range begins the next and nothing is skipped. Within a range the order is a
permutation that is computed, so pieces of one document are apart in it; ranges follow each other as they came.

Every rank asks for the examples of a step before it computes, so all wait at the same place and none inside an all-reduce. The
one that gets the lock looks at the lake. When nothing came for `train.stream.idle_s` the end is written, and all ranks read it:
a step is trained by everybody or by nobody. What is left then is less than a batch.

Each rank reads and extracts the texts of a range by itself: nothing of them is stored outside the lake, so what is erased there
is not kept elsewhere. A range whose rows were erased before they were read again is refused.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa

from gyral import plugins
from gyral.config import Config
from gyral.errors import InputError, RankError
from gyral.lake import arrivals
from gyral.lake.arrivals import Arrivals
from gyral.lake.order import permuted
from gyral.model.stream import Stream, digest_of, is_aside, joined
from gyral.train.loader import Ended, Order
from gyral.train.ranges import Begin, End, Range, Ranges

POLL_S = 0.2
TELL_EVERY_S = 9.0
LOOK_S = 300.0
"""How long one rank may look at the lake, and compile kernels for what it finds, while the others wait for it."""
IDLE, STEPS = "idle", "steps"
Encode = Callable[[Sequence[bytes]], Stream]


class Content(NamedTuple):
    """The texts of a range: tokens of those that are trained on, and those that are measured on."""

    stream: Stream
    aside: list[bytes]


class Live:
    """The documents of a lake as sequences of tokens, as they come.

    Parameters
    ----------
    length : tokens of an example.
    encode : texts → their tokens.
    """

    def __init__(self, source: Arrivals, config: Config, length: int, encode: Encode) -> None:
        self.source, self.length = source, length
        self.note: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True)
        self._lake, self._config, self._encode = arrivals.lake_of(source, config), config, encode
        self._texts = plugins.find("texts", arrivals.KIND)
        self._loaded: dict[int, Content] = {}
        self._window: tuple[int, int, Stream] = (0, -1, encode([]))
        self._aside: list[bytes] = []
        self._num_aside, self._reached = 0, -1
        self._looked_at: dict[str, int] | None = None

    def order(self, folder: Path, batch: int, seed: int) -> LiveOrder:
        """The order of examples of the run of a folder, whose ranges are gone on with."""
        self.ranges = Ranges(folder)
        with self.ranges.alone() as is_ours:
            if is_ours:
                self._begin()
        return LiveOrder(self, batch, seed)

    def wait_for(self, examples: int, step: int) -> None:
        """Return when so many examples are there.

        Raises
        ------
        Ended : the stream has ended before.
        InputError : nothing came before the first step.
        """
        by, ranges = self._config.train.stream, self.ranges
        begun = told = time.monotonic()
        num = len(ranges.ranges)
        while ranges.examples < examples:
            if ranges.read() or self._extend() or len(ranges.ranges) > num:
                begun, num = time.monotonic(), len(ranges.ranges)
                continue
            if ranges.end is not None:
                raise Ended
            now = time.monotonic()
            if now - begun > by.idle_s and self._is_over(examples, step):
                continue
            if now - begun > by.idle_s + LOOK_S:
                what = f"another rank has looked at `{self.source.name}` for more than {LOOK_S:g} s"
                raise RankError(what, where=str(ranges.path), hint="look at the ranks' logs, and go on with `--resume`")
            if now - told > TELL_EVERY_S:
                told = now
                self.note(f"waiting for documents of `{self.source.name}`, {now - begun:.0f} of {by.idle_s:g} s")
            time.sleep(POLL_S)

    def close(self, steps: int) -> None:
        """All steps are done: write that the stream has ended for this run, if nobody has."""
        with self.ranges.alone() as is_ours:
            if is_ours and self.ranges.end is None:
                self._end(steps, STEPS)

    def _is_over(self, examples: int, step: int) -> bool:
        """Nothing came for long: write the end, unless more came at the last moment; False: somebody else is looking now."""
        with self.ranges.alone() as is_ours:
            if is_ours and self.ranges.end is None and self.ranges.examples < examples and not self._grow():
                if step == 0:
                    raise self._nothing(examples)
                self._end(step, IDLE)
        return is_ours

    def _end(self, steps: int, why: str) -> None:
        self.ranges.write(End(steps, self.ranges.examples - steps * self._config.train.batch, why))

    def reached(self, first: int, last: int) -> None:
        """Examples of these ranges are trained on now: what came later is not measured on yet, what came before is let go."""
        self._reached, first = last, self._first_of(first)
        self._loaded = {number: each for number, each in self._loaded.items() if number >= first}

    def num_sequences(self, length: int) -> int:
        """Nobody knows: none is promised."""
        return 0

    def sequences(self, positions: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of T inputs and their T targets, as `Stream.sequences` gives them."""
        if not len(positions):
            return self._encode([]).sequences(positions, length)
        first = self._first_of(self.range_of(int(positions.min())))
        last = self.range_of(int(positions.max()))
        if self._window[:2] != (first, last):
            parts = [self._content(number).stream for number in range(first, last + 1)]
            self._window = (first, last, joined(parts))
        return self._window[2].rows(positions.astype(np.int64) * length - self._base(first), length)

    def range_of(self, example: int) -> int:
        """Number of the range in which an example ends."""
        return int(np.searchsorted([each.examples for each in self.ranges.ranges], example, side="right"))

    def held_out(self) -> Stream:
        """What is measured on: the first texts kept aside, up to `lm.held_out_bytes`; of copies one. From then on it stays."""
        seen, size = set(self._aside), sum(map(len, self._aside))
        while self._num_aside <= self._reached and size < self._config.lm.held_out_bytes:
            for text in self._content(self._num_aside, is_exact=False).aside:
                if text not in seen:
                    seen.add(text)
                    self._aside.append(text)
                    size += len(text)
            self._num_aside += 1
        return self._encode(self._aside)

    def _first_of(self, number: int) -> int:
        """The range in which the first example that ends in a range begins."""
        start = self.ranges.ranges[number - 1].examples * self.length if number else 0
        return int(np.searchsorted([each.tokens for each in self.ranges.ranges], start, side="right"))

    def _base(self, number: int) -> int:
        return self.ranges.ranges[number - 1].tokens if number else 0

    def _extend(self) -> bool:
        """Write one more range, if something came and nobody else looks; whether one was written."""
        with self.ranges.alone() as is_ours:
            return is_ours and self.ranges.end is None and self._grow()

    def _begin(self) -> None:
        """Within the lock."""
        if self.ranges.begin is None:
            since = arrivals.committed(self._lake) if self._config.train.stream.begin == "new" else {}
            self.ranges.write(Begin(self.source.name, since))

    def _grow(self) -> bool:
        """Within the lock."""
        self._begin()
        since = self.ranges.until()
        newest = arrivals.committed(self._lake)
        if newest == self._looked_at:
            return False
        found = arrivals.newer(self._lake, self.source.app, since, self._config.train.stream.documents)
        if found is None:
            self._looked_at = newest
            return False
        texts = self._texts(found.rows, self._config, self.note)
        also, number = self._also(texts), len(self.ranges.ranges)
        content = self._divided(texts, number, also)
        tokens = self.ranges.tokens + len(content.stream)
        until = {name: offset for name, offset in found.until.items() if offset != since.get(name, 0)}
        line = Range(
            number, {name: since.get(name, 0) for name in until}, until, found.version, found.rows.num_rows,
            len(content.stream.ends), len(content.aside), tokens, tokens // self.length,
            digest_of_range(found.rows, texts), also,
        )  # fmt: skip
        self.ranges.write(line)
        self._loaded[number] = content
        return True

    def _content(self, number: int, *, is_exact: bool = True) -> Content:
        """Texts of a range, read again where they are not held.

        Raises
        ------
        InputError : they are not those that were read first, and it matters.
        """
        if number not in self._loaded:
            wanted = self.ranges.ranges[number]
            rows = arrivals.between(self._lake, self.source.app, wanted.since, wanted.until)
            texts = self._texts(rows, self._config, self.note)
            if digest_of_range(rows, texts) != wanted.digest:
                if not is_exact:
                    return self._divided(texts, number)
                raise self._changed(wanted, rows)
            self._loaded[number] = self._divided(texts, number)
        return self._loaded[number]

    def _also(self, texts: Sequence[str]) -> str:
        """A text of a new range to be measured on where none is so far: that with the lowest digest, if it is not the first."""
        digests = sorted({digest_of(text.encode()) for text in texts})
        has_one = any(each.aside for each in self.ranges.ranges)
        is_first = not any(each.documents for each in self.ranges.ranges) and len(digests) < 2
        if has_one or is_first or not digests or any(is_aside(each, self._config.lm.held_out) for each in digests):
            return ""
        return digests[0].hex()

    def _divided(self, texts: Sequence[str], number: int, also: str = "") -> Content:
        """Both sides of a range."""
        named = {also, *(each.also for each in self.ranges.ranges[: number + 1])}
        bodies = [text.encode() for text in texts]
        digests = [digest_of(body) for body in bodies]
        outside = [is_aside(each, self._config.lm.held_out) or each.hex() in named for each in digests]
        trained, aside = ([body for body, each in zip(bodies, outside, strict=True) if each is side] for side in (False, True))
        return Content(self._encode(trained), aside)

    def _nothing(self, examples: int) -> InputError:
        there, name, by = self.ranges.examples, self.source.name, self._config.train.stream
        why = f"there are {there:,} examples of {self.length:,} tokens, and a batch has {examples:,}"
        hint = f"bring documents in, `gyral ingest`, or wait longer, `--set train.stream.idle_s={2 * by.idle_s:g}`"
        what = f"no new documents of `{name}` came into the lake within {by.idle_s:g} s"
        if not self.ranges.ranges:
            why = ""
        return InputError(what, why=why, where=self._lake.place.uri, hint=hint)

    def _changed(self, wanted: Range, rows: pa.Table) -> InputError:
        if rows.num_rows != wanted.events:
            why = f"it had {wanted.events:,} events and has {rows.num_rows:,}: some were erased"
        else:
            why = "the same events give other texts: the settings of `curate` are others"
        hint = f"train afresh on what is there now: `gyral train {self.source.name}`"
        what = f"range {wanted.number} of `{self.source.name}` is not what was written down when it was read"
        return InputError(what, why=why, where=str(self.ranges.path), hint=hint)


class LiveOrder(Order):
    """The order of examples that come while they are learned from; asked one step at a time."""

    ahead: ClassVar[int] = 1
    _live: Live
    _held: list[Any]

    def __init__(self, live: Live, batch: int, seed: int) -> None:
        super().__init__(0, batch, seed)
        object.__setattr__(self, "_live", live)  # no fields: a checkpoint keeps those
        object.__setattr__(self, "_held", [-1, None])

    def examples(self, step: int, count: int = 1) -> np.ndarray:
        """Examples of a step, or of `count` from there on, int64 [count x batch]; waits until they are there.

        Raises
        ------
        Ended : the stream ends before.  InputError : it has not begun.
        """
        live = self._live
        at, end = step * self.batch, (step + count) * self.batch
        try:
            live.wait_for(end, step)
        except Ended:
            live.reached(*[live.range_of(at - 1)] * 2)
            raise
        live.reached(live.range_of(at), live.range_of(end - 1))
        found = []
        while at < end:
            number = live.range_of(at)
            first = live.ranges.ranges[number - 1].examples if number else 0
            size = live.ranges.ranges[number].examples - first
            places = np.arange(at - first, min(end - first, size))
            found.append(first + self._mixed(number, size)[places])
            at += len(places)
        return np.concatenate(found)

    def _mixed(self, number: int, size: int) -> np.ndarray:
        """The order of a range, which is held while it is trained on: a place by itself costs as much as a thousand."""
        if self._held[0] != number:
            self._held[:] = [number, permuted(np.arange(size), size, self.seed, number)]
        mixed: np.ndarray = self._held[1]
        return mixed


def digest_of_range(rows: pa.Table, texts: Sequence[str]) -> str:
    """Of what was read and what was made of it, 32 hex digits."""
    made = hashlib.blake2b(digest_size=16)
    for each in (rows["event_id"].to_pylist(), texts):
        for text in each:
            body = text.encode()
            made.update(len(body).to_bytes(8, "little") + body)
        made.update(b"|")
    return made.hexdigest()
