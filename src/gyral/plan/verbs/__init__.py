"""`--plan`, verb by verb: a module each, with one function `plan` that reads, counts, and does nothing."""

from __future__ import annotations

from collections.abc import Collection
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from gyral.config import Config
from gyral.plan.cost import Bill
from gyral.plan.figure import Plan


class Asked(NamedTuple):
    """What `--plan` is asked beside the configuration.

    Attributes
    ----------
    what : the verb's argument: a dataset, a model; empty: none.
    users : of a day; 0: not asked for.
    per_user : requests of one of them in a day; 0: assumed.
    p99_ms : within which 99 of 100 answers come.
    given : keys of the configuration that somebody chose.
    """

    what: str = ""
    users: float = 0.0
    per_user: float = 0.0
    p99_ms: float = 100.0
    given: Collection[str] = ()


def plan_of(verb: str, root: Path, config: Config, asked: Asked) -> tuple[Plan, Bill | None]:
    """What a verb that has a module here would take, and a bill where there is one."""
    found: tuple[Plan, Bill | None] = import_module(f"{__name__}.{verb}").plan(root, config, asked)
    return found
