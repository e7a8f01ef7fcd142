"""A few steps of a run as a trace that `chrome://tracing` and Perfetto open: which operation took how long."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

FILE = "trace.json"
SKIPPED = 2
"""First steps, which also allocate and warm up."""


class Profile:
    """Records `num` steps from the third on and writes them into a folder; to be called after every step."""

    def __init__(self, folder: Path, num: int) -> None:
        self._path, self._num, self._seen = folder / FILE, num, 0
        self._profiler: Any = None

    def __call__(self, _: Any) -> None:
        """A step is done."""
        self._seen += 1
        if self._seen == SKIPPED:
            self._profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True)
            self._profiler.start()
        elif self._profiler is not None and self._seen >= SKIPPED + self._num:
            self.close()

    def close(self) -> None:
        """Write what was recorded; also when the run ends before all of it was."""
        if self._profiler is not None:
            self._profiler.stop()
            self._profiler.export_chrome_trace(str(self._path))
            self._profiler = None
