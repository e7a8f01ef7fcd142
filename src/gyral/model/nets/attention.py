"""Attention of queries to keys, in the precision that costs least.

On a CPU short sequences attend in f32 even where products are in bf16: PyTorch 2.13's backward pass of attention in bf16 takes
4 to 13 times as long at 13 to 65 positions, by which a whole step in bf16 took 1.3 to 2.1 times as long as in f32 (pictures;
now .57 to .80 times). At 256 positions both take as long, and what is kept of them is half as large in bf16.

Own kernels around two batched products, which keep the shares of a softmax instead of computing them again, had .81 of the
speed of PyTorch's in f32 (64 and 256 positions) and lost more with length: measured and left out.

Shapes: B rows, T positions, H heads of queries, K heads of keys and values, E width of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_SHORT = 256


def attended(
    query_BHTE: Tensor, key_BKTE: Tensor, value_BKTE: Tensor, mask: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    """What each query sees, [B, H, T, E]: all keys, those of a mask, or those before; fewer keys are shared by neighbours."""
    parts = (query_BHTE, key_BKTE, value_BKTE)
    is_grouped, kind = query_BHTE.shape[1] != key_BKTE.shape[1], query_BHTE.dtype
    if query_BHTE.device.type != "cpu" or kind == torch.float32 or query_BHTE.shape[2] >= _SHORT:
        return F.scaled_dot_product_attention(*parts, attn_mask=mask, is_causal=is_causal, enable_gqa=is_grouped)
    with torch.autocast("cpu", enabled=False):
        query, key, value = (part.float() for part in parts)
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=is_causal, enable_gqa=is_grouped)
    return seen.to(kind)
