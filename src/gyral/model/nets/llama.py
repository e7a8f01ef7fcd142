"""A decoder in the Llama layout: rotary positions, grouped queries, SwiGLU, RMSNorm, no biases.

Shapes: B rows, T positions, D width, H heads of queries, K heads of keys and values, E width of a head, V vocabulary.

A stage of a pipeline is the same class with other blocks deleted and `embed`, or `norm` and `logits`, set to None. Attention is
one method, `attend`, so that another way to see the whole sequence replaces it alone (with `mask_of`, which says who sees whom
where a row holds several documents). The mask is made once a step and not once a block, and costs
1.02x of a step (3.3 million parameters, T = 256, one thread).

Source: Touvron et al. 2023 (Llama); Su et al. 2021 (rotary embedding), half-split as in transformers, so that weights carry
over.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gyral.model.nets.attention import attended
from gyral.model.nets.moe import Experts
from gyral.model.nets.quick import RMSNorm, heads_of, swiglu
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
        ("blocks.*.feed.experts.*.gate", "expert"),
        ("blocks.*.feed.experts.*.up", "expert"),
        ("blocks.*.feed.experts.*.down", "expert"),
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
        ("blocks.*.feed.router.weight", "model.layers.{}.block_sparse_moe.gate.weight"),
        ("blocks.*.feed.experts.*.gate.weight", "model.layers.{}.block_sparse_moe.experts.{}.w1.weight"),
        ("blocks.*.feed.experts.*.up.weight", "model.layers.{}.block_sparse_moe.experts.{}.w3.weight"),
        ("blocks.*.feed.experts.*.down.weight", "model.layers.{}.block_sparse_moe.experts.{}.w2.weight"),
        ("blocks.*.before_attention.weight", "model.layers.{}.input_layernorm.weight"),
        ("blocks.*.before_feed.weight", "model.layers.{}.post_attention_layernorm.weight"),
        ("norm.weight", "model.norm.weight"),
        ("logits.weight", "lm_head.weight"),
    ),
)


@dataclass(frozen=True)
class Shape:
    """Sizes of a model; `hidden` is the width inside the feed-forward part, or inside each of its `experts` where there are.

    `head` is the width of a head where that is not the width by the heads: some were pruned.
    """

    vocab: int
    width: int
    depth: int
    heads: int
    kv_heads: int
    hidden: int
    tied: bool = True
    theta: float = 10_000.0
    eps: float = 1e-5
    experts: int = 0
    experts_used: int = 2
    head: int = 0

    @property
    def head_width(self) -> int:
        return self.head or self.width // self.heads


class CausalAttention(nn.Module):
    """Attention to what comes before, whatever its four projections are."""

    head_width: int
    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    out: nn.Linear

    def forward(self, x_BTD: Tensor, rotation: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Heads are counted by what the projections give, so a rank may hold some of them."""
        rows, length = x_BTD.shape[:2]
        query, key, value = heads_of(x_BTD, (self.query, self.key, self.value), self.head_width, rotation)
        seen = self.attend(query, key, value) if mask is None else self.attend(query, key, value, mask)
        return self.out(seen.transpose(1, 2).reshape(rows, length, -1))

    def attend(self, query_BHTE: Tensor, key_BKTE: Tensor, value_BKTE: Tensor, mask: Tensor | None = None) -> Tensor:
        """Each position sees itself and those before; of them those of the mask [B, 1, T, T], where there is one."""
        return attended(query_BHTE, key_BKTE, value_BKTE, mask, is_causal=mask is None)


