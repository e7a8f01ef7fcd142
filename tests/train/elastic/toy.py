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
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import torch

from gyral import faults
from gyral.config.training import Elastic as Settings
from gyral.config.training import Optim
from gyral.train import device, loop
from gyral.train.elastic import heal
from gyral.train.elastic.member import enter
from gyral.train.elastic.membership import Over
from gyral.train.ema import Ema
from gyral.train.guard import Copy, Guard, Whole
from gyral.train.held_out import HeldOut
from gyral.train.loader import Order
from gyral.train.optim import Optimizer
from gyral.train.parallel.strategy import Alone

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))
from forker import load
from toy_tasks import opened

BATCH, SEED = 8, 7


def flat_of(model):
    """All weights and buffers of a model as bytes in order: what a digest is taken of."""
    values = (value.detach().cpu().contiguous() for value in model.state_dict().values())
    return np.concatenate([value.reshape(-1).view(torch.uint8).numpy() for value in values])


def run(
    folder, steps, leaves, heartbeat_s, pause_s, width, alone,
    task="next_token", wire="f32", precision="f32", keeps=False, gate=-1, membership="own",
):  # fmt: skip
    torch.set_num_threads(1)
    members = None
    if alone:
        strategy = Alone()
    else:
        settings = Settings(leaves=leaves, heartbeat_s=heartbeat_s, timeout_s=30.0, start_s=20.0, membership=membership)
        members, strategy = enter(settings, folder, wire)
    strategy.autocast = partial(device.autocast, precision)
    task = opened(task, width)
    model = strategy.place(task, task.build(SEED))
    optimizer = Optimizer(model, Optim(rate=1e-3), steps)
    position, kept, every = loop.Position(), {}, []
    if keeps:
        ema, guard = Ema(model, 0.99), Guard(spike=6.0)
        held_out = HeldOut(task, model, strategy, folder, keep="best", last_step=steps, ema=ema)
        whole = Whole(guard, lambda: Copy(0, model, optimizer.inner, strategy, ema.shadow.values()))
        kept, every = {"ema": ema, "guard": whole, "held_out": held_out}, [(10, held_out)]
    strategy.follow(optimizer, position, kept)
    log = open(folder / f"steps-{os.getpid()}.jsonl", "ab", buffering=0)  # noqa: SIM115 (it ends with the process)

    def watch(step):
        line = msgspec.json.encode(step)
        log.write(json.dumps([time.time(), step.step, strategy.num_ranks, step.retries]).encode() + b"\n")
        if members is not None:
            members.record(step.step, line)
        else:
            with open(folder / "ledger.jsonl", "ab") as ledger:
                ledger.write(line + b"\n")
        time.sleep(pause_s)
        while step.step == gate and not (folder / "go").exists():
            time.sleep(0.02)

    settings = loop.Settings(steps, BATCH, copy_every=30)
    try:
        (folder / f"ready-{os.getpid()}").touch()
        order = Order(task.num_rows, BATCH, SEED)
        loop.train(
            task, model, strategy, optimizer, settings, order, position, [watch], every,
            kept["guard"]._guard if kept else None, kept.get("ema"),
        )  # fmt: skip
        found = {"sha": hashlib.sha256(flat_of(model).tobytes()).hexdigest()}
        head, arrays = heal.packed({name: part.state() for name, part in kept.items()})
        found["kept"] = hashlib.sha256(b"".join([head, *(array.tobytes() for array in arrays)])).hexdigest()
        if keeps:
            held_out.publish()
            found["published"] = hashlib.sha256(flat_of(model).tobytes()).hexdigest()
        (folder / f"end-{os.getpid()}.json").write_text(json.dumps({**found, "step": position.step}))
        if members is not None and members.ended():
            (folder / "result.tmp").write_text(json.dumps(found))
            (folder / "result.tmp").rename(folder / "result.json")
            members.done()
    except Over:
        pass
    finally:
        strategy.close()
        if members is not None:
            members.close()


def main():
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    load()
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
