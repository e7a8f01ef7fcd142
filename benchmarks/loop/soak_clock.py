"""Wall clocks of the processes of a soak, one a machine, which jump when they are told to; see `soak_clock.c`."""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("soak_clock.c")


def built(folder: Path) -> Path | None:
    """The library to preload; None where there is no C compiler, or no Linux."""
    compiler, library = shutil.which("cc"), folder / "soak_clock.so"
    if compiler is None:
        return None
    command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl", "-lpthread"]
    return None if subprocess.run(command, capture_output=True).returncode else library


class Clock:
    """The clock of one machine, true until it is set."""

    def __init__(self, path: Path, library: Path) -> None:
        path.write_bytes(bytes(8))
        with open(path, "r+b") as file:
            self._moved = mmap.mmap(file.fileno(), 8)
        self.environment = {"LD_PRELOAD": str(library), "SOAK_CLOCK": str(path)}
        """Of the processes that go by it, and of theirs."""

    def set(self, offset_s: float) -> None:
        """All of them see it at once."""
        self._moved[:] = struct.pack("q", round(offset_s * 1e9))

    def close(self) -> None:
        """True again."""
        self.set(0)
        self._moved.close()


def true_environment() -> dict[str, str]:
    """This process's, without a clock of a soak."""
    return {name: value for name, value in os.environ.items() if name not in ("LD_PRELOAD", "SOAK_CLOCK")}
