"""The seam between what is computed and where: an ordered map of a pure function.

The unit of work is a function `item -> result`, most often Arrow RecordBatch → RecordBatch. It may not depend on anything
but its argument, so an engine is free to run it in a thread, a process or on another machine, and to run it again. It must
therefore be a function of a module, or a `functools.partial` of one with arguments that can travel: never a lambda.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

from gyral import plugins
from gyral.errors import UsageError

Item = TypeVar("Item")
Result = TypeVar("Result")


class Engine(Protocol):
    """Runs pure functions.

    `map` yields results in the order of the items, holds at most `2 x workers` of them at once whatever the length of the
    input, and raises the first error with the results before it already yielded. `close` may be called twice.
    """

    workers: int

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]: ...

    def close(self) -> None: ...


def connect(on: str) -> Engine:
    """Open the engine named by `--on`: `local`, `local://threads=4`, `local://processes=2`.

    Raises
    ------
    UsageError : no engine has this name, or it does not take this option.
    """
    name, _, rest = on.partition("://")
    options: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, _, value = part.partition("=")
        options[key] = int(value) if value.isdigit() else value
    make = plugins.find("engine", name)
    try:
        engine: Engine = make(**options)
    except TypeError:
        raise UsageError(
            f"`--on {on}` has options that the engine `{name}` does not take",
            hint="for example `--on local://threads=4`",
        ) from None
    return engine
