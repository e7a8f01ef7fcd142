"""What every benchmark shares: whole processes timed by the system's own accounting, peers in environments of their own.

Figures: wall seconds, CPU seconds (user + system, with children), peak resident memory of the largest process. Commands of one
comparison run in turn, A B A B …, and medians are quoted, because the machines these run on are shared.
"""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(os.environ.get("GYRAL_BENCHMARK_RESULTS") or ROOT / "benchmarks" / "results")
"""Where raw output is kept; tests that run a benchmark name a folder of their own."""
PYTHON = str(ROOT / ".venv" / "bin" / "python")
GYRAL = [PYTHON, "-m", "gyral"]


def timed(command: Sequence[str], *, cpus: set[int] | None = None, **options: Any) -> dict[str, float]:
    """Run a command to its end; wall and CPU seconds and peak resident bytes of it and its children, and its stdout."""
    # A helper process in between, so that the accounting of its children is this command's alone.
    code = (
        "import json, os, resource, subprocess, sys, time\n"
        "cpus = json.loads(sys.argv[2])\nif cpus: os.sched_setaffinity(0, cpus)\nstart = time.perf_counter()\n"
        "done = subprocess.run(json.loads(sys.argv[1]), stdout=subprocess.PIPE, stderr=subprocess.PIPE)\n"
        "wall = time.perf_counter() - start\nused = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(json.dumps([done.returncode, wall, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024,\n"
        "    done.stdout.decode(errors='replace')[-100000:], done.stderr.decode(errors='replace')[-2000:]]))\n"
    )
    helper = [PYTHON, "-S", "-c", code, json.dumps(list(command)), json.dumps(sorted(cpus or []))]
    done = subprocess.run(helper, capture_output=True, text=True, check=True, **options)
    returncode, wall_s, cpu_s, peak_bytes, stdout, stderr = json.loads(done.stdout)
    if returncode:
        raise SystemExit(f"{' '.join(command)} failed with {returncode}:\n{stderr}")
    return {"wall_s": wall_s, "cpu_s": cpu_s, "peak_bytes": peak_bytes, "stdout": stdout}


def in_turn(runs: Mapping[str, Callable[[], dict[str, float]]], times: int, warmup: int = 1) -> dict[str, dict[str, Any]]:
    """Call each in turn, `times` rounds after the warm-up; medians and all values of every figure."""
    values: dict[str, dict[str, list[float]]] = {name: {} for name in runs}
    for number in range(times + warmup):
        for name, run in runs.items():
            for figure, value in run().items():
                if number >= warmup and isinstance(value, int | float):
                    values[name].setdefault(figure, []).append(round(value, 6))
    return {
        name: {figure: {"median": statistics.median(every), "all": every} for figure, every in figures.items()}
        for name, figures in values.items()
    }


def peer(name: str, requirements: Sequence[str], without: Sequence[str] = ()) -> str:
    """Python of an environment that holds a peer; made once, outside the checkout.

    Parameters
    ----------
    without : packages that the last requirement asks for and does not get, because they are not to be had here, or break it.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "gyral" / "benchmarks" / name
    python = folder / "bin" / "python"
    marker = folder / "requirements.json"
    told = [*requirements, *(f"without {each}" for each in without)]
    if not marker.exists() or json.loads(marker.read_text()) != told:
        print(f"making an environment for the peer {name}: {' '.join(told)}", file=sys.stderr)
        subprocess.run([PYTHON, "-m", "venv", "--clear", folder], check=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        *before, last = requirements
        if without:
            if before:
                subprocess.run([*install, *before], check=True)
            subprocess.run([*install, "--no-deps", last], check=True)
            code = "import json, sys\nfrom importlib.metadata import requires\nprint(json.dumps(requires(sys.argv[1])))"
            asked = [python, "-c", code, re.split(r"[^\w.-]", last)[0]]
            needs: list[str] = json.loads(subprocess.run(asked, capture_output=True, check=True).stdout)
            subprocess.run([*install, *(each for each in needs if re.split(r"[^\w.-]", each)[0] not in without)], check=True)
        else:
            subprocess.run([*install, *requirements], check=True)
        marker.write_text(json.dumps(told))
    return str(python)


def machine() -> dict[str, Any]:
    """Where the numbers come from."""
    model = next((line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    packages = ("gyral", "pyarrow", "pylance", "numpy", "numba", "msgspec", "click")
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "load": [round(value, 2) for value in os.getloadavg()],
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d"),
    }


def write(name: str, result: dict[str, Any]) -> None:
    """Print the raw output as one line, and keep it under `RESULTS` when it is that of a commit."""
    result = {"benchmark": name, **result, "machine": machine()}
    print(json.dumps(result))
    if _commit().endswith("-dirty"):
        print(f"not kept as {name}.json: sources differ from the commit", file=sys.stderr)
        return
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")


def own_peak_bytes() -> int:
    """Peak resident bytes of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _commit() -> str:
    """What was measured; `-dirty` when sources differ from it, empty outside a checkout."""
    try:
        git = ["git", "-C", str(ROOT)]
        commit = subprocess.run(
            [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        differs = subprocess.run(
            [*git, "diff", "--quiet", "HEAD", "--", "src", "benchmarks/*.py", "constraints.txt"], check=False
        )
        return commit + ("-dirty" if differs.returncode else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
