"""Every claim of the leaderboard and how to measure it again: `scripts/bench --list [room]`.

A line a script: its command, the minutes and needs its docstring names, packages it puts into environments of its own, and of
each raw file the date, processor and load. Out of `README.md`, the scripts and `results/` alone: nothing is imported.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).resolve().parent
RAW = re.compile(r"\]\(results/([\w.-]+)\)")
SCRIPT = re.compile(r"`(?:[A-Z_]+=\S+ )*(benchmarks/[\w/]+\.py)[^`]*`")


class Claim(NamedTuple):
    """A script that the leaderboard names.

    Attributes
    ----------
    script : from the root of the checkout.
    raw : files of `results/` that its rows name.
    rows : how many rows it stands behind.
    """

    script: str
    raw: list[str]
    rows: int


def claims(text: str) -> list[Claim]:
    """Scripts of tables, and of lines that name one with its raw file, in order; a row without one is of the row before."""
    found: dict[str, tuple[list[str], int]] = {}
    script = ""
    for row in text.splitlines():
        if not row.startswith("|") and not (SCRIPT.search(row) and RAW.search(row)):
            continue
        if row.startswith(("|---", "| claim", "| |")) and not SCRIPT.search(row):
            continue
        script = named[1] if (named := SCRIPT.search(row)) else script
        if script:
            raw, rows = found.get(script, ([], 0))
            found[script] = ([*dict.fromkeys([*raw, *RAW.findall(row)])], rows + 1)
    return [Claim(name, raw, rows) for name, (raw, rows) in found.items()]


def command(script: str) -> str:
    """What its docstring says to run, with its minutes and needs."""
    text = (FOLDER.parent / script).read_text(encoding="utf-8")
    told = re.search(r"^Command: (.+)$", text, re.MULTILINE)
    return told[1].strip('"') if told else f".venv/bin/python {script}"


def peers(script: str) -> list[str]:
    """Packages of environments that it makes."""
    text = (FOLDER.parent / script).read_text(encoding="utf-8")
    if "peer(" not in text:
        return []
    return sorted(set(re.findall(r'"([a-z][\w.\[\],-]*==[\d.*]+)"', text)))


def measured(name: str) -> str:
    """Date, processor and load of a raw file."""
    path = FOLDER / "results" / name
    where = json.loads(path.read_text()).get("machine") if path.suffix == ".json" else None
    if not isinstance(where, dict):
        return f"{name}: machine not noted"
    return f"{name}: {where['date']}, {where['processor']}, load {where['load'][0]}"


def main(only: str = "") -> None:
    for claim in claims((FOLDER / "README.md").read_text(encoding="utf-8")):
        if f"benchmarks/{only}" in claim.script:
            print(f"{claim.script} ({claim.rows} rows)\n  {command(claim.script)}")
            if used := peers(claim.script):
                print(f"  environments of their own: {', '.join(used)}")
            for name in claim.raw:
                print(f"  {measured(name)}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
