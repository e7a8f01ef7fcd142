"""One step as rank 0 of 1,024 that are not there: prints every collective with its bytes and its group's size.

python fake.py CASES        a case is {"parallel": …, words of `Train`}
"""

import json
import sys

import numpy as np
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from gyral.config.training import Train
from gyral.model.nets.llama import Shape
from gyral.model.tasks.next_token import NextToken, Text
from gyral.train.blocks import prepare
from gyral.train.parallel import mesh

SHAPE = Shape(512, 64, 2, 8, 8, 192)
LENGTH, ROWS = 16, 2


class Counted(TorchDispatchMode):
    """Collectives: [name, bytes of the larger side, ranks of the group]."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "c10d":
            sizes = [sum(each.nbytes for each in flat([argument])) for argument in args]
            group = next(dist.ProcessGroup.unbox(each).size() for each in args if isinstance(each, torch.ScriptObject))
            self.calls.append([func.overloadpacket.__name__, max(sizes), group])
        return func(*args, **(kwargs or {}))


def flat(values):
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from flat(value)


def run(case):
    words = {key: value for key, value in case.items() if key not in ("parallel", "passes")}
    task = NextToken(SHAPE, LENGTH, Text([b"abcdefgh" * 64] * 20))
    train = Train(parallel=case["parallel"], **words)
    strategy = mesh.strategy_of(mesh.parse(case["parallel"]), train)
    with Counted() as counted:
        model = strategy.place(task, prepare(task.build(0), task.roles, train))
        placed = len(counted.calls)
        passes = case.get("passes", 1)
        batches = [task.batch(np.arange(ROWS), 0) for _ in range(passes)]
        sums = strategy.forward_backward(batches)
        computed = len(counted.calls)
        strategy.reduce(sums)
        reduced = len(counted.calls)
        strategy.clip(1.0)
    held = sum(param.to_local().numel() if hasattr(param, "to_local") else param.numel() for param in model.parameters())
    calls = counted.calls
    return {
        "part": list(strategy.settle(0).__dict__.values()), "held": held, "place": calls[:placed],
        "compute": calls[placed:computed], "reduce": calls[computed:reduced], "clip": calls[reduced:],
    }  # fmt: skip


if __name__ == "__main__":
    dist.init_process_group("fake", rank=0, world_size=1024, store=FakeStore())
    print(json.dumps([run(case) for case in json.loads(sys.argv[1])]))
    dist.destroy_process_group()
