"""Shards placed by a Ray of this machine: found by their folder, killed, started again, more and fewer of them."""

import os
import signal
import subprocess
import sys
import time

import msgspec
import numpy as np
import pytest

from gyral.errors import ConfigError, NotFound, RankError
from gyral.params import client
from gyral.params.channels.placed import Place, place_of
from gyral.params.shard import Settings
from gyral.params.spec import Optimizer, TableSpec

from .test_reshard_processes import COUNTS, KEYS, Counting, check, sums

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]

ray = pytest.importorskip("ray")
SETTINGS = Settings(workers=2, cut_s=0.1)


def pid_of(folder, number):
    return msgspec.json.decode(place_of(folder, number).read_bytes(), type=Place).pid


def test_actors_that_are_killed_come_back_with_their_rows_while_buckets_move(tmp_path):
    with client.open("ray://shards=2", [COUNTS], folder=tmp_path, settings=SETTINGS, worker=-1, timeout_s=120.0) as looks:
        assert looks.address == f"shards://{tmp_path}"
        workers = [Counting(looks.another(number), number) for number in range(2)]
        first = pid_of(tmp_path, 0)
        os.kill(first, signal.SIGKILL)
        assert looks.reshard(3).buckets == 1365
        os.kill(pid_of(tmp_path, 1), signal.SIGKILL)
        looks.reshard(2)
        assert pid_of(tmp_path, 0) != first and not place_of(tmp_path, 2).exists()
        code = "import sys, numpy as np; from gyral.params import client; from gyral.params.spec import *;"
        code += "spec = TableSpec('counts', 2, Optimizer(name='sgd', rate=1.0), init='zero');"
        code += (
            "c = client.open(sys.argv[1], [spec], worker=5); c.table('counts').push(np.arange(5000), np.ones((5000, 2), 'f4'));"
        )
        code += "c.flush(); assert 'ray' not in sys.modules"
        subprocess.run([sys.executable, "-c", code, looks.address], check=True, timeout=120)
        for worker in workers:
            worker.stop()
        workers[0].pushed += 1
        check(looks, workers)
        for worker in workers:
            worker.client.flush()
            worker.client.close()
    assert not list(tmp_path.glob("*.place.json"))
    with client.open("proc://2", [COUNTS], folder=tmp_path, settings=SETTINGS, worker=-1, timeout_s=60.0) as looks:
        check(looks, workers)  # the folder is the same, whoever places


def test_rows_go_over_tcp_where_the_shard_is_elsewhere(tmp_path, monkeypatch):
    with client.open("ray://shards=1", [COUNTS], folder=tmp_path, settings=SETTINGS, timeout_s=120.0) as one:
        one.table("counts").push(np.arange(KEYS), np.ones((KEYS, 2), np.float32))
        monkeypatch.setattr("gyral.params.channels.placed.this_boot", lambda: "another machine")
        with one.another(1) as far:
            assert (sums(far) == 1).all()
            assert type(far._lanes.all[0].channel._codec).__name__ == "TcpCodec"
        place = msgspec.json.decode(place_of(tmp_path, 0).read_bytes(), type=Place)
        assert place.host == "127.0.0.1" and (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


def test_a_shard_that_cannot_serve_says_why(tmp_path):
    other = TableSpec("counts", 7, Optimizer(name="adam"))
    with client.open("ray://shards=1", [COUNTS], folder=tmp_path, settings=SETTINGS, timeout_s=120.0) as one:
        one.table("counts").push(np.arange(9), np.ones((9, 2), np.float32))
        one.flush()
    began = time.monotonic()
    with pytest.raises(RankError, match=r"shard 0 of .* does not serve: .*counts"):
        client.open("ray://shards=1", [other], folder=tmp_path, settings=SETTINGS, timeout_s=120.0)
    assert time.monotonic() - began < 60


def test_addresses_that_are_none(tmp_path):
    with pytest.raises(ConfigError, match="need a folder"):
        client.open("ray://shards=2", [COUNTS])
    for address in ("ray://", "ray://shards=x", "ray://shards=2,cores=3", "ray://shards=0", "ray://a:1,b:2,shards=2"):
        with pytest.raises(ConfigError, match="is no address of shards"):
            client.open(address, [COUNTS], folder=tmp_path)
    with pytest.raises(NotFound, match="no shards were placed here"):
        client.open(f"shards://{tmp_path}", [COUNTS])
