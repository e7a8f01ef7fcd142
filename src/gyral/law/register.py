"""Predictions written down before the run that tests them, each chained to the one before, and what became of them.

A line is JSON with `hash` = SHA-256 of the line without it, `previous` in it. A line that was changed, taken out or put in
breaks the chain, and such a file is refused. That shows tampering after the fact only where somebody holds an older hash:
committing the file, as gyral's own is, makes the repository hold it.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from gyral.errors import InputError, NotFound
from gyral.files import alone, fsync_path

LEVELS = (0.5, 0.8, 0.95)
FIRST = "0" * 64
DRAWS = 2_000


def read(path: Path) -> list[dict[str, Any]]:
    """All lines, in order.

    Raises
    ------
    InputError : the chain is broken; where.
    """
    if not path.exists():
        return []
    found: list[dict[str, Any]] = []
    previous = FIRST
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            entry = msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise _broken(path, number, str(error)) from None
        told = entry.pop("hash", "")
        if entry.get("previous") != previous or _hash(entry) != told:
            raise _broken(path, number, "its hash is not that of its text, or the line before is another")
        previous = entry["hash"] = told
        found.append(entry)
    return found


def _broken(path: Path, number: int, why: str) -> InputError:
    hint = "restore it from version control; a register that was edited proves nothing"
    return InputError("the register of predictions was changed", where=f"{path}, line {number}", why=why, hint=hint)


def _hash(entry: Mapping[str, Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(entry, order="sorted")).hexdigest()


def _append(path: Path, entry: dict[str, Any]) -> dict[str, Any]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with alone(path, "another prediction is being written"):
        known = read(path)
        entry = {"number": len(known) + 1, "time": time.time(), **entry, "previous": known[-1]["hash"] if known else FIRST}
        entry["hash"] = _hash(entry)
        with path.open("ab") as file:
            file.write(msgspec.json.encode(entry, order="sorted") + b"\n")
            file.flush()
            os.fsync(file.fileno())
        fsync_path(path.parent)
    return entry


def register(path: Path, name: str, target: Mapping[str, float], draws: np.ndarray, law: Mapping[str, Any]) -> dict[str, Any]:
    """Write a prediction down.

    Parameters
    ----------
    name : of the run that will test it; one prediction a name.
    target : columns it is for.
    draws : what may come, by the law.
    law : where it is from: forms and weights, hash of the table, version of the code.

    Raises
    ------
    InputError : the name is taken, or the register was changed.
    """
    if any(each["kind"] == "prediction" and each["name"] == name for each in read(path)):
        raise InputError(f"`{name}` is predicted already", where=str(path), hint="a second try needs another name")
    levels = {f"{level:g}": [float(v) for v in np.percentile(draws, [50 - 50 * level, 50 + 50 * level])] for level in LEVELS}
    entry = {
        "kind": "prediction",
        "name": name,
        "target": dict(target),
        "point": float(np.median(draws)),
        "intervals": levels,
        "quantiles": [float(v) for v in np.quantile(draws, np.linspace(0.005, 0.995, 100))],
        "law": dict(law),
    }
    return _append(path, entry)


def verdict(path: Path, name: str, value: float, source: str = "") -> dict[str, Any]:
    """Hold what came against what was predicted, and write it down.

    Raises
    ------
    NotFound : nothing was predicted for this name.  InputError : there is a verdict already, or the register was changed.
    """
    known = read(path)
    predicted = next((each for each in known if each["kind"] == "prediction" and each["name"] == name), None)
    if predicted is None:
        hint = "`gyral law predict --register NAME` comes before the run"
        raise NotFound(f"nothing was predicted for `{name}`", where=str(path), hint=hint)
    if any(each["kind"] == "verdict" and each["name"] == name for each in known):
        raise InputError(f"`{name}` has its verdict", where=str(path), hint="`gyral law register` shows it")
    if not 0 < value < math.inf:
        raise InputError(f"{value:g} is no loss", hint="a run that diverged has none")
    entry = {
        "kind": "verdict",
        "name": name,
        "value": value,
        "error": value / predicted["point"] - 1,
        "inside": {level: low <= value <= high for level, (low, high) in predicted["intervals"].items()},
        "crps": crps(np.array(predicted["quantiles"]), value),
        "source": source,
    }
    return _append(path, entry)


def crps(draws: np.ndarray, value: float) -> float:
    """How far a forecast was off, its spread considered, in units of the loss; 0 is a sure and right one.

    **Source**: Gneiting and Raftery, JASA 102 (2007), equation 21: E|X - y| - E|X - X'| / 2.
    """
    ordered = np.sort(draws)
    n = len(ordered)
    spread = 2 * float(np.sum(ordered * (2 * np.arange(1, n + 1) - n - 1))) / (n * n)
    return float(np.mean(np.abs(ordered - value))) - spread / 2


def scores(path: Path) -> dict[str, Any]:
    """Over all verdicts: how many, mean |error|, and how often each interval held."""
    return score_of(read(path))


def score_of(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The same, of lines that were read."""
    verdicts = [each for each in entries if each["kind"] == "verdict"]
    if not verdicts:
        return {"verdicts": 0}
    return {
        "verdicts": len(verdicts),
        "mean_abs_error": float(np.mean([abs(each["error"]) for each in verdicts])),
        "inside": {f"{level:g}": float(np.mean([each["inside"][f"{level:g}"] for each in verdicts])) for level in LEVELS},
        "crps": float(np.mean([each["crps"] for each in verdicts])),
    }
