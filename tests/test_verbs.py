"""What tests call instead of the command line is the command line: exit codes, both streams, the environment, a limit."""

import json
import signal
import subprocess

import pytest

from .verbs import gyral, result


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
