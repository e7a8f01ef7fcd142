"""A decoder in the Llama layout: rotary positions, grouped queries, SwiGLU, RMSNorm, no biases.

Shapes: B rows, T positions, D width, H heads of queries, K heads of keys and values, E width of a head, V vocabulary.

A stage of a pipeline is the same class with other blocks deleted and `embed`, or `norm` and `logits`, set to None. Attention is
one method, `attend`, so that another way to see the whole sequence replaces it alone.

Source: Touvron et al. 2023 (Llama); Su et al. 2021 (rotary embedding), half-split as in transformers, so that weights carry
over.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gyral.model.nets.quick import RMSNorm, turned
from gyral.model.roles import Roles

ROLES = Roles(
    rules=(
        ("embed", "vocabulary"),
        ("blocks.*.attention.query", "column"),
        ("blocks.*.attention.key", "column"),
        ("blocks.*.attention.value", "column"),
        ("blocks.*.attention.out", "row"),
        ("blocks.*.feed.gate", "column"),
        ("blocks.*.feed.up", "column"),
        ("blocks.*.feed.down", "row"),
        ("logits", "logits"),
    ),
    blocks="blocks",
    first=("embed",),
    last=("norm", "logits"),
    attention="blocks.*.attention",
    hf=(
        ("embed.weight", "model.embed_tokens.weight"),
        ("blocks.*.attention.query.weight", "model.layers.{}.self_attn.q_proj.weight"),
        ("blocks.*.attention.key.weight", "model.layers.{}.self_attn.k_proj.weight"),
        ("blocks.*.attention.value.weight", "model.layers.{}.self_attn.v_proj.weight"),
        ("blocks.*.attention.out.weight", "model.layers.{}.self_attn.o_proj.weight"),
        ("blocks.*.feed.gate.weight", "model.layers.{}.mlp.gate_proj.weight"),
        ("blocks.*.feed.up.weight", "model.layers.{}.mlp.up_proj.weight"),
        ("blocks.*.feed.down.weight", "model.layers.{}.mlp.down_proj.weight"),
        ("blocks.*.before_attention.weight", "model.layers.{}.input_layernorm.weight"),
        ("blocks.*.before_feed.weight", "model.layers.{}.post_attention_layernorm.weight"),
        ("norm.weight", "model.norm.weight"),
        ("logits.weight", "lm_head.weight"),
    ),
)


@dataclass(frozen=True)
class Shape:
    """Sizes of a model; `hidden` is the width inside the feed-forward part."""

    vocab: int
    width: int
    depth: int
    heads: int
    kv_heads: int
    hidden: int
    tied: bool = True
    theta: float = 10_000.0
    eps: float = 1e-5

    @property
    def head_width(self) -> int:
        return self.width // self.heads


class Attention(nn.Module):
    """Causal attention over a whole sequence."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.head_width = shape.head_width
        self.query = nn.Linear(shape.width, shape.heads * self.head_width, bias=False)
        self.key = nn.Linear(shape.width, shape.kv_heads * self.head_width, bias=False)
        self.value = nn.Linear(shape.width, shape.kv_heads * self.head_width, bias=False)
        self.out = nn.Linear(shape.heads * self.head_width, shape.width, bias=False)

    def forward(self, x_BTD: Tensor, rotation: Tensor) -> Tensor:
        """Heads are counted by what the projections give, so a rank may hold some of them."""
        rows, length = x_BTD.shape[:2]
        query, key, value = (
            part(x_BTD).view(rows, length, -1, self.head_width).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        seen = self.attend(rotated(query, rotation), rotated(key, rotation), value)
        return self.out(seen.transpose(1, 2).reshape(rows, length, -1))

    def attend(self, query_BHTE: Tensor, key_BKTE: Tensor, value_BKTE: Tensor) -> Tensor:
        """Each position sees itself and those before."""
        is_grouped = query_BHTE.shape[1] != key_BKTE.shape[1]
        return F.scaled_dot_product_attention(query_BHTE, key_BKTE, value_BKTE, is_causal=True, enable_gqa=is_grouped)


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate = nn.Linear(shape.width, shape.hidden, bias=False)
        self.up = nn.Linear(shape.width, shape.hidden, bias=False)
        self.down = nn.Linear(shape.hidden, shape.width, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x_BTD)) * self.up(x_BTD))


class Block(nn.Module):
    """Attention and feed-forward part, each added to the stream."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.before_attention = RMSNorm(shape.width, eps=shape.eps)
        self.attention = Attention(shape)
        self.before_feed = RMSNorm(shape.width, eps=shape.eps)
        self.feed = FeedForward(shape)

    def forward(self, x_BTD: Tensor, rotation: Tensor) -> Tensor:
        x_BTD = x_BTD + self.attention(self.before_attention(x_BTD), rotation)
        return x_BTD + self.feed(self.before_feed(x_BTD))


class Llama(nn.Module):
    """Tokens → logits."""

    embed: nn.Embedding | None
    norm: RMSNorm | None
    logits: nn.Linear | None

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed = nn.Embedding(shape.vocab, shape.width)
        self.blocks = nn.ModuleDict({str(number): Block(shape) for number in range(shape.depth)})
        self.norm = RMSNorm(shape.width, eps=shape.eps)
        self.logits = nn.Linear(shape.width, shape.vocab, bias=False)
        if shape.tied:
            self.logits.weight = self.embed.weight
        self.apply(self._initial)
        for name, param in self.named_parameters():
            if name.endswith(("attention.out.weight", "feed.down.weight")):  # as many add up as there are blocks
                nn.init.normal_(param, std=0.02 / (2 * shape.depth) ** 0.5)

    def forward(self, x: Tensor, positions_BT: Tensor) -> Tensor:
        """Tokens [B, T], or the stream of the stage before [B, T, D]; logits [B, T, V], or the stream."""
        if self.embed is not None:
            x = self.embed(x)
        rotation = rotation_of(positions_BT, self.shape.head_width, self.shape.theta)
        for block in self.blocks.values():
            x = block(x, rotation)
        return x if self.norm is None or self.logits is None else self.logits(self.norm(x))

    @staticmethod
    def _initial(module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)


def rotation_of(positions_BT: Tensor, head_width: int, theta: float) -> Tensor:
    """Cosine and sine of each position's angles, [2, B, 1, T, E]."""
    steps = torch.arange(0, head_width, 2, device=positions_BT.device, dtype=torch.float32)
    angles = positions_BT[:, None, :, None].float() * theta ** (-steps / head_width)
    angles = torch.cat([angles, angles], dim=-1)
    return torch.stack([angles.cos(), angles.sin()])


def rotated(x_BHTE: Tensor, rotation: Tensor) -> Tensor:
    """Each pair (i, i + E/2) turned by its angle."""
    return turned(x_BHTE, rotation)
