"""Processes that are kept alive: who dies is started again, what no other try helps ends all."""

import os
import time

import pytest

from gyral.engine import ranks
from gyral.errors import RankError

ONCE = "import os, sys, pathlib; mark = pathlib.Path({mark!r} + os.environ['RANK']); old = mark.exists(); mark.touch(); "


def test_who_is_killed_is_started_again(tmp_path):
    code = ONCE.format(mark=str(tmp_path / "mark")) + "old or (print('so far', flush=True), os.kill(os.getpid(), 9))"
    notes = []
    ranks.supervise(["-c", code], 2, tmp_path, {}, note=notes.append)
    assert len(notes) == 2 and all("SIGKILL" in note and note.endswith("so far") for note in notes)


def test_so_is_who_says_that_another_try_may_help(tmp_path):
    code = ONCE.format(mark=str(tmp_path / "mark")) + f"sys.exit(0 if old else {ranks.AGAIN})"
    ranks.supervise(["-c", code], 1, tmp_path, {})


def test_not_for_ever(tmp_path):
    with pytest.raises(RankError, match=r"rank 0 of 1 .* was ended by SIGKILL, 3 times"):
        ranks.supervise(["-c", "import os; os.kill(os.getpid(), 9)"], 1, tmp_path, {}, restarts=2)


def test_an_error_of_its_own_ends_all_at_once(tmp_path):
    code = "import os, sys, time; time.sleep(60) if os.environ['RANK'] == '1' else sys.exit('error: no such thing')"
    begun = time.monotonic()
    with pytest.raises(RankError) as error:
        ranks.supervise(["-c", code], 2, tmp_path, {})
    assert error.value.why == "no such thing" and "rank0.log" in error.value.where and time.monotonic() - begun < 10


def test_the_helper_is_kept_alive_and_ends_with_the_rest(tmp_path):
    mark = tmp_path / "helped"
    helper = (
        f"import os, pathlib, time; p = pathlib.Path({str(mark)!r}); p.write_text(p.read_text() + 'x' if p.exists() else 'x');"
    )
    helper += " os.kill(os.getpid(), 9) if len(p.read_text()) < 3 else time.sleep(60)"
    code = f"import pathlib, time\nwhile len(pathlib.Path({str(mark)!r}).read_text()) < 3: time.sleep(.05)"
    mark.write_text("")
    pids = []
    seen = ranks.subprocess.Popen

    class Counted(seen):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            pids.append(self.pid)

    ranks.subprocess.Popen = Counted
    try:
        ranks.supervise(["-c", code], 1, tmp_path, {}, helper=["-c", helper])
    finally:
        ranks.subprocess.Popen = seen
    assert mark.read_text() == "xxx" and len(pids) == 4
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_after_the_end_a_stopped_one_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(ranks, "END_S", 0.5)
    code = "import os, signal; os.environ['RANK'] == '1' and os.kill(os.getpid(), signal.SIGSTOP)"
    begun = time.monotonic()
    ranks.supervise(["-c", code], 2, tmp_path, {})
    assert time.monotonic() - begun < 8


def test_launch_still_stops_all_when_one_fails(tmp_path):
    code = "import os, sys, time; time.sleep(60) if os.environ['RANK'] == '1' else sys.exit(3)"
    with pytest.raises(RankError, match=r"rank 0 of 2 .* stopped with code 3"):
        ranks.launch(["-c", code], 2, tmp_path, {})


def test_an_error_names_the_machine_of_a_rank_that_was_placed_elsewhere(tmp_path):
    class Elsewhere:
        machine = "node-7"

        def poll(self):
            return 3

        def wait(self, timeout=None):
            return 3

    with pytest.raises(RankError, match="rank 0 of 1 on `node-7` stopped with code 3"):
        ranks.launch(["-c", ""], 1, tmp_path, {}, start=lambda *_: Elsewhere())
