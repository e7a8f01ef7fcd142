"""Several leaves of one member, computed so that they can meet in the middle: each in a thread of its own, one at a time.

A task that compares rows asks in the midst of its forward pass for the rows of all leaves, and in the midst of its backward
pass for what all losses say of its own. Leaves that are computed one after the other can answer neither. So each gets a thread,
and a turn: it computes until it needs the others, gives what it has, and the next one goes on; the last one to give has the
exchange done, and all go on with its result in their order. Nothing ever runs at the same time as something else, so results
are those of one thread, and tasks need not know.

What it costs: activations and gradients of all leaves of a member are there at once, as the rows of a batch are where it is one
leaf; and .1 ms a leaf and step for its thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")


class _Abandoned(BaseException):
    """Ends a leaf because another one has failed."""


class Turns(Generic[Result]):
    """Functions that take turns.

    Parameters
    ----------
    on_turn : called with a function's number each time its turn begins.
    """

    def __init__(self, functions: Sequence[Callable[[], Result]], on_turn: Callable[[int], None] = lambda _: None) -> None:
        self._functions, self._on_turn = list(functions), on_turn
        self._wakes = [threading.Semaphore(0) for _ in self._functions]
        self._is_done = threading.Event()
        self._running = set(range(len(self._functions)))
        self._results: dict[int, Result] = {}
        self._given: dict[int, Any] = {}
        self._met: dict[int, Any] = {}
        self._times = [0] * len(self._functions)
        self._error: BaseException | None = None
        self._local = threading.local()

    def run(self) -> list[Result]:
        """All of them to their end.

        Raises
        ------
        BaseException : what the first of them raised; the others are ended.
        """
        threads = [
            threading.Thread(target=self._body, args=[number], name=f"leaf {number}", daemon=True) for number in self._running
        ]
        for thread in threads:
            thread.start()
        self._wakes[0].release()
        self._is_done.wait()
        for thread in threads:
            thread.join()
        if self._error is not None:
            raise self._error
        return [self._results[number] for number in range(len(self._functions))]

    def meet(self, value: Any, do: Callable[[list[Any]], Any]) -> Any:
        """Called by a function in its turn: give a value and wait for what `do` makes of those of all, in their order.

        Raises
        ------
        RuntimeError : another function has ended without coming here.
        """
        number = self.number
        self._given[number] = value
        time = self._times[number]
        self._times[number] += 1
        if len(self._given) == len(self._functions):
            given = [self._given[each] for each in range(len(self._functions))]
            self._given = {}
            self._met[time] = do(given)
            self._met.pop(time - 1, None)  # all have it: they had to, to come here
        else:
            self._pass_on(number)
            self._wait(number)
        if time not in self._met:
            raise RuntimeError("a leaf asks for rows of the others, and one of them has ended")
        return self._met[time]

    @property
    def number(self) -> int:
        """Of the function whose turn it is, asked by itself."""
        return int(self._local.number)

    def _body(self, number: int) -> None:
        self._local.number = number
        try:
            self._wait(number)
            self._results[number] = self._functions[number]()
        except BaseException as error:
            self._error = self._error or error
        finally:
            self._running.discard(number)
            self._pass_on(number)

    def _wait(self, number: int) -> None:
        self._wakes[number].acquire()
        if self._error is not None:
            raise _Abandoned
        self._on_turn(number)

    def _pass_on(self, number: int) -> None:
        """To the next one that has not ended."""
        following = [each for each in self._running if each > number] or list(self._running)
        if following:
            self._wakes[min(following)].release()
        else:
            self._is_done.set()
