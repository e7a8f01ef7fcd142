"""A block of HSTU: pointwise aggregated attention, gated by the stream itself, with a bias by distance in places and in time.

Attention weights are SiLU and not softmax, divided by the length: how *often* something was met is kept, which softmax divides
away. The block has no feed-forward part: half the parameters of a transformer's of the same width.

Shapes: B rows, T positions, D width, H heads, E width of a head.

Source: Zhai et al., Actions speak louder than words: trillion-parameter sequential transducers for generative recommendations,
ICML 2024, section 3.2; buckets of time as in its published code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gyral.model.nets.dropout import RowDropout

NUM_BUCKETS = 32
"""Powers of two of seconds: the last begins at 68 years."""


class HstuBlock(nn.Module):
    """One layer, added to the stream."""

    def __init__(self, width: int, heads: int, length: int, dropout: float, site: int) -> None:
        super().__init__()
        self.heads, self.length = heads, length
        self.before = nn.LayerNorm(width)
        self.mix = nn.Linear(width, 4 * width)
        self.after = nn.LayerNorm(width)
        self.out = nn.Linear(width, width)
        self.places = nn.Parameter(torch.zeros(length))
        self.ages = nn.Parameter(torch.zeros(NUM_BUCKETS))
        self.drop = RowDropout(dropout, site)

    def forward(self, x_BTD: Tensor, times_BT: Tensor, keys_B: Tensor | None) -> Tensor:
        rows, length, width = x_BTD.shape
        gate, value, query, key = F.silu(self.mix(self.before(x_BTD))).chunk(4, dim=-1)
        heads = (part.view(rows, length, self.heads, -1).transpose(1, 2) for part in (query, key, value))
        query_BHTE, key_BHTE, value_BHTE = heads
        scores = query_BHTE @ key_BHTE.transpose(2, 3) + self.bias(times_BT)[:, None]
        weights = (F.silu(scores) / self.length).tril()
        seen_BTD = (weights @ value_BHTE).transpose(1, 2).reshape(rows, length, width)
        return x_BTD + self.out(self.drop(self.after(seen_BTD) * gate, keys_B))

    def bias(self, times_BT: Tensor) -> Tensor:
        """What is added for the distance of two positions in places and in seconds, [B, T, T]."""
        at = torch.arange(times_BT.shape[1], device=times_BT.device)
        places = self.places[(at[:, None] - at).clamp(min=0)]
        age = (times_BT[:, :, None] - times_BT[:, None, :]).clamp(min=1)
        bucket = age.double().log2().long().clamp(max=NUM_BUCKETS - 1)
        return places + self.ages[bucket]
