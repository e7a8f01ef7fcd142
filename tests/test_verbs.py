"""What tests call instead of the command line is the command line: exit codes, both streams, the environment, a limit."""

import json
import os
import signal
import subprocess
import sys

import pytest

from . import verbs
from .forker import Forked
from .verbs import command, gyral, result, start


def test_it_answers_as_the_command_line_does(tmp_path):
    done = gyral("train", "nothing", "--root", tmp_path)
    assert done.returncode == 1 and done.stdout == "" and done.stderr.startswith("error: ") and "hint: " in done.stderr
    assert gyral("--version").stdout.startswith("gyral")
    assert gyral("train", "--no-such-option").returncode == 2


def test_each_has_the_environment_it_is_given_and_what_kills_it_is_told(tmp_path):
    path = tmp_path / "events.csv"
    path.write_text("subject,object,event_time\n" + "".join(f"s{row},o,{1_600_000_000 + row}\n" for row in range(5)))
    died = gyral("ingest", "--source", path, "--root", tmp_path, GYRAL_FAULT="lake.merged")
    assert died.returncode == -signal.SIGKILL
    assert result("ingest", "--source", path, "--root", tmp_path)
    assert json.loads((tmp_path / "runs" / "2" / "lineage.json").read_text())["status"] == "done"


def test_one_that_takes_too_long_is_ended_and_its_answer_is_not_that_of_the_next(tmp_path):
    with pytest.raises(subprocess.TimeoutExpired):
        gyral("ingest", "--listen", "127.0.0.1:0", "--root", tmp_path, timeout=0.5)
    assert gyral("--version").returncode == 0


@pytest.mark.timeout(100)
def test_a_shell_finds_it_on_its_path_with_its_folder_streams_codes_and_signals(tmp_path):
    (tmp_path / "bin").mkdir()
    environment = {**os.environ, "PATH": f"{command(tmp_path / 'bin')}:{os.environ['PATH']}"}
    lines = "gyral --version | cut -c1-5; gyral train nothing 2>told || echo $?; gyral curate nothing"
    done = subprocess.run(["bash", "-c", lines], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["gyral", "1"] and done.returncode == 1 and "error: " in done.stderr
    assert "no dataset `nothing`" in (tmp_path / "told").read_text()
    words = [tmp_path / "bin" / "gyral", "ingest", "--listen", "127.0.0.1:0"]
    listening = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        assert b"http://127.0.0.1:" in listening.stdout.readline() and (tmp_path / "runs").exists()
        listening.terminate()
        assert listening.wait(30) == 0
    finally:
        listening.kill()
        listening.wait()
        listening.stdout.close()


def test_a_rank_has_its_words_place_and_log_and_its_end_is_told(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("told = 'mine'")
    lines = ["import mine, os, sys, time", "print(mine.told, sys.argv[1:], os.environ['RANK'])"]
    script = tmp_path / "rank.py"
    script.write_text("\n".join([*lines, "sys.exit(3) if sys.argv[1] else time.sleep(99)"]))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    ended = start([script, "a", 1], tmp_path / "0.log", {"RANK": "0"})
    assert ended.wait(30) == ended.poll() == 3 and (tmp_path / "0.log").read_text() == "mine ['a', '1'] 0\n"
    stays = start([script, ""], tmp_path / "1.log", {"RANK": "1"})
    with pytest.raises(subprocess.TimeoutExpired):
        stays.wait(0.1)
    assert stays.poll() is None
    os.kill(stays.pid, signal.SIGKILL)
    assert stays.wait(30) == -signal.SIGKILL


CODE = """
import os, sys
print(sys.argv, os.environ["TOLD"], os.getcwd(), os.getppid(), os.getsid(0) == os.getpid(), flush=True)
print(sys.stdin.read().upper() + os.read(int(sys.argv[1]), 9).decode(), file=sys.stderr)
sys.exit(7)
"""


def test_what_goes_on_has_what_a_popen_would_give_it_but_for_the_first_which_begins_from_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(verbs, "_begun", set())
    kinds = []
    for _ in range(2):
        ours, theirs = os.pipe()
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        more = {"env": {**os.environ, "TOLD": "told"}, "cwd": tmp_path, "pass_fds": [ours], "start_new_session": True}
        with verbs.popen([sys.executable, "-P", "-c", CODE, str(ours)], **pipes, **more) as child:
            os.close(ours)
            assert child.stdout.readline() == f"{['-c', str(ours)]} told {tmp_path} {os.getpid()} True\n"
            os.write(theirs, b"inherited")
            os.close(theirs)
            assert child.communicate("given ", timeout=30) == ("", "GIVEN inherited\n") and child.returncode == 7
        kinds.append(isinstance(child, Forked))
    assert kinds == [False, True]


def test_what_runs_to_its_end_is_told_as_ever_and_is_ended_when_it_takes_too_long():
    for _ in range(2):
        done = verbs.run([sys.executable, "-c", "print('a'); raise ValueError('b')"], capture_output=True, text=True)
        assert done.returncode == 1 and done.stdout == "a\n" and done.stderr.endswith("ValueError: b\n")
        with pytest.raises(subprocess.CalledProcessError):
            verbs.run([sys.executable, "-c", "raise SystemExit(3)"], check=True)
        with pytest.raises(subprocess.TimeoutExpired):
            verbs.run([sys.executable, "-c", "import time; time.sleep(99)"], timeout=0.3)
    with verbs.from_nothing(), verbs.popen([sys.executable, "-c", ""]) as started:
        assert not isinstance(started, Forked) and started.wait(30) == 0
