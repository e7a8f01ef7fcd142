"""`--plan`, verb by verb: a module each, with one function `plan` that reads, counts, and does nothing."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple


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
