"""The command line and ranks for tests of whole trainings, forked from a process that has loaded torch: see `forker.py`."""

import atexit
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest

from . import forker as forking

STARTED = {forking.STARTED: "1"}
SHIM = """#!{python} -IS
import sys
sys.path.insert(0, {folder!r})
import forker
forker.shim({path!r})
"""


@cache
def forker():
    """The socket of the forker of this process; what runs below finds it in the environment."""
    folder = tempfile.mkdtemp(prefix="gyral-forker-")
    path = os.path.join(folder, "socket")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0"}
    process = subprocess.Popen(
        [sys.executable, "-P", forking.__file__, path],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True,
    )  # fmt: skip
    atexit.register(_close, process, folder)
    assert process.stdout.readline() == "ready\n"
    os.environ[forking.FORKER] = path
    return path


def _close(process, folder):
    """End it and what it forked; it may have ended."""
    try:
        process.communicate(timeout=10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    shutil.rmtree(folder, ignore_errors=True)


def python(*words, timeout=240, folder=None, **environment):
    """`python -P WORDS`, a script or a module, to its end: told as `subprocess.run` does, which says what `timeout` does."""
    forker()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        streams = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err}
        process = forking.Forked(words, env={**os.environ, **environment}, cwd=folder, **streams)
        try:
            code = process.wait(timeout)
        except BaseException:
            process.kill()
            process.wait()
            raise
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(process.args, code, out.read(), err.read())


_begun = set()


def popen(command, **options):
    """`subprocess.Popen` of a command of this Python that goes on: forked, but for the first of each kind in this process.

    That one begins from nothing, so that this is shown, too. Not for code that changes constants of modules which others have
    by name, nor where a process is found by its words, its parent or what it has loaded: `from_nothing`.
    """
    words = [str(word) for word in command[1:] if word != "-P"]
    kind = " ".join(words[:3] if words[:2] == ["-m", "gyral"] else words[:2] if words[0] == "-m" else words[:1])
    if kind not in _begun or forking.STARTED in os.environ:
        _begun.add(kind)
        return subprocess.Popen(command, **options)
    forker()
    return forking.popen(command, **options)


def run(command, *, capture_output=False, check=False, timeout=None, **options):
    """`subprocess.run` in the same way."""
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with popen(command, **options) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(command, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


@contextlib.contextmanager
def from_nothing():
    """Fork nothing meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(forking.STARTED, "1")
        yield


INSTEAD = forking.instead(popen)
"""For a module that starts processes, in place of its `subprocess`."""


def gyral(*words, **more):
    """`gyral WORDS` to its end, in the same way."""
    return python("-m", "gyral", *words, **more)


def result(*words, **environment):
    """The last line of one that ends well."""
    done = gyral(*words, "--json", **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def start(command, log, environment, sockets=(), before=None):
    """A rank for `ranks.launch(…, start=start)`."""
    forker()
    return forking.started(command, log, environment, sockets, before)


def command(folder):
    """Make a `gyral` in a folder, for shells that have that on their path: it is forked, too."""
    path = Path(folder, "gyral")
    path.write_text(SHIM.format(python=sys.executable, folder=str(Path(__file__).parent), path=forker()))
    path.chmod(0o755)
    return folder
