"""What `import gyral` and `gyral --help` cost, against bare Python.

Peers in the same run, interleaved: `python -c pass`, and `import click` alone, below which a click program cannot go. CPU
seconds of the whole process, median of 21.
Command: .venv/bin/python benchmarks/cli/startup.py (half a minute)
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import GYRAL, PYTHON, in_turn, timed, write

COMMANDS = {
    "python": [PYTHON, "-c", "pass"],
    "import gyral": [PYTHON, "-c", "import gyral"],
    "import click": [PYTHON, "-c", "import click"],
    "gyral --help": [*GYRAL, "--help"],
}


def main() -> None:
    result = in_turn({name: lambda command=command: timed(command) for name, command in COMMANDS.items()}, 21, warmup=2)
    cpu_s = {name: figures["cpu_s"]["median"] for name, figures in result.items()}
    ratios = {name: round(value / cpu_s["python"], 2) for name, value in cpu_s.items()}
    write("cli_startup", {"ratio_to_bare_python": ratios, "goal": {"import gyral": 1.5, "gyral --help": 6}, "runs": result})


if __name__ == "__main__":
    main()
