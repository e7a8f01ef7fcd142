"""How what ranks learn is joined (`train.sync`), and so which trainer a run has."""

from __future__ import annotations

from collections.abc import Callable

from gyral.config import Config
from gyral.errors import ConfigError
from gyral.train.fitted import Fitted


def trainer_of(config: Config) -> Callable[..., Fitted] | None:
    """The trainer of a way of its own; None: the family's.

    Raises
    ------
    ConfigError : a way that there is not yet.
    """
    if config.train.sync == "allreduce":
        return None
    if config.train.sync == "federated":
        from gyral.train.federated.fit import fit

        return fit
    hint = "`allreduce` (steps of all ranks together) or `federated` (simulated devices)"
    raise ConfigError(f"`train.sync = {config.train.sync}` is not built yet", where="train.sync", hint=hint)
