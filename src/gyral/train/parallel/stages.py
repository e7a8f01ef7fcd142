"""A plain model → the stages of a pipeline, by its roles: the same class with other blocks left out, `first` or `last` None.

Names stay what they are in the whole model, so checkpoints and exports know no stages. A stage shares its modules with the
model it was cut from; what holds all of a rank's stages (`held`) shares them too. A parameter that the first and the last stage
have (an embedding that is the output matrix) becomes one of each.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from gyral.errors import ConfigError
from gyral.model.roles import Roles
from gyral.model.task import Batch, Task

WHERE = "train.parallel"


def owned_stages(schedule: str, rank: int, size: int) -> list[int]:
    """Stages of a rank: one, two in turn, or two that meet as a V."""
    if schedule in ("interleaved", "zero-bubble"):
        return [rank, size + rank]
    if schedule == "zbv":
        return [rank, 2 * size - 1 - rank]
    return [rank]


def stages_of(model: nn.Module, roles: Roles, num: int) -> list[nn.Module]:
    """The stages in order; blocks are dealt evenly, the rest to the first ones, since the last has the outputs.

    Raises
    ------
    ConfigError : no blocks are known, or fewer than stages.
    """
    names = _blocks(model, roles)
    if not names:
        raise ConfigError("this model has no blocks between which a pipeline is cut", where=WHERE, hint="use `data` or `shard`")
    if len(names) < num:
        why = "the schedule gives each rank more than one" if num % 2 == 0 else ""
        raise ConfigError(f"{len(names)} blocks are fewer than {num} stages", where=WHERE, why=why, hint="a deeper model")
    bounds = [-(-len(names) * number // num) for number in range(num + 1)]
    return [
        _part(model, roles, names[low:high], number == 0, number == num - 1)
        for number, (low, high) in enumerate(pairwise(bounds))
    ]


def held(model: nn.Module, roles: Roles, stages: Sequence[nn.Module], numbers: Sequence[int], num: int) -> nn.Module:
    """One module of all parameters that a rank holds, under their names; it is not called."""
    if len(stages) == 1:
        return stages[0]
    return _part(model, roles, [name for stage in stages for name in _blocks(stage, roles)], 0 in numbers, num - 1 in numbers)


def untied(model: nn.Module, stages: Sequence[nn.Module]) -> list[tuple[str, str]]:
    """Give the last stage copies of what the first has too; names of each such pair, (in the first, in the last).

    Raises
    ------
    ConfigError : stages between them share a parameter.
    """
    names: dict[int, list[str]] = {}
    for name, param in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(param), []).append(name)
    owned = [{name for name, _ in stage.named_parameters(remove_duplicate=False)} for stage in stages]
    pairs = []
    for same in names.values():
        owners = [number for number, each in enumerate(owned) if not each.isdisjoint(same)]
        if len(owners) < 2:
            continue
        if owners != [0, len(stages) - 1]:
            raise ConfigError(
                f"{' and '.join(same)} are one parameter on several stages", where=WHERE, hint="use `data` or `shard`"
            )
        there = [name for name in same if name in owned[-1]]
        copied = nn.Parameter(stages[-1].get_parameter(there[0]).detach().clone())
        for name in there:
            path, _, key = name.rpartition(".")
            stages[-1].get_submodule(path).register_parameter(key, copied)
        pairs.append((next(name for name in same if name in owned[0]), there[0]))
    return pairs


@torch.no_grad()
def shapes(model: nn.Module, roles: Roles, task: Task, batch: Batch) -> tuple[Tensor, Tensor]:
    """What stages hand on, and what the last one gives; of a batch of one row, computed by the whole model.

    Raises
    ------
    ConfigError : either is not one tensor.
    """
    found: list[Tensor] = []
    hook = roles.units(model)[0][1].register_forward_hook(lambda _, __, output: found.append(output))
    try:
        outputs = model(*task.inputs(batch))
    finally:
        hook.remove()
    if not isinstance(outputs, Tensor) or not isinstance(found[0], Tensor):
        raise ConfigError("a stage hands on one tensor, and this model more", where=WHERE, hint="use `data` or `shard`")
    return found[0], outputs


def further_inputs(model: nn.Module) -> list[str]:
    """Names of what `forward` takes after the stream: every stage is given it."""
    return list(inspect.signature(type(model).forward).parameters)[2:]


def _blocks(model: nn.Module, roles: Roles) -> list[str]:
    return [name.rpartition(".")[2] for name, _ in roles.units(model)]


def _part(model: nn.Module, roles: Roles, blocks: Sequence[str], has_first: bool, has_last: bool) -> nn.Module:
    part = _copied(model)
    container = _reached(part, roles.blocks)
    container._modules = {name: block for name, block in container._modules.items() if name in blocks}
    for path in [*(() if has_first else roles.first), *(() if has_last else roles.last)]:
        parent, _, name = path.rpartition(".")
        setattr(_reached(part, parent), name, None)
    return part


def _reached(part: nn.Module, path: str) -> nn.Module:
    """The module of a name; those on the way are copied, so that they may differ from the model's."""
    for name in filter(None, path.split(".")):
        part._modules[name] = _copied(part.get_submodule(name))
        part = part.get_submodule(name)
    return part


def _copied(module: nn.Module) -> nn.Module:
    """A module with dictionaries of its own, and what is in them shared."""
    found = copy.copy(module)
    found.__dict__ = {name: copy.copy(value) if isinstance(value, dict) else value for name, value in module.__dict__.items()}
    return found
