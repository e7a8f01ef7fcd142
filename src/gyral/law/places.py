"""Where a project keeps its runs, its laws and its predictions."""

from __future__ import annotations

from pathlib import Path

FOLDER = "laws"


def runs_of(root: Path) -> Path:
    """The table of runs."""
    return root / FOLDER / "runs.parquet"


def register_of(root: Path) -> Path:
    """The register of predictions."""
    return root / FOLDER / "register.jsonl"


def laws_of(root: Path) -> Path:
    """What was fitted last, for pages."""
    return root / FOLDER / "laws.json"
