"""Shards wherever they can live, for tests: one way to open them and to join more workers."""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import msgspec

from gyral.params import client
from gyral.params.serve import Job
from gyral.params.shard import Settings

from .. import verbs

PLACES = ("local://1", "local://3", "proc://2", "tcp://2")
FEW = ("local://1", "tcp://2")
SECRET = b"a long enough secret for a test"


class Served:
    """Shards behind TCP, each a process of this test."""

    def __init__(self, num, specs, settings, folder, is_kept=True):
        self.folder = Path(folder)
        (self.folder / "secret").write_bytes(SECRET)
        self.ports, self.processes = [0] * num, [None] * num
        for number in range(num):
            kept = str(self.folder / f"shard{number}") if is_kept else ""
            job = Job(number, num, list(specs), "", settings, kept, str(self.folder / "secret"), parent=os.getpid())
            self.start(number, job)
        self.jobs = num

    def start(self, number, job=None):
        path, log = self.folder / f"{number}.json", self.folder / f"{number}.log"
        job = job or msgspec.json.decode(path.read_bytes(), type=Job)
        path.write_bytes(msgspec.json.encode(msgspec.structs.replace(job, listen=f"127.0.0.1:{self.ports[number]}")))
        log.write_bytes(b"")
        with open(log, "ab") as out:
            command = [sys.executable, "-m", "gyral.params.serve", str(path)]
            self.processes[number] = verbs.popen(command, stdout=out, stderr=out)
        end = time.monotonic() + 60
        while "serves at" not in (said := log.read_text()):
            assert time.monotonic() < end and self.processes[number].poll() is None, said
            time.sleep(0.02)
        self.ports[number] = int(said.rpartition(":")[2])

    @property
    def address(self):
        return "tcp://" + ",".join(f"127.0.0.1:{port}" for port in self.ports)

    def kill(self, number):
        self.processes[number].send_signal(signal.SIGKILL)
        self.processes[number].wait()

    def close(self):
        for process in self.processes:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in self.processes:
            process.wait(60)


@contextlib.contextmanager
def opened(place, specs, folder, *, kept=False, **settings):
    """Yields `join(worker, **options)`, which makes a client; all are closed after."""
    kind, _, num = place.partition("://")
    settings = Settings(**settings)
    clients, server = [], None
    folder = Path(folder)
    folder.mkdir(exist_ok=True)
    if kind == "tcp":
        server = Served(int(num), specs, settings, folder, kept)

    def join(worker=0, **options):
        options = {"timeout_s": 60.0} | options
        if server is not None:
            made = client.open(server.address, specs, settings=settings, worker=worker, secret=SECRET, **options)
        elif clients:
            made = clients[0].another(worker, **options)
        else:
            made = client.open(place, specs, settings=settings, folder=folder if kept else None, worker=worker, **options)
        clients.append(made)
        return made

    try:
        yield join
    finally:
        for each in reversed(clients):
            each.close()
        if server is not None:
            server.close()
