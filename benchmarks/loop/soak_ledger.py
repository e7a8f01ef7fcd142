"""What the clients of a soak saw, in a file of their own, and what is counted from that file when it is over.

A line is written after each answer: which events were acknowledged, or how a request ended. Nothing of the system under test
reads or writes it, and the counts at the end are made from the file, not from what the harness remembers.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

SHED = (429, 503)
GRACE_S = 0.5
"""After a listener says that it answers: a connection that was refused a moment before is still on its way."""


class Window(NamedTuple):
    """From when to when the harness itself had taken a listener away; `until` is infinite while it is."""

    since: float
    until: float


class Ledger:
    """Of one soak; times are seconds since it began."""

    def __init__(self, path: Path) -> None:
        self.path, self.begun = path, time.monotonic()
        self._file = open(path, "a", buffering=1 << 16)  # noqa: SIM115 (closed by `close`)
        self.down: dict[str, list[Window]] = {"gateway": [], "collector": []}
        self.last_ok: dict[str, float] = {}
        """What was done → when the newest request that got a 2xx had begun."""
        self.recent: list[tuple[str, int, float]] = []
        """What, status (0: no answer) and seconds, since somebody last took them."""
        self.version_seen = 0

    @property
    def now(self) -> float:
        return time.monotonic() - self.begun

    def sent(self, site: str, first: int, end: int) -> None:
        """Before the first time that a batch goes out: it may be in the lake from here on."""
        self._write(what="sent", site=site, first=first, end=end)

    def ended(self, what: str, listener: str, since: float, status: int, retry_s: int, **more: Any) -> None:
        """A request ended; `status` 0: no answer came."""
        now = self.now
        self._write(what=what, on=listener, since=since, until=now, status=status, retry_s=retry_s, **more)
        self.recent.append((what, status, now - since))
        if 200 <= status < 300:
            self.last_ok[what] = max(since, self.last_ok.get(what, 0.0))

    def goes(self, listener: str) -> None:
        """The harness takes a listener away."""
        self.down[listener].append(Window(self.now, float("inf")))

    def comes(self, listener: str) -> None:
        """It answers again."""
        since, _ = self.down[listener][-1]
        self.down[listener][-1] = Window(since, self.now + GRACE_S)

    def close(self) -> None:
        self._file.close()

    def _write(self, **values: Any) -> None:
        self._file.write(json.dumps(values) + "\n")


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """What was written."""
    with open(path) as file:
        for line in file:
            yield json.loads(line)


def events(path: Path, site: str) -> tuple[set[int], set[int]]:
    """Numbers of events that were sent to a site, and of those that it acknowledged."""
    sent: set[int] = set()
    acknowledged: set[int] = set()
    for line in lines(path):
        if line["what"] == "sent" and line["site"] == site:
            sent.update(range(line["first"], line["end"]))
        elif line["what"] == f"send {site}" and line["status"] == 200:
            acknowledged.update(range(line["first"], line["end"]))
    return sent, acknowledged


class Counted(NamedTuple):
    """How requests ended; `failed` are neither answered, nor shed as declared, nor of a listener that the harness had taken."""

    answered: int
    shed: dict[str, int]
    unreachable: int
    failed: list[dict[str, Any]]
    mixed: list[dict[str, Any]]
    older: list[dict[str, Any]]


def count(path: Path, down: dict[str, list[Window]], marked: dict[int, str]) -> Counted:
    """Count all requests.

    Parameters
    ----------
    marked : version → what each of its objects begins with; of others none may begin with any of them.
    """
    answered = unreachable = 0
    shed: Counter[str] = Counter()
    failed, mixed, older = [], [], []
    newest: dict[int, int] = {}
    for line in lines(path):
        if "status" not in line:
            continue
        status = line["status"]
        if 200 <= status < 300:
            answered += 1
            if line["what"] == "ask":
                version, client = line["version"], line["client"]
                if not _is_of(version, line["objects"], marked):
                    mixed.append(line)
                if version < newest.get(client, 0):
                    older.append(line)
                newest[client] = max(version, newest.get(client, 0))
        elif status in SHED and line["retry_s"] > 0:
            shed[f"{line['what']} {status}"] += 1
        elif not status and any(line["since"] <= each.until and line["until"] >= each.since for each in down[line["on"]]):
            unreachable += 1
        else:
            failed.append(line)
    return Counted(answered, dict(shed), unreachable, failed, mixed, older)


def _is_of(version: int, objects: list[str], marked: dict[int, str]) -> bool:
    if version in marked:
        return all(each.startswith(marked[version]) for each in objects)
    return not any(each.startswith("v") and ":" in each for each in objects)
