"""Models that somebody made to break their reader: they load, or are refused before anything large is made of them."""

import contextlib
import copy
import json
import struct
import tempfile
import tracemalloc
from dataclasses import asdict
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gyral.errors import GyralError, InputError
from gyral.model import card as cards
from gyral.model import decoder, gguf, hf
from gyral.model.card import Card, Weights
from gyral.model.nets.llama import Llama, Shape
from gyral.model.task import seeded

from .test_gguf import written

SHAPE = Shape(40, 16, 2, 2, 1, 24)
EDITS = st.lists(st.tuples(st.integers(0, 3_000), st.binary(max_size=9), st.integers(0, 9)), min_size=1, max_size=3)
ODD = st.sampled_from([0, -1, 1, 3, 10**9, 10**12, 2**63, 1e300, None, "x", [], {}, True, [1]])


@cache
def model():
    """Arrays and settings of a small language model."""
    state = seeded(1, lambda: Llama(SHAPE)).state_dict()
    arrays = {name: tensor.numpy() for name, tensor in state.items() if name != "logits.weight"}
    return Weights(arrays, {"shape": asdict(SHAPE), "length": 32, "layout": "llama"})


@cache
def gguf_bytes():
    with tempfile.TemporaryDirectory() as folder:
        written(Path(folder) / "a.gguf")
        return (Path(folder) / "a.gguf").read_bytes()


def changed(body, edits):
    found = bytearray(body)
    for at, put, cut in edits:
        at %= len(found) or 1
        found[at : at + cut] = put
    return bytes(found)


@given(edits=EDITS)
@settings(max_examples=40)
def test_a_gguf_of_any_bytes_is_read_or_refused(tmp_path_factory, edits):
    path = tmp_path_factory.getbasetemp() / "changed.gguf"
    path.write_bytes(changed(gguf_bytes(), edits))
    with contextlib.suppress(GyralError):
        gguf.read(path)[0].build()


def placed(body, name):
    """Where the sizes, kind and offset of a tensor stand."""
    return body.index(struct.pack("<Q", len(name)) + name) + 8 + len(name)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda body, at: struct.pack_into("<QQ", body, at + 4, 1 << 33, 1 << 33), "lie in one place"),
        (lambda body, at: struct.pack_into("<Q", body, at + 24, 1 << 63), "the file is cut off"),
        (lambda body, at: struct.pack_into("<I", body, at, 1 << 31), "no GGUF file"),
    ],
)
def test_a_tensor_that_lies_about_its_place_is_refused(tmp_path, change, why):
    body = bytearray(gguf_bytes())
    change(body, placed(body, b"blk.0.ffn_up.weight"))
    (tmp_path / "a.gguf").write_bytes(body)
    with pytest.raises(InputError) as refused:
        gguf.read(tmp_path / "a.gguf")
    assert why in refused.value.why and refused.value.where == str(tmp_path / "a.gguf")


def test_tensors_in_one_place_are_not_a_way_to_fill_the_memory(tmp_path):
    """Each could be as long as the file: a gigabyte of names would stand for as many gigabytes."""
    body = bytearray(gguf_bytes())
    first = struct.unpack_from("<Q", body, placed(body, b"token_embd.weight") + 24)[0]
    for name in (b"blk.0.ffn_up.weight", b"blk.1.ffn_up.weight", b"output.weight"):
        at = placed(body, name)
        struct.pack_into("<QQ", body, at + 4, 64, 1_000)
        struct.pack_into("<Q", body, at + 24, first)
    (tmp_path / "a.gguf").write_bytes(body)
    with pytest.raises(InputError, match="cannot be read") as refused:
        gguf.read(tmp_path / "a.gguf")
    assert "lie in one place" in refused.value.why


@given(name=st.sampled_from([*asdict(SHAPE), "length", "layout", "ranks", "packed", "end", "tokens"]), value=ODD)
@settings(max_examples=120)
def test_settings_that_lie_are_refused_before_a_net_is_built(name, value):
    told = copy.deepcopy(model().settings)
    (told["shape"] if name in told["shape"] else told)[name] = value
    tracemalloc.start()
    try:
        decoder.of_weights(Weights(model().arrays, told)).build()
    except GyralError as error:
        assert error.why
    finally:
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
        tracemalloc.stop()


@given(edits=EDITS, file=st.sampled_from([cards.WEIGHTS, "card.json"]))
@settings(max_examples=60)
def test_a_folder_of_any_bytes_is_read_or_refused(tmp_path_factory, edits, file):
    root = tmp_path_factory.getbasetemp() / "lying"
    if not root.exists():
        cards.publish(root, "m", model(), None, Card(family="lm"))
    folder = root / "models" / "m@1"
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(changed(whole, edits))
    try:
        decoder.read(folder).build()
    except GyralError as error:
        assert error.why
    finally:
        (folder / file).write_bytes(whole)


@pytest.mark.parametrize("settings", [b"[]", b"[" * 100_000, b"3", b"\xff"])
def test_settings_that_are_none_are_refused(tmp_path, settings):
    cards.publish(tmp_path, "m", model(), None, Card(family="lm"))
    path = tmp_path / "models" / "m@1" / cards.WEIGHTS
    head = {"__metadata__": {"gyral": settings.decode("latin-1")}, "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    text = json.dumps(head, ensure_ascii=False).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    with pytest.raises(InputError, match="cannot be read") as refused:
        cards.read_weights(path.parent)
    assert refused.value.where == str(path)


LIES = [
    ("hidden_size", 10**9), ("num_hidden_layers", 10**12), ("num_attention_heads", 0), ("num_attention_heads", "x"),
    ("vocab_size", None), ("intermediate_size", True), ("rope_scaling", [1]), ("max_position_embeddings", 2**63),
    ("head_dim", 10**9), ("num_key_value_heads", 3), ("model_type", []),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), LIES)
def test_a_folder_of_transformers_that_lies_is_refused(tmp_path, name, value):
    hf.write(decoder.of_weights(model())._replace(end=1), tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**told, name: value}))
    with pytest.raises(InputError) as refused:
        hf.read(tmp_path)
    assert refused.value.why and str(tmp_path) in refused.value.where


def test_types_that_numpy_has_not_are_refused_by_name(tmp_path):
    cards.publish(tmp_path, "m", model(), None, Card(family="lm"))
    path = tmp_path / "models" / "m@1" / cards.WEIGHTS
    text = json.dumps({"a": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + np.zeros(4, np.uint8).tobytes())
    with pytest.raises(InputError, match="cannot be read"):
        cards.read_weights(path.parent)
