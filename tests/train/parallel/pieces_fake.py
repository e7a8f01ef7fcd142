"""One step as some rank of 1,024 that are not there: prints each collective and message with its bytes and its group's size.

python pieces_fake.py CASES        a case is {"parallel": …, "rank": …, words of `Train`}
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.pipelining import PipelineStage
from torch.testing._internal.distributed.fake_pg import FakeStore

sys.path.append(str(Path(__file__).parent))
from fake import Counted

from gyral.config.training import Train
from gyral.model.nets.llama import Shape
from gyral.model.tasks.next_token import NextToken, Text
from gyral.train.parallel import mesh

SHAPE = Shape(264, 64, 8, 8, 8, 192, tied=True)
LENGTH = 32
# Stages agree by messages that a fake group never delivers.
PipelineStage._warmup_backward_result = lambda self, received_result=None: torch.ones(1, dtype=torch.int32)


def run(case):
    dist.init_process_group("fake", rank=case["rank"], world_size=1024, store=FakeStore())
    words = {key: value for key, value in case.items() if key not in ("parallel", "rank")}
    task = NextToken(SHAPE, LENGTH, Text([b"abcdefgh" * 64] * 200))
    strategy = mesh.strategy_of(mesh.parse(case["parallel"]), Train(parallel=case["parallel"], **words))
    model = strategy.place(task, task.build(0))
    strategy._names = []  # of metrics, which the last stage would tell
    part = strategy.settle(0)
    low, high = part.cut(words["batch"])
    found = []
    for step in range(2):  # the first one also agrees on shapes
        with Counted() as counted:
            sums = strategy.forward_backward([task.batch(np.arange(low, high), step)])
            computed = len(counted.calls)
            strategy.reduce(sums)
        found = [counted.calls[:computed], counted.calls[computed:]]
    held = sum(param.to_local().numel() if hasattr(param, "to_local") else param.numel() for param in model.parameters())
    names = sorted(name for name, _ in model.named_parameters())
    dist.destroy_process_group()
    return {"part": [part.index, part.count], "compute": found[0], "reduce": found[1], "held": held, "names": names}


if __name__ == "__main__":
    print(json.dumps([run(case) for case in json.loads(sys.argv[1])]))
