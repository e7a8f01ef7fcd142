"""The command line for tests of whole trainings, in processes forked from one that has loaded torch: see `forker.py`."""

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path


@cache
def _forker():
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0"}
    process = subprocess.Popen(
        [sys.executable, "-P", str(Path(__file__).with_name("forker.py"))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=environment, start_new_session=True,
    )  # fmt: skip
    atexit.register(_close, process)
    assert process.stdout.readline() == "ready\n"
    return process


def _close(process):
    """End it and what it forked; it may have ended."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def gyral(*words, timeout=240, **environment):
    """`gyral WORDS` to its end, told as `subprocess.run` does, which also says what `timeout` does."""
    forker = _forker()
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        out.touch()
        err.touch()
        asked = {"words": [str(word) for word in words], "environment": {**os.environ, **environment}}
        try:
            forker.stdin.write(json.dumps({**asked, "out": str(out), "err": str(err)}) + "\n")
            if not select.select([forker.stdout], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(words, timeout, out.read_text(), err.read_text())
            code = int(forker.stdout.readline())
        except BaseException:  # its answer would be taken for that to the next request
            _close(forker)
            _forker.cache_clear()
            raise
        return subprocess.CompletedProcess(words, code, out.read_text(), err.read_text())


def result(*words, **environment):
    """The last line of one that ends well."""
    done = gyral(*words, "--json", **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
