"""What each parameter of a model is, declared once beside the plain module, and all that follows from it.

A role is given to a *module* by its dotted name, with `*` for one part of the name: `blocks.*.attention.query` is `column`.
From the same few lines come the tensor-parallel styles, the units that are sharded, the cuts of a pipeline, the tables that are
spread over ranks, what may be quantized, the FLOPs, and the names under which other libraries know the weights.

| role | the weight | split over a tensor axis |
|---|---|---|
| `column` | linear, outputs can be computed apart | rows of the weight (dim 0) |
| `row` | linear that takes what a `column` gave | columns of the weight (dim 1), outputs summed |
| `vocabulary` | embedding over tokens | rows, outputs summed |
| `logits` | linear onto tokens | rows, outputs gathered |
| `table` | embedding over ids, too large for one rank | rows, by a strategy of its own |
| `expert` | one of several that a router chooses from | whole experts |
| `replicate` | everything else | not |
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from torch import Tensor, nn

Role = Literal["column", "row", "vocabulary", "logits", "table", "expert", "replicate"]
MULTIPLIED: tuple[Role, ...] = ("column", "row", "logits", "expert")
"""Roles of matrices that inputs are multiplied with: these are counted as FLOPs and may be quantized."""


@dataclass(frozen=True)
class Roles:
    """The roles of one kind of model.

    Attributes
    ----------
    rules : pattern of a module's name → role; the first that matches counts.
    blocks : name of the `nn.ModuleDict` or `nn.ModuleList` that holds the repeated blocks: each is a unit of sharding, of
        activation checkpointing and of compilation, and a pipeline is cut between them; empty: there are none.
    first, last : modules before and after the blocks: the first stage of a pipeline has those, the last stage these. A module
        calls what it has: an attribute that is None belongs to another stage.
    attention : pattern of modules whose `attend(query, key, value, …)` sees the whole sequence; they know their `head_width`.
    hf : pattern of our parameter's name → its name in the library transformers, `{}` for what `*` matched.
    """

    rules: tuple[tuple[str, Role], ...] = ()
    blocks: str = ""
    first: tuple[str, ...] = ()
    last: tuple[str, ...] = ()
    attention: str = ""
    hf: tuple[tuple[str, str], ...] = field(default=())

    @cached_property
    def _compiled(self) -> list[tuple[re.Pattern[str], Role]]:
        return [(pattern_of(glob), role) for glob, role in self.rules]

    def of(self, module: str) -> Role:
        """Role of the module of this name."""
        return next((role for pattern, role in self._compiled if pattern.fullmatch(module)), "replicate")

    def modules(self, model: nn.Module) -> Iterator[tuple[str, nn.Module, Role]]:
        """Modules that hold parameters of their own, with name and role."""
        for name, module in model.named_modules():
            if any(True for _ in module.parameters(recurse=False)):
                yield name, module, self.of(name)

    def named(self, model: nn.Module, *roles: Role) -> list[tuple[str, nn.Module]]:
        """Modules of these roles."""
        return [(name, module) for name, module, role in self.modules(model) if role in roles]

    def units(self, model: nn.Module) -> list[tuple[str, nn.Module]]:
        """The repeated blocks, in order."""
        if not self.blocks:
            return []
        container = model.get_submodule(self.blocks)
        return [(f"{self.blocks}.{name}", block) for name, block in container.named_children()]

    def num_multiplied(self, model: nn.Module) -> int:
        """Parameters that a position's vector is multiplied with; of experts, those that it goes to (`share_used`)."""
        return round(
            sum(
                param.numel() * getattr(module, "share_used", 1)
                for _, module in self.named(model, *MULTIPLIED)
                for param in own(module)
            )
        )

    def hf_name(self, parameter: str) -> str:
        """Name of a parameter in the library transformers; as it is where no pattern says otherwise."""
        for glob, target in self.hf:
            if found := pattern_of(glob).fullmatch(parameter):
                return target.format(*found.groups())
        return parameter


def own(module: nn.Module) -> Iterator[Tensor]:
    """Parameters of a module itself."""
    return module.parameters(recurse=False)


def pattern_of(glob: str) -> re.Pattern[str]:
    """`*` stands for one part of a dotted name."""
    return re.compile(r"\.".join("([^.]+)" if part == "*" else re.escape(part) for part in glob.split(".")))
