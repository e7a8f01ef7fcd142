"""One strategy for every mesh whose ranks run the whole forward pass: `data`, `shard`, `tensor`, and what is placed beside
them.

An axis is a *placer*: a function that changes the plain model for its axis. They run from the inside out, so that each sees
what the ones before have left: tensor, context, expert, tables, shard. `data` changes nothing. The rest follows from
two facts:

* Over some axes the *sums* differ, because ranks have other rows or other positions (`SUM_AXES`).
* A parameter is split over the axes its DTensor says, and whole over the others.

So a gradient is added over the axes along which sums differ and the parameter is not split: what is split was added by whoever
split it (reduce-scatter, all-to-all). And the norm adds squares over the axes a parameter is split along, each counted once.

A pipeline has this for each stage: `Meshed.place` on the stage's module, `forward_backward` of its own, and `private_axes =
("pipeline",)`, over which every parameter is another one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from gyral.config.training import Train
from gyral.errors import RankError
from gyral.model.task import Batch, Sums, Task
from gyral.train import device
from gyral.train.loader import Part
from gyral.train.parallel import context, expert, gathering, shard, tables, tensor
from gyral.train.parallel.axes import AXES, BATCH_AXES
from gyral.train.parallel.data import gathered
from gyral.train.parallel.local import whole
from gyral.train.parallel.mesh import refuse_batch_norm
from gyral.train.parallel.strategy import Alone, Totals, accumulate, flat_sums, from_flat, totals_of
from gyral.train.parallel.summing import SUM_AXES, Groups, add_gradients, gradient_norm, local_gradients


@dataclass
class Plan:
    """What a placer is given beside the model.

    Attributes
    ----------
    mesh : with the names of its axes; only those of more than one rank.
    cuts : functions that a batch goes through before each pass, to which a placer may add (a context axis cuts the sequence).
    between : functions called before each pass with whether it is the step's last; sharding adds the gradients up by it.
    split : name of a parameter that ranks hold parts of in another way than a DTensor of this mesh → the axes.
    missing : axes along which a rank may lack a parameter that another has under its name.
    apart : parameters that sharding leaves alone.
    together : axes whose ranks wait for each other within a pass.
    """

    task: Task
    mesh: DeviceMesh
    train: Train
    cuts: list[Callable[[Batch], Batch]] = field(default_factory=list)
    between: list[Callable[[bool], None]] = field(default_factory=list)
    split: dict[str, tuple[str, ...]] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)
    apart: set[nn.Parameter] = field(default_factory=set)
    together: set[str] = field(default_factory=lambda: {"shard"})

    @property
    def axes(self) -> tuple[str, ...]:
        """Names, outermost first."""
        return tuple(self.mesh.mesh_dim_names or ())


Placer = Callable[[nn.Module, Plan], None]


def placers() -> dict[str, Placer]:
    """A function for each axis, in the order they run."""
    return {
        "tensor": tensor.place, "context": context.place, "expert": expert.place, "tables": tables.place,
        "shard": shard.place,
    }  # fmt: skip


class Meshed(Alone):
    """The composed strategy.

    Parameters
    ----------
    axes : name → ranks, outermost first; their product is the number of ranks.

    Attributes
    ----------
    private_axes : over which every parameter is another one (a pipeline's stages).
    counted_elsewhere : names of parameters that are another rank's too, all the same, and count in its norm.
    """

    private_axes: tuple[str, ...] = ()
    counted_elsewhere: Collection[str] = ()

    def __init__(self, axes: dict[str, int], train: Train | None = None) -> None:
        self.train = train or Train()
        self.autocast = partial(device.autocast, self.train.precision)
        names = tuple(axis for axis in AXES if axis in axes)
        self.mesh = init_device_mesh(device.kind(), tuple(axes[name] for name in names), mesh_dim_names=names)
        self.num_ranks = dist.get_world_size()
        self.is_first = dist.get_rank() == 0
        self.evaluates = "data" not in names or self.train.tables != "replicate" or self.mesh.get_local_rank("data") == 0
        self.groups = Groups(self.mesh)

    def place(self, task: Task, model: nn.Module) -> nn.Module:
        """Run the placers of the mesh's axes.

        Raises
        ------
        ConfigError : an axis does not divide the model.
        RankError : ranks were given models of other values.
        """
        if not self.private_axes:
            refuse_unlike(model)
        if any(axis in BATCH_AXES for axis in self.groups.names):
            refuse_batch_norm(model)
        self.task, self.model = task, model.to(device.device())
        self.plan = Plan(task, self.mesh, self.train)
        asked = ["tables"] * (self.train.tables != "replicate")
        for axis, place in placers().items():
            if axis in (*self.groups.names, *asked):
                place(self.model, self.plan)
        return self.model

    def settle(self, step: int) -> Part:
        """Parts in the order of ranks along the axes whose ranks have other rows."""
        index, count = 0, 1
        for axis in self.groups.present(BATCH_AXES):
            size = self.groups.size(axis)
            index, count = index * size + self.mesh.get_local_rank(axis), count * size
        return Part(index, count)

    def forward_backward(self, batches: Sequence[Batch]) -> Sums:
        """One pass after the other; every rank makes as many, because passes talk."""
        cut = [self.cut(batch) for batch in batches]
        return accumulate(self.task, self.model, cut, self.gather, self.autocast, self.passes(len(batches)), self.plan.between)

    def cut(self, batch: Batch) -> Batch:
        """What placers cut off a batch."""
        for each in self.plan.cuts:
            batch = each(batch)
        return batch

    def passes(self, own: int) -> int:
        """Passes of this step: the most that a rank has, where their forward passes wait for each other."""
        if not self.train.microbatch or not (together := self.groups.present(tuple(self.plan.together))):
            return own
        most = torch.tensor(own, device=device.device())
        dist.all_reduce(most, dist.ReduceOp.MAX, group=self.groups.of(together))
        return int(most)

    def reduce(self, sums: Sums) -> Totals | None:
        """Add what nobody added yet, and divide by the weight."""
        flat = flat_sums(sums)
        if differing := self.groups.present((*SUM_AXES, *self.private_axes)):
            dist.all_reduce(flat, group=self.groups.of(differing))
        sums = from_flat(flat, sums)
        add_gradients(self.model, self.groups, self.plan.split)
        weight = float(sums.weight)
        if weight > 0:
            torch._foreach_div_(local_gradients(self.model), weight)
        return totals_of(sums)

    def clip(self, limit: float) -> float:
        """The norm over everything, each number counted once."""
        norm = gradient_norm(self.model, self.groups, self.private_axes, self.plan.split, self.counted_elsewhere)
        if limit and norm > limit - 1e-6:
            torch._foreach_mul_(local_gradients(self.model), limit / (norm + 1e-6))
        return norm

    def gather(self, tensor: Tensor) -> Tensor:
        """Rows of all ranks that have other rows."""
        together = self.groups.present(BATCH_AXES)
        return gathered(tensor, self.groups.of(together)) if together else tensor

    def weights(self) -> dict[str, Tensor]:
        """The whole model, on every rank."""
        shard.release(self.model)
        found = {name: whole(tensor.detach()) for name, tensor in self.model.state_dict().items()}
        for axis in self.groups.present((*self.plan.missing, *self.private_axes)):
            found = gathering.union(found, self.groups.of((axis,)))
        return found

    def to_evaluate(self) -> AbstractContextManager[nn.Module | None]:
        """The model; a whole one on the first rank, where passes see parts of sequences or of the model."""
        if not (self.plan.cuts or self.private_axes):
            return shard.fetched(self.model) if "shard" in self.plan.axes else super().to_evaluate()
        weights = self.weights()
        if not self.is_first:
            return nullcontext()
        model = self.task.build(0)
        model.load_state_dict(weights)
        return nullcontext(model.to(device.device()))

    def close(self) -> None:
        """Wait for each other, then part."""
        dist.barrier()


@torch.no_grad()
def refuse_unlike(model: nn.Module) -> None:
    """Raise where ranks begin with other values.

    Raises
    ------
    RankError : the sums of some parameter differ between ranks.
    """
    sums = torch.stack([tensor.double().sum() for tensor in model.state_dict().values()]).to(device.device())
    least, most = sums.clone(), sums.clone()
    dist.all_reduce(least, dist.ReduceOp.MIN)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    if not torch.equal(least, most):
        names = [name for name, differs in zip(model.state_dict(), (least != most).tolist(), strict=True) if differs]
        raise RankError(
            f"ranks begin with other values of `{names[0]}` and {len(names) - 1} more",
            why="a model is a function of its seed on one version of torch and one kind of processor",
            hint="give all ranks the same machine and environment",
        )
