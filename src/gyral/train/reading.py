"""What of `[train]` a way of training reads: a setting that is asked for and never read is refused, not passed over.

A trainer says what it reads by `reads`; one that says nothing may read anything. Beside that, some settings belong to one way
of joining ranks, or to a teacher. A project's file is for all verbs and families, so only what a command line asks for is held
against it, and only where it is not the default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from gyral.config import Config, changed
from gyral.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])
CHOOSING = ("train.family", "train.task", "train.budget", "train.seed", "train.sync")
"""What every trainer reads, or is chosen by."""

GOES_WITH: dict[str, tuple[Callable[[Config], bool], str]] = {
    "train.federated.": (lambda config: config.train.sync == "federated", "--sync federated"),
    "train.server.": (lambda config: config.train.sync not in ("allreduce", "federated"), "--sync bsp"),
    "train.elastic.": (lambda config: "elastic" in config.train.parallel, "--parallel elastic=N"),
    "train.outer.": (lambda config: config.train.outer.every > 0, "--set train.outer.every=N"),
    "train.distill_": (lambda config: bool(config.train.distill), "--distill MODEL"),
}
"""How the names of some settings begin → whether they are read, and what would make it so."""


class Reads(NamedTuple):
    """Beginnings of the names that a trainer reads beside `CHOOSING`, why not the others, and what would read them."""

    names: tuple[str, ...]
    why: str
    hint: str


def reads(*names: str, why: str, hint: str) -> Callable[[F], F]:
    """Mark a trainer: of `[train]` it reads what begins so, and no others."""

    def mark(fit: F) -> F:
        fit.__dict__["reads"] = Reads(names, why, hint)
        return fit

    return mark


def check(config: Config, asked: Mapping[str, str]) -> None:
    """Refuse what a command line asks for and the training that it starts would not read.

    Parameters
    ----------
    asked : dotted names of settings → how they were given.

    Raises
    ------
    ConfigError : the first of them that is not read, and what would read it.
    """
    if not (wanted := sorted(key for key in changed(config).intersection(asked) if _is_of_one_way(key))):
        return
    from gyral.train.trainer import trainer_of

    told: Reads | None = getattr(trainer_of(config), "reads", None)
    for key in wanted:
        if told is not None and not key.startswith(told.names):
            raise ConfigError(f"`{key}` is not read by this training", where=asked[key], why=told.why, hint=told.hint)
        for start, (is_read, other) in GOES_WITH.items():
            if key.startswith(start) and not is_read(config):
                hint = f"it goes with `{other}`"
                raise ConfigError(f"`{key}` is not read by this training", where=asked[key], hint=hint)


def _is_of_one_way(key: str) -> bool:
    return key.startswith("train.") and key not in CHOOSING
