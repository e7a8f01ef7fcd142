"""The seam between what is computed and where: an ordered map of a pure function.

The unit of work is a function `item -> result`, most often Arrow RecordBatch → RecordBatch. It may not depend on anything
but its argument, so an engine is free to run it in a thread, a process or on another machine, and to run it again. It must
therefore be a function of a module, or a `functools.partial` of one with arguments that can travel: never a lambda.
"""

from __future__ import annotations

import inspect
import os
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


def num_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def connect(on: str, note: Callable[[str], None] | None = None) -> Engine:
    """Open the engine named by `--on`: `NAME`, or `NAME://PART,…`, where a part is `OPTION=VALUE` or the address.

    `local`, `local://threads=4`, `local://processes=2`, `ray://`, `ray://HOST:PORT`, `ray://auto,workers=16`.

    Parameters
    ----------
    note : told what takes long, by engines that have something to tell.

    Raises
    ------
    UsageError : no engine has this name, or it does not take this option.
    """
    name, _, rest = on.partition("://")
    options: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        key, value = (key, value) if equals else ("address", part)
        options[key] = int(value) if value.isdigit() else value
    make = plugins.find("engine", name)
    takes = inspect.signature(make)
    if note is not None and "note" in takes.parameters:
        options["note"] = note
    try:
        takes.bind(**options)
    except TypeError:
        raise UsageError(
            f"`--on {on}` has options that the engine `{name}` does not take",
            hint="for example `--on local://threads=4` or `--on ray://workers=4`",
        ) from None
    engine: Engine = make(**options)
    return engine
