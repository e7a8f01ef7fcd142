import operator
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from gyral.engine.base import connect
from gyral.errors import ConfigError, GyralError, MissingExtra, UsageError
from gyral.lake import dataset as datasets

pytestmark = [pytest.mark.ray, pytest.mark.timeout(120)]

ray = pytest.importorskip("ray")
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test


@pytest.fixture(scope="module")
def engine():
    engine = connect("ray://workers=2")
    yield engine
    engine.close()


def tree(root):
    """A process and all its descendants."""
    children = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text()
        except OSError:
            continue
        children.setdefault(int(text.rpartition(")")[2].split()[1]), []).append(int(path.parent.name))
    found, look = [], [root]
    while look:
        look += children.get(look[0], [])
        found.append(look.pop(0))
    return found


def listening(pids):
    """Addresses, in the kernel's hex, that processes listen on."""
    sockets = set()
    for pid in pids:
        for path in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                sockets.add(os.readlink(path))
            except OSError:
                continue
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    return [words[1].partition(":")[0] for words in lines if words[3] == "0A" and f"socket:[{words[9]}]" in sockets]


def gone(pids, within_s=20.0):
    end = time.monotonic() + within_s
    while (left := [pid for pid in pids if Path(f"/proc/{pid}").exists()]) and time.monotonic() < end:
        time.sleep(0.1)
    return not left


def test_results_come_in_the_order_of_the_items(engine):
    assert list(engine.map(operator.neg, range(50))) == [-number for number in range(50)]
    assert list(engine.map(operator.neg, [])) == []


def slow_first(number):
    time.sleep(0.5 if number == 1 else 0)
    return number


def test_no_more_than_twice_the_workers_are_in_flight_and_a_slow_one_keeps_its_place(engine):
    taken = []

    def items():
        for number in range(40):
            taken.append(number)
            yield number

    results = engine.map(slow_first, items())
    assert next(results) == 0 and taken == [0]  # the first compiles what the others use
    assert next(results) == 1 and len(taken) <= 5
    assert list(results) == list(range(2, 40))


def twice(item):
    rows, numbers, more = item
    return rows, {"numbers": [numbers * 2]}, more


def test_arrow_and_numpy_come_back_as_they_were_and_belong_to_the_caller(engine):
    whole = pa.record_batch({"x": np.arange(100_000), "s": [f"{n}" for n in range(100_000)]})
    kinds = [
        whole.slice(70_000, 20_000),
        whole.slice(0, 0),
        pa.Table.from_batches([whole, whole.slice(5, 7)]),
        pa.table({"d": pa.array(["a", "b", None, "a"]).dictionary_encode()}),
        whole.column(1).slice(99_990),
    ]
    numbers = np.arange(50_000)
    for rows, (back, more, none) in zip(kinds, engine.map(twice, [(kind, numbers, None) for kind in kinds]), strict=True):
        assert type(back) is type(rows) and back.equals(rows) and none is None
        back_numbers = more["numbers"][0]
        assert np.array_equal(back_numbers, numbers * 2)
        back_numbers[0] = 7  # what lies in the object store cannot be written to


def size_of_pickled(item):
    return sum(buffer.size for buffer in item.column(0).buffers() if buffer)


def test_of_a_slice_only_its_rows_travel(engine):
    whole = pa.record_batch({"x": np.arange(1_000_000)})
    assert next(engine.map(size_of_pickled, [whole.slice(500, 100)])) < 2_000


def fails(number, of=None):
    if number == 3:
        raise of if of is not None else ValueError("three is not a number I like")
    return number


def test_the_first_error_is_raised_after_the_results_before_it_with_the_workers_trace(engine):
    results = engine.map(fails, range(9))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three is not a number I like") as caught:
        next(results)
    told = "".join(caught.value.__notes__)
    assert "item 3 (3)" in told and "in fails" in told


def missing(_):
    raise MissingExtra("nothing", "none", "this test")


def refuses(_):
    raise ConfigError("it is off", where="[curate] rules", why="because", hint="turn it on")


def test_an_error_of_gyral_arrives_as_it_was_raised(engine):
    with pytest.raises(ConfigError) as caught:
        list(engine.map(refuses, [0]))
    error = caught.value
    assert (error.what, error.where, error.why, error.hint) == ("it is off", "[curate] rules", "because", "turn it on")
    with pytest.raises(MissingExtra, match="this test needs the package `nothing`"):
        list(engine.map(missing, [0]))


