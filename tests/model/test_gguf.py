"""Files of llama.cpp, written and read by its own package as the oracle."""

import sys

import gguf as oracle
import numpy as np
import pytest
import torch

from gyral.errors import InputError
from gyral.model import gguf, hf
from gyral.model.chat import Message
from gyral.model.decoder import Decoder
from gyral.model.lm import Reader
from gyral.model.nets.llama import Llama, Shape
from gyral.model.task import seeded
from gyral.model.tokenizer import Tokenizer

SHAPE = Shape(260, 64, 2, 4, 2, 96, tied=False)
KINDS = oracle.GGMLQuantizationType
TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"


def written(path, kind=KINDS.F32, architecture="llama"):
    """A model as llama.cpp's converter writes one, and the values that it stands for."""
    state = seeded(3, lambda: Llama(SHAPE)).state_dict()
    tensors = hf._to_hf(Decoder(SHAPE, 48, "llama", state, "bytes", b"", 256))
    names = oracle.get_tensor_name_map(oracle.MODEL_ARCH.LLAMA, SHAPE.depth)
    file = oracle.GGUFWriter(path, architecture)
    file.add_context_length(48)
    file.add_embedding_length(SHAPE.width)
    file.add_block_count(SHAPE.depth)
    file.add_feed_forward_length(SHAPE.hidden)
    file.add_head_count(SHAPE.heads)
    file.add_head_count_kv(SHAPE.kv_heads)
    file.add_layer_norm_rms_eps(SHAPE.eps)
    file.add_rope_freq_base(SHAPE.theta)
    vocabulary = Tokenizer(hf.tokenizer_of_bytes())
    pieces = [vocabulary.token_of(number) for number in range(257)] + ["<|user|>", "<|end|>", "ab"]
    file.add_tokenizer_model("gpt2")
    file.add_tokenizer_pre("smollm")
    file.add_token_list(pieces)
    file.add_token_types([1] * 256 + [3, 3, 3, 1])
    file.add_token_merges(["a b"])
    file.add_bos_token_id(256)
    file.add_eos_token_id(258)
    file.add_chat_template(TEMPLATE)
    for name, tensor in tensors.items():
        array = tensor.numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):  # as `LlamaModel.permute` of llama.cpp does
            heads = SHAPE.heads if "q_proj" in name else SHAPE.kv_heads
            array = array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        which = kind if array.ndim == 2 else KINDS.F32
        packed = oracle.quants.quantize(np.ascontiguousarray(array), which)
        file.add_tensor(names.get_name(name, (".weight",)), packed, raw_dtype=which)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return state


def test_the_model_is_the_one_that_was_converted(tmp_path):
    state = written(tmp_path / "m.gguf")
    found, chat = gguf.read(tmp_path / "m.gguf")
    assert found.state.keys() == state.keys() and (found.shape, found.length) == (SHAPE, 48)
    for name, tensor in state.items():
        torch.testing.assert_close(found.state[name], tensor, rtol=0, atol=0)
    tokenizer = Reader(found, chat).tokenizer
    assert tokenizer.encode(["ab1<|end|>"]).tokens.tolist() == [259, 49, *b"<|end|>"]
    assert tokenizer.encode_marked("ab<|end|>") == [259, 258]
    assert chat.ends == (258,) and [each.text for each in chat.pieces([Message("user", "hi")])] == ["<|user|>", "hi"]


@pytest.mark.parametrize("kind", [KINDS.F16, KINDS.BF16, KINDS.Q8_0, KINDS.Q4_0, KINDS.Q4_1])
def test_blocks_have_the_values_that_llama_cpp_gives_them(tmp_path, kind):
    written(tmp_path / "m.gguf", kind)
    file = gguf.File(tmp_path / "m.gguf")
    for tensor in oracle.GGUFReader(tmp_path / "m.gguf").tensors:
        expected = oracle.quants.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_array_equal(file.tensor(tensor.name), expected)


def test_what_cannot_be_read_is_said(tmp_path):
    path = tmp_path / "m.gguf"
    written(path, KINDS.Q5_0)
    with pytest.raises(InputError, match="cannot be read"):
        gguf.read(path)
    written(path, architecture="mamba")
    with pytest.raises(InputError, match="cannot be used"):
        gguf.read(path)
    written(path)
    whole = path.read_bytes()
    for size in [0, 3, 20, 100, 4_000, len(whole) - 64]:
        path.write_bytes(whole[:size])
        with pytest.raises(InputError):
            gguf.read(path)
    rng = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[int(rng.integers(4, 2_000))] = int(rng.integers(256))
        path.write_bytes(damaged)
        try:
            gguf.read(path)
        except InputError:
            continue
    assert "llama_cpp" not in sys.modules
