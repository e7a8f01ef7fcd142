"""A step's tables behind a parameter server, and what is published of them.

A step is one push to each table, so a step's number tells those of its pushes, and a push that is sent again is known for what
it is. To start on a folder is to go back to what was published: cuts that nobody was allowed to read are removed, and the steps
since are done again from the log. That is one path for a restart and for a roll-back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gyral.errors import ConflictError
from gyral.model.live import places
from gyral.model.live.places import Published
from gyral.params.client import Client
from gyral.params.spec import TableSpec

Grads = Mapping[str, tuple[np.ndarray, np.ndarray]]
Open = Callable[..., Client]


class Server:
    """The tables of one learner; it is their only worker.

    Parameters
    ----------
    start : opens shards on a folder, as `gyral.params.client.open` with address and settings given.
    folder : of the live model.
    """

    def __init__(self, start: Open, specs: Sequence[TableSpec], folder: Path) -> None:
        self._start, self._specs, self._folder = start, list(specs), folder
        self.published = Published()
        self._client = self._opened()

    def _opened(self) -> Client:
        """Shards as they were published."""
        places.remove_unpublished(self._folder)
        self.published = places.read_published(self._folder)
        client = self._start(self._specs, folder=self._folder / places.SHARDS, seq=self.published.step * len(self._specs))
        self._handles = {spec.name: client.table(spec.name) for spec in self._specs}
        return client

    @property
    def durable(self) -> int:
        """The last step that is on the disk with all before it."""
        return self._client.durable_seq // len(self._specs)

    def pull(self, table: str, keys_K: np.ndarray) -> np.ndarray:
        """Rows, float32 [K, D]."""
        return self._handles[table].pull(keys_K)[0]

    def push(self, seq: int, grads: Grads, at: int) -> None:
        """The pushes of a step; returns when the shards have them.

        Raises
        ------
        ConflictError : it is not the next step.
        """
        if self._client.seq != (seq - 1) * len(self._specs):
            why = f"the tables' last step is {self._client.seq / len(self._specs):g}"
            raise ConflictError(f"step {seq:,} is not the next one", why=why, hint="this is a fault of gyral: please report it")
        sent = []
        for spec in self._specs:
            keys, values = grads.get(spec.name, (np.zeros(0, np.int64), np.zeros((0, spec.dim), np.float32)))
            sent.append(self._handles[spec.name].push_async(keys, np.asarray(values, np.float32), at))
        for each in sent:
            each.result()
        self._client.tick()

    def newest(self) -> Published | None:
        """What could be published now: steps whose cuts are on the disk; None where there is no new one."""
        if self._client.seq <= self.published.step * len(self._specs):
            return None
        self._handles[self._specs[0].name].pull(np.zeros(1, np.int64))  # its answer says what is durable
        step = self.durable
        if step == self.published.step:
            return None
        cuts = places.newest_cuts(self._folder)  # the same where a step had nothing to learn
        return Published(self.published.version + 1, cuts, step, 0, self.published.refused)

    def publish(self, published: Published) -> None:
        """Followers may read it."""
        places.publish(self._folder, published)
        self.published = published

    def go_back(self) -> None:
        """The tables as they were published; steps since then are to be done again."""
        refused = self.published.refused
        self._client.close()
        self._client = self._opened()
        self.published.refused = refused

    def stats(self) -> dict[str, Any]:
        """See `Client.stats`."""
        return self._client.stats()

    def close(self) -> None:
        """May be called twice."""
        self._client.close()
