"""How long training stands still when a member is killed, hangs or comes back: gyral's `elastic` against torchft's Manager.

Two members, 1 M parameters, heartbeat .3 s on both sides. In turn a member is killed (SIGKILL), another joins and is healed
(12 MB), and one is stopped (SIGSTOP; gyral alone: it goes on later and is healed). A stall is the longest time between two
committed steps of the survivor around the event, less its median step. torchft runs as it works on CPU: its Manager with a
synchronous quorum and one all-reduce of the flat gradient over gloo (its DDP wrapper kills the survivor); it drops the samples
of the member that died, gyral computes the step again. A step's work is a sleep of 20 ms on both sides.

Prediction, written before the first run: kill .05–.2 s and at most .6 (the end of a connection is heard at once, so a kill
costs the step that is done again), stop .3–.6 s (a heartbeat, and the step), join .05–.3 s; torchft kill .2–1 s, join .3–.6 s.
Command: .venv/bin/python benchmarks/train/recovery.py (about three minutes)
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
sys.path.insert(0, str(ROOT / "tests" / "train" / "elastic"))
from conftest import QUIET, Stage  # noqa: E402
from measure import PYTHON, peer, write  # noqa: E402

ROUNDS, HEARTBEAT_S, NUM = 4, 0.3, 1_000_000
SETTLED_S = 1.0

TORCHFT = """
import json, sys, time
from datetime import timedelta
import torch
from torch.distributed import TCPStore
from torchft.manager import Manager
from torchft.process_group import ProcessGroupGloo
torch.set_num_threads(1)
lighthouse, number, log, num = sys.argv[1], sys.argv[2], open(sys.argv[3], "ab", buffering=0), int(sys.argv[4])
state = {name: torch.zeros(num) for name in "wmv"}
def load(given):
    for name in state:
        state[name].copy_(given[name])
store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
manager = Manager(pg=ProcessGroupGloo(timeout=timedelta(seconds=5)), load_state_dict=load, state_dict=lambda: state,
    min_replica_size=1, use_async_quorum=False, timeout=timedelta(seconds=5), rank=0, world_size=1, store_addr="127.0.0.1",
    store_port=store.port, lighthouse_addr=lighthouse, replica_id="m" + number, hostname="127.0.0.1",
    heartbeat_interval=timedelta(milliseconds=75))
while True:
    manager.start_quorum()
    time.sleep(.02)
    flat = torch.ones(num)
    manager.allreduce(flat).wait()
    if manager.should_commit():
        state["w"] -= flat
        log.write(json.dumps([time.time(), manager.current_step(), manager.num_participants(), 0]).encode() + b"\\n")
"""
LIGHTHOUSE = """
import sys, time
from torchft.coordination import LighthouseServer
server = LighthouseServer(bind="127.0.0.1:0", min_replicas=1, join_timeout_ms=100, quorum_tick_ms=20, heartbeat_timeout_ms=300)
print(server.address(), flush=True)
time.sleep(3600)
"""


class Torchft:
    """A lighthouse and members of the peer."""

    def __init__(self, folder: Path) -> None:
        self.python = peer("torchft", ["torch==2.13.0", "torchft==0.2.0", "numpy"])
        self.folder, self.processes = folder, {}
        self.environment = {**os.environ, **QUIET, "RUST_LOG": "error", "TORCHFT_LOG": "error"}
        self.lighthouse = subprocess.Popen(
            [self.python, "-c", LIGHTHOUSE], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=self.environment
        )
        self.address = self.lighthouse.stdout.readline().strip()

    def join(self) -> int:
        number = len(self.processes)
        log = self.folder / f"steps-{number}.jsonl"
        with open(self.folder / f"log-{number}.txt", "ab") as output:
            process = subprocess.Popen(
                [self.python, "-c", TORCHFT, self.address, str(number), str(log), str(NUM)],
                stdout=output, stderr=output, env=self.environment,
            )  # fmt: skip
        self.processes[process.pid] = process
        log.rename(self.folder / f"steps-{process.pid}.jsonl") if log.exists() else log.touch()
        os.link(log, self.folder / f"steps-{process.pid}.jsonl")
        return process.pid

    def kill(self, pid: int, number: int = signal.SIGKILL) -> None:
        os.kill(pid, number)
        if number == signal.SIGKILL:
            self.processes[pid].wait()

    def close(self) -> None:
        for process in [*self.processes.values(), self.lighthouse]:
            process.kill()
            process.wait()


def steps(folder: Path, pid: int) -> list[list[float]]:
    """[time, step, members, retries] of each step that a member has committed."""
    path = folder / f"steps-{pid}.jsonl"
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []


def until(folder: Path, pid: int, members: int, after: float, limit_s: float = 120.0) -> float:
    """When a member has first committed a step with so many members, after a time."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        found = next((each[0] for each in steps(folder, pid) if each[0] > after and each[2] == members), None)
        if found is not None:
            return found
        time.sleep(0.01)
    raise SystemExit(f"{folder}: no step with {members} members within {limit_s} s")


