"""What benchmarks of plans are held against."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path


def calculon() -> str | None:
    """What Calculon's own validation prints, with stand-ins for two packages that it imports and does not use there.

    `CALCULON` names a checkout of it; None where nothing does.
    """
    folder = os.environ.get("CALCULON")
    if not folder:
        return None
    with tempfile.TemporaryDirectory() as stubs:
        Path(stubs, "pandas.py").write_text("")
        Path(stubs, "psutil.py").write_text("def cpu_count(logical=False):\n    return 1\n")
        environment = {**os.environ, "PYTHONPATH": f"{folder}:{stubs}"}
        command = [sys.executable, "bin/calculon", "llm-validation"]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout
