import subprocess
import sys

import numpy as np
import pytest

from gyral.errors import InputError
from gyral.params.memory import LEAST, Reservation
from gyral.params.spec import Optimizer, TableSpec
from gyral.params.table import Table


def resident_bytes(kind="VmRSS"):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(kind))


def test_a_reservation_costs_what_is_touched():
    before = resident_bytes()
    memory = Reservation(1 << 40)
    view = memory.view(np.uint32)
    assert len(memory) == 1 << 40 and not view[:: 1 << 36].any()
    view[1 << 30] = 7
    assert resident_bytes() - before < 16 << 20 and view[1 << 30] == 7
    memory.release(1 << 22)
    assert view[1 << 30] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="limits on addresses are Linux's")
def test_a_table_takes_what_addresses_there_are_and_says_when_it_is_full():
    code = """if True:
        import numpy as np, resource
        from gyral.errors import InputError
        from gyral.params.spec import Optimizer, TableSpec
        from gyral.params.table import Table
        spec = TableSpec("items", 1024, optimizer=Optimizer("sgd"), init="zero")
        Table(spec).push(np.arange(9), np.zeros((9, 1024), np.float32))  # compiled
        used = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmSize"))
        resource.setrlimit(resource.RLIMIT_AS, (used + (30 << 30), resource.RLIM_INFINITY))
        table = Table(spec)  # 550 GB wished for
        print(table.held.meta[5])
        resource.setrlimit(resource.RLIMIT_AS, (1 << 20, resource.RLIM_INFINITY))
        try:
            Table(spec)
        except InputError as error:
            print(error.what)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        table.held.meta[5] = 20
        for first in (0, 10, 20):
            try:
                table.push(np.arange(first, first + 10), np.zeros((10, 1024), np.float32))
            except InputError as error:
                print(error.what, "|", error.why, len(table))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    rows, refused, full = done.stdout.splitlines()
    assert 10**6 < int(rows) < 10**7 and refused == "no memory for a table"
    assert full == "the table is full | 20 of 20 rows a shard, 10 more wanted 20"


@pytest.mark.skipif(sys.platform != "linux", reason="limits on data are Linux's")
def test_rows_in_a_folder_are_not_held_by_a_limit_on_memory(tmp_path):
    """200 MB of rows in a process that may have 50 MB more of memory of its own than it has: without a folder it may not."""
    code = """if True:
        import sys, pathlib, numpy as np, resource
        from gyral.params.spec import Optimizer, TableSpec
        from gyral.params.table import Table
        def own():
            return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmData"))
        folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else None
        spec = TableSpec("items", 1000, optimizer=Optimizer("sgd", rate=1.0), init="zero")
        Table(spec).push(np.arange(9), np.zeros((9, 1000), np.float32))  # compiled
        limit = own() + (4 << 30) + (50 << 20)  # index and marks are addresses of its own: 4.3 GB at most
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        table = Table(spec, folder)
        print(table.held.meta[5])
        for first in range(0, 50_000, 1000):
            table.push(np.arange(first, first + 1000), np.full((1000, 1000), -first, np.float32))
        keys = np.arange(500, 50_000, 1000)
        assert (table.pull(keys)[0] == (keys - 500)[:, None]).all()
        print(len(table), table.folder_bytes)
    """
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    room, used = done.stdout.splitlines()
    rows, held = map(int, used.split())
    assert int(room) > 10_000_000 and rows == 50_000 and held >= 2 * 10**8 and not list(tmp_path.iterdir())


def test_too_little_is_said(monkeypatch):
    def none(self, size):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(Reservation, "_mapped", none)
    with pytest.raises(InputError, match="ulimit"):
        Table(TableSpec("items", 4, optimizer=Optimizer("sgd")))
    assert LEAST == 1 << 24
