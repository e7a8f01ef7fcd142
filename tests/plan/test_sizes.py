"""Bytes by shapes against the bytes that compressors then make."""

import numpy as np
import pytest

from gyral import plugins
from gyral.errors import InputError
from gyral.model.card import Weights, write_weights
from gyral.model.quant import packing
from gyral.plan.sizes import bytes_as, bytes_of, losses, shapes_of

NET = {
    "embed.weight": (300, 65), "blocks.0.attention.query.weight": (64, 64), "blocks.0.up.weight": (48, 70),
    "blocks.0.norm.weight": (64,), "logits.weight": (300, 64),
}  # fmt: skip
PATTERNS = ("embed.weight", "logits.weight", "blocks.*.attention.query.weight", "blocks.*.up.weight")


@pytest.fixture
def folder(tmp_path):
    """A net and a table, with a scale that was there before."""
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in NET.items()}
    arrays |= {"item_item": rng.normal(size=(130, 131)).astype(np.float32), "item_item_scale": np.ones(130, np.float32)}
    write_weights(tmp_path, Weights(arrays, {"kind": "x"}))
    return tmp_path


def test_shapes_are_those_of_the_file_and_take_no_memory(folder):
    found = shapes_of(folder)
    assert {name: array.shape for name, array in found.arrays.items() if name in NET} == NET
    assert all(array.strides == (0,) * array.ndim for array in found.arrays.values()) and found.settings == {"kind": "x"}


@pytest.mark.parametrize(
    ("to", "patterns"),
    [(to, PATTERNS) for to in ("int8", "bf16", "int4-rtn")]
    + [(to, ("item_item",)) for to in ("int8", "rows-int8", "rows-int4", "rows-pq8", "rows-pq16", "rows-hash-7")],
)
def test_what_rounds_is_counted_to_the_byte(folder, to, patterns):
    from gyral.model.card import read_weights

    weights = read_weights(folder)
    made = plugins.find("compressor", to)(weights, packing.chosen(weights, patterns))
    told = bytes_as(to, shapes_of(folder), patterns)
    assert told.by == "counted" and told.value == bytes_of(made)


def test_what_leaves_weights_out_is_told_within_an_interval(folder):
    weights = shapes_of(folder)
    whole = bytes_as("int8", weights, PATTERNS).value
    for to in ("prune-0.3+int8", "rank-0.5+int8", "2:4+int8", "int4-mixed"):
        told = bytes_as(to, weights, PATTERNS)
        assert told.by == "assumed" and told.low < told.value < told.high and told.value < whole, to


def test_a_format_is_told_by_its_bits(folder):
    weights = shapes_of(folder)
    assert bytes_as("gguf-q4_0", weights, PATTERNS).value < bytes_as("gguf-q8_0", weights, PATTERNS).value < bytes_of(weights)


def test_a_file_that_is_no_model_is_refused(folder):
    for body in (b"", b"\xff" * 100, b"\x08" + bytes(7) + b"nonsense", (2).to_bytes(8, "little") + b"[]"):
        (folder / "weights.safetensors").write_bytes(body)
        with pytest.raises(InputError, match="cannot be read"):
            shapes_of(folder)


def test_losses_are_of_this_project_first():
    assert losses({"int8": [0.01, 0.02, 0.03]}, "int8")[:3:2] == (0.02, "calibrated")
    assert losses({}, "int8").by == "sheet" and losses({}, "prune-0.9").by == "assumed"
