"""A decoder in the GPT-2 layout: learned positions, LayerNorm, GELU (the tanh form), biases, tied embedding.

Shapes: B rows, T positions, D width, H heads, E width of a head, V vocabulary. Called as `gyral.model.nets.llama.Llama` is.
Query, key and value are three matrices here and one in the library transformers (`c_attn`, stored [in, out]): a tensor axis
cuts each by heads, which it could not do with one; `gyral.model.hf` joins them.

Source: Radford et al. 2019, section 2.3.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from gyral.model.nets.llama import Shape, attention, document_mask
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


class Attention(nn.Module):
    """Causal attention over a whole sequence."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.head_width = shape.head_width
        self.query, self.key, self.value, self.out = (nn.Linear(shape.width, shape.width) for _ in range(4))

    def forward(self, x_BTD: Tensor, mask: Tensor | None = None) -> Tensor:
        """Heads are counted by what the projections give, so a rank may hold some of them."""
        rows, length = x_BTD.shape[:2]
        query, key, value = (
            part(x_BTD).view(rows, length, -1, self.head_width).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        seen = self.attend(query, key, value) if mask is None else self.attend(query, key, value, mask)
        return self.out(seen.transpose(1, 2).reshape(rows, length, -1))

    def attend(self, query_BHTE: Tensor, key_BHTE: Tensor, value_BHTE: Tensor, mask: Tensor | None = None) -> Tensor:
        """Each position sees itself and those before; of them those of the mask [B, 1, T, T], where there is one."""
        return attention(query_BHTE, key_BHTE, value_BHTE, mask)


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
        x_BTD = x_BTD + self.attention(self.before_attention(x_BTD), mask)
        return x_BTD + self.feed(self.before_feed(x_BTD))


class Gpt2(nn.Module):
    """Tokens → logits.

    Parameters
    ----------
    length : positions there are.
    """

    embed: nn.Embedding | None
    places: nn.Embedding | None
    norm: nn.LayerNorm | None
    logits: nn.Linear | None

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
        self.apply(self._initial)
        for name, param in self.named_parameters():
            if name.endswith(("attention.out.weight", "feed.down.weight")):  # as many add up as there are blocks
                nn.init.normal_(param, std=0.02 / (2 * shape.depth) ** 0.5)

    def forward(self, x: Tensor, positions_BT: Tensor, documents_BT: Tensor | None = None) -> Tensor:
        """Tokens [B, T], or the stream of the stage before [B, T, D]; logits [B, T, V], or the stream."""
        x = self.stream(x, positions_BT, documents_BT)
        return x if self.norm is None or self.logits is None else self.logits(self.norm(x))

    def stream(self, x: Tensor, positions_BT: Tensor, documents_BT: Tensor | None = None) -> Tensor:
        """What the last block gives, [B, T, D]."""
        if self.embed is not None and self.places is not None:
            x = self.embed(x) + self.places(positions_BT)
        mask = None if documents_BT is None else self.mask_of(documents_BT)
        for block in self.blocks.values():
            x = block(x) if mask is None else block(x, mask)
        return x

    def mask_of(self, documents_BT: Tensor) -> Tensor:
        """Who sees whom, bool [B, 1, T, T]."""
        return document_mask(documents_BT)

    @staticmethod
    def _initial(module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
