"""How what ranks learn is joined (`train.sync`), and so which trainer a run has."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from gyral.config import Config
from gyral.errors import ConfigError
from gyral.train.fitted import Fitted


def trainer_of(config: Config) -> Callable[..., Fitted] | None:
    """The trainer of a way of its own; None: the family's.

    Raises
    ------
    ConfigError : settings that do not go together.
    """
    if config.train.sync != "federated":
        return None
    for_devices(config)  # before torch is loaded
    from gyral.train.federated.fit import fit

    return fit


def for_devices(config: Config) -> Config:
    """The configuration with the one task that devices learn.

    Raises
    ------
    ConfigError : settings that do not go together.
    """
    train, told = config.train, config.train.federated
    refused = {
        f"train.family = {train.family}": train.family != "recommender",
        f"train.task = {train.task}": train.task not in ("", "history"),
        f"train.parallel = {train.parallel}": bool(train.parallel),
        f"train.distill = {train.distill}": bool(train.distill),
        f"train.start = {train.start}": bool(train.start),
        "train.ema": train.ema > 0,
    }
    for setting, is_refused in refused.items():
        if is_refused:
            hint = "`--family recommender --sync federated`; `--on local://processes=N` for more workers"
            raise ConfigError(f"`{setting}` does not go with `--sync federated`", where="train.sync", hint=hint)
    wants_privacy = told.noise > 0 or told.epsilon > 0
    rules = (
        (told.secure_sum and told.wire != "int8", "`secure_sum` adds integers", "`--set train.federated.wire=int8`"),
        (told.secure_sum and not told.clip, "`secure_sum` needs one scale for all", "`--set train.federated.clip=1`"),
        (told.secure_sum and told.late == "next", "masks of a round do not cancel in another", "`late = \"drop\"`"),
        (wants_privacy and not told.clip, "noise hides what is limited", "`--set train.federated.clip=1`"),
        (wants_privacy and told.late == "next", "a device could count twice in one sum", "`late = \"drop\"`"),
        (wants_privacy and told.over > 1, "who counts would depend on who else was asked", "`over = 1`"),
        (told.noise > 0 and told.epsilon > 0, "`epsilon` sets `noise`", "leave one of them out"),
    )  # fmt: skip
    for is_broken, why, hint in rules:
        if is_broken:
            raise ConfigError("these settings do not go together", why=why, where="train.federated", hint=hint)
    return msgspec.structs.replace(config, train=msgspec.structs.replace(train, task="history"))
