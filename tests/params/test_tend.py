import signal
import subprocess
import sys
import time

import numpy as np

from gyral.params import client
from gyral.params.replica import Replica
from gyral.params.shard import Settings
from gyral.params.spec import Optimizer, TableSpec
from gyral.params.tend import fold_all, shards

from .. import verbs

ITEMS = TableSpec("items", 4, optimizer=Optimizer("sgd", rate=1.0), init="zero", expire_s=1000)
USERS = TableSpec("users", 2, optimizer=Optimizer("adagrad"))
KEYS = np.arange(-50, 450)


def begun(what, *folders):
    return verbs.popen([sys.executable, "-m", "gyral.params.tend", what, *map(str, folders)], stdout=subprocess.DEVNULL)


def ended(process):
    process.terminate()
    return process.wait(20)


def wait(reader, table, deadline_s=30.0):
    """Until the replica reads as the server; seconds."""
    start = time.monotonic()
    while True:
        (rows, held), (expected, expected_held) = reader.lookup(KEYS), table.pull(KEYS)
        if (held == expected_held).all() and (rows[held] == expected[held]).all():
            return time.monotonic() - start
        assert time.monotonic() < start + deadline_s, "the replica does not come to where the server is"
        time.sleep(0.02)


def test_what_two_shards_learn_is_served_by_another_process(tmp_path):
    rng, server = np.random.default_rng(0), tmp_path / "server"
    follow, fold = begun("follow", server, tmp_path / "replicas"), begun("fold", server)
    try:
        with client.open("local://2", [ITEMS, USERS], folder=server, settings=Settings(cut_s=0.1)) as params:
            for number in range(30):
                keys = rng.integers(-50, 400, 100)
                params.table("items").push(keys, rng.normal(size=(100, 4)).astype(np.float32), 1000 + number * 50)
                params.table("users").push(keys[:10], np.ones((10, 2), np.float32), 1)
                time.sleep(0.02)
            params.flush()
            end = time.monotonic() + 30
            while not ((tmp_path / "replicas" / "items").exists() and (tmp_path / "replicas" / "users").exists()):
                assert time.monotonic() < end
                time.sleep(0.05)
            items, users = (Replica(tmp_path / "replicas" / name) for name in ("items", "users"))
            wait(items, params.table("items")), wait(users, params.table("users"))
            before = len(items)
            assert params.expire(2500) > 0
            params.flush()
            wait(items, params.table("items"))
            assert 0 < len(items) < before  # what went is not served for ever
            follow.send_signal(signal.SIGKILL)
            follow.wait(10)
            assert fold_all(server, after=1) == 2
            params.table("items").push(KEYS, np.ones((len(KEYS), 4), np.float32), 2600)
            params.flush()
            follow = begun("follow", server, tmp_path / "replicas")
            wait(items, params.table("items"))
            assert len(items) == len(KEYS) and len(shards(server)) == 2 and 0 < items.freshness().now < 30
        assert ended(follow) == 0 and ended(fold) == 0
    finally:
        for each in (follow, fold):
            each.kill()
            each.wait(10)
