"""One rank of the mesh benchmarks: the same steps by several ways in turn, inside one process group.

    python mesh_worker.py FOLDER '["data=2", "torch ddp", …]' STEPS ROUNDS

Each way has its own copy of one 8.4 M-parameter decoder and its optimizer (clip and decay on). Round after round every way does
one step, so that a neighbour on the machine disturbs all alike. A figure is taken by the system: CPU time of the process, and
bytes by the counter of the loopback interface, which in a network namespace of our own are only ours.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from gyral.config.training import Optim, Train
from gyral.model.nets.llama import Shape
from gyral.model.task import Batch
from gyral.model.tasks.next_token import NextToken, Text
from gyral.train.loader import Order, Part
from gyral.train.optim import Optimizer
from gyral.train.parallel import mesh
from gyral.train.parallel.strategy import Alone

SHAPE = Shape(Text.VOCAB, 320, 6, 10, 10, 1024)
LENGTH, BATCH, SEED = 256, 4, 0
TEXT = Path("/usr/share/common-licenses")
OPTIM = Optim(rate=3e-4, warmup=2)
STEPS = 1000
"""Of the schedule: none of these runs reaches its end."""


def task() -> NextToken:
    """A decoder on the licences that every Debian machine has."""
    texts = [path.read_bytes() for path in sorted(TEXT.iterdir()) if path.is_file() and not path.is_symlink()]
    return NextToken(SHAPE, LENGTH, Text(texts))


class Way:
    """One way of doing a step; `step` gives the loss."""

    def __init__(self, words: str) -> None:
        self.task = task()
        self.order = Order(self.task.num_rows, BATCH, SEED)
        parallel, _, sharding = words.partition(" ")
        train = Train(parallel="" if parallel == "alone" else parallel, sharding="states" if sharding else "weights")
        strategy = mesh.strategy_of(mesh.parse(train.parallel), train)
        self.is_alone = isinstance(strategy, Alone) and strategy.num_ranks == 1
        self.strategy = strategy
        self.model = strategy.place(self.task, self.task.build(SEED))
        self.optimizer = Optimizer(self.model, OPTIM, STEPS)

    def rows(self, number: int, part: Part) -> Batch:
        examples = self.order.examples(number)
        low, high = part.cut(len(examples))
        return self.task.batch(examples[low:high], number)

    def step(self, number: int) -> float:
        totals = self.strategy.reduce(self.strategy.forward_backward([self.rows(number, self.strategy.settle(number))]))
        self.strategy.clip(OPTIM.clip)
        self.optimizer.step(number)
        self.optimizer.zero_grad()
        assert totals is not None
        return totals.loss


class Peer(Way):
    """torch's own wrappers, as its tutorials use them: gradients are averaged, so the sum is weighed beforehand."""

    def __init__(self, wrap: Callable[[nn.Module], nn.Module], splits_rows: bool = True) -> None:
        self.task = task()
        self.order = Order(self.task.num_rows, BATCH, SEED)
        self.is_alone = False
        self.part = Part(dist.get_rank(), dist.get_world_size()) if splits_rows else Part(0, 1)
        self.model = wrap(self.task.build(SEED))
        self.optimizer = Optimizer(self.model, OPTIM, STEPS)

    def step(self, number: int) -> float:
        sums = self.task.loss(self.model, self.rows(number, self.part), lambda tensor: tensor)
        both = torch.stack([sums.loss.detach(), sums.weight])
        if self.part.count > 1:
            dist.all_reduce(both)
        (sums.loss * self.part.count / both[1]).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), OPTIM.clip)
        self.optimizer.step(number)
        self.optimizer.zero_grad()
        return float(both[0] / both[1])


def ddp(model: nn.Module) -> nn.Module:
    return nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)


def fsdp2(model: nn.Module) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    for block in model.blocks.values():
        fully_shard(block)
    fully_shard(model)
    return model


def dtensor(model: nn.Module) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Replicate, distribute_module
    from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module

    class NoParallel(ParallelStyle):
        def _apply(self, module: nn.Module, device_mesh: Any) -> nn.Module:
            def enter(_: Any, inputs: Any, there: Any) -> Any:
                return tuple(DTensor.from_local(x, there, (Replicate(),), run_check=False) for x in inputs)

            return distribute_module(module, device_mesh, None, enter, lambda _, out, there: out.to_local())

    plan: dict[str, ParallelStyle] = {
        "embed": RowwiseParallel(input_layouts=Replicate()), "norm": NoParallel(),
        "logits": ColwiseParallel(output_layouts=Replicate()),
    }  # fmt: skip
    for number in model.blocks:
        block = f"blocks.{number}"
        plan |= {f"{block}.before_attention": NoParallel(), f"{block}.before_feed": NoParallel()}
        plan |= {f"{block}.attention.{name}": ColwiseParallel() for name in ("query", "key", "value")}
        plan |= {f"{block}.feed.{name}": ColwiseParallel() for name in ("gate", "up")}
        plan |= {f"{block}.attention.out": RowwiseParallel(), f"{block}.feed.down": RowwiseParallel()}
    model = parallelize_module(model, init_device_mesh("cpu", (dist.get_world_size(),)), plan)
    model.logits.weight = model.embed.weight
    return model


PEERS = {"torch ddp": (ddp, True), "torch fsdp2": (fsdp2, True), "torch dtensor": (dtensor, False)}


def sent_bytes() -> int:
    """What went through the loopback interface of this network namespace."""
    line = next(line for line in Path("/proc/self/net/dev").read_text().splitlines() if line.strip().startswith("lo:"))
    return int(line.split()[9])


def main(folder: str, ways: str, steps: str, rounds: str) -> None:
    """Warm up, then `rounds` times one step of each."""
    torch.set_num_threads(1)
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size, timeout=timedelta(seconds=300)
    )
    made = {words: Peer(*PEERS[words]) if words in PEERS else Way(words) for words in json.loads(ways)}
    figures: dict[str, dict[str, list[float]]] = {words: {"loss": [], "bytes": [], "cpu_s": []} for words in made}
    warm = int(steps)
    for number in range(warm + int(rounds)):
        for words, way in made.items():
            dist.barrier()
            before, begun = sent_bytes(), time.process_time()
            loss = way.step(number) if not way.is_alone or rank == 0 else 0.0
            used = torch.tensor(time.process_time() - begun)
            dist.barrier()
            sent = sent_bytes() - before
            dist.all_reduce(used)
            figures[words]["loss"].append(loss)
            if number >= warm:
                figures[words]["bytes"].append(sent)
                figures[words]["cpu_s"].append(float(used))
    num = sum(param.numel() for param in task().build(SEED).parameters())
    if rank == 0:
        Path(folder, "figures.json").write_text(json.dumps({"parameters": num, "ways": figures}))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
