"""Linears and embeddings of packed matrices, in the places of those that a net was built with.

`installed` leaves a net's own code alone: what calls `layer(x)` calls a kernel. The dense weights are never made where a kernel
passed its test, so a net loads at the size of its file. A tied output matrix is held twice, as rows that are looked up and as
the kernel wants it: 57 MB instead of 113 in float32 (49,152 × 576 in int8), at .17 of the time.

Shapes: B rows, T positions, N inputs, M outputs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from gyral.errors import InputError
from gyral.memory import give_back
from gyral.model.nets.captions import Bags
from gyral.model.quant.kernels import KERNELS, Kernel, choose
from gyral.model.quant.packing import Packed


class QuantLinear(nn.Module):
    """A linear of a packed matrix: any leading dims, float32 or bf16 in, the same out."""

    bias: Tensor | None

    def __init__(self, packed: Packed, bias: Tensor | None = None, kernels: tuple[Kernel, ...] = KERNELS) -> None:
        super().__init__()
        self.out_features, self.in_features = packed.shape
        choice = choose(packed, kernels)
        self.kernel, self.told = choice.kernel, choice
        self.bits = packed.kind
        self._prepared = self.kernel.prepare(packed)
        self.register_buffer("bias", bias, persistent=False)
        self._has_bias = bias is not None

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float32 and x.dim() == 2 and x.shape[0] and not self._has_bias:
            # as in decoding, where what is left out here is a twentieth of a step
            return self.kernel.multiply(x, *self._prepared)
        rows_BN = x.reshape(-1, self.in_features)
        if rows_BN.dtype != torch.float32:
            rows_BN = rows_BN.float()
        found = self.kernel.multiply(rows_BN, *self._prepared) if len(rows_BN) else rows_BN.new_zeros(0, self.out_features)
        if self.bias is not None:
            found = found + self.bias
        return found.view(*x.shape[:-1], self.out_features).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self.bits} by {self.kernel.name}"

    def packed(self) -> Packed | None:
        """The matrix again, where its kernel can say what it was."""
        return self.kernel.restore(*self._prepared) if self.kernel.restore is not None else None


def beside(layers: Sequence[nn.Module]) -> QuantLinear | None:
    """Layers of the same input as one, side by side, to the bit what each gives; None where that cannot be made.

    It holds its matrix beside theirs: 70 MB more for SmolLM2-135M, whose passes then take .85 of the time.
    """
    each = [layer.packed() for layer in layers if isinstance(layer, QuantLinear) and layer.bias is None]
    known = [packed for packed in each if packed is not None and packed.kind == "int8"]
    if len(known) < len(layers):
        return None
    values, scale = (np.concatenate([getattr(packed, part) for packed in known]) for part in ("values", "scale"))
    return QuantLinear(known[0]._replace(values=values, scale=scale))


class QuantEmbedding(nn.Module):
    """Rows of a packed matrix, made dense as they are looked up: float32 [..., N]."""

    def __init__(self, packed: Packed) -> None:
        super().__init__()
        self._packed = packed
        self.num_embeddings, self.embedding_dim = packed.shape

    def forward(self, rows: Tensor) -> Tensor:
        found = torch.from_numpy(self._packed.dense(rows.flatten().numpy()))
        return found.view(*rows.shape, self.embedding_dim)


class QuantBags(QuantEmbedding):
    """Sums of rows, of which number 0 is none: [N, G] → [N, M]."""

    def forward(self, bags_NG: Tensor) -> Tensor:
        found = super().forward(bags_NG)
        return found.mul_((bags_NG != 0)[..., None]).sum(-2)


def kernels_of(model: nn.Module) -> dict[str, int]:
    """Which kernels multiply in a net, and how many matrices each: `{"int4 by int4pack": 210}`."""
    found = Counter(f"{each.bits} by {each.kernel.name}" for each in model.modules() if isinstance(each, QuantLinear))
    return dict(sorted(found.items()))


def installed(model: nn.Module, packed: Mapping[str, Packed], arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Put packed matrices into a net in place of its own; returns the arrays that it still needs.

    Parameters
    ----------
    packed : by the names that the weights have in the net, `blocks.0.feed.up.weight`; a tied one has one of its names.
    arrays : the others; biases are taken from them.

    Raises
    ------
    InputError : the net has no such linear or embedding, or it has another shape.
    """
    places: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            places.setdefault(id(module.weight), []).append(name)
    left = dict(arrays)
    for name, matrix in packed.items():
        module = _module(model, name.removesuffix(".weight"))
        if not isinstance(module, nn.Linear | nn.Embedding) or module.weight.shape != matrix.shape:
            raise InputError("the weights are not those of this model", why=f"`{name}` has no place in it")
        for place in places[id(module.weight)]:
            new = _new(_module(model, place), matrix, left.pop(f"{place}.bias", None))
            owner, _, own = place.rpartition(".")
            setattr(model.get_submodule(owner), own, new)
    give_back()
    return left


def fill(model: nn.Module, state: dict[str, Tensor], assign: bool = False) -> None:
    """Put values into a module; of tied parameters one is enough.

    Parameters
    ----------
    assign : the tensors themselves, for a module without values of its own.

    Raises
    ------
    InputError : one is missing, unknown or of another shape.
    """
    try:
        missing, unknown = model.load_state_dict(state, strict=False, assign=assign)
    except RuntimeError as error:
        raise InputError("the weights do not fit the model's shape", why=str(error).splitlines()[-1].strip()) from None
    there = {name for name, _ in model.named_parameters()}  # a tied parameter has one name here
    wrong = [name for name in missing if name in there] + list(unknown)
    if wrong:
        raise InputError("the weights are not those of this model", why=f"`{wrong[0]}` is missing or unknown")


def _new(module: nn.Module | None, matrix: Packed, bias: np.ndarray | None) -> nn.Module:
    if isinstance(module, Bags):
        return QuantBags(matrix)
    if isinstance(module, nn.Embedding):
        return QuantEmbedding(matrix)
    return QuantLinear(matrix, None if bias is None else torch.from_numpy(bias))


def _module(model: nn.Module, name: str) -> nn.Module | None:
    try:
        return model.get_submodule(name)
    except AttributeError:
        return None
