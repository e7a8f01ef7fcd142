"""Short sequences in bf16 attend in f32 on a CPU, with a mask, causally, and with keys that queries share."""

import pytest
import torch
import torch.nn.functional as F

from gyral.model.nets.attention import attended


@pytest.mark.parametrize("keys", [4, 2])
@pytest.mark.parametrize("form", ["all", "causal", "mask"])
@pytest.mark.parametrize("length", [12, 256])
def test_what_is_seen_in_half_precision_is_what_is_seen_in_full(keys, form, length):
    draw = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, length, 8, generator=draw).bfloat16().requires_grad_()
    key, value = (torch.randn(2, keys, length, 8, generator=draw).bfloat16().requires_grad_() for _ in range(2))
    mask = torch.rand(2, 1, length, length, generator=draw) < 0.5 if form == "mask" else None
    if mask is not None:
        mask |= torch.eye(length, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        seen = attended(query, key, value, mask, is_causal=form == "causal")
    assert seen.dtype == torch.bfloat16
    spread = [part.detach().double().repeat_interleave(4 // part.shape[1], dim=1) for part in (query, key, value)]
    exact = F.scaled_dot_product_attention(*spread, attn_mask=mask, is_causal=form == "causal")
    assert (seen.double() - exact).abs().max() <= exact.abs().max() / 64
    seen.sum().backward()
    assert value.grad.dtype == torch.bfloat16 and torch.isfinite(query.grad).all()
