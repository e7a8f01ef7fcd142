"""CPU seconds of a server: of its process and those it started, or what its `/metrics` says.

Where the process is on this machine its own accounting is taken (`/proc`, hundredths of a second), else the counter
`process_cpu_seconds_total` that Prometheus' clients export.
"""

from __future__ import annotations

import os
import re
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from gyral.errors import GyralError, NotFound
from gyral.run import Lineage, numbers, read_lineage

PROC = Path("/proc")
METRIC = re.compile(rb"^process_cpu_seconds_total(?:\{[^}]*\})? ([0-9.eE+-]+)", re.MULTILINE)
MAX_RUNS = 50
Meter = Callable[[], float | None]


class Processes:
    """All processes of this machine at one moment; 3 ms of CPU for a hundred of them."""

    def __init__(self) -> None:
        self._found: dict[int, tuple[int, float]] = {}
        for folder in PROC.iterdir():
            if folder.name.isdigit():
                try:
                    fields = (folder / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                self._found[int(folder.name)] = (int(fields[1]), sum(map(float, fields[11:15])) / os.sysconf("SC_CLK_TCK"))

    def alone(self, pid: int) -> float | None:
        """CPU seconds of a process and of those it started that ended; None when it is gone."""
        return self._found[pid][1] if pid in self._found else None

    def tree(self, pid: int) -> float | None:
        """With those it started that still run."""
        if pid not in self._found:
            return None
        members, found = {pid}, True
        while found:
            more = {each for each, (parent, _) in self._found.items() if parent in members and each not in members}
            members |= more
            found = bool(more)
        return sum(self._found[each][1] for each in members)


def of_tree(pid: int) -> float | None:
    """CPU seconds of a process, those it started, and those of them that ended; None when it is gone."""
    return Processes().tree(pid)


def of_metrics(url: str) -> float | None:
    """What a server's `/metrics` says; None when it has none."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url.rstrip('/')}/metrics", timeout=5) as answer:
            found = METRIC.findall(answer.read(16 << 20))
    except (OSError, ValueError):
        return None
    return sum(float(each) for each in found) if found else None


def meter(url: str, pid: int) -> tuple[Meter, str]:
    """How a server's CPU seconds are read, and in a word from where; the word is empty where they are not known.

    Raises
    ------
    NotFound : there is no such process.
    """
    if pid:
        if of_tree(pid) is None:
            raise NotFound(f"there is no process {pid}", hint="`--pid` is the server's, on this machine")
        return lambda: of_tree(pid), f"process {pid}"
    if of_metrics(url) is not None:
        return lambda: of_metrics(url), "/metrics"
    return lambda: None, ""


def server_of(root: Path) -> Lineage | None:
    """The newest run of `serve` in a project that still runs and has said where; None when there is none."""
    for number in reversed(numbers(root)[-MAX_RUNS:]):
        try:
            lineage = read_lineage(root, number)
        except GyralError:
            continue
        if lineage.verb == "serve" and lineage.status == "running" and lineage.summary.get("url"):
            return lineage
    return None


def is_same(url: str, other: str) -> bool:
    """Whether two addresses are of one server."""
    one, two = (urlsplit(each if "://" in each else f"http://{each}") for each in (url, other))
    return (one.hostname, one.port) == (two.hostname, two.port)
