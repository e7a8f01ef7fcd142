"""What layers see of real inputs, block by block: each block is fed with what the blocks before it give once they are packed.

The stream between blocks is kept (tokens × width × 4 bytes: 19 MB for 8,192 tokens of width 576), so a net is run twice in all
and not once a block: blocks see inputs once to be measured, once to feed the next. Of a layer's inputs only X'X and the mean
size of each column are kept, N² + N numbers, whatever the number of tokens.

Shapes: N inputs of a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gyral.model.card import Weights


class Calibration(NamedTuple):
    """How a family's net is made and fed.

    Attributes
    ----------
    build : the net of dense weights.
    feeds : each runs the net on one batch.
    containers : names of its modules that hold repeated blocks.
    """

    build: Callable[[Weights], nn.Module]
    feeds: list[Callable[[nn.Module], Any]]
    containers: tuple[str, ...]


class Seen:
    """Inputs of one layer, summed up.

    Attributes
    ----------
    gram : X'X, float32 [N, N], divided by the number of rows.
    size : mean of |x|, [N];  most_N : largest |x|.
    """

    def __init__(self, width: int) -> None:
        self._gram_NN, self._size_N, self.most_N = torch.zeros(width, width), torch.zeros(width), torch.zeros(width)
        self.num = 0

    def add(self, x: Tensor) -> None:
        """Rows of inputs, any leading dims."""
        rows = x.detach().reshape(-1, x.shape[-1]).float()
        self._gram_NN.addmm_(rows.t(), rows)
        sizes = rows.abs()
        self._size_N += sizes.sum(0)
        self.most_N = torch.maximum(self.most_N, sizes.amax(0)) if len(rows) else self.most_N
        self.num += len(rows)

    def divide(self, scale_N: Tensor) -> None:
        """As if each column of the inputs had been divided."""
        self._gram_NN /= torch.outer(scale_N, scale_N)
        self._size_N /= scale_N
        self.most_N = self.most_N / scale_N

    @property
    def gram(self) -> Tensor:
        return self._gram_NN / max(self.num, 1)

    @property
    def size(self) -> Tensor:
        return self._size_N / max(self.num, 1)


class Reached(Exception):
    """The first block was called: the rest of the net is not needed."""


@torch.no_grad()
def blocks_fed(model: nn.Module, calibration: Calibration) -> Iterator[tuple[str, nn.Module, dict[str, Seen]]]:
    """Blocks in order, each with what its linears see; whoever is given one changes it before asking for the next."""
    for container in calibration.containers:
        blocks = list(model.get_submodule(container).named_children())
        calls = _calls(model, blocks[0][1], calibration.feeds) if blocks else []
        for number, block in blocks:
            with _watched(block) as seen:
                for args in calls:
                    block(*args)
            yield f"{container}.{number}", block, seen
            calls = [(block(*args), *args[1:]) for args in calls]


def _calls(model: nn.Module, first: nn.Module, feeds: Iterable[Callable[[nn.Module], Any]]) -> list[tuple[Any, ...]]:
    """What the first block is called with; feeds that do not reach it are left out."""
    found: list[tuple[Any, ...]] = []

    def catch(module: nn.Module, args: tuple[Any, ...]) -> None:
        found.append(args)
        raise Reached

    handle = first.register_forward_pre_hook(catch)
    try:
        for feed in feeds:
            try:
                feed(model)
            except Reached:
                continue
    finally:
        handle.remove()
    return found


@contextmanager
def _watched(root: nn.Module) -> Iterator[dict[str, Seen]]:
    seen: dict[str, Seen] = {}
    handles = []
    for name, module in root.named_modules():
        if isinstance(module, nn.Linear):

            def look(module: nn.Module, args: tuple[Any, ...], name: str = name) -> None:
                seen.setdefault(name, Seen(args[0].shape[-1])).add(args[0])

            handles.append(module.register_forward_pre_hook(look))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
