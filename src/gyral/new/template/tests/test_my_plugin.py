"""The plug-in by its own commands: run in the environment where it is installed, `python -m pytest`."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def gyral(root: Path, *words: str) -> dict[str, Any]:
    """One command, as a user types it; what it prints with `--json`."""
    command = [sys.executable, "-m", "gyral", *words, "--root", str(root), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def test_the_four_hooks(tmp_path: Path) -> None:
    assert gyral(tmp_path, "ingest", "--source", "my_plugin:2000")["accepted"] == 2000
    assert gyral(tmp_path, "curate", "my_plugin")["rows_kept"] == 2000

    trained = gyral(tmp_path, "train", "my_plugin", "--family", "my_plugin")
    chosen = next(each for each in trained["candidates"] if each["chosen"])
    assert chosen["name"] == "by the hour" and chosen["hit_at_3"] > 0.9  # what the made shop was made of

    stages = 'curate.stages=["extract", "digest", "my_plugin"]'
    told = gyral(tmp_path, "curate", "texts", "--source", str(EXAMPLES), "--set", stages)
    assert told["dropped"].get("shouts") == 1 and told["rows_kept"] == 1

    gyral(tmp_path, "dash", "--export", str(tmp_path / "pages"))
    twin = json.loads((tmp_path / "pages" / "pages" / "my_plugin.json").read_text())
    assert [each["model"] for each in twin["models"]] == ["my_plugin@1"]
    assert "my_plugin@1" in (tmp_path / "pages" / "pages" / "my_plugin.html").read_text()
