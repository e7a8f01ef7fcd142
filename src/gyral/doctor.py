"""`gyral doctor`: what this machine and this project can do, and what to mend."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import msgspec

from gyral import config as configs
from gyral import plugins
from gyral import run as runs
from gyral.engine.base import num_cores
from gyral.errors import OPTIONAL, GyralError, NotFound
from gyral.lake import dataset as datasets
from gyral.lake.table import Lake
from gyral.run import Lineage
from gyral.show import table

EXTRAS = {
    "train": ("numba", "safetensors"),
    "serve": ("httptools", "starlette", "jinja2", "safetensors"),
}
LOW_DISK_BYTES = 2 << 30


class Finding(msgspec.Struct, frozen=True):
    """One check: `ok`, `note` (works, with a limit) or `bad`, what was found, and what to do."""

    check: str
    state: str
    found: str
    hint: str = ""


def examine(root: Path) -> list[Finding]:
    """Run every check; none changes anything but one temporary file."""
    return [*_machine(root), *_packages(), *_plug_ins(), *_project(root)]


def measure(root: Path, tell: Callable[[str], None]) -> list[Finding]:
    """Probe the machine for plans, and keep what was found in the project.

    Raises
    ------
    GyralError : it cannot be measured, or the project's folder is not there.
    """
    from gyral.plan import probe

    if not root.is_dir():
        raise NotFound(f"there is no folder `{root}`", hint="make it, or name another by `--root`")
    found = probe.probe(root, tell)
    path = probe.save(root, found)
    return [Finding("probe", "ok", text) for text in (f"written to `{path}`", *probe.told(found))]


def _machine(root: Path) -> Iterator[Finding]:
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield Finding("cores", "ok", f"{num_cores()}, load {os.getloadavg()[0]:.1f}")
    folder = root if root.is_dir() else Path(".")
    free = shutil.disk_usage(folder).free
    low = free < LOW_DISK_BYTES
    yield Finding(
        "disk",
        "bad" if low else "ok",
        f"{free / 1e9:.1f} GB free",
        "free some space; the log refuses to lose events" if low else "",
    )
    try:
        seconds = sorted(_fsync_s(folder) for _ in range(9))[4]
    except OSError as error:
        hint = "nothing can be written here: another folder with `--root`, or free some space"
        yield Finding("fsync", "bad", error.strerror or str(error), hint)
    else:
        slow = seconds > 0.05
        hint = "small batches will be slow here: send 1,000 events a batch, or put the project on a local disk" if slow else ""
        yield Finding("fsync", "note" if slow else "ok", f"{1e3 * seconds:.1f} ms", hint)
    yield Finding("sqlite", "ok", f"{sqlite3.sqlite_version} (one writing connection a partition)")


def _packages() -> Iterator[Finding]:
    for name in ("pyarrow", "pylance", "numpy", "msgspec"):
        yield Finding(name, "ok", version(name))
    for extra, modules in EXTRAS.items():
        missing = [name for name in modules if find_spec(name) is None]
        hint = f"pip install 'gyral[{extra}]'" if missing else ""
        found = f"lacks {', '.join(missing)}" if missing else ", ".join(f"{name} {_version(name)}" for name in modules)
        yield Finding(f"extra {extra}", "note" if missing else "ok", found, hint)
    others = sorted({*OPTIONAL.values()} - {*EXTRAS})
    lack = [each for each in others if any(find_spec(name) is None for name, extra in OPTIONAL.items() if extra == each)]
    hint = "pip install 'gyral[NAME]' where a command asks for one" if lack else ""
    yield Finding("other extras", "ok", f"all but {', '.join(lack)}" if lack else "all", hint)


def _plug_ins() -> Iterator[Finding]:
    """Packages that bring hooks, and whether what they bring can be loaded."""
    for package, hooks in plugins.packages().items():
        found, state, hint = ", ".join(f"{kind} {name}" for kind, name in hooks), "ok", ""
        for kind, name in hooks:
            try:
                plugins.find(kind, name)
            except GyralError as error:
                found, state, hint = f"{error.what}: {error.why}", "bad", error.hint
            except Exception as error:  # whatever happens while somebody's module is imported
                found, state = f"{kind} {name}: {type(error).__name__}: {error}", "bad"
                hint = f"install what it needs, or take it away: `pip uninstall {package}`"
        yield Finding(f"plug-in {package}", state, found, hint)


def _project(root: Path) -> Iterator[Finding]:
    lake = Lake(root)
    try:
        lake = Lake.of(root, configs.load(root))
        yield Finding("gyral.toml", "ok", "reads" if (root / configs.FILE_NAME).exists() else "none: defaults")
    except GyralError as error:
        yield Finding("gyral.toml", "bad", error.what + (f" ({error.where})" if error.where else ""), error.hint)
    yield _lake(lake)
    yield _published(root, "datasets", datasets.FOLDER, lambda name: datasets.find(root, name).read())
    try:
        yield _published(root, "models", "models", partial(_load, root))
    except ImportError as error:
        yield Finding("models", "note", f"not read: `{error.name}` is not installed", "pip install 'gyral[train]'")
    yield _runs(root)


def _lake(lake: Lake) -> Finding:
    try:
        tables = lake.overview()["tables"]
        for name, facts in tables.items():
            rows = sum(batch.num_rows for batch in lake.snapshot(name).scan(["event_id"]))
            if rows != facts["rows"]:
                hint = "move the `lake` folder away and ingest again"
                return Finding("lake", "bad", f"`{name}` has {rows:,} rows and says {facts['rows']:,}", hint)
    except GyralError as error:
        return Finding("lake", "bad", error.what + (f": {error.why}" if error.why else ""), error.hint)
    told = ", ".join(f"{name} {facts['rows']:,} rows" for name, facts in tables.items())
    return Finding("lake", "ok", told or "empty")


def _published(root: Path, check: str, folder: str, read: Callable[[str], object]) -> Finding:
    """Read the newest version of every name, which is what a verb would take."""
    found = (re.fullmatch(r"(.+)@[0-9]+", entry) for entry in (os.listdir(root / folder) if (root / folder).is_dir() else []))
    names = sorted({match.group(1) for match in found if match})
    for name in names:
        try:
            read(name)
        except GyralError as error:
            return Finding(check, "bad", error.what + (f": {error.why}" if error.why else ""), error.hint)
    return Finding(check, "ok", f"{len(names):,} names, the newest of each reads" if names else "none")


def _load(root: Path, name: str) -> None:
    from gyral.model import card as cards
    from gyral.model import inputs

    folder = cards.find(root, name)
    cards.read_card(folder)
    cards.read_weights(folder)
    inputs.load(folder)


def _runs(root: Path) -> Finding:
    states: dict[str, list[Lineage]] = {}
    unreadable = 0
    for each in runs.numbers(root):
        try:
            lineage = runs.read_lineage(root, each)
            states.setdefault(lineage.status, []).append(lineage)
        except GyralError:
            unreadable += 1
    told = ", ".join(f"{len(each):,} {state}" for state, each in sorted(states.items()))
    told += f", {unreadable:,} unreadable" if unreadable else ""
    killed = [each for each in states.get("killed", []) if each.parent is None]
    hint = ""
    if killed:
        last = killed[-1]
        again = f" --resume {last.run}" if last.verb == "loop" and "--resume" not in last.command else ""
        hint = f"run {last.run} was killed; continue with `{last.command}{again}`"
    return Finding("runs", "note" if killed else "ok", told or "none", hint)


def table_of(findings: list[Finding]) -> str:
    """Lay the findings out for a person."""
    return table(["check", "", "found", "what to do"], [[each.check, each.state, each.found, each.hint] for each in findings])


def _fsync_s(folder: Path) -> float:
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".gyral-doctor-") as file:
        file.write(b"x" * 4096)
        file.flush()
        start = time.perf_counter()
        os.fsync(file.fileno())
        return time.perf_counter() - start


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "?"
