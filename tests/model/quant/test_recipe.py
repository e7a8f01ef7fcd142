"""A net is the same after scaling, layers see what they saw, and packing by what they see costs less."""

import numpy as np
import pytest
import torch

from gyral.errors import InputError
from gyral.model import decoder
from gyral.model.card import Weights
from gyral.model.lm_twin import feed_of
from gyral.model.nets.llama import Shape
from gyral.model.quant import scaling
from gyral.model.quant.calibration import Calibration, _watched, blocks_fed
from gyral.model.quant.packing import chosen, divided, stored_bytes, to_int4, to_int8, with_packed
from gyral.model.quant.recipe import packed_net, rounded_net
from gyral.model.quant.sensitivity import in_eight, prices
from gyral.model.stream import Text, rows_of
from gyral.model.tasks.next_token import build_net

TEXT = "the cat sat on the mat, and the dog sat on the log; 2 + 2 = 4, said the frog. " * 8
PATTERNS = ("blocks.*.attention.*.weight", "blocks.*.feed.*.weight", "embed.weight")


def net(layout="llama", heads=2, kv_heads=2, experts=0):
    shape = Shape(257, 64, 2, heads, kv_heads, 128, experts=experts)
    torch.manual_seed(0)
    model = build_net(layout, shape, 64)
    torch.manual_seed(1)
    for module in model.modules():  # some columns of the stream are much larger, as in trained nets
        if "Norm" in type(module).__name__:
            module.weight.data *= torch.exp(torch.randn(64))
        elif isinstance(module, torch.nn.Linear | torch.nn.Embedding):
            module.weight.data.normal_(std=0.05)
    arrays = {name: tensor.detach().numpy().copy() for name, tensor in model.named_parameters()}
    settings = {"shape": shape.__dict__, "length": 64, "layout": layout}
    return Weights(arrays, settings)


def calibration():
    stream = Text([TEXT.encode()])
    batches = [rows_of(*stream.sequences(np.array([at, at + 1]), 64)) for at in range(0, 8, 2)]

    def build(weights):
        copied = Weights({name: array.copy() for name, array in weights.arrays.items()}, weights.settings)
        return decoder.of_weights(copied).dense().build()

    return Calibration(build, [feed_of(batch) for batch in batches], ("blocks",)), batches


def logits(weights, batches):
    model = decoder.of_weights(weights).dense().build()
    with torch.inference_mode():
        return torch.cat([model(batch["inputs"], batch["positions"], batch["documents"]) for batch in batches]).double().numpy()


def test_blocks_see_what_layers_see_in_the_whole_net():
    weights, (how, _) = net(), calibration()
    model = how.build(weights)
    inputs = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(
                lambda module, args, name=name: inputs.setdefault(name, []).append(args[0].flatten(0, 1).double().numpy())
            )
    with torch.no_grad(), _watched(model) as whole:
        for feed in how.feeds:
            feed(model)
    for name, parts in inputs.items():
        x = np.concatenate(parts)
        np.testing.assert_allclose(whole[name].gram.numpy(), x.T @ x / len(x), atol=1e-4 * np.abs(x).max() ** 2)
        np.testing.assert_allclose(whole[name].size.numpy(), np.abs(x).mean(0), rtol=1e-4)
        np.testing.assert_allclose(whole[name].most_N.numpy(), np.abs(x).max(0), rtol=1e-5)
    for place, _, seen in blocks_fed(how.build(weights), how):
        for own, each in seen.items():
            torch.testing.assert_close(each.gram, whole[f"{place}.{own}"].gram, rtol=1e-4, atol=1e-5)
            assert each.num == whole[f"{place}.{own}"].num == 8 * 64


