from __future__ import annotations

from pathlib import Path

import pytest

from gyral.law import runs

LAWS = Path(__file__).resolve().parents[2] / "data" / "laws"


@pytest.fixture(scope="session")
def gemstones() -> runs.RunTable:
    names = {"N": "params_active_precise", "D": "tokens", "loss": "final_loss", "run": "run_name"}
    return runs.read(LAWS / "gemstones_hot.csv", names)


@pytest.fixture(scope="session")
def laws() -> Path:
    return LAWS
