"""Which log a project has: the embedded one in its lake's folder, or a topic."""

from __future__ import annotations

from pathlib import Path

from gyral.config import Config
from gyral.errors import ConfigError
from gyral.log.base import EventLog
from gyral.log.kafka import KafkaLog
from gyral.log.sqlite import SqliteLog


def open_log(folder: Path, config: Config) -> EventLog:
    """Open the log that `ingest.log` names, the embedded one in `folder` when it names none.

    Raises
    ------
    UsageError : the name is no topic.  MissingExtra : `confluent-kafka` is not installed.
    LogError : the broker does not answer.
    """
    if config.ingest.log:
        return KafkaLog(config.ingest.log, config.kafka.options, config.kafka.max_message_bytes)
    return SqliteLog(folder)


def open_embedded(folder: Path, config: Config) -> SqliteLog:
    """Open the log in `folder` for what has no other.

    Raises
    ------
    ConfigError : `ingest.log` names another, in which what a server took would stay.
    """
    if config.ingest.log:
        raise ConfigError(
            "a loop has its log in the lake's folder", where="ingest.log", why=f"it is `{config.ingest.log}`",
            hint="leave it out for a loop; over a topic run `gyral ingest`, `train` and `serve` by themselves",
        )  # fmt: skip
    return SqliteLog(folder)
