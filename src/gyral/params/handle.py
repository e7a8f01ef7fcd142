"""One table as a worker holds it: pull rows, push gradients; `gyral.params.client` knows where the rows are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gyral.params.asked import Pulling, Pushing

if TYPE_CHECKING:
    from gyral.params.client import Client


class Handle:
    """One table, of one worker."""

    def __init__(self, client: Client, number: int) -> None:
        self.spec = client.specs[number]
        self._client, self._number = client, number

    def pull(self, keys_K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows float32 [K, D] and which are held; waits as `sync` says."""
        return self.pull_async(keys_K).result()

    def push(
        self, keys_K: np.ndarray, grads_KD: np.ndarray, at: int = 0, base_KD: np.ndarray | None = None, factor: float = 1.0
    ) -> None:
        """One step of a gradient (float32 [K, D]); returns when the shards have it.

        Parameters
        ----------
        at : event time, seconds since the epoch; 0: unknown.
        base_KD : rows that the gradients were computed at, where the optimizer compensates for delay.
        factor : on the rate.
        """
        self.push_async(keys_K, grads_KD, at, base_KD, factor).result()

    def pull_async(self, keys_K: np.ndarray) -> Pulling:
        """As `pull`; `result()` waits."""
        return self._client.pull(self._number, keys_K)

    def push_async(
        self, keys_K: np.ndarray, grads_KD: np.ndarray, at: int = 0, base_KD: np.ndarray | None = None, factor: float = 1.0
    ) -> Pushing:
        """As `push`; `result()` waits, and need not be called: what a shard refuses is raised by a later call."""
        return self._client.push(self._number, keys_K, grads_KD, at, base_KD, factor)
