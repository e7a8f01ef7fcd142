"""The laptop engine: threads (kernels release the GIL) or processes, never more work in flight than twice the workers.

Threads are the default: the work is Arrow and numpy, which release the GIL, and a spawned process costs 0.1–0.3 s and a copy
of every batch.
"""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor

from gyral.engine.base import Item, Result, num_cores
from gyral.errors import UsageError


class LocalEngine:
    """Threads or processes of this machine.

    Parameters
    ----------
    threads : number of threads; the default is one a core.
    processes : number of processes instead; functions and items then travel serialised through a local pipe.
    """

    def __init__(self, threads: int | None = None, processes: int | None = None) -> None:
        if threads is not None and processes is not None:
            raise UsageError("`--on local` takes threads or processes, not both", hint="for example `--on local://processes=2`")
        if any(each is not None and (not isinstance(each, int) or each < 1) for each in (threads, processes)):
            raise UsageError("`--on local` needs a number of workers", hint="for example `--on local://threads=4`")
        self.workers = processes or threads or num_cores()
        self._use_processes = processes is not None
        self._pool: Executor | None = None

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield `function(item)` for every item, in order."""
        if self.workers == 1 and not self._use_processes:
            yield from map(function, items)
            return
        pool = self._open()
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= 2 * self.workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def close(self) -> None:
        """Stop the workers; may be called twice."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _open(self) -> Executor:
        if self._pool is None:
            if self._use_processes:
                self._pool = ProcessPoolExecutor(self.workers, mp_context=multiprocessing.get_context("spawn"))
            else:
                self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="gyral")
        return self._pool
