from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gyral.errors import InputError, NotFound
from gyral.law import register

DRAWS = np.random.default_rng(0).normal(2.5, 0.02, 4_000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "laws" / "register.jsonl"
    register.register(found, "big", {"N": 1e9, "D": 2e10}, DRAWS, {"rows": 40})
    register.register(found, "bigger", {"N": 7e9, "D": 1e11}, DRAWS - 0.2, {"rows": 40})
    return found


def test_a_verdict_says_how_far_off_and_whether_inside(path: Path) -> None:
    told = register.verdict(path, "big", 2.51)
    assert told["error"] == pytest.approx(2.51 / np.median(DRAWS) - 1)
    assert told["inside"] == {"0.5": True, "0.8": True, "0.95": True}
    assert register.verdict(path, "bigger", 2.4)["inside"] == {"0.5": False, "0.8": False, "0.95": False}
    score = register.scores(path)
    assert score["verdicts"] == 2 and score["inside"]["0.8"] == 0.5


def test_each_interval_holds_its_share_of_what_was_drawn(path: Path) -> None:
    for level, (low, high) in register.read(path)[0]["intervals"].items():
        assert np.mean((low <= DRAWS) & (high >= DRAWS)) == pytest.approx(float(level), abs=1e-3)
        assert np.mean(low > DRAWS) == pytest.approx(np.mean(high < DRAWS), abs=1e-3)


def test_nothing_is_predicted_twice_or_judged_twice_or_without_a_prediction(path: Path) -> None:
    with pytest.raises(InputError, match="is predicted already"):
        register.register(path, "big", {"N": 1e9}, DRAWS, {})
    register.verdict(path, "big", 2.5)
    with pytest.raises(InputError, match="has its verdict"):
        register.verdict(path, "big", 2.4)
    with pytest.raises(NotFound, match="nothing was predicted"):
        register.verdict(path, "other", 2.4)
    with pytest.raises(InputError, match="is no loss"):
        register.verdict(path, "bigger", float("nan"))


@pytest.mark.parametrize("how", ["changed", "taken out", "put in", "turned", "cut"])
def test_a_register_that_was_edited_is_refused(path: Path, how: str) -> None:
    lines = path.read_bytes().splitlines()
    lines = {
        "changed": [lines[0].replace(b"2e10", b"3e10").replace(b"20000000000", b"30000000000"), lines[1]],
        "taken out": [lines[1]],
        "put in": [lines[0], lines[0], lines[1]],
        "turned": [lines[1], lines[0]],
        "cut": [lines[0], lines[1][:-9]],
    }[how]
    path.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(InputError, match="was changed"):
        register.read(path)
    with pytest.raises(InputError, match="was changed"):
        register.verdict(path, "big", 2.5)


def test_crps_is_what_its_definition_sums() -> None:
    draws = np.array([1.0, 2.0, 4.0])
    told = np.mean(np.abs(draws - 2.5)) - np.abs(draws[:, None] - draws).mean() / 2
    assert register.crps(draws, 2.5) == pytest.approx(told)
    assert register.crps(np.full(5, 2.5), 2.5) == 0