class Attention(CausalAttention):
    """Grouped queries, no biases."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.head_width = shape.head_width
        self.query = nn.Linear(shape.width, shape.heads * self.head_width, bias=False)
        self.key = nn.Linear(shape.width, shape.kv_heads * self.head_width, bias=False)
        self.value = nn.Linear(shape.width, shape.kv_heads * self.head_width, bias=False)
        self.out = nn.Linear(shape.heads * self.head_width, shape.width, bias=False)


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate = nn.Linear(shape.width, shape.hidden, bias=False)
        self.up = nn.Linear(shape.width, shape.hidden, bias=False)
        self.down = nn.Linear(shape.hidden, shape.width, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down(swiglu(x_BTD, self.gate, self.up))


def feed_of(shape: Shape) -> nn.Module:
    """The feed-forward part: dense, or experts."""
    if not shape.experts:
        return FeedForward(shape)
    return Experts(shape.width, shape.experts, shape.experts_used, lambda: FeedForward(shape))


class Block(nn.Module):
    """Attention and feed-forward part, each added to the stream."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.before_attention = RMSNorm(shape.width, eps=shape.eps)
        self.attention = Attention(shape)
        self.before_feed = RMSNorm(shape.width, eps=shape.eps)
        self.feed = feed_of(shape)

    def forward(self, x_BTD: Tensor, rotation: Tensor, mask: Tensor | None = None) -> Tensor:
        x_BTD = x_BTD + self.attention(self.before_attention(x_BTD), rotation, mask)
        return x_BTD + self.feed(self.before_feed(x_BTD))


class CausalDecoder(nn.Module):
    """Tokens → logits: what decoders of any layout have in common. A part that another stage has is None."""

    embed: nn.Embedding | None
    norm: nn.Module | None
    logits: nn.Linear | None

    def forward(self, x: Tensor, positions_BT: Tensor, documents_BT: Tensor | None = None) -> Tensor:
        """Tokens [B, T], or the stream of the stage before [B, T, D]; logits [B, T, V], or the stream.

        Parameters
        ----------
        documents_BT : number of each position's document, where a row holds several: they do not see each other.
        """
        x = self.stream(x, positions_BT, documents_BT)
        return x if self.norm is None or self.logits is None else self.logits(self.norm(x))

    def stream(self, x: Tensor, positions_BT: Tensor, documents_BT: Tensor | None = None) -> Tensor:
        """What the last block gives, [B, T, D]."""
        raise NotImplementedError

    def mask_of(self, documents_BT: Tensor) -> Tensor:
        """Who sees whom, bool [B, 1, T, T]."""
        return document_mask(documents_BT)

    def draw(self, depth: int) -> None:
        """Initial values: normal of .02; what is added to the stream is smaller, as many add up as there are blocks."""
        self.apply(_drawn)
        for name, param in self.named_parameters():
            if name.endswith(("attention.out.weight", ".down.weight")):
                nn.init.normal_(param, std=0.02 / (2 * depth) ** 0.5)


def _drawn(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


class Llama(CausalDecoder):
    """Tokens → logits."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed = nn.Embedding(shape.vocab, shape.width)
        self.blocks = nn.ModuleDict({str(number): Block(shape) for number in range(shape.depth)})
        self.norm = RMSNorm(shape.width, eps=shape.eps)
        self.logits = nn.Linear(shape.width, shape.vocab, bias=False)
        if shape.tied:
            self.logits.weight = self.embed.weight
        self.draw(shape.depth)

    def stream(self, x: Tensor, positions_BT: Tensor, documents_BT: Tensor | None = None) -> Tensor:
        if self.embed is not None:
            x = self.embed(x)
        rotation = rotation_of(positions_BT, self.shape.head_width, self.shape.theta)
        mask = None if documents_BT is None else self.mask_of(documents_BT)
        for block in self.blocks.values():
            x = block(x, rotation) if mask is None else block(x, rotation, mask)
        return x


def document_mask(documents_BT: Tensor) -> Tensor:
    """Each position sees those before it of its own document, bool [B, 1, T, T]."""
    length = documents_BT.shape[1]
    is_before = torch.ones(length, length, dtype=torch.bool, device=documents_BT.device).tril()
    return ((documents_BT[:, :, None] == documents_BT[:, None, :]) & is_before)[:, None]


def rotation_of(positions_BT: Tensor, head_width: int, theta: float) -> Tensor:
    """Cosine and sine of each position's angles, [2, B, 1, T, E]."""
    steps = torch.arange(0, head_width, 2, device=positions_BT.device, dtype=torch.float32)
    angles = positions_BT[:, None, :, None].float() * (1.0 / theta ** (steps / head_width))  # rounded as transformers does
    angles = torch.cat([angles, angles], dim=-1)
    return torch.stack([angles.cos(), angles.sin()])
