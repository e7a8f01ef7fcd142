"""Follow what a learner publishes: new steps of its journal, new cuts of its shards, then a flip.

Each cut is checked as it is read (its checksums, and for each bucket that its version follows the one that is here); what is
damaged, missing or out of order is read again from the newest base, bucket by bucket, so a slow follower lacks nothing. Until
that works, what is served stays as it was, and `told` says why.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gyral.errors import GyralError
from gyral.model.live import journal, places
from gyral.model.live.journal import JOURNAL, Step
from gyral.model.live.known import Known
from gyral.params import segment_kernel as kernel
from gyral.params.chain import Chain, Folder, name_of, numbers
from gyral.params.hashing_kernel import buckets_of
from gyral.params.records import weights_of
from gyral.params.segment import Damaged, File, Listing, changes_of, decode, sizes_of, views, widths_of
from gyral.params.spec import BUCKETS


class UpTo:
    """Files of a folder as if it ended with a cut."""

    def __init__(self, folder: Folder, last: int) -> None:
        self._folder, self._last = folder, last

    def names(self) -> list[str]:
        """Those of cuts and bases up to the last."""
        names = self._folder.names()
        return [name_of(kind, n) for kind in ("base", "cut") for n in numbers(names, kind) if n <= self._last]

    def open(self, name: str) -> File:
        """See `gyral.params.chain.Source`."""
        return self._folder.open(name)


class Follower:
    """Puts what is published into `known`.

    Parameters
    ----------
    visible : told of (seconds, events) when events can be seen.
    """

    def __init__(self, folder: Path, known: Known, visible: Callable[[float, int], None]) -> None:
        self._folder, self._known, self._visible = folder, known, visible
        self.published = places.Published()
        self.trouble = ""
        self.repairs = 0
        """Times that something was read again from a base."""
        self.flips = 0
        self._cuts: dict[str, int] = {}
        self._versions: dict[tuple[str, str], np.ndarray] = {}
        self._offset = self._named = self._read_to = 0
        self._head = b""
        """How the file begins that `_offset` is a place in: a journal that was cut is another file."""
        self._steps: deque[Step] = deque()
        self._stamp: tuple[int, int] = (0, 0)
        self._newest_us = 0
        self._turn = threading.Lock()

    def poll(self) -> bool:
        """Look once; whether there was a flip. What goes wrong is told, and tried again.

        One at a time: who loads a model waits for it to be there, beside the thread that follows.
        """
        with self._turn:
            return self._poll()

    def _poll(self) -> bool:
        try:
            about = (self._folder / places.PUBLISHED).stat()
            if (about.st_ino, about.st_mtime_ns) == self._stamp and not self.trouble:
                return False
            published = places.read_published(self._folder)
            if published.version == self.published.version:
                self._stamp = (about.st_ino, about.st_mtime_ns)
                return False
            if not self._name(published.step):
                published = places.read_published(self._folder)
                self._name(published.step)
            for shard, last in published.cuts.items():
                self._read(shard, last)
            self._known.hour = published.hour
            self._known.flip()
            self._seen(published)
            self._stamp, self.trouble = (about.st_ino, about.st_mtime_ns), ""
            self.flips += 1
            return True
        except FileNotFoundError:
            return False  # nothing was published yet
        except (GyralError, OSError, ValueError) as error:
            self.trouble = str(error)
            return False

    def told(self) -> dict[str, Any]:
        """How it is: `silent_s` since the newest visible event was acknowledged, which grows while nothing comes."""
        silent = time.time() - self._newest_us / 1e6 if self._newest_us else None
        return {
            "version": self.published.version, "step": self.published.step, "refused": self.published.refused,
            "hour": self.published.hour, "flips": self.flips, "repairs": self.repairs, "trouble": self.trouble,
            "objects": len(self._known.names), "subjects": len(self._known.pasts),
            "silent_s": None if silent is None else round(max(silent, 0.0), 3),
        }  # fmt: skip

    def _name(self, last: int) -> bool:
        """Objects of steps up to the last; of later ones nothing is known yet. False: the journal was cut after that step was
        published, so a later one is."""
        path = self._folder / JOURNAL
        if not path.exists():
            return True
        base, steps, self._offset, self._head = journal.read(path, self._offset, self._head)
        self._steps.extend(step for step in steps if step.seq > self._read_to)
        if steps:
            self._read_to = steps[-1].seq
        if base is not None and base.seq > self._named:
            if base.seq > last:
                self._offset = 0
                return False
            here = len(self._known.names)
            self._known.name(base.objects[here:], base.titles[here:])
            self._named = base.seq
        for step in self._steps:
            if self._named < step.seq <= last:
                self._known.name(step.objects, step.titles)
                self._named = step.seq
        return True

    def _seen(self, published: places.Published) -> None:
        now = time.time()
        while self._steps and self._steps[0].seq <= published.step:
            for at_us, events in self._steps.popleft().acknowledged:
                self._visible(now - at_us / 1e6, events)
                self._newest_us = at_us  # the last: the clock of who acknowledged may have been ahead before
        self.published = published

    def _read(self, shard: str, last: int) -> None:
        source = UpTo(Folder(self._folder / places.SHARDS / shard), last)
        have = self._cuts.get(shard, 0)
        while have < last:
            try:
                if not have:
                    raise FileNotFoundError
                self._cut(source, shard, have + 1)
                have += 1
            except (FileNotFoundError, Damaged):
                self.repairs += have > 0
                with Chain(source) as chain:
                    self._whole(shard, chain)
                    have = chain.number
            self._cuts[shard] = have

    def _whole(self, shard: str, chain: Chain) -> None:
        """Buckets of the base and the cuts after it, those that are newer than what is here: their rows, and no others."""
        for name, spec in chain.specs.items():
            versions, newer, keys = self._of(shard, name), np.zeros(BUCKETS, bool), [np.zeros(0, np.int64)]
            for bucket in chain.buckets([name]):
                if bucket.version > versions[bucket.bucket]:
                    self._known.put(name, bucket.records.keys, weights_of(spec, bucket.records.bodies))
                    newer[bucket.bucket], versions[bucket.bucket] = True, bucket.version
                    keys.append(bucket.records.keys)
            here = self._known.keys(name)
            at = np.empty(len(here), np.uint16)
            buckets_of(here, np.uint64(spec.salt), at)
            self._known.gone(name, np.setdiff1d(here[newer[at]], np.concatenate(keys)))

    def _cut(self, source: UpTo, shard: str, number: int) -> None:
        file = source.open(name_of("cut", number))
        with contextlib.closing(file):
            part = decode(file)
            body = np.frombuffer(file.read(0, file.size), np.uint8)
        if part.number != number or part.base:
            raise Damaged(file.name, f"it is number {part.number} under another name")
        self._check(shard, part, body, file.name)
        for place, spec in enumerate(part.specs):
            entries = part.entries[part.entries["table"] == place]
            if len(entries):
                changes = changes_of(part, entries, body)
                self._known.gone(spec.name, changes.gone_keys)
                self._known.put(spec.name, changes.upserts.keys, weights_of(spec, changes.upserts.bodies))
                self._of(shard, spec.name)[entries["bucket"]] = entries["version"]

    def _check(self, shard: str, part: Listing, body: np.ndarray, name: str) -> None:
        if not len(part.entries):
            return
        sizes = sizes_of(part.entries, widths_of(part.specs))
        words, _, _ = views(body)
        bad = kernel.check(words, part.entries["offset"].copy(), sizes, part.entries["digest"].copy())
        if bad >= 0:
            raise Damaged(name, "a checksum is another")
        for place, spec in enumerate(part.specs):
            entries = part.entries[part.entries["table"] == place]
            before = self._of(shard, spec.name)[entries["bucket"]]
            if (entries["version"] != before + np.uint64(1)).any():
                raise Damaged(name, f"versions of buckets of `{spec.name}` do not follow those that are here")

    def _of(self, shard: str, table: str) -> np.ndarray:
        return self._versions.setdefault((shard, table), np.zeros(BUCKETS, np.uint64))
