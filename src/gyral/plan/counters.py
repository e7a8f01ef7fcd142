"""Parameters and FLOPs of a model, counted exactly from a plain description of it; nothing is built and torch is not loaded.

One description fits dense and MoE decoders and vision transformers, another recommenders of tables and linears. Counts equal
those of the modules of `gyral.model.nets` (`by_role` counts such a module) to the last parameter.

A matrix product of [n, k] with [k, m] is 2 n k m FLOPs; backward takes twice as many as forward. Attention is told apart,
because it alone grows with the square of the length: 4 T² H E a block and sequence for scores and sums. Kernels that skip what
a causal mask hides do half of that (`causal`), as `gyral.model.tasks` counts; Megatron and llm-foundry count all of it, also
where kernels skip it. Norms, activations, softmax and lookups are not counted: they are bytes and not FLOPs.

Letters: h width, H heads, K heads of keys, E width of a head, f width inside the feed-forward part, T positions.

Source: Kaplan et al. 2020, appendix B; Narayanan et al. 2021 (arXiv 2104.04473), appendix; Korthikanti et al. 2022 (arXiv
2205.05198), appendix A, for what is recomputed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from gyral.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from gyral.model.nets import llama as llamas
    from gyral.model.nets import two_tower as towers
    from gyral.model.nets import vit as vits
    from gyral.model.roles import Role, Roles

Recompute = Literal["none", "selective", "full"]
"""What the backward pass computes again: nothing, scores and softmax of attention, or whole blocks."""


class Transformer(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes of a decoder or of a vision transformer.

    Attributes
    ----------
    hidden : width inside the feed-forward part, or inside each expert.
    length : positions of a sequence; of a picture, its patches and the class token.
    kv_heads, head : heads of keys and values, and width of a head; 0: as many as queries, and the width by the heads.
    gated : three matrices in the feed-forward part (SwiGLU) and not two.
    biases : linears have them, and norms have two vectors (LayerNorm) and not one (RMSNorm).
    positions : rows of learned positions.
    patch : numbers of a patch, channels × side²; there is a class token then.
    causal : a position sees those before it.
    """

    depth: int
    width: int
    heads: int
    hidden: int
    length: int
    vocab: int = 0
    kv_heads: int = 0
    head: int = 0
    gated: bool = False
    biases: bool = False
    tied: bool = True
    positions: int = 0
    experts: int = 0
    experts_used: int = 0
    patch: int = 0
    classes: int = 0
    causal: bool = True

    def __post_init__(self) -> None:
        if min(self.depth, self.width, self.heads, self.hidden, self.length) < 1:
            raise ConfigError("a model has at least one block, head and position", hint="sizes are whole numbers from 1 on")
        if self.experts and not 0 < self.experts_used <= self.experts:
            raise ConfigError(f"{self.experts_used} of {self.experts} experts cannot be used", hint="use 1 or more of them")

    @property
    def head_width(self) -> int:
        return self.head or self.width // self.heads

    @property
    def queries(self) -> int:
        """Numbers of all queries of a position, H E."""
        return self.heads * self.head_width

    @property
    def keys(self) -> int:
        """Numbers of all keys of a position, K E; there are as many of values."""
        return (self.kv_heads or self.heads) * self.head_width


class Params(NamedTuple):
    """Parameters by part; of attention, feed-forward and norms those of all blocks, and the last norm."""

    embedding: int
    attention: int
    feed: int
    router: int
    norms: int
    output: int

    @property
    def total(self) -> int:
        return sum(self)

    @property
    def blocks(self) -> int:
        """What is in blocks, and the last norm."""
        return self.attention + self.feed + self.router + self.norms


class Flops(NamedTuple):
    """FLOPs of some sequences. `attention` is scores and sums, `linear` everything else, both of the forward pass alone."""

    linear: float
    attention: float
    recomputed: float

    @property
    def forward(self) -> float:
        return self.linear + self.attention

    @property
    def backward(self) -> float:
        return 2 * self.forward

    @property
    def model(self) -> float:
        """Forward and backward: what model FLOP utilization (MFU) counts."""
        return self.forward + self.backward

    @property
    def hardware(self) -> float:
        """With what is computed again: what hardware FLOP utilization (HFU) counts."""
        return self.model + self.recomputed


def params(model: Transformer) -> Params:
    """Parameters of a model; a tied output matrix counts once, as embedding."""
    h, bias = model.width, int(model.biases)
    attention = h * (2 * model.queries + 2 * model.keys) + bias * (model.queries + 2 * model.keys + h)
    ups = 2 if model.gated else 1
    feed = (ups + 1) * h * model.hidden + bias * (ups * model.hidden + h)
    norm = h * (1 + bias)
    embedding = (model.vocab + model.positions) * h + ((model.patch + 2) * h if model.patch else 0)  # bias, class token
    return Params(
        embedding=embedding,
        attention=model.depth * attention,
        feed=model.depth * feed * max(model.experts, 1),
        router=model.depth * h * model.experts,
        norms=(2 * model.depth + 1) * norm,
        output=(0 if model.tied else model.vocab * h) + (h * model.classes + model.classes if model.classes else 0),
    )


