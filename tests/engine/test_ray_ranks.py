"""Ranks placed by a Ray of this machine: started, killed, started again, whoever of process and actor dies."""

import os
import signal
import socket
import time

import pytest

from gyral.engine import ranks, ray_ranks
from gyral.errors import RankError

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def start():
    with ray_ranks.placing("ray://workers=2") as (start, host):
        assert host == "127.0.0.1"
        yield start


def test_who_is_killed_is_started_again(start, tmp_path):
    code = f"import os, pathlib; p = pathlib.Path({str(tmp_path)!r}, os.environ['RANK']); old = p.exists(); p.touch();"
    code += "old or os.kill(os.getpid(), 9)"
    notes = []
    ranks.supervise(["-c", code], 2, tmp_path, {}, start=start, note=notes.append)
    assert len(notes) == 2 and all("SIGKILL" in note for note in notes)


def test_a_process_ends_with_its_actor(start, tmp_path):
    pid_file = tmp_path / "pid"
    code = f"import os, pathlib, time; pathlib.Path({str(pid_file)!r}).write_text(str(os.getpid())); time.sleep(60)"
    placed = start(["-c", code], tmp_path / "log", {})
    end = time.monotonic() + 30
    while not (pid_file.exists() and pid_file.read_text()) and time.monotonic() < end:
        time.sleep(0.05)
    assert placed.poll() is None
    ray.kill(placed._actor)
    assert placed.wait(20) == -signal.SIGKILL
    while time.monotonic() < end:
        try:
            os.kill(int(pid_file.read_text()), 0)
        except ProcessLookupError:
            break
        time.sleep(0.05)
    else:
        pytest.fail("the process has outlived its actor")


def test_an_error_is_told_with_its_log(start, tmp_path):
    with pytest.raises(RankError) as error:
        ranks.launch(["-c", "import sys; sys.exit('error: no such thing')"], 2, tmp_path, {}, start=start)
    assert error.value.why == "no such thing" and f"on `{socket.gethostname()}`" in error.value.what


def test_more_ranks_than_cores_are_refused_in_time(start, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_ranks, "PLACE_S", 3.0)
    with pytest.raises(RankError, match="did not start a rank") as error:
        ranks.launch(["-c", "import time; time.sleep(30)"], 3, tmp_path, {}, start=start)
    assert "2 cores" in error.value.why
