"""A decoder in the GPT-2 layout: learned positions, LayerNorm, GELU (the tanh form), biases, tied embedding.

Shapes: B rows, T positions, D width, H heads, E width of a head, V vocabulary. Called as `gyral.model.nets.llama.Llama` is.
Query, key and value are three matrices here and one in the library transformers (`c_attn`, stored [in, out]): a tensor axis
cuts each by heads, which it could not do with one; `gyral.model.hf` joins them.

Source: Radford et al. 2019, section 2.3.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from gyral.model.nets.llama import CausalAttention, CausalDecoder, Shape
from gyral.model.roles import Roles

ROLES = Roles(
    rules=(
        ("embed", "vocabulary"),
        ("blocks.*.attention.query", "column"),
        ("blocks.*.attention.key", "column"),
        ("blocks.*.attention.value", "column"),
        ("blocks.*.attention.out", "row"),
        ("blocks.*.feed.up", "column"),
        ("blocks.*.feed.down", "row"),
        ("logits", "logits"),
    ),
    blocks="blocks",
    first=("embed", "places"),
    last=("norm", "logits"),
    attention="blocks.*.attention",
    hf=(
        ("embed.weight", "transformer.wte.weight"),
        ("places.weight", "transformer.wpe.weight"),
        ("blocks.*.before_attention.*", "transformer.h.{}.ln_1.{}"),
        ("blocks.*.attention.out.*", "transformer.h.{}.attn.c_proj.{}"),
        ("blocks.*.before_feed.*", "transformer.h.{}.ln_2.{}"),
        ("blocks.*.feed.up.*", "transformer.h.{}.mlp.c_fc.{}"),
        ("blocks.*.feed.down.*", "transformer.h.{}.mlp.c_proj.{}"),
        ("norm.*", "transformer.ln_f.{}"),
        ("logits.weight", "lm_head.weight"),
    ),
)


class Attention(CausalAttention):
    """As many keys as queries, with biases."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.head_width = shape.head_width
        seen = shape.heads * shape.head_width
        self.query, self.key, self.value = (nn.Linear(shape.width, seen) for _ in range(3))
        self.out = nn.Linear(seen, shape.width)


class FeedForward(nn.Module):
    """Two layers."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.up = nn.Linear(shape.width, shape.hidden)
        self.down = nn.Linear(shape.hidden, shape.width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x_BTD), approximate="tanh"))


class Block(nn.Module):
    """Attention and feed-forward part, each added to the stream."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(shape.width, eps=shape.eps)
        self.attention = Attention(shape)
        self.before_feed = nn.LayerNorm(shape.width, eps=shape.eps)
        self.feed = FeedForward(shape)

    def forward(self, x_BTD: Tensor, mask: Tensor | None = None) -> Tensor:
        x_BTD = x_BTD + self.attention(self.before_attention(x_BTD), mask=mask)
        return x_BTD + self.feed(self.before_feed(x_BTD))


class Gpt2(CausalDecoder):
    """Tokens → logits.

    Parameters
    ----------
    length : positions there are.
    """

    places: nn.Embedding | None

    def __init__(self, shape: Shape, length: int) -> None:
        super().__init__()
        self.shape = shape
        self.embed = nn.Embedding(shape.vocab, shape.width)
        self.places = nn.Embedding(length, shape.width)
        self.blocks = nn.ModuleDict({str(number): Block(shape) for number in range(shape.depth)})
        self.norm = nn.LayerNorm(shape.width, eps=shape.eps)
        self.logits = nn.Linear(shape.width, shape.vocab, bias=False)
        if shape.tied:
            self.logits.weight = self.embed.weight
        self.draw(shape.depth)

    def stream(self, x: Tensor, positions_BT: Tensor, documents_BT: Tensor | None = None) -> Tensor:
        if self.embed is not None and self.places is not None:
            x = self.embed(x) + self.places(positions_BT)
        mask = None if documents_BT is None else self.mask_of(documents_BT)
        for block in self.blocks.values():
            x = block(x) if mask is None else block(x, mask)
        return x