@pytest.mark.parametrize(("layout", "kv_heads", "places"), [("llama", 2, 4), ("llama", 1, 3), ("gpt2", 2, 3)])
@pytest.mark.parametrize("method", ["awq", "smooth"])
def test_scaling_changes_the_weights_and_not_the_net(method, layout, kv_heads, places, monkeypatch):
    weights, (how, batches) = net(layout, kv_heads=kv_heads), calibration()
    model = how.build(weights)
    for _, block, seen in blocks_fed(model, how):
        assert len(list(scaling.places(block, seen))) == places
        if method == "awq":
            assert max(scaling.by_activation(block, seen, lambda w, gram: to_int8(np.round(w.numpy(), 1))).values()) > 0
        else:
            scaling.smoothing(block, seen)
    changed = Weights({name: tensor.detach().numpy() for name, tensor in model.named_parameters()}, weights.settings)
    before, after = logits(weights, batches), logits(changed, batches)
    name = "blocks.0.attention.query.weight"
    assert np.abs(changed.arrays[name] - weights.arrays[name]).max() > 1e-3
    assert np.abs(after - before).max() < 1e-4 * np.abs(before).max()


def test_what_is_known_of_inputs_makes_four_bits_cost_less():
    weights, (how, batches) = net(), calibration()
    names = chosen(weights, PATTERNS)
    assert len(names) == 2 * 7 + 1
    truth = logits(weights, batches)
    small = {"rtn": rounded_net(weights, names)}
    small |= {method: packed_net(weights, names, how, method) for method in ("gptq", "awq", "smooth")}
    lost = {name: np.linalg.norm(logits(each, batches) - truth) for name, each in small.items()}
    assert lost["gptq"] < 0.6 * lost["rtn"] and lost["awq"] < 0.9 * lost["rtn"] and lost["smooth"] < lost["gptq"]
    sizes = {name: sum(array.nbytes for array in each.arrays.values()) for name, each in small.items()}
    assert sizes["gptq"] == sizes["rtn"] == sizes["awq"] < sizes["smooth"]
    theory = sum(stored_bytes("int8" if name == "embed.weight" else "int4", weights.arrays[name].shape) for name in names)
    rest = sum(array.nbytes for name, array in weights.arrays.items() if name not in names)
    assert sizes["gptq"] == theory + rest
    for each in small.values():
        found = decoder.of_weights(each).build()
        with torch.inference_mode():
            told = torch.cat([found(batch["inputs"], batch["positions"], batch["documents"]) for batch in batches])
        dense = logits(each, batches)
        assert np.linalg.norm(told.double().numpy() - dense) < 0.03 * np.linalg.norm(dense)


def test_eight_bits_where_it_is_asked_for_or_four_do_not_fit():
    weights, (how, _) = net(experts=4), calibration()
    names = chosen(weights, [*PATTERNS, "blocks.*.feed.experts.*.weight"])
    eight = [name for name in names if ".down." in name]
    _, packed = divided(packed_net(weights, names, how, in_int8=eight))
    assert {name for name, each in packed.items() if each.kind == "int8"} == {"embed.weight", *eight} | {
        name for name in names if "router" in name
    }


def test_the_matrices_that_cost_most_keep_eight_bits():
    weights, (how, batches) = net(), calibration()
    names = chosen(weights, PATTERNS)
    dear = "blocks.1.feed.down.weight"
    weights.arrays[dear][:, ::32] *= 30  # what is large makes the steps of the rest of its group coarse
    found = prices(weights, names, how)
    assert found.keys() == set(names) - {"embed.weight"}
    truth = logits(weights, batches[:1])
    for name in (dear, "blocks.0.attention.key.weight"):
        alone = logits(with_packed(weights, {name: to_int4(weights.arrays[name])}), batches[:1])
        assert found[name].changed == pytest.approx(((alone - truth) ** 2).sum() / (truth**2).sum(), rel=1e-3)
    every = sum(each.saved_bytes for each in found.values())
    assert in_eight(found, 4.0) == in_eight(found, 4.625) == [] and len(in_eight(found, 8.0)) == len(found)
    some = in_eight(found, 5.5)
    assert sum(found[name].saved_bytes for name in some) <= every * (5.5 - 4.625) / (8 - 4.625)
    assert min(found[name].each for name in some[:1]) == max(each.each for each in found.values())
    assert dear in some


@pytest.mark.parametrize("method", ["gptq", "awq", "smooth"])
def test_weights_that_are_no_numbers_are_refused(method):
    weights, (how, _) = net(), calibration()
    weights.arrays["blocks.1.feed.up.weight"][3, 3] = np.nan
    with pytest.raises(InputError, match="no finite numbers"):
        packed_net(weights, chosen(weights, PATTERNS), how, method)
