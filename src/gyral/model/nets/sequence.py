"""What a subject met, in order → scores of what is met next: SASRec's transformer, or HSTU's layers, over one table of objects.

The output matrix is the table of inputs; a bias an object holds how often it is met at all. Rows are padded at the *end*: a
causal model never sees what comes later, so no mask is needed and padding may be any object.

With `negatives` (sampled softmax) objects are only looked up in the table; the full softmax multiplies with all of it. Where it
is spread over ranks, its rows are scored where they lie (`nats`).

Shapes: B rows, T positions, D width, V objects, N targets of the batch, K negatives of a row.

Source: Kang and McAuley, Self-attentive sequential recommendation, ICDM 2018; cross-entropy over all objects instead of its one
negative: Klenitskiy and Vasilev, RecSys 2023.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gyral.model.nets.asked import Asked
from gyral.model.nets.attention import attended
from gyral.model.nets.dropout import RowDropout
from gyral.model.nets.hstu import HstuBlock
from gyral.model.roles import Roles

ROLES = Roles(
    rules=(
        ("objects", "table"),
        ("bias", "table"),
        ("blocks.*.query", "column"),
        ("blocks.*.key", "column"),
        ("blocks.*.value", "column"),
        ("blocks.*.out", "row"),
        ("blocks.*.up", "column"),
        ("blocks.*.down", "row"),
    ),
    blocks="blocks",
    attention="blocks.*",
)
HSTU_ROLES = Roles(rules=(("objects", "table"), ("bias", "table")), blocks="blocks")
"""The four parts of one matrix belong to one head each, so it is not cut by rows."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a model; `hidden` is the width inside SASRec's feed-forward part."""

    objects: int
    width: int
    depth: int
    heads: int
    length: int
    hidden: int
    dropout: float = 0.0
    net: Literal["sasrec", "hstu"] = "sasrec"


class SasrecBlock(nn.Module):
    """Causal attention and a feed-forward part, normalised before, each added to the stream."""

    by_heads = ("query", "key", "value")
    """Of its columns, those that belong to heads."""

    def __init__(self, shape: Shape, site: int) -> None:
        super().__init__()
        self.head_width = shape.width // shape.heads
        self.before_attention = nn.LayerNorm(shape.width)
        self.query, self.key, self.value, self.out = (nn.Linear(shape.width, shape.width) for _ in range(4))
        self.before_feed = nn.LayerNorm(shape.width)
        self.up = nn.Linear(shape.width, shape.hidden)
        self.down = nn.Linear(shape.hidden, shape.width)
        self.drop_attention = RowDropout(shape.dropout, site)
        self.drop_hidden = RowDropout(shape.dropout, site + 1, shape.hidden)
        self.drop_feed = RowDropout(shape.dropout, site + 2)

    def forward(self, x_BTD: Tensor, times_BT: Tensor, keys_B: Tensor | None) -> Tensor:
        rows, length = x_BTD.shape[:2]
        normed = self.before_attention(x_BTD)
        query, key, value = (
            part(normed).view(rows, length, -1, self.head_width).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        seen = attended(query, key, value, is_causal=True)
        seen = self.out(seen.transpose(1, 2).reshape(rows, length, -1))
        x_BTD = x_BTD + self.drop_attention(seen, keys_B)
        hidden = self.drop_hidden(F.gelu(self.up(self.before_feed(x_BTD))), keys_B)
        return x_BTD + self.drop_feed(self.down(hidden), keys_B)


class Sequence(nn.Module):
    """Objects and times → logits.

    Attributes
    ----------
    nats : states [N, D] and targets [N] → their cross-entropy over all objects, [N]; set by who spreads the table over ranks.
    """

    nats: Callable[[Tensor, Tensor], Tensor] | None = None

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.objects = nn.Embedding(shape.objects, shape.width)
        self.bias = nn.Embedding(shape.objects, 1)
        self.places = nn.Embedding(shape.length, shape.width)
        self.drop = RowDropout(shape.dropout, 0)
        self.blocks = nn.ModuleDict({str(number): self._block(number) for number in range(shape.depth)})
        self.norm = nn.LayerNorm(shape.width)
        self.apply(_initial)
        nn.init.zeros_(self.bias.weight)

    def _block(self, number: int) -> nn.Module:
        shape, site = self.shape, 1 + 3 * number
        if shape.net == "hstu":
            return HstuBlock(shape.width, shape.heads, shape.length, shape.dropout, site)
        return SasrecBlock(shape, site)

    def forward(
        self, objects_BT: Tensor, times_BT: Tensor, keys_B: Tensor, targets_BT: Tensor, negatives_BK: Tensor | None = None
    ) -> Tensor:
        """Logits of the positions that have a target (≥ 0).

        Returns
        -------
        [N, V]; with negatives [N, 1 + K]: the target's own first. Where the table is spread, [N]: the nats themselves.
        """
        x_BTD = self.encode(objects_BT, times_BT, keys_B)
        has_target_BT = targets_BT >= 0
        if negatives_BK is None:
            x_ND = x_BTD[has_target_BT]
            return self.logits(x_ND) if self.nats is None else self.nats(x_ND, targets_BT[has_target_BT])
        targets_BT = targets_BT.clamp(min=0)
        own_BT = (x_BTD * self.objects(targets_BT)).sum(-1) + self.bias(targets_BT).squeeze(-1)
        others_BTK = x_BTD @ self.objects(negatives_BK).transpose(1, 2) + self.bias(negatives_BK).transpose(1, 2)
        is_target_BTK = negatives_BK[:, None, :] == targets_BT[:, :, None]
        others_BTK = others_BTK.masked_fill(is_target_BTK, float("-inf"))
        return torch.cat([own_BT[..., None], others_BTK], dim=-1)[has_target_BT]

    def encode(self, objects_BT: Tensor, times_BT: Tensor, keys_B: Tensor | None) -> Tensor:
        """The state after each position, [B, T, D]; times in seconds, int64."""
        at = torch.arange(objects_BT.shape[1], device=objects_BT.device)
        x_BTD = self.drop(self.objects(objects_BT) + self.places(at), keys_B)
        for block in self.blocks.values():
            x_BTD = block(x_BTD, times_BT, keys_B)
        return self.norm(x_BTD)

    def score(self, asked: Asked) -> Tensor:
        """Logits of what each subject meets next, [B, V]."""
        x_BTD = self.encode(asked.objects, asked.times, None)
        at = torch.arange(asked.sizes.shape[0], device=asked.sizes.device)
        return self.logits(x_BTD[at, asked.sizes - 1])

    def logits(self, x_ND: Tensor) -> Tensor:
        """Scores of all objects, [N, V]."""
        return F.linear(x_ND, *self.matrix())

    def matrix(self) -> tuple[Tensor, Tensor]:
        """The table as output matrix [V, D], and the bias of each object [V]."""
        return self.objects.weight, self.bias.weight.squeeze(-1)


def _initial(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
