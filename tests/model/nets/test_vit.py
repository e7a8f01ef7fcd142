"""The vision transformer against torch's own convolution and attention, and against transformers."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from gyral.model.nets.vit import ROLES, Block, Shape, Vit, flops_of, patches_of, sine_positions

SHAPE = Shape(side=16, patch=4, width=32, depth=2, heads=4, hidden=64, learned=True, classes=7, eps=1e-12)


def test_a_linear_over_patches_is_the_convolution():
    torch.manual_seed(0)
    pixels, linear = torch.randn(2, 3, 16, 16), nn.Linear(48, 32)
    told = F.conv2d(pixels, linear.weight.view(32, 3, 4, 4), linear.bias, stride=4).flatten(2).transpose(1, 2)
    assert torch.allclose(linear(patches_of(pixels, 4)), told, atol=1e-5)


def test_a_block_is_what_torch_calls_a_pre_norm_encoder_layer():
    torch.manual_seed(0)
    block = Block(32, 4, 64)
    layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, "gelu", 1e-6, batch_first=True, norm_first=True)
    attention = block.attention
    with torch.no_grad():
        layer.self_attn.in_proj_weight.copy_(
            torch.cat([part.weight for part in (attention.query, attention.key, attention.value)])
        )
        layer.self_attn.in_proj_bias.copy_(torch.cat([part.bias for part in (attention.query, attention.key, attention.value)]))
        for mine, theirs in (
            (attention.out, layer.self_attn.out_proj),
            (block.feed.up, layer.linear1),
            (block.feed.down, layer.linear2),
        ):
            theirs.load_state_dict(mine.state_dict())
    x, is_there = torch.randn(3, 5, 32), torch.tensor([[True] * 5, [True] * 3 + [False] * 2, [True] + [False] * 4])
    layer.train()  # its fast path for evaluation zeroes what is masked
    assert torch.allclose(block(x, is_there), layer(x, src_key_padding_mask=~is_there), atol=1e-5)


def test_attention_in_bf16_on_a_cpu_is_that_of_f32():
    torch.manual_seed(0)
    block, x = Block(32, 4, 64), torch.randn(3, 5, 32)
    asked = []
    attend = block.attention.attend
    block.attention.attend = lambda *heads: asked.append((heads, attend(*heads))) or asked[-1][1]
    with torch.autocast("cpu", torch.bfloat16):
        found = block(x)
    (query, key, value, mask), seen = asked[0]
    assert query.dtype == seen.dtype == torch.bfloat16 and mask is None
    exact = torch.softmax(query.float() @ key.float().transpose(2, 3) / 8**0.5, dim=3) @ value.float()
    assert torch.equal(seen, exact.to(torch.bfloat16)) or (seen.float() - exact).abs().max() <= exact.abs().max() / 256
    assert torch.allclose(found.float(), block(x), atol=0.05)
    with torch.autocast("cpu", torch.bfloat16):
        grads = torch.autograd.grad(block(x).float().sum(), block.attention.query.weight)[0]
    told = torch.autograd.grad(block(x).sum(), block.attention.query.weight)[0]
    assert F.cosine_similarity(grads.flatten(), told.flatten(), dim=0) > 0.99


def test_hidden_patches_are_left_out_and_nothing_else_changes():
    torch.manual_seed(0)
    model, pixels = Vit(SHAPE), torch.randn(2, 3, 16, 16)
    kept = torch.tensor([[3, 0, 15], [7, 8, 9]])
    whole, part = model.embed(pixels), model.embed(pixels, kept)
    assert part.shape == (2, 4, 32)
    assert torch.equal(part[:, 0], whole[:, 0]) and torch.equal(part[1, 2], whole[1, 1 + 8])


def test_positions_of_a_smaller_grid_lie_between_the_known_ones():
    model = Vit(Shape(16, 4, 32, 1, 4, 64))
    assert torch.equal(model.embed.position_at(4), model.embed.position)
    half = model.embed.position_at(2)[0, 1:].view(2, 2, 32)
    known = model.embed.position[0, 1:].view(2, 2, 2, 2, 32).mean(dim=(1, 3))
    assert torch.allclose(half, known, atol=1e-6)
    assert len(set(map(tuple, sine_positions(4, 32)[1:].round(decimals=4).tolist()))) == 16


def test_every_matrix_of_a_block_has_a_role_and_flops_count_them():
    model = Vit(SHAPE)
    linears = {name: role for name, module, role in ROLES.modules(model) if isinstance(module, nn.Linear)}
    assert {name for name, role in linears.items() if role == "replicate"} == {"embed.patch", "logits"}
    assert [name for name, _ in ROLES.units(model)] == ["blocks.0", "blocks.1"]
    biases = 2 * (4 * 32 + 64 + 32)
    matrices = ROLES.num_multiplied(model) - biases
    assert flops_of(2, 32, 64, 1) == 6 * matrices + 2 * 12 * 32


THEIRS = """
import json, sys, torch
from safetensors.torch import save_file
from transformers import ViTConfig, ViTForImageClassification
torch.manual_seed(0)
config = ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=16,
    patch_size=4, num_labels=7, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.2)
model = ViTForImageClassification(config).eval()
with torch.no_grad():
    for param in model.parameters():
        param.add_(0.1 * torch.randn_like(param))
pixels = torch.randn(5, 3, 16, 16)
with torch.no_grad():
    found = model(pixels, output_hidden_states=True)
    last = model.vit(pixels).last_hidden_state
save_file({**model.state_dict(), "pixels": pixels, "told_logits": found.logits, "told_hidden": last}, sys.argv[1])
print(json.dumps(config.layer_norm_eps))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_logits_are_those_of_transformers(tmp_path):
    sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "benchmarks"))
    try:
        from measure import peer
    finally:
        sys.path.pop(0)
    try:
        python = peer("transformers", ["torch==2.13.0", "transformers==4.57.6", "safetensors"])
    except subprocess.CalledProcessError as error:
        pytest.skip(f"transformers cannot be installed: {error}")
    path = tmp_path / "theirs.safetensors"
    done = subprocess.run([python, "-c", THEIRS, str(path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == SHAPE.eps
    theirs, model = load_file(path), Vit(SHAPE)
    with torch.no_grad():
        for name, param in model.named_parameters():
            param.copy_(theirs[ROLES.hf_name(name)].reshape(param.shape))
        logits = model(theirs["pixels"])
        model.logits = None
        hidden = model(theirs["pixels"])
    assert (logits - theirs["told_logits"]).abs().max() <= 1e-5
    assert (hidden - theirs["told_hidden"]).abs().max() <= 1e-5
    assert np.std(logits.numpy()) > 0.1