def dies(number, folder, times):
    tries = len(list(Path(folder).glob(f"{number}-*")))
    if number == 2 and tries < times:
        Path(folder, f"{number}-{tries}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number * 10


def test_what_a_killed_worker_did_is_done_again(engine, tmp_path):
    assert list(engine.map(partial(dies, folder=str(tmp_path), times=1), range(6))) == [0, 10, 20, 30, 40, 50]
    assert len(list(tmp_path.iterdir())) == 1


def test_an_item_that_kills_every_worker_is_named(engine, tmp_path):
    results = engine.map(partial(dies, folder=str(tmp_path), times=99), range(6))
    assert [next(results), next(results)] == [0, 10]
    with pytest.raises(GyralError, match=r"item 2 \(2\) could not be worked on: its worker died 4 times"):
        next(results)
    assert len(list(tmp_path.iterdir())) == 4


def test_two_engines_share_one_ray_and_another_cluster_is_refused(engine):
    other = connect("ray://workers=1")
    assert list(other.map(operator.neg, [1, 2])) == [-1, -2]
    other.close()
    other.close()
    with pytest.raises(UsageError, match="closed"):
        list(other.map(operator.neg, [1]))
    assert list(engine.map(operator.neg, [1])) == [-1]
    with pytest.raises(UsageError, match=r"cannot be in `ray://127\.0\.0\.1:9` too"):
        connect("ray://127.0.0.1:9")


def gyral_of_worker(_):
    import gyral

    return gyral.__file__


def test_workers_import_this_gyral(engine):
    assert list(engine.map(gyral_of_worker, [0])) == [gyral_of_worker(0)]


@pytest.mark.parametrize("on", ["ray://workers=x", "ray://workers=0", "ray://cores=2"])
def test_what_the_engine_does_not_take_is_refused(on):
    with pytest.raises(UsageError):
        connect(on)


def test_the_verbs_make_the_same_bytes_as_on_local(engine, made, project, small_shop):
    flags = {"ingest__batch_rows": 10_000, "on": "ray://workers=2"}
    assert project.ingest(small_shop, **flags)["accepted"] == 60_000
    data = project.curate(**flags)
    local = datasets.find(made.root, "shop").manifest
    assert [shard.sha256 for shard in data.manifest.shards] == [shard.sha256 for shard in local.shards]
    assert data.manifest.dropped == local.dropped
    assert project.events(["event_id"]) == made.events(["event_id"])
    more = {"curate__returns": "match", "curate__session_gap_s": 1800.0, "curate__split": {"valid": 0.1, "test": "2d"}}
    assert project.curate(**flags, **more).manifest.shards == project.curate(**more).manifest.shards


OWN = """
import operator, sys, time
from gyral.engine.base import connect
engine = connect("ray://workers=2", print)
print(list(engine.map(operator.neg, range(4))), flush=True)
if sys.argv[1] == "wait":
    try:
        list(engine.map(time.sleep, [60, 60]))
    finally:
        engine.close()
sys.stdin.readline()
engine.close()
print("closed", flush=True)
sys.stdin.read()
"""


def start(what):
    child = subprocess.Popen(
        [sys.executable, "-c", OWN, what], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert "starting on this machine, 2 workers" in child.stdout.readline()
    assert child.stdout.readline() == "[0, -1, -2, -3]\n"
    return child


def stranger(address):
    """What somebody else of this machine is told who would join without the token."""
    code = "import sys, ray\nray.init(sys.argv[1], log_to_driver=False)"
    environment = os.environ | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-c", code, address]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    return done.stderr if done.returncode else "it joined"


def test_nothing_listens_beyond_this_machine_and_nothing_is_left_after_close():
    with start("listen") as child:
        pids = tree(child.pid)
        assert len(pids) >= 5
        addresses = set(listening(pids))
        assert addresses and addresses <= {"0100007F", "0000000000000000FFFF00000100007F"}
        words = [word for pid in pids for word in Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")]
        folders = {word.partition("=")[2] for word in words if word.startswith("--raylet_socket_name=")}
        found = {word.partition("=")[2] for word in words if word.startswith("--gcs-address=")} or {""}
        assert "Authentication token is missing or incorrect" in stranger(found.pop())
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == "closed\n"
        assert gone([pid for pid in pids if pid != child.pid])
        assert len(folders) == 1 and not Path(*Path(folders.pop()).parts[:3]).exists()
        child.stdin.close()
        assert child.wait(30) == 0
        assert child.stderr.read() == ""


def test_an_interrupt_stops_at_once_and_leaves_nothing():
    with start("wait") as child:
        time.sleep(1)
        pids = tree(child.pid)
        began = time.monotonic()
        child.send_signal(signal.SIGINT)
        assert child.wait(30) != 0 and time.monotonic() - began < 20
        assert gone(pids)
        assert "KeyboardInterrupt" in child.stderr.read()


def test_a_cluster_is_joined_by_its_address_and_stays_when_it_is_left(tmp_path):
    port = 20_000 + os.getpid() % 20_000
    ray_command = str(Path(sys.executable).with_name("ray"))
    environment = os.environ | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "disabled"}
    folder = f"/tmp/gyral-{os.getpid()}"
    head = [ray_command, "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=2"]
    head += ["--include-dashboard=false", f"--temp-dir={folder}", "--disable-usage-stats"]
    with open(tmp_path / "head.log", "w") as log:
        cluster = subprocess.Popen(head, env=environment, stdout=log, stderr=log)
    try:
        end = time.monotonic() + 40
        while "Ray runtime started" not in (tmp_path / "head.log").read_text() and time.monotonic() < end:
            time.sleep(0.2)
        code = (
            "import operator, sys\nfrom gyral.engine.base import connect\n"
            "for _ in range(2):\n    engine = connect(sys.argv[1])\n"
            "    print(list(engine.map(operator.neg, range(4))), engine.workers)\n    engine.close()\n"
        )
        joined = [sys.executable, "-c", code, f"ray://127.0.0.1:{port}"]
        done = subprocess.run(joined, capture_output=True, text=True, timeout=80, check=True)
        assert done.stdout == "[0, -1, -2, -3] 2\n" * 2
        assert cluster.poll() is None
    finally:
        pids = tree(cluster.pid)
        cluster.terminate()
        cluster.wait(30)
        for pid in pids:
            if Path(f"/proc/{pid}").exists():
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def test_where_no_cluster_answers_it_is_said_at_once():
    code = "from gyral.engine.base import connect\nconnect('ray://127.0.0.1:1')"
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "no Ray cluster was joined at `127.0.0.1:1`: [Errno 111] Connection refused" in done.stderr
    assert time.monotonic() - began < 30
