"""Three machines in one (`nodes`): the same datasets and models as on one, and a machine that dies in the midst of it."""

import hashlib
import signal
import sys
import time

import pytest

from .nodes import Nodes, why_not

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]
pytest.importorskip("ray")

STAGES = '["extract", "repair", "digest"]'
CONFIG = """
[train]
steps = 6
batch = 4
[lm]
depth = 1
width = 16
heads = 2
length = 16
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    (folder / "gyral.toml").write_text(CONFIG)
    (folder / "pages").mkdir()
    for number in range(40):
        lines = [f"Page {number} says {number * line % 11} words of {line} about the same window." for line in range(8)]
        (folder / "pages" / f"p{number}.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def nodes(project):
    if why := why_not():
        pytest.skip(why)
    found = Nodes(project, [1, 1, 2])
    yield found
    found.close()


def gyral(nodes, *words):
    done = nodes.run([sys.executable, "-m", "gyral", *words], timeout_s=150)
    assert done.returncode == 0, done.stderr
    return done.stderr


def digests(folder, pattern):
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob(pattern))}
    assert found
    return found


def test_nodes_give_the_same_tables_and_the_same_weights_as_one_machine(nodes, project):
    on = f"ray://{nodes.address}"
    code = "import sys; from gyral.curate.readers import finding; finding.PART_BYTES, finding._LEAST_BYTES = 1 << 12, 1 << 10;"
    code += "from gyral.cli import main; sys.argv[0] = 'gyral'; main()"  # or all of it is one part
    for root, where in ((".", on), ("near", "local")):
        words = ["curate", "pages", "--source", "pages", "--root", root, "--on", where, "--set", f"curate.stages={STAGES}"]
        done = nodes.run([sys.executable, "-c", code, *words], timeout_s=100)
        assert done.returncode == 0, done.stderr
    assert len(found := digests(project, "datasets/pages@1/**/*.parquet")) > 4
    assert found == digests(project / "near", "datasets/pages@1/**/*.parquet")
    for more in ([], ["--on", on]):
        gyral(nodes, "train", "pages", "--family", "lm", "--parallel", "data=2", *more)
    assert digests(project, "models/pages@1/weights*") == digests(project, "models/pages@2/weights*")


def test_workers_and_shards_of_several_nodes_outlive_one_of_them(nodes, project):
    words = ["train", "pages", "--family", "lm", "--parallel", "data=2", "--sync", "async", "--on", f"ray://{nodes.address}"]
    train = nodes.start([sys.executable, "-m", "gyral", *words, "--set", "train.steps=4000"])
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            run = max((project / "runs").iterdir(), key=lambda each: int(each.name))
            if (run / "ledger.jsonl").exists() and len((run / "ledger.jsonl").read_bytes().splitlines()) > 20:
                break
            time.sleep(0.1)
        places = {number: busy(nodes.pids(number)) for number in (1, 2)}
        victim = max(places, key=lambda number: places[number])
        assert places[victim]
        nodes.kill(victim, unplug=True)
        nodes.add(victim, 2)
        _, told = train.communicate(timeout=120)
    finally:
        nodes.signal(train, signal.SIGKILL)
    assert train.returncode == 0, told
    assert len((run / "ledger.jsonl").read_bytes().splitlines()) == 4000


def test_parts_of_a_machine_that_vanished_are_done_again_elsewhere(nodes, project):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom gyral.engine.base import connect\n"
        "def work(item):\n    Path(f'part{item}').touch()\n    time.sleep(20 * (not Path('gone').exists()))\n    return item\n"
        "print(sum(connect(sys.argv[1]).map(work, range(8))))\n"
    )
    driver = nodes.start([sys.executable, "-c", code, f"ray://{nodes.address}"])
    try:
        end = time.monotonic() + 60
        while len(list(project.glob("part?"))) < 4 and time.monotonic() < end:  # each core has one
            time.sleep(0.1)
        nodes.kill(1, unplug=True)
        (project / "gone").touch()
        out, told = driver.communicate(timeout=90)  # 25 s of silence, where Ray would wait for minutes
    finally:
        nodes.signal(driver, signal.SIGKILL)
    assert driver.returncode == 0 and out == "28\n", (out, told)
    assert "(raylet)" in told, "what Ray says of the node is lost"


def busy(pids):
    """How many ranks and shards are among processes."""
    found = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                found += any(word in file.read() for word in (b"gyral.train.rank", b"ray::Host"))
        except OSError:
            continue
    return found