def flops(model: Transformer, rows: int = 1, recompute: Recompute = "none", skips: bool = True) -> Flops:
    """FLOPs of `rows` sequences.

    Parameters
    ----------
    skips : a causal model's kernels do only the half of attention that is seen.
    """
    h, T = model.width, model.length  # noqa: N806
    ups = 2 if model.gated else 1
    block = 2.0 * T * h * (2 * model.queries + 2 * model.keys)
    block += 2.0 * T * (ups + 1) * h * model.hidden * (model.experts_used if model.experts else 1)
    block += 2.0 * T * h * model.experts
    edges = 2.0 * T * h * model.vocab + 2.0 * max(T - 1, 0) * model.patch * h + 2.0 * h * model.classes
    attention = 4.0 * T * T * model.queries * (0.5 if model.causal and skips else 1.0)
    again = {"none": 0.0, "selective": attention, "full": block + attention}[recompute]
    return Flops(*(rows * each for each in (model.depth * block + edges, model.depth * attention, model.depth * again)))


class Table(msgspec.Struct, frozen=True):
    """An embedding table: rows, their width, and how many of them an example reads."""

    rows: int
    width: int
    reads: float = 1.0


class Linear(msgspec.Struct, frozen=True):
    """A linear with biases, and how often an example goes through it."""

    inputs: int
    outputs: int
    times: float = 1.0


class Recommender(msgspec.Struct, frozen=True):
    """Tables and the linears behind them."""

    tables: tuple[Table, ...]
    linears: tuple[Linear, ...]

    @property
    def rows_params(self) -> int:
        """Parameters in tables."""
        return sum(each.rows * each.width for each in self.tables)

    @property
    def dense_params(self) -> int:
        """Parameters in linears."""
        return sum(each.inputs * each.outputs + each.outputs for each in self.linears)

    @property
    def forward_flops(self) -> float:
        """Of one example; backward takes twice as many."""
        return sum(2.0 * each.inputs * each.outputs * each.times for each in self.linears)

    def read_bytes(self, number_bytes: int = 4) -> float:
        """Bytes of the rows that one example reads; its gradients are as large."""
        return sum(each.reads * each.width * number_bytes for each in self.tables)


def llama(shape: llamas.Shape, length: int) -> Transformer:
    """Of `gyral.model.nets.llama.Llama`."""
    return _decoder(shape, length, gated=True, experts=shape.experts, experts_used=shape.experts_used * bool(shape.experts))


def gpt2(shape: llamas.Shape, length: int) -> Transformer:
    """Of `gyral.model.nets.gpt2.Gpt2`."""
    return _decoder(shape, length, biases=True, positions=length, kv_heads=shape.heads)


def _decoder(shape: llamas.Shape, length: int, **others: int) -> Transformer:
    """What layouts of decoders have in common."""
    sizes = {name: getattr(shape, name) for name in ("depth", "width", "heads", "kv_heads", "hidden", "vocab", "head", "tied")}
    return Transformer(length=length, **{**sizes, **others})


def vit(shape: vits.Shape) -> Transformer:
    """Of `gyral.model.nets.vit.Vit`."""
    positions = 1 + shape.num_patches
    return Transformer(
        depth=shape.depth, width=shape.width, heads=shape.heads, hidden=shape.hidden, head=shape.head, length=positions,
        biases=True, causal=False, patch=shape.channels * shape.patch**2, classes=shape.classes,
        positions=positions if shape.learned else 0,
    )  # fmt: skip


def two_tower(shape: towers.Shape, words: int, num_words: int) -> Recommender:
    """Of `gyral.model.nets.two_tower.TwoTower`, for one subject and one object.

    Parameters
    ----------
    words : of a title.
    num_words : rows that words are hashed into (`two_tower.NUM_WORDS`).
    """
    w, hidden = shape.width, shape.hidden
    return Recommender(
        tables=(
            Table(shape.subjects + 1, w),
            Table(shape.countries + 1, w),
            Table(shape.objects, w, shape.length + 1),
            Table(num_words, w, words),
        ),
        linears=(Linear(3 * w, hidden), Linear(hidden, w), Linear(2 * w, hidden), Linear(hidden, w)),
    )


def by_role(model: nn.Module, roles: Roles) -> dict[Role, int]:
    """Parameters of a module by role, each once; also of one on the device `meta`, which holds none of them."""
    found: dict[Role, int] = {}
    seen: set[int] = set()
    for _, module, role in roles.modules(model):
        for param in module.parameters(recurse=False):
            if id(param) not in seen:
                seen.add(id(param))
                found[role] = found.get(role, 0) + param.numel()
    return found
