"""Start a run of members that come and go: the coordinator's socket, the secret, and who is kept alive.

The parent holds the coordinator's listening socket open over its restarts: whoever connects meanwhile waits in the queue of the
system instead of being refused, and the address never changes.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from gyral.config import Config
from gyral.config.training import Elastic
from gyral.engine import ranks
from gyral.engine.listening import LOOPBACK
from gyral.train.elastic import lighthouse
from gyral.train.elastic.coordinator import Settings

AT = "GYRAL_COORDINATOR_AT"


def supervised(
    command: Sequence[str], num: int, folder: Path, config: Config, on_poll: Callable[[], None] = lambda: None,
    note: Callable[[str], None] = lambda _: None, *, host: str = LOOPBACK, start: ranks.Start = ranks.start,
    environment: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """Run `num` members of a job until its steps are done.

    Parameters
    ----------
    command : of a member, after the interpreter.
    folder : of the run; must be seen by all members under this name.
    host : that members reach the coordinator at.
    start : starts a member, here or elsewhere; the coordinator runs beside us.

    Raises
    ------
    RankError : a member died too often, or of an error that another try does not help.
    """
    elastic = config.train.elastic
    if elastic.membership == "torchft":
        return _by_lighthouse(command, num, folder, elastic, on_poll, note, host, start, environment)
    with socket.create_server((host, 0), backlog=128) as bound:
        settings = Settings(num, elastic.heartbeat_s, elastic.timeout_s, elastic.start_s, bound.fileno())
        given = {
            **(environment or {}),
            "GYRAL_SECRET": secrets.token_hex(32),
            "GYRAL_COORDINATOR": msgspec.json.encode(settings).decode(),
            AT: "{}:{}".format(*bound.getsockname()[:2]),
        }
        helper = ["-m", "gyral.train.elastic.coordinator", str(folder)]
        ranks.supervise(
            command, num, folder, given, on_poll,
            helper=helper, sockets=[bound.fileno()], restarts=elastic.restarts, note=note, start=start,
        )  # fmt: skip


def _by_lighthouse(
    command: Sequence[str], num: int, folder: Path, elastic: Elastic, on_poll: Callable[[], None], note: Callable[[str], None],
    host: str, start: ranks.Start, environment: Mapping[str, str] | None,
) -> None:  # fmt: skip
    """The same with a lighthouse beside us, or the one that the environment names."""
    lighthouse.client_of()
    helper: list[str] = []
    address = os.environ.get(lighthouse.AT, "")
    if not address:
        with socket.create_server((host, 0)) as bound:  # torchft binds by itself: the port is free now, and most likely then
            place = "{}:{}".format(*bound.getsockname()[:2])
        address = f"http://{place}"
        helper = ["-m", "gyral.train.elastic.lighthouse", place, str(elastic.heartbeat_s), str(elastic.timeout_s)]
    given = {**(environment or {}), "GYRAL_SECRET": secrets.token_hex(32), lighthouse.AT: address}
    ranks.supervise(
        command, num, folder, given, on_poll, helper=helper, restarts=elastic.restarts, note=note, start=start
    )  # fmt: skip
