"""Members of a small language model over the project's own documents, forked from one process that has loaded torch.

Each line on stdin is a JSON object of environment variables; the answer is the process id of the member it started. Members are
whole processes with their own sockets, and may be killed; only the seconds that loading torch takes are saved.
"""

import hashlib
import importlib
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path

import msgspec
import torch

from gyral import faults
from gyral.config.training import Elastic as Settings
from gyral.config.training import Optim
from gyral.train import loop
from gyral.train.elastic.member import enter
from gyral.train.elastic.membership import Over
from gyral.train.elastic.strategy import flat_of
from gyral.train.loader import Order
from gyral.train.optim import Optimizer
from gyral.train.parallel.strategy import Alone

sys.path.insert(0, str(Path(__file__).parent))
from toy_tasks import opened

BATCH, SEED = 8, 7


def run(folder, steps, leaves, heartbeat_s, pause_s, width, alone, task="next_token", wire="f32"):
    torch.set_num_threads(1)
    membership = None
    if alone:
        strategy = Alone()
    else:
        membership, strategy = enter(Settings(leaves=leaves, heartbeat_s=heartbeat_s, timeout_s=30.0), folder, wire)
    task = opened(task, width)
    model = strategy.place(task, task.build(SEED))
    optimizer = Optimizer(model, Optim(rate=1e-3), steps)
    position = loop.Position()
    strategy.follow(optimizer, position)
    log = open(folder / f"steps-{os.getpid()}.jsonl", "ab", buffering=0)  # noqa: SIM115 (it ends with the process)

    def watch(step):
        line = msgspec.json.encode(step)
        log.write(json.dumps([time.time(), step.step, strategy.num_ranks, step.retries]).encode() + b"\n")
        if membership is not None:
            membership.record(step.step, line)
        else:
            with open(folder / "ledger.jsonl", "ab") as ledger:
                ledger.write(line + b"\n")
        time.sleep(pause_s)

    try:
        loop.train(
            task, model, strategy, optimizer, loop.Settings(steps, BATCH), Order(task.num_rows, BATCH, SEED), position, [watch]
        )
        sha = hashlib.sha256(flat_of(model).tobytes()).hexdigest()
        (folder / f"end-{os.getpid()}.json").write_text(json.dumps({"sha": sha, "step": position.step}))
        if membership is not None and membership.ended():
            (folder / "result.json").write_text(json.dumps({"sha": sha}))
            membership.done()
    except Over:
        pass
    finally:
        strategy.close()
        if membership is not None:
            membership.close()


def main():
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)
    for line in sys.stdin:
        given = json.loads(line)
        pid = os.fork()
        if pid:
            print(pid, flush=True)
            continue
        try:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.environ.update(given["environment"])
            importlib.reload(faults)  # it has read the environment of the process that forks
            run(Path(given["folder"]), **given["settings"])
        except BaseException:
            Path(given["folder"], f"error-{os.getpid()}.txt").write_text(traceback.format_exc())
        os._exit(0)


if __name__ == "__main__":
    main()
