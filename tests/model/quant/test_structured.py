"""What carries nothing goes first, what is left is a dense net of its shape, and with nothing to take all stays as it was."""

import numpy as np
import pytest
import torch

from gyral.model import decoder
from gyral.model.card import Weights
from gyral.model.quant import low_rank
from gyral.model.quant.calibration import Calibration
from gyral.model.quant.structured import fitted, kept_channels, kept_groups, pruned_net
from gyral.model.tasks.next_token import build_net

SHAPE = {"vocab": 31, "width": 32, "depth": 2, "heads": 4, "kv_heads": 2, "hidden": 96}


def model_of(layout, idle=()):
    """A net whose blocks make nothing of some channels and of the last heads."""
    shape = {**SHAPE, **({"kv_heads": 4} if layout == "gpt2" else {})}
    torch.manual_seed(1)
    net = build_net(layout, decoder.Shape(**shape), 16)
    with torch.no_grad():
        for block in net.blocks.values():
            for param in block.parameters():
                param.add_(0.2 * torch.randn_like(param))
            block.feed.down.weight[:, list(idle)] = 0
            if idle:
                block.attention.out.weight[:, 16:] = 0
    arrays = {key: value.numpy().copy() for key, value in net.state_dict().items() if key != "logits.weight"}
    return Weights(arrays, {"shape": shape, "length": 16, "layout": layout})


def calibration():
    tokens = torch.randint(31, (64, 16), generator=torch.Generator().manual_seed(2))
    places = torch.arange(16)[None].expand(64, -1)

    def build(weights):
        copied = {name: array.copy() for name, array in weights.arrays.items()}
        return decoder.of_weights(Weights(copied, weights.settings)).build()

    def feed(net):
        with torch.inference_mode():
            return net(tokens, places)

    return Calibration(build, [feed], ("blocks",)), feed


@pytest.mark.parametrize("layout", ["llama", "gpt2"])
def test_what_carries_nothing_goes_first(layout):
    idle = range(1, 96, 3)  # 32 of 96
    weights, (how, feed) = model_of(layout, idle), calibration()
    small = pruned_net(weights, how, 1 / 3 if layout == "gpt2" else 0.34)
    heads = {"heads": 3, "kv_heads": 3} if layout == "gpt2" else {"heads": 4, "kv_heads": 2}
    told = small.settings["shape"]
    assert told["hidden"] == 64 and {key: told[key] for key in heads} == heads
    kept = [at for at in range(96) if at not in idle]
    before, after = (each.arrays["blocks.1.feed.up.weight"] for each in (weights, small))
    assert (after == before[kept]).all()
    whole, less = (feed(how.build(each)) for each in (weights, small))
    assert float((whole - less).abs().max()) < 2e-3 * float(whole.abs().max())
    half = pruned_net(weights, how, 0.5)
    assert half.settings["shape"]["head"] == 8 and half.settings["shape"]["heads"] == 2
    assert half.arrays["blocks.0.attention.out.weight"].shape == (32, 16)
    assert sum(each.size for each in half.arrays.values()) == sum(each.numel() for each in how.build(half).parameters())


def test_with_nothing_to_take_all_is_as_it_was():
    weights, (how, _) = model_of("llama"), calibration()
    names = [name for name, array in weights.arrays.items() if array.ndim == 2]
    assert pruned_net(weights, how, 0.0) is weights and low_rank.factored_net(weights, names, how, 1.0) is weights


def test_columns_that_stay_are_fitted_as_numpy_does():
    random = np.random.default_rng(0)
    x = random.standard_normal((4000, 12)) @ random.standard_normal((12, 12))
    weight, kept = random.standard_normal((5, 12)).astype(np.float32), [0, 2, 3, 7, 8, 11]
    expected = np.linalg.lstsq(x[:, kept], x @ weight.T, rcond=None)[0].T
    found = fitted(torch.from_numpy(weight), torch.from_numpy((x.T @ x / len(x)).astype(np.float32)), torch.tensor(kept))
    np.testing.assert_allclose(found.numpy(), expected, rtol=0.05, atol=0.05)


def test_no_more_than_the_share_goes():
    for num in (1, 2, 3, 4, 6, 8, 32, 96, 100, 384):
        for share in (0.0, 0.1, 0.25, 0.3, 0.5, 0.9):
            for kept in (kept_channels(num, share), kept_groups(num, share)):
                assert 1 <= kept <= num and num - kept <= num * share + 1e-9
            assert kept_channels(num, share) % 32 == 0 or num % 32


def test_two_thin_matrices_are_the_nearest_by_their_inputs():
    random = torch.Generator().manual_seed(0)
    x = torch.randn(512, 24, generator=random) @ torch.randn(24, 24, generator=random)
    gram = x.t() @ x / len(x)
    thin = torch.randn(16, 3, generator=random) @ torch.randn(3, 24, generator=random)
    first, second = low_rank.factors(thin, gram, 3)
    torch.testing.assert_close(second @ first, thin, rtol=1e-3, atol=1e-3)
    weight = torch.randn(16, 24, generator=random)
    first, second = low_rank.factors(weight, gram, 6)
    left, values, right = torch.linalg.svd(weight)
    plain = left[:, :6] * values[:6] @ right[:6]
    lost = [float(((weight - each) @ x.t()).square().sum()) for each in (second @ first, plain)]
    best = torch.linalg.svdvals(x @ weight.t())[6:].square().sum()  # Eckart and Young, of the outputs
    assert lost[0] < 0.8 * lost[1] and lost[0] == pytest.approx(float(best), rel=0.01)


def test_factors_make_the_net_that_their_products_make():
    weights, (how, feed) = model_of("gpt2"), calibration()
    names = [name for name in weights.arrays if name.endswith(("up.weight", "query.weight"))]
    small = low_rank.factored_net(weights, names, how, 0.5)
    found = decoder.of_weights(small)
    assert found.ranks["blocks.0.feed.up"] == low_rank.rank_of((96, 32), 0.5) == 12
    assert found.dense().state.keys() == decoder.of_weights(weights).state.keys() and not found.dense().ranks
    torch.testing.assert_close(feed(found.build()), feed(found.dense().build()), rtol=1e-3, atol=1e-4)
    sizes = [sum(array.size for name, array in each.arrays.items() if "feed.up." in name) for each in (weights, small)]
    assert (sizes[1] - 2 * 96) == 0.5 * (sizes[0] - 2 * 96)