def stall(folder: Path, pid: int, begin: float, end: float) -> float:
    """The longest gap that overlaps a span, less the median gap."""
    times = [each[0] for each in steps(folder, pid)]
    gaps = list(pairwise(times))
    median = statistics.median(after - before for before, after in gaps)
    return max(after - before for before, after in gaps if after >= begin and before <= end) - median


def measured(run: Stage | Torchft, folder: Path, can_stop: bool) -> dict[str, list[float]]:
    """Rounds of kill and join, and of stop."""
    found: dict[str, list[float]] = {"kill": [], "join": [], **({"stop": [], "healed": []} if can_stop else {})}
    survivor, other = run.join(), run.join()
    until(folder, survivor, 2, 0.0)
    for _ in range(ROUNDS):
        time.sleep(SETTLED_S)
        begin = time.time()
        run.kill(other)
        alone = until(folder, survivor, 1, begin)
        time.sleep(SETTLED_S)
        found["kill"].append(stall(folder, survivor, begin, alone))
        begin = time.time()
        other = run.join()
        together = until(folder, survivor, 2, begin)
        time.sleep(SETTLED_S)
        found["join"].append(stall(folder, survivor, together - 0.001, together + 0.5))
        if can_stop:
            begin = time.time()
            run.kill(other, signal.SIGSTOP)
            alone = until(folder, survivor, 1, begin)
            time.sleep(SETTLED_S)
            found["stop"].append(stall(folder, survivor, begin, alone))
            begin = time.time()
            run.kill(other, signal.SIGCONT)
            together = until(folder, survivor, 2, begin)
            time.sleep(SETTLED_S)
            found["healed"].append(stall(folder, survivor, together - 0.001, together + 0.5))
    times = [each[0] for each in steps(folder, survivor)]
    found["step"] = [statistics.median(after - before for before, after in pairwise(times))]
    return found


def main() -> None:
    """Both, one after the other, and once more in the other order."""
    forker = subprocess.Popen(
        [PYTHON, "-P", str(ROOT / "tests" / "train" / "elastic" / "toy.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True, env={**os.environ, **QUIET},
    )  # fmt: skip
    forker.stdout.readline()
    found: dict[str, dict[str, list[float]]] = {"gyral": {}, "torchft": {}}

    def ours(number: int) -> dict[str, list[float]]:
        folder = Path(tempfile.mkdtemp()) / "run"
        run = Stage(folder, forker, steps=1_000_000, leaves=0, heartbeat_s=HEARTBEAT_S, width=-NUM, pause_s=0.0)
        run.open(2)
        try:
            return measured(run, folder, can_stop=True)
        finally:
            run.close()

    def theirs(number: int) -> dict[str, list[float]]:
        folder = Path(tempfile.mkdtemp())
        run = Torchft(folder)
        try:
            return measured(run, folder, can_stop=False)
        finally:
            run.close()

    for number, (name, run) in enumerate([("gyral", ours), ("torchft", theirs), ("torchft", theirs), ("gyral", ours)]):
        for event, values in run(number).items():
            found[name].setdefault(event, []).extend(round(value, 4) for value in values)
    forker.kill()
    forker.wait()
    told = {
        name: {
            event: {"median_s": statistics.median(values), "max_s": max(values), "all": values}
            for event, values in events.items()
        }
        for name, events in found.items()
    }
    write("train_recovery", {"heartbeat_s": HEARTBEAT_S, "parameters": NUM, "stalls": told})


if __name__ == "__main__":
    main()
