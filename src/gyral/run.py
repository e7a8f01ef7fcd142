"""Run: the record of one arrow. Its configuration, its lineage, its metrics, its log, in one folder.

    runs/<n>/config.toml    the resolved configuration
             lineage.json   verb, status, inputs, outputs, versions, machine; rewritten atomically at start and end
             metrics.jsonl  one JSON object a line: `{"time": …, "type": "progress" | "metric" | "turn", …}`
             log.txt        what a person was told

A run that is killed keeps the status `running`; a reader tells it from a live one by the process id and its start time.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import sys
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from gyral import __version__
from gyral.config import Config, public, public_words, to_toml
from gyral.errors import GyralError, Interrupted, NotFound
from gyral.files import fsync_path, is_alive, make_folder, together, without_others, write_atomic
from gyral.memory import peak_bytes
from gyral.progress import RECORD_INTERVAL_S, Meter, Progress, Screen

FOLDER = "runs"
MAKES = ("curate", "train", "compress", "eval")
"""Verbs that read or publish datasets and models."""
MAKING = ".making"
"""In a project folder: their lock. It stays, since who removes one may remove it from under somebody."""
WAIT_S = 60.0
LOG = "log.txt"


class Reference(msgspec.Struct, frozen=True):
    """One noun a run read or made: kind `source`, `lake`, `dataset`, `model` or `log`, its name, and what pins it."""

    kind: str
    name: str
    version: str = ""


class Lineage(msgspec.Struct):
    """What `lineage.json` holds. Times are RFC 3339 in UTC, `parent` is the number of the loop's run.

    `cpu_s` is of the process and those it has waited for, and `peak_bytes` the most memory that the process had: of a part of a
    loop, which shares its process with the others, it is 0.
    """

    run: int
    verb: str
    status: str
    started: str
    parent: int | None = None
    ended: str | None = None
    elapsed_s: float = 0.0
    cpu_s: float = 0.0
    peak_bytes: int = 0
    pid: int = 0
    pid_started: str = ""
    command: str = ""
    seed: int | None = None
    inputs: list[Reference] = []
    outputs: list[Reference] = []
    summary: dict[str, Any] = {}
    error: dict[str, str] | None = None
    machine: dict[str, Any] = {}
    versions: dict[str, str] = {}


class Run:
    """One run, as a context manager: `with Run.start(root, "curate", config) as run: …`.

    Leaving the block writes the status: `done`, `failed` (the error is kept) or `interrupted`.
    """

    def __init__(self, folder: Path, lineage: Lineage, screen: Screen) -> None:
        self.folder = folder
        self.lineage = lineage
        self.screen = screen
        self._begun, self._cpu_begun = time.monotonic(), _cpu_s()
        self.resume_as: int | None = None
        """Number that `--resume` takes if this run is interrupted now; None: its command again is enough."""
        self._last_record = 0.0
        self._making = contextlib.ExitStack()
        self._metrics = open(folder / "metrics.jsonl", "ab", buffering=0)  # noqa: SIM115 (closed by __exit__)

    @classmethod
    def start(
        cls,
        root: Path,
        verb: str,
        config: Config,
        *,
        screen: Screen | None = None,
        parent: Run | int | None = None,
        seed: int | None = None,
        hide: str = "",
    ) -> Self:
        """Make the next free `runs/<n>` below `root` and write what is known before work begins.

        Parameters
        ----------
        hide : a word of the command that the record must not keep.
        """
        runs = root / FOLDER
        make_folder(runs)
        number = max(numbers(root), default=0) + 1
        while True:
            try:
                (runs / str(number)).mkdir()
                break
            except FileExistsError:
                number += 1
        folder = runs / str(number)
        lineage = Lineage(
            run=number,
            verb=verb,
            status="running",
            started=_now(),
            parent=parent.number if isinstance(parent, Run) else parent,
            pid=os.getpid(),
            pid_started=_process_start(os.getpid()),
            command=" ".join(["gyral", *public_words(sys.argv[1:], hide)]) if parent is None else "",
            seed=seed,
            machine={"cores": os.cpu_count(), "system": platform.system(), "processor": platform.machine()},
            versions={"gyral": __version__, "python": platform.python_version()},
        )
        write_atomic(folder / "config.toml", to_toml(public(config)))
        run = cls(folder, lineage, screen or (parent.screen if isinstance(parent, Run) else Screen()))
        run._save()
        return run

    @property
    def number(self) -> int:
        return self.lineage.run

    def settle(self, config: Config) -> None:
        """Write the configuration anew, with what was chosen once the data was known: who goes on from here has that."""
        write_atomic(self.folder / "config.toml", to_toml(public(config)))

    def meter(self, unit: str, total: float | None = None, verb: str | None = None) -> Meter:
        """Start measuring; every record goes to the screen and to `metrics.jsonl`."""
        return Meter(verb or self.lineage.verb, unit, total, self._on_progress)

    def metric(self, kind: str = "metric", **values: Any) -> None:
        """Append one line to `metrics.jsonl`."""
        self._metrics.write(msgspec.json.encode({"time": time.time(), "type": kind, **values}) + b"\n")

    def note(self, text: str) -> None:
        """Tell a person, and keep it in `log.txt` as long as the disk takes it."""
        with contextlib.suppress(OSError):
            self._log(f"{_now()} {text}\n")
        self.screen.note(text)

    def reads(self, kind: str, name: str, version: Any = "") -> None:
        """Record an input."""
        self.lineage.inputs.append(Reference(kind, name, str(version)))

    def writes(self, kind: str, name: str, version: Any = "") -> None:
        """Record an output."""
        self.lineage.outputs.append(Reference(kind, name, str(version)))

    def summarize(self, **values: Any) -> None:
        """Add to the summary that the pages and `gyral show` print."""
        self.lineage.summary.update(values)
        self._save()

    def __enter__(self) -> Self:
        if self.lineage.verb in MAKES:
            self._making.enter_context(together(self.folder.parent.parent / MAKING))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        lineage = self.lineage
        lineage.ended = _now()
        lineage.elapsed_s = round(time.monotonic() - self._begun, 3)
        lineage.cpu_s = round(_cpu_s() - self._cpu_begun, 3)
        lineage.peak_bytes = peak_bytes() if lineage.parent is None else 0
        self.screen.clear()
        self._making.close()
        if error is None:
            lineage.status = "done"
            self._finish()
            return
        lineage.status = "interrupted" if isinstance(error, KeyboardInterrupt | Interrupted) else "failed"
        with contextlib.suppress(OSError):  # a disk that takes no record may not hide what went wrong
            if lineage.status == "failed":
                lineage.error = _told(error)
                if not isinstance(error, GyralError):
                    self._log("".join(traceback.format_exception(error)))
            self._finish()

    def _finish(self) -> None:
        self._metrics.close()
        fsync_path(self.folder / "metrics.jsonl")
        self._save()

    def _log(self, text: str) -> None:
        with open(self.folder / LOG, "a", encoding="utf-8") as file:
            file.write(text)

    def _on_progress(self, record: Progress, is_last: bool) -> None:
        now = time.monotonic()
        if is_last or now - self._last_record >= RECORD_INTERVAL_S:
            self._last_record = now
            self.metric("progress", **msgspec.to_builtins(record))
        self.screen.show(record, is_last)

    def _save(self) -> None:
        write_atomic(self.folder / "lineage.json", msgspec.json.format(msgspec.json.encode(self.lineage)))


def no_other_makes(root: Path) -> contextlib.AbstractContextManager[None]:
    """A block in which no run of a project reads or publishes datasets and models; waits for those that do.

    Raises
    ------
    ConflictError : they did not end within a minute.
    """
    return without_others(root / MAKING, WAIT_S, "other runs read or make datasets and models")


def numbers(root: Path) -> list[int]:
    """Numbers of all runs below `root`, ascending."""
    runs = root / FOLDER
    return sorted(int(name) for name in (os.listdir(runs) if runs.is_dir() else []) if re.fullmatch(r"[0-9]+", name))


def read_lineage(root: Path, number: int) -> Lineage:
    """Read one run; a run whose process is gone gets the status `killed`.

    Raises
    ------
    NotFound : there is no such run, or it was killed before it could write its first record.
    """
    path = root / FOLDER / str(number) / "lineage.json"
    try:
        lineage = msgspec.json.decode(path.read_bytes(), type=Lineage)
    except msgspec.DecodeError as error:
        hint = "its log and metrics may still be there"
        raise NotFound(f"the record of run {number} is damaged", why=str(error), where=str(path), hint=hint) from None
    except FileNotFoundError:
        known = numbers(root)
        hint = f"runs here: {known[0]}–{known[-1]}" if known else "`gyral show` lists what is here"
        raise NotFound(f"there is no run {number}", where=str(path), hint=hint) from None
    if lineage.status == "running" and _process_start(lineage.pid) != lineage.pid_started:
        lineage.status = "killed"
    return lineage


def read_metrics(root: Path, number: int) -> list[dict[str, Any]]:
    """Read `metrics.jsonl`; a torn last line is left out."""
    path = root / FOLDER / str(number) / "metrics.jsonl"
    rows = []
    for line in path.read_bytes().split(b"\n") if path.exists() else []:
        try:
            rows.append(msgspec.json.decode(line))
        except msgspec.DecodeError:
            continue
    return rows


def _told(error: BaseException) -> dict[str, str]:
    if isinstance(error, GyralError):
        return {"what": error.what, "where": error.where, "why": error.why, "hint": error.hint}
    return {"what": f"{type(error).__name__}: {error}", "where": "", "why": "", "hint": ""}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _cpu_s() -> float:
    """CPU seconds of this process and of those that it started and that ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _process_start(pid: int) -> str:
    """Start time of a process in clock ticks since boot, empty when it is gone; without /proc only the latter is known."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return "alive" if not Path("/proc/self").exists() and is_alive(pid) else ""
