"""The server of `known.py` in a process of its own, and a drive against it."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from gyral.bench.drive import Drive, Target
from gyral.bench.traffic import Heads, assembled
from gyral.serve.http1.server import new_loop


class Known(NamedTuple):
    port: int
    pid: int

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture(scope="session")
def known():
    command = [sys.executable, "-S", str(Path(__file__).with_name("known.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        yield Known(int(child.stdout.readline()), child.pid)
        child.stdin.close()
        child.wait(20)


@pytest.fixture
def drive(known):
    """Send bodies to a path at given times; the traffic and its record."""

    def run(path, due_s, *, deadlines="", is_stream=False, port=None, **settings):
        due_s = np.asarray(due_s, float)
        zeros = np.zeros(len(due_s), np.uint32)
        rng = np.random.default_rng(0)
        made = assembled(due_s, [path], zeros, [b"{}"], zeros, Heads("x", {}), "", deadlines, rng, is_stream)
        with asyncio.Runner(loop_factory=new_loop) as runner:
            record = runner.run(Drive(made, Target("127.0.0.1", port or known.port, False), **settings).run())
        return made, record

    return run
